"""tests/bed/packages.sh and a suite without packages: a real apt with its locks, whose only archive is a directory of ours."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

import bed

PACKAGES = bed.ROOT / "tests/bed/packages.sh"
# How long a lock is held: longer than an apt that does not wait lives, shorter than one that waits has patience.
HELD = 4


class Archive:
    """An apt that knows nothing of this machine: state, cache and archive lie below `top`."""

    def __init__(self, top):
        self.top = top
        self.state, self.cache, self.archive = top / "state", top / "cache", top / "archive"
        for part in (self.state / "lists/partial", self.cache / "archives/partial", self.archive, top / "parts"):
            part.mkdir(parents=True)
        (self.state / "status").write_text("")
        (top / "sources.list").write_text(f"deb [trusted=yes] copy:{self.archive} ./\n")
        (self.archive / "Packages").write_text("".join(self.package(name) for name in ("bed-one", "bed-two")))
        self.settings = top / "apt.conf"
        self.settings.write_text(
            f'Dir::State "{self.state}/";\nDir::State::status "{self.state}/status";\nDir::Cache "{self.cache}/";\n'
            f'Dir::Etc::sourcelist "{top}/sources.list";\nDir::Etc::sourceparts "{top}/parts";\nDir::Etc::preferencesparts "{top}/parts";\n'
            'APT::Sandbox::User "root";\n')

    def package(self, name):
        source = self.top / name
        (source / "DEBIAN").mkdir(parents=True)
        (source / "usr/share").mkdir(parents=True)
        (source / "usr/share" / name).write_text(name)
        control = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@relay.test>\nDescription: a file\n"
        (source / "DEBIAN/control").write_text(control)
        file = self.archive / f"{name}_1_all.deb"
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", source, file], check=True, stdout=subprocess.DEVNULL)
        content = file.read_bytes()
        return f"{control}Filename: ./{file.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n\n"

    def environment(self, patience=120):
        return {**os.environ, "APT_CONFIG": str(self.settings), "PACKAGES_PATIENCE": str(patience)}

    def layer(self, directory, *names, patience=120):
        words = [PACKAGES, "layer", self.top / directory, *names]
        return subprocess.Popen(words, env=self.environment(patience), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def locked(path, seconds=HELD):
    """As apt and dpkg lock a file, for a while, by another process: such a lock is no obstacle within one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ready, tell = os.pipe()
    holder = os.fork()
    if holder == 0:
        with open(path, "ab") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            os.write(tell, b"x")
            time.sleep(seconds)
        os._exit(0)
    os.read(ready, 1)
    os.close(ready)
    os.close(tell)
    try:
        yield
    finally:
        bed.kill(holder)
        os.waitpid(holder, 0)


class Packages(unittest.TestCase):
    def setUp(self):
        self.top = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.top)
        self.archive = Archive(self.top)

    def unpacked(self, process, directory, *names):
        said = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 0, said)
        for name in names:
            self.assertEqual((self.top / directory / "usr/share" / name).read_text(), name, said)
        return "".join(said)

    def waits_for(self, lock):
        with locked(lock):
            said = self.unpacked(self.archive.layer("layer", "bed-one"), "layer", "bed-one")
        return said

    def test_a_lock_of_dpkg_is_waited_for(self):
        self.waits_for(self.archive.state / "lock-frontend")

    def test_a_lock_of_the_lists_is_waited_for_and_named(self):
        said = self.waits_for(self.archive.state / "lists/lock")

        self.assertIn("waiting: Could not get lock", said)

    def test_a_lock_of_the_archives_is_waited_for_and_named(self):
        (self.top / "layer/debs/partial").mkdir(parents=True)
        # The layer's own archives begin anew with each run: the lock is taken once they are there.
        taken = threading.Event()

        def hold():
            lock = self.top / "layer/debs/lock"
            (self.top / "layer/debs/partial").mkdir(parents=True, exist_ok=True)
            with locked(lock):
                taken.set()
                time.sleep(HELD)

        # Held for longer than this by somebody who locks the lists first, so that the run is sure to meet both.
        with locked(self.archive.state / "lists/lock"):
            process = self.archive.layer("layer", "bed-one")
            bed.wait_for("the layer is begun", lambda: (self.top / "layer/unpacked").exists())
            holder = threading.Thread(target=hold)
            holder.start()
            taken.wait()
        said = self.unpacked(process, "layer", "bed-one")
        holder.join()

        self.assertIn("waiting: ", said)

    def test_two_runs_that_unpack_one_layer_at_once_both_find_it_whole(self):
        runs = [self.archive.layer("layer", "bed-one", "bed-two") for _ in range(2)]

        for run in runs:
            self.unpacked(run, "layer", "bed-one", "bed-two")

    def test_several_layers_can_be_unpacked_at_once(self):
        runs = [(name, self.archive.layer(name, "bed-one")) for name in ("first", "second", "third")]

        for name, run in runs:
            self.unpacked(run, name, "bed-one")

    def test_a_layer_in_use_is_not_unpacked_anew_under_the_bed(self):
        self.unpacked(self.archive.layer("layer", "bed-one"), "layer", "bed-one")
        with open(self.top / "layer.lock") as in_use:
            fcntl.flock(in_use, fcntl.LOCK_SH)
            run = self.archive.layer("layer", "bed-two")
            self.assertIn("waiting for another run", run.stderr.readline())
            self.assertTrue((self.top / "layer/usr/share/bed-one").exists())

        self.unpacked(run, "layer", "bed-two")

    def test_what_cannot_be_had_is_named_in_one_line(self):
        run = self.archive.layer("layer", "bed-one", "no-such-package")

        cause, _ = run.communicate(timeout=300)

        self.assertNotEqual(run.returncode, 0)
        self.assertEqual(cause, "Unable to locate package no-such-package\n")

    def test_an_archive_that_cannot_be_reached_is_the_cause_and_not_the_package(self):
        (self.top / "sources.list").write_text("deb [trusted=yes] http://127.0.0.1:9/ ./\n")
        run = self.archive.layer("layer", "bed-one")

        cause, _ = run.communicate(timeout=300)

        self.assertNotEqual(run.returncode, 0)
        self.assertRegex(cause, r"^[^\n]*Failed to fetch http://127\.0\.0\.1:9/[^\n]*\n$")

    def test_a_lock_that_is_never_given_back_ends_with_its_name(self):
        with locked(self.archive.state / "lists/lock", 600):
            run = self.archive.layer("layer", "bed-one", patience=3)
            cause, _ = run.communicate(timeout=300)

        self.assertNotEqual(run.returncode, 0)
        self.assertRegex(cause, r"^[^\n]*Could not get lock \S+/lists/lock\. It is held by process \d+[^\n]*\n$")

    def test_a_suite_without_its_packages_is_one_failure_that_names_the_cause(self):
        checkout = self.top / "checkout"
        (checkout / "tests").mkdir(parents=True)
        for part in ("bed", "system", "pam"):
            (checkout / "tests" / part).symlink_to(bed.ROOT / "tests" / part)
        environment = {**self.archive.environment(), "TESTS": "version and help are told"}

        done = subprocess.run(["tests/bed/test.sh", "", "target/bed/layer", "no-such-package"], cwd=checkout, env=environment,
                              capture_output=True, text=True, timeout=300)

        lines = done.stdout.strip().splitlines()
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(lines[0], "FAILED  layer: its packages could not be had: Unable to locate package no-such-package", done)
        self.assertEqual(lines[-1], "0 passed, 1 failed, 0 skipped", done)
