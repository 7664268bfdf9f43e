"""The two commands of the README, run as a person runs them."""

import hashlib
import os
import pwd
import re
import signal
import subprocess
import unittest
from pathlib import Path

import bed


def fingerprint():
    """Everything of the machine that `make run` must leave alone."""
    digest = hashlib.sha256()
    for directory, names, files in os.walk("/etc"):
        names.sort()
        for name in sorted(files):
            path = os.path.join(directory, name)
            state = os.lstat(path)
            digest.update(f"{path} {state.st_mode} {state.st_uid} {state.st_gid} {state.st_mtime_ns}".encode())
            if os.path.isfile(path) and not os.path.islink(path):
                digest.update(Path(path).read_bytes())
    for directory in ("/run", "/var/spool", "/var/mail"):
        digest.update(repr(sorted(os.listdir(directory))).encode())
    digest.update(Path("/proc/self/mounts").read_bytes())
    return digest.hexdigest(), [entry.pw_name for entry in pwd.getpwall()]


def processes():
    return {int(entry) for entry in os.listdir("/proc") if entry.isdigit() and bed.running(int(entry))}


class MakeRun(unittest.TestCase):
    def start(self):
        # A terminal's job hears Ctrl-C; what a script put into the background may have been told to ignore it.
        self.addCleanup(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
        output = Path(os.environ["BED_PRIVATE"]) / "tmp/make-run.log"
        with open(output, "wb") as log:
            process = subprocess.Popen(["make", "run"], cwd=bed.ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.addCleanup(self.end, process)
        return process, output

    def end(self, process):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def test_make_run_prints_a_command_that_sends_and_shows_the_message_and_leaves_nothing_behind(self):
        before, processes_before = fingerprint(), processes()
        process, output = self.start()

        def ready():
            self.assertIsNone(process.poll(), output.read_text())
            return re.search(r"^printf .*curl .*$", output.read_text(), re.M)

        command = bed.wait_for("make run prints a command", ready, 300, 0.2).group(0)
        sent = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
        self.assertEqual(sent.returncode, 0, sent.stderr)
        bed.wait_for("the arrival is shown", lambda: ">>> subject: It works" in output.read_text())
        self.assertTrue(bed.listens(bed.IMPLICIT))

        os.killpg(process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
        process.wait(20)
        self.assertFalse(bed.listens(bed.STARTTLS))
        bed.wait_for("every process has ended", lambda: not processes() - processes_before, 5)
        self.assertEqual(fingerprint(), before)

    def test_make_run_sends_a_message_by_itself_when_asked(self):
        os.environ["DEMO"] = "1"
        self.addCleanup(os.environ.pop, "DEMO")
        process, output = self.start()

        bed.wait_for("the arrival is shown", lambda: process.poll() is not None or ">>> subject: It works" in output.read_text(), 60)

        self.assertIsNone(process.poll(), output.read_text())
        os.killpg(process.pid, signal.SIGINT)
        process.wait(20)
