"""How long a good login takes while workers hang and guessers guess, against the same relay when it is quiet.

The good logins are of one user, one after the other, from an address where that user logged in before. The back end of
18 other users hangs; two groups of nine come back at different times, so that at least eight workers hang at any moment.
500 clients guess at 500 accounts, each from an address of its own, ten guesses to a session, a new password each time.

Invariant: a time is printed only if no good login failed, eight workers were seen hanging at every look, and guesses
were answered.
"""

import json
import sys
import threading
import time
from pathlib import Path

import bed
from servers import UNLIMITED
from table import Wrong, first_wrong, median, print_table, quotient, times

SERVICE = "smtp-attacked"
HANGS = Path("/run/back-end-hangs")
SCRIPT = Path("/etc/pamrelay/back-end")
STUCK = [f"stuck{number}" for number in range(18)]
GROUP, APART = 9, 5  # of the stuck, seconds
VICTIMS = 500
LEAST_HUNG = 8

WORKS = [
    ("good logins, 8 workers or more hung, 500 guess, limits as they are", {}),
    ("good logins, 8 workers or more hung, 500 guess, no limits", UNLIMITED),
]


def measured(bench, chosen):
    works = list(filter(chosen, WORKS))
    if not works:
        return []
    make_people()
    rows = []
    for name, limits in works:
        rounds = [(quiet(bench), attacked(bench, limits)) for _ in range(bench.rounds)]
        bad = first_wrong(value for pair in rounds for value in pair)
        if bad:
            rows.append([name, bad])
            continue
        column = lambda which, key: median(pair[which][key] for pair in rounds)
        ratio = median(quotient(busy["p95_ms"], calm["p95_ms"]) for calm, busy in rounds)
        rows.append([name, column(0, "median_ms"), column(0, "p95_ms"), column(1, "median_ms"), column(1, "p95_ms"), ratio])
    title = (f"Good logins of one user, one after the other, in milliseconds: median of {bench.rounds} rounds, quiet and attacked in turns.\n"
             "Most guesses are throttled before PAM where limits are as they are. Ratio: of the 95th percentiles, attacked to quiet.")
    print_table(title, ["milliseconds", "quiet p50", "quiet p95", "p50", "p95", ("ratio", times)], rows)
    return rows


def make_people():
    """Those whose back end can hang, and those who are guessed at: as many accounts as are wanted, without 500 hashes."""
    shadow = dict(line.split(":", 1) for line in Path("/etc/shadow").read_text().splitlines())
    names = [(name, shadow["quick"]) for name in STUCK] + [(f"victim{number}", shadow["ada"]) for number in range(VICTIMS)]
    with open("/etc/passwd", "a") as passwd, open("/etc/shadow", "a") as hashes:
        for uid, (name, rest) in enumerate(names, 20_000):
            passwd.write(f"{name}:x:{uid}:{uid}::/nonexistent:/bin/sh\n")
            hashes.write(f"{name}:{rest}\n")
    SCRIPT.write_text(f"#!/bin/sh\n[ ! -e {HANGS} ] || exec sleep 60\n")
    SCRIPT.chmod(0o755)
    Path("/etc/pam.d", SERVICE).write_text(
        f"auth [success=ignore default=1] pam_succeed_if.so quiet user in {':'.join(STUCK)}\n"
        f"auth required pam_exec.so quiet {SCRIPT}\n" + Path("/etc/pam.d/smtp").read_text())


def relay(**auth):
    return bed.Relay(auth={"service": SERVICE, **auth})


def quiet(bench):
    with relay():
        with bed.Client.logged_in(bed.ADA):
            pass
        return good_logins(bench)


