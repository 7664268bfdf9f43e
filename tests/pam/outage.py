"""Outages of a back end, and what every back end must do through each of them: the same tests for all."""

from contextlib import contextmanager

from backend import LOCAL
from domain import password_of

RECOVERY = 30  # seconds until the directory is asked again; some daemons wait before they try


@contextmanager
def gone(daemon):
    daemon.stop()
    try:
        yield
    finally:
        daemon.start()


@contextmanager
def hung(daemon):
    daemon.suspend()
    try:
        yield
    finally:
        daemon.resume()


class Outages:
    """Beside `BackEnd`; `called` is the form that names have there."""

    called = "{}"

    def test_a_controller_that_is_unreachable_is_a_temporary_failure_and_then_it_serves_again(self):
        self.outage(self.domain.host.unplugged())

    def test_a_controller_that_hangs_is_a_temporary_failure_and_then_it_serves_again(self):
        self.outage(self.domain.host.suspended())

    def test_a_controller_that_has_ended_is_a_temporary_failure_and_then_it_serves_again(self):
        self.outage(self.domain.refuses())

    def outage(self, trouble, **line):
        """Before it, through it and after it; nothing of pamrelay is started anew. `line` is what the helper says of it."""
        alice, unseen = self.somebody("alice"), self.somebody("unseen")
        self.sends(*alice)

        try:
            with trouble:
                with self.hanging(*alice):
                    self.sends(*LOCAL, within=2)
                for person in (alice, unseen):
                    self.unavailable(*person, **line)
        finally:
            self.sends_again(*alice, within=RECOVERY)  # also before the next test, if this one failed

    def somebody(self, name):
        return self.called.format(name), password_of(name)
