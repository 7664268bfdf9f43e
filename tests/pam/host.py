"""A second host in the bed: host name, network, processes, /etc, /run and most of /var of its own, and a cable to the bed.

Invariant: it ends with the bed, and all that runs on it ends with it.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path

import backend
import bed

HERE = Path(__file__).resolve().parent
OWN = ("--mount", "--propagation", "private", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
CABLE = "cable"  # the network interface at both ends


class Host:
    """`address` is its own, `bed_address` the one that the bed gets at the other end of the cable."""

    def __init__(self, name, address, bed_address):
        self.address = address
        etc = Path(os.environ["TMPDIR"]) / f"etc-of-{name}"
        shutil.copytree("/etc", etc, symlinks=True)
        said = Path(os.environ["TMPDIR"]) / f"{name}.out"
        with open(said, "wb") as errors:
            self._outside = subprocess.Popen(["unshare", *OWN, "/bin/bash", HERE / "host.sh", name, etc],
                                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True)
        if self._outside.stdout.readline() != "ready\n":
            raise AssertionError(f"the host {name} did not start:\n{said.read_text(errors='replace')}")
        self.pid, = bed.children(self._outside.pid)
        self._wire(bed_address)

    def _wire(self, bed_address):
        backend.run("ip", "link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", self.pid)
        backend.run("ip", "address", "add", f"{bed_address}/24", "dev", CABLE)
        self.run("ip", "address", "add", f"{self.address}/24", "dev", CABLE)
        self.run("ip", "link", "set", CABLE, "up")
        backend.run("ip", "link", "set", CABLE, "up")
        # The bed never forgets where to send: without this, its kernel would soon say "no route" for a host that is only silent.
        hardware = json.loads(self.run("ip", "-json", "link", "show", CABLE))[0]["address"]
        backend.run("ip", "neighbour", "replace", self.address, "lladdr", hardware, "dev", CABLE, "nud", "permanent")

    def enter(self, *words):
        """The command that runs `words` there."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--uts", "--ipc", "--pid", "--wd=/", *map(str, words)]

    def run(self, *words, **more):
        return backend.run(*self.enter(*words), **more)

    @contextmanager
    def unplugged(self):
        """Packets to it vanish, and nothing tells their senders."""
        self.run("ip", "link", "set", CABLE, "down")
        try:
            self._expect_silence()
            yield
        finally:
            self.run("ip", "link", "set", CABLE, "up")

    @contextmanager
    def suspended(self):
        """Its programs are stopped: the kernel still takes their connections, and nobody answers."""
        stopped = self._programs()
        for pid in stopped:
            bed.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                bed.kill(pid, signal.SIGCONT)

    def end_programs(self):
        """Asks them, and then tells them; the host itself stays, and its kernel refuses connections."""
        for how, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
            ending = self._programs()
            for pid in ending:
                bed.kill(pid, how)
            try:
                bed.wait_for(f"the programs of {self.address} have ended", lambda: not any(map(bed.running, ending)), patience, 0.1)
                return
            except AssertionError:
                if how == signal.SIGKILL:
                    raise

    def _expect_silence(self):
        try:
            socket.create_connection((self.address, 9), timeout=0.5).close()
        except TimeoutError:
            return
        except OSError as error:
            raise AssertionError(f"an unplugged host still answers: {error}") from None
        raise AssertionError("an unplugged host still listens")

    def _programs(self):
        """All that runs there but its first process."""
        return bed.family(self.pid)[1:]
