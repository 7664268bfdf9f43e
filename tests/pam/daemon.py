"""A server in the foreground that a test can end, stop for a while, and start again.

Invariant: it is ended with the tests that started it, and what it printed is shown when it did not come up.
"""

import os
import signal
import subprocess
from pathlib import Path

import bed


class Daemon:
    """`words` is the program; `ready` says whether it serves, and is asked until it does."""

    def __init__(self, *words, ready, environment=None):
        self.words = list(map(str, words))
        self.ready = ready
        self.environment = {**os.environ, **(environment or {})}
        self.output = Path(os.environ["TMPDIR"]) / (Path(self.words[0]).name + ".out")
        self.process = None

    def start(self, wait=True):
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self.environment)
        if not wait:
            return self
        try:
            bed.wait_for(f"{self.words[0]} serves", self._ready_or_ended, 30)
        except AssertionError as problem:
            self.stop()
            raise AssertionError(f"{problem}\n{self.said()}") from None
        return self

    def _ready_or_ended(self):
        if self.process.poll() is not None:
            raise AssertionError(f"{self.words} ended with {self.process.returncode}")
        return self.ready()

    def said(self):
        return self.output.read_text(errors="replace")[-4000:]

    def running(self):
        return self.process is not None and self.process.poll() is None

    def stop(self):
        """SIGTERM, and SIGKILL for one that does not listen; also for one that is suspended."""
        if not self.running():
            return
        family = self._family()
        for how, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
            self._send(how, [self.process.pid])
            self._send(signal.SIGCONT, family)
            try:
                self.process.wait(patience)
                break
            except subprocess.TimeoutExpired:
                continue
        self._send(signal.SIGKILL, family[1:])

    def suspend(self):
        """SIGSTOP: it still takes connections, as far as the kernel does that for it, and answers nothing."""
        self._send(signal.SIGSTOP, self._family())

    def resume(self):
        self._send(signal.SIGCONT, self._family())

    def _family(self):
        return bed.family(self.process.pid)

    @staticmethod
    def _send(how, pids):
        for pid in pids:
            bed.kill(pid, how)
