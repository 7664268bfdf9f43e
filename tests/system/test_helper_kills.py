"""The processes of the PAM helper are killed a thousand times while people log in: 640 workers and 320 templates, whose
listener lives through all of it, and 42 listeners. Who has the right password hears 235 or 454, who has a wrong one 535 or
454, nobody ever anything else, and after each death of a template or a listener somebody is let in within a second."""

import collections
import os
import signal
import threading
import time

import bed
from support import OwnRelay

RIGHT = [bed.QUICK, bed.QUICK, bed.QUICK, bed.DEMO]
WRONG = [("quick", "not it"), ("demo", "not it"), ("nobody-here", "quick password")]
RECOVERY = 1.0  # seconds


class Logins:
    """People who log in again and again, each on a connection of its own; counts what they hear."""

    def __init__(self):
        self.heard = {"right": collections.Counter(), "wrong": collections.Counter()}
        self.welcomed = (0.0, 0.0)  # when who was let in last had asked, and when that was
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.go_on, args=(kind, who), daemon=True)
                        for kind, people in (("right", RIGHT), ("wrong", WRONG)) for who in people]
        for thread in self.threads:
            thread.start()

    def go_on(self, kind, who):
        while not self.stopping.is_set():
            reply = "no reply"
            try:
                with bed.Client.secured(bed.IMPLICIT) as client:
                    asked = time.monotonic()
                    client.send(bed.auth_plain(*who) + "\r\n")
                    reply = client.reply()[:3]
            except (OSError, EOFError) as problem:
                reply = f"no reply: {problem}"
            self.heard[kind][reply] += 1
            if reply == "235" and asked > self.welcomed[0]:
                self.welcomed = (asked, time.monotonic())

    def recovery(self, killed, timeout=10):
        """Seconds from a kill to the end of a good login that began after it."""
        bed.wait_for("somebody is let in again", lambda: self.welcomed[0] > killed, timeout, 0.002)
        return self.welcomed[1] - killed

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(30)


class Kills(OwnRelay):
    def start(self):
        relay = self.start_relay(auth={"failure_floor": "100ms", **bed.UNLIMITED}, limits={"sessions_per_address": 1000})
        logins = Logins()
        self.addCleanup(logins.stop)
        self.assertLess(logins.recovery(time.monotonic()), 10)
        return relay, logins

    def kill(self, parent, wanted=lambda pid: True):
        """Kills a child of `parent` that lives; when, or None if there was none."""
        for pid in filter(wanted, bed.children(parent)):
            try:
                held = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                # The number may have become another's before it was held.
                if pid in bed.children(parent) and bed.running(pid):
                    signal.pidfd_send_signal(held, signal.SIGKILL)
                    return time.monotonic()
            except ProcessLookupError:
                continue
            finally:
                os.close(held)
        return None

    def heard_nothing_else(self, heard):
        self.assertLessEqual(set(heard["right"]), {"235", "454"}, heard)
        self.assertLessEqual(set(heard["wrong"]), {"535", "454"}, heard)

    def test_templates_and_workers_are_killed_960_times_and_replies_stay_true(self):
        relay, logins = self.start()
        listener = relay.pids()["auth"]
        template = lambda: next(filter(is_template, bed.children(listener)), 0)
        kills, slowest = collections.Counter(), 0.0

        while kills["worker"] < 640:
            if self.kill(template()):
                kills["worker"] += 1
                time.sleep(0.01)  # the others are to have a chance
            if kills["worker"] >= 2 * (kills["template"] + 1):
                killed = self.kill(listener, is_template)
                if killed:
                    kills["template"] += 1
                    slowest = max(slowest, logins.recovery(killed))
        logins.stop()

        self.assertEqual((kills["worker"], kills["template"]), (640, 320))
        self.heard_nothing_else(logins.heard)
        for kind, code, least in (("right", "235", 320), ("right", "454", 50), ("wrong", "535", 50)):
            self.assertGreaterEqual(logins.heard[kind][code], least, logins.heard)
        self.assertLess(slowest, RECOVERY)
        # The first lines of a minute are written; the others are counted.
        self.assertGreaterEqual(relay.log().count("killed by signal 9"), 10, "too few were in the middle of a question")
        self.leaves_nothing(relay, listener)

    def leaves_nothing(self, relay, listener):
        self.assertEqual(relay.pids()["auth"], listener, "the listener did not live through it")
        with bed.Client.logged_in(bed.QUICK):
            pass
        bed.wait_for("no worker is left", lambda: [bed.children(pid) for pid in bed.children(listener)] == [[]])
        self.assertLess(len(os.listdir(f"/proc/{listener}/fd")), 20)
        self.assertLess(bed.kilobytes(listener, "RssAnon"), 4096, "of the listener's own")

    def test_the_listener_is_killed_42_times_and_is_back_within_a_second(self):
        # A role that dies soon after its start is started again later and later (100 ms, 200, 400, ... 5 s), so each relay
        # sees three kills and makes room for the next.
        heard = {"right": collections.Counter(), "wrong": collections.Counter()}
        kills, slowest = 0, 0.0
        while kills < 42:
            relay, logins = self.start()
            for _ in range(3):
                pid = relay.pids()["auth"]
                killed = self.kill(relay.process.pid, lambda child: child == pid)
                slowest = max(slowest, logins.recovery(killed))
                kills += 1
            logins.stop()
            relay.stop()
            for kind in heard:
                heard[kind] += logins.heard[kind]

        self.heard_nothing_else(heard)
        self.assertGreaterEqual(heard["right"]["235"], kills, heard)
        self.assertLess(slowest, RECOVERY)


def is_template(pid):
    return "template" in bed.command_line(pid)
