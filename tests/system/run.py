"""Runs a suite of tests inside a bed: one line for each, then `N passed, N failed, N skipped`.

    run.py [--suite DIR] [--files PATTERN] [--without-root] [--totals FILE] [--any]

The suite is this directory unless another one is given; PATTERN is `test_*.py` unless given. The environment's TESTS, a
word, picks tests whose file or name contains it. `--without-root` names every test as skipped. `--any` runs none: its
status is 0 if there is one to run and NOTHING if TESTS picks none, so that nobody unpacks packages for nothing. Files
that hold no test at all, and such that cannot be read, are a failure.
"""

import argparse
import os
import sys
import time
import unittest
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
BED = HERE.parent / "bed"
NOTHING = 3  # no status that a crash of Python has


class OneLineEach(unittest.TestResult):
    def __init__(self, called):
        super().__init__()
        self.called = called  # the sentence of each test
        self.passed = 0
        self.began = 0.0

    def startTest(self, test):
        super().startTest(test)
        self.began = time.monotonic()

    def say(self, word, test, more=""):
        took = f"  ({time.monotonic() - self.began:.1f} s)" if word == "ok" else ""
        print(f"{word:8}{self.called.get(test) or sentence(test)}{took}{more}", flush=True)

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1
        self.say("ok", test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.say("skipped", test, f": {reason}")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.tell(test, err)

    def addError(self, test, err):
        super().addError(test, err)
        self.tell(test, err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.tell(subtest, err)

    def tell(self, test, err):
        self.say("FAILED", test)
        print("    " + self._exc_info_to_string(err, test).rstrip().replace("\n", "\n    "))
        log = Path(os.environ.get("BED_PRIVATE", "/nonexistent")) / "tmp/relay.log"
        if log.exists():
            lines = log.read_text(errors="replace").splitlines()[-25:]
            print("    the relay's log ends with:\n" + "".join(f"    | {line}\n" for line in lines), flush=True)


def sentences(tests):
    """Each test with its sentence; where two would read alike, with the name of the class behind it."""
    plain = {test: sentence(test) for test in tests}
    often = Counter(plain.values())
    return {test: text if often[text] == 1 else f"{text} [{type(test).__name__}]" for test, text in plain.items()}


def sentence(test):
    """`test_clients: swaks sends with PLAIN over STARTTLS`."""
    if not hasattr(test, "_testMethodName"):
        return str(test)
    file = type(test).__module__.removeprefix("test_")
    return f"{file}: {test._testMethodName.removeprefix('test_')}".replace("_", " ")


def broken(test):
    """Whether it stands for a file that could not be read."""
    return type(test).__name__ == "_FailedTest"


def tests_in(suite):
    for entry in suite:
        if isinstance(entry, unittest.TestSuite):
            yield from tests_in(entry)
        else:
            yield entry


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--suite", type=Path, default=HERE)
    parser.add_argument("--files", default="test_*.py")
    parser.add_argument("--without-root", action="store_true")
    parser.add_argument("--totals")
    parser.add_argument("--any", action="store_true")
    arguments = parser.parse_args()
    suite = arguments.suite.resolve()
    sys.path[:0] = [str(suite), str(BED)]
    if arguments.without_root or arguments.any:
        os.environ.setdefault("BED_ROOT", str(HERE.parent.parent))
        os.environ.setdefault("BED_PRIVATE", "/nonexistent")

    wanted = os.environ.get("TESTS", "").replace("_", " ")
    found = list(tests_in(unittest.defaultTestLoader.discover(str(suite), arguments.files)))
    if not found:
        print(f"{suite.name}: no test in {arguments.files}", file=sys.stderr)
        return 1
    called = sentences(found)
    # A file that cannot be read stands for its tests, whatever they are called.
    chosen = [test for test in found if wanted in called[test] or broken(test)]
    if arguments.any:
        return 0 if chosen else NOTHING
    result = OneLineEach(called)
    began = time.monotonic()
    if arguments.without_root:
        for test in chosen:
            result.addSkip(test, "needs root")
    else:
        unittest.TestSuite(chosen).run(result)

    failed = len(result.failures) + len(result.errors)
    line = f"{result.passed} passed, {failed} failed, {len(result.skipped)} skipped"
    print(f"{suite.name}: {line}  ({time.monotonic() - began:.0f} s)")
    if arguments.totals:
        Path(arguments.totals).write_text(f"{result.passed} {failed} {len(result.skipped)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
