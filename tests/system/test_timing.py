"""The time of a refusal tells nothing: not whether a name exists, not whether it is locked, not that it is root's.

Every kind is tried 400 times, in a random order, by clients side by side. Two kinds are told apart when the ranks of their
times differ (Mann and Whitney's test), or when the shapes of their distributions do (Kolmogorov and Smirnov's, which sees a
difference in spread too). Either would come by chance once in ten million comparisons; there are 48 in a run, so a false
alarm is one run in 200,000. What the measure can see is shown on the measured times themselves.
"""

import itertools
import math
import random
import statistics
import threading
import time

import bed
from people import person
from support import OwnRelay

TRIES = 400
OF_SESSION = 50  # logins; the relay ends a session of a stranger who says more than a hundred commands
# What chance exceeds once in ten million times: of a difference of ranks, in standard deviations, and of the greatest
# distance between two distributions, in units of the square root of 1/n + 1/m.
RANKS_APART, SHAPES_APART = 5.33, 2.90
# Seconds: a difference between two kinds that is always seen, a quarter of what chance adds to each (a quarter of the floor).
SEEN = 0.025

LOCKED = "lockedone"


def setUpModule():
    person(LOCKED, "locked password", locked=True)


def apart(some, others):
    """Whether two samples are from different distributions, as far as chance lets one say so."""
    return ranks_apart(some, others) > RANKS_APART or shapes_apart(some, others) > SHAPES_APART


def ranks_apart(some, others):
    """How far the ranks of two samples are apart, in standard deviations (normal approximation)."""
    rank_sum = sum(rank for rank, (_, sample) in enumerate(merged(some, others), 1) if sample == 0)
    n, m = len(some), len(others)
    mean, deviation = n * (n + m + 1) / 2, math.sqrt(n * m * (n + m + 1) / 12)
    return abs(rank_sum - mean) / deviation


def shapes_apart(some, others):
    """The greatest distance between the distributions of two samples, in the unit above."""
    steps = (1 / len(some), -1 / len(others))
    distances = itertools.accumulate(steps[sample] for _, sample in merged(some, others))
    return max(map(abs, distances)) / math.sqrt(1 / len(some) + 1 / len(others))


def merged(some, others):
    return sorted([(value, 0) for value in some] + [(value, 1) for value in others])


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
                for _ in range(OF_SESSION):
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
                        break  # a session logs in once
            return self.client()
        except Exception as problem:  # of one thread: told by the test
            self.problem = problem

    def told_apart(self):
        return [pair for pair in itertools.combinations(self.kinds, 2) if apart(*(self.seconds[kind] for kind in pair))]


class Refusals(OwnRelay):
    def start(self, floor, **auth):
        self.start_relay(auth={**bed.UNLIMITED, "failure_floor": floor, **auth}, limits={"bad_commands": 1000, "sessions_per_address": 100})

    def cannot_be_told_apart(self, measured):
        self.assertEqual(measured.told_apart(), [], {kind: (round(statistics.mean(times), 4), round(statistics.stdev(times), 4))
                                                     for kind, times in measured.seconds.items()})

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
        self.would_be_seen(measured.seconds)

    def would_be_seen(self, seconds):
        """Two kinds of the measured ones, of which one is changed by a little, and in the second case by nothing on average."""
        for kind, other in itertools.permutations(("unknown", "wrong", "locked"), 2):
            mean = statistics.mean(seconds[other])
            later = [taken + SEEN for taken in seconds[other]]
            wider = [mean + 3 * (taken - mean) for taken in seconds[other]]

            self.assertTrue(apart(seconds[kind], later), "later")
            self.assertTrue(apart(seconds[kind], wider), "wider")

    def test_neither_can_names_while_questions_wait_in_line_for_longer_than_the_floor(self):
        # Two workers: 48 clients wait in line whatever this machine is.
        self.start("50ms", workers=2)

        measured = Measured({
            "unknown": lambda n: bed.auth_plain(f"nobody{n}", f"guess{n}"),
            "wrong": lambda n: bed.auth_plain(bed.ADA[0], f"guess{n}"),
            "locked": lambda n: bed.auth_plain(LOCKED, f"guess{n}"),
        }, clients=48).run()

        # Twice the floor, more than its own chance adds: what is longer was spent in the line.
        self.assertGreater(statistics.median(measured.seconds["unknown"]), 0.1)
        self.cannot_be_told_apart(measured)
