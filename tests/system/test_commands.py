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

# Enough for a build that starts from nothing beside other work. Each wait ends with its event, or with `make run`.
PATIENCE = 1800


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

    def shown(self, process, output, pattern):
        """What `make run` prints and the pattern finds."""
        def found():
            ended, text = process.poll() is not None, output.read_text()
            seen = re.search(pattern, text, re.M)
            self.assertFalse(ended and not seen, f"make run ended with {process.returncode}:\n{text}")
            return seen

        return bed.wait_for(f"make run prints {pattern}", found, PATIENCE, 0.2)

    def end(self, process):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def test_make_run_prints_a_command_that_sends_and_shows_the_message_and_leaves_nothing_behind(self):
        before, processes_before = fingerprint(), processes()
        process, output = self.start()

        command = self.shown(process, output, r"^printf .*curl .*$").group(0)
        sent = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=300)
        self.assertEqual(sent.returncode, 0, sent.stderr)
        self.shown(process, output, "^>>> subject: It works")
        self.assertTrue(bed.listens(bed.IMPLICIT))

        os.killpg(process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
        process.wait(120)
        self.assertFalse(bed.listens(bed.STARTTLS))
        bed.wait_for("every process has ended", lambda: not processes() - processes_before, 60)
        self.assertEqual(fingerprint(), before)

    def test_make_run_sends_a_message_by_itself_when_asked(self):
        os.environ["DEMO"] = "1"
        self.addCleanup(os.environ.pop, "DEMO")
        process, output = self.start()

        self.shown(process, output, "^>>> subject: It works")
        os.killpg(process.pid, signal.SIGINT)
        process.wait(120)