def attacked(bench, limits):
    """The times of good logins, or what was not as it should be."""
    with relay(**limits):
        with bed.Client.logged_in(bed.ADA):
            pass
        crowd = Crowd()
        try:
            crowd.hang()
            guessers = bench.load_started("logins", ["--wrong", "--tries", "10", "--sessions", str(VICTIMS), "--users", str(VICTIMS),
                                                     "--from", "127.1.0.1", "--addresses", str(VICTIMS)], ("victim", "guess"),
                                          seconds=seconds(bench) + 5)
            time.sleep(1)
            crowd.watch()
            before = status()
            seen = good_logins(bench)
            after = status()
            out, err = guessers.communicate(timeout=120)
        finally:
            crowd.go()
    if guessers.returncode:
        return Wrong(f"guessers: {err.strip()[-120:]}")
    guessed = json.loads(out)
    asked = {what: count - before["answered"][what] for what, count in after["answered"].items()}
    print(f"  hung workers: {min(crowd.hung)} to {max(crowd.hung)}; answered meanwhile: {json.dumps(asked)}\n"
          f"  the guessers heard: {json.dumps(guessed['replies'])}, failed {guessed['failed']}", file=sys.stderr, flush=True)
    if min(crowd.hung) < LEAST_HUNG:
        return Wrong(f"only {min(crowd.hung)} workers hung")
    if crowd.surprises:
        return Wrong(f"a hung login heard {crowd.surprises[0]}")
    if guessed["failed"] or not guessed["replies"]:
        return Wrong(f"{guessed['failed']} guesses failed, {sum(guessed['replies'].values())} were answered: {err.strip()[:120]}")
    return seen


def seconds(bench):
    # Long enough to see the guesses that may come at once, and those that may come later.
    return max(15.0, 3 * bench.seconds)


def good_logins(bench):
    load = bench.load_started("logins", ["--sessions", "1"], bed.ADA, seconds=seconds(bench))
    out, err = load.communicate(timeout=300)
    if load.returncode:
        return Wrong(err.strip()[-120:])
    seen = json.loads(out)
    print(f"  good logins: {json.dumps(seen)}", file=sys.stderr, flush=True)
    return Wrong(f"{seen['failed']} good logins failed: {err.strip()[:120]}") if seen["failed"] or not seen["done"] else seen


def status():
    return json.loads(bed.pamrelay("auth", "status", "--json").stdout)


class Crowd:
    """Users whose back end hangs, who try again and again; and a look now and then at how many workers do hang."""

    def __init__(self):
        self.over = threading.Event()
        self.hung = []
        self.surprises = []
        self.threads = []

    def hang(self):
        # Each was accepted where it comes from, so that the guessers do not use up what it may ask.
        clients = []
        for number, name in enumerate(STUCK):
            source = f"127.2.0.{number + 1}"
            with bed.Client.logged_in((name, bed.QUICK[1]), source=source):
                pass
            clients.append((name, source))
        HANGS.touch()
        for start in range(0, len(clients), GROUP):
            for client in clients[start:start + GROUP]:
                self.start(self.insist, *client)
            time.sleep(APART)

    def insist(self, name, source):
        try:
            while not self.over.is_set():
                with bed.Client.secured(source=source) as client:
                    reply = "454"
                    while reply.startswith("454") and not self.over.is_set():
                        client.send(bed.auth_plain(name, bed.QUICK[1]) + "\r\n")
                        reply = client.reply()
                    if not reply.startswith(("454", "421")) and not self.over.is_set():
                        self.surprises.append(reply)
        except (OSError, EOFError) as problem:
            if not self.over.is_set():
                self.surprises.append(repr(problem))

    def watch(self):
        def look():
            while not self.over.is_set():
                self.hung.append(status()["workers"]["slow"])
                self.over.wait(1)
        self.start(look)
        bed.wait_for("a look at the workers", lambda: self.hung)

    def go(self):
        self.over.set()
        HANGS.unlink(missing_ok=True)
        for thread in self.threads:
            thread.join(30)

    def start(self, what, *arguments):
        self.threads.append(threading.Thread(target=what, args=arguments, daemon=True))
        self.threads[-1].start()
