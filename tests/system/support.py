"""What most system tests share: one relay and one sink for a class of tests, or one of each for a test of its own."""

import itertools
import unittest

import bed
from installed import Installed
from sink import Sink

_numbers = itertools.count(1)


def unique(word="message"):
    """A subject that no other test has."""
    return f"{word} {next(_numbers)}"


class WithRelay(unittest.TestCase):
    """One relay for all tests of the class: for tests that leave it as they found it."""

    settings = {}

    @classmethod
    def setUpClass(cls):
        cls.sink = Sink(bed.SINK)
        cls.addClassCleanup(cls.sink.close)
        cls.relay = bed.Relay(**cls.settings).start()
        cls.addClassCleanup(cls.relay.stop)

    def arrives(self, subject, timeout=15):
        return self.sink.wait_subject(subject, timeout)


class OwnRelay(unittest.TestCase):
    """A relay for each test, with settings of its own."""

    def start_relay(self, **settings):
        relay = bed.Relay(**settings).start()
        self.addCleanup(relay.stop)
        return relay

    def start_sink(self, port=bed.SINK, **more):
        sink = Sink(port, **more)
        self.addCleanup(sink.close)
        return sink


class WithMachine(unittest.TestCase):
    """One machine that runs systemd and the installed relay, for all tests of the class."""

    @classmethod
    def setUpClass(cls):
        cls.machine = cls.enterClassContext(Installed())
        cls.machine.boot()
        cls.machine.install()

    def setUp(self):
        self.machine.start()

    def start_sink(self, **more):
        """Where the machine's relay sends all mail."""
        with self.machine.network():
            sink = Sink(bed.SINK, **more)
        self.addCleanup(sink.close)
        return sink

    def reload(self, **changes):
        """For this test alone."""
        self.machine.reload(**changes)
        self.addCleanup(self.machine.reload)
