"""The time of a refusal tells nothing: not whether a name exists, not whether it is locked, not that it is root's.

Every kind is tried 400 times, in a random order, by clients side by side. Two kinds are told apart when the ranks of their
times differ more than chance would have it once in 10,000 times (Mann and Whitney's test, in its normal approximation).
"""

import math
import random
import threading
import time

import bed
from people import person
from support import OwnRelay

TRIES = 400
# Differences of ranks, in standard deviations: beyond this chance comes in once in 10,000 times.
SEPARATES = 3.9

LOCKED = "lockedone"


def setUpModule():
    person(LOCKED, "locked password", locked=True)


def separation(some, others):
    """How far the ranks of two samples are apart, in standard deviations."""
    ranked = sorted([(value, 0) for value in some] + [(value, 1) for value in others])
    rank_sum = sum(rank for rank, (_, sample) in enumerate(ranked, 1) if sample == 0)
    n, m = len(some), len(others)
    mean, deviation = n * (n + m + 1) / 2, math.sqrt(n * m * (n + m + 1) / 12)
    return abs(rank_sum - mean) / deviation


class Measured:
    """Replies and times of many logins, by kind."""

    def __init__(self, kinds, clients, tries=TRIES):
        self.kinds = kinds
        self.clients = clients
        self.seconds = {kind: [] for kind in kinds}
        self.replies = {kind: set() for kind in kinds}
        self.left = [kind for kind in kinds for _ in range(tries)]
        random.shuffle(self.left)
        self.lock = threading.Lock()
        self.problem = None

    def run(self):
        threads = [threading.Thread(target=self.client) for _ in range(self.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.problem:
            raise self.problem
        return self

    def client(self):
        try:
            with bed.Client.secured() as client:
                while True:
                    with self.lock:
                        if not self.left:
                            return
                        number, kind = len(self.left), self.left.pop()
                    line = self.kinds[kind](number).encode() + b"\r\n"
                    began = time.perf_counter()
                    client.send(line)
                    reply = client.reply()
                    took = time.perf_counter() - began
                    with self.lock:
                        self.seconds[kind].append(took)
                        self.replies[kind].add(reply)
                    if reply.startswith("235"):
                        return self.client()  # a session logs in once
        except Exception as problem:  # of one thread: told by the test
            self.problem = problem

    def separations(self):
        kinds = list(self.kinds)
        return {(one, other): separation(self.seconds[one], self.seconds[other])
                for at, one in enumerate(kinds) for other in kinds[at + 1:]}


class Refusals(OwnRelay):
    def start(self, floor):
        self.start_relay(auth={**bed.UNLIMITED, "failure_floor": floor}, limits={"bad_commands": 1000, "sessions_per_address": 100})

    def cannot_be_told_apart(self, measured):
        apart = {kinds: round(far, 1) for kinds, far in measured.separations().items() if far > SEPARATES}
        self.assertEqual(apart, {}, {kind: round(sum(times) / len(times), 4) for kind, times in measured.seconds.items()})

    def test_no_kind_of_refusal_can_be_told_from_another_by_its_bytes_or_its_time(self):
        self.start("400ms")

        measured = Measured({
            "unknown": lambda n: bed.auth_plain(f"nobody{n}", f"guess{n}"),
            "wrong": lambda n: bed.auth_plain(bed.ADA[0], f"guess{n}"),
            "locked": lambda n: bed.auth_plain(LOCKED, f"guess{n}"),
            "locked, right": lambda n: bed.auth_plain(LOCKED, "locked password"),
            "root": lambda n: bed.auth_plain("root", f"guess{n}"),
            "long name": lambda n: bed.auth_plain("u" * 300, f"guess{n}"),
            "long password": lambda n: bed.auth_plain(bed.ADA[0], f"{n}" + "x" * 600),
        }, clients=20).run()

        replies = set().union(*measured.replies.values())
        self.assertEqual(replies, {"535 5.7.8 Authentication credentials invalid"})
        self.cannot_be_told_apart(measured)

    def test_neither_can_names_while_questions_wait_in_line_for_longer_than_the_floor(self):
        self.start("50ms")

        measured = Measured({
            "unknown": lambda n: bed.auth_plain(f"nobody{n}", f"guess{n}"),
            "wrong": lambda n: bed.auth_plain(bed.ADA[0], f"guess{n}"),
            "locked": lambda n: bed.auth_plain(LOCKED, f"guess{n}"),
        }, clients=48).run()

        self.assertGreater(sorted(measured.seconds["unknown"])[TRIES // 2], 0.1)
        self.cannot_be_told_apart(measured)

    def test_the_measure_itself_sees_a_difference_where_there_is_one(self):
        self.start("400ms")

        measured = Measured({
            "wrong": lambda n: bed.auth_plain(bed.QUICK[0], f"guess{n}"),
            "right": lambda n: bed.auth_plain(*bed.QUICK),
        }, clients=16, tries=40).run()

        self.assertGreater(measured.separations()[("wrong", "right")], SEPARATES)
