"""`make bench` and `make bench-peer`: the table.

Runs inside enter.sh. For each work it starts a server afresh, drives it with the load program, and takes the median of
three rounds; with --peer the servers take turns in every round, so that a busy moment of the machine hits both.

Invariant: a number is printed only if the sink had every message, once and unchanged; else the row says what went wrong.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/bed"))
import bed
import pam_alone
import postfix

# name, unit, mode of the load program, its options, what happens to one row of numbers
WORKS = [
    ("1 session that stays, 4 KiB", "message/s", "steady", ["--sessions", "1"]),
    ("16 sessions that stay, 4 KiB", "message/s", "steady", ["--sessions", "16"]),
    ("64 sessions that stay, 4 KiB", "message/s", "steady", ["--sessions", "64"]),
    ("4 sessions that stay, 1 MiB", "message/s", "steady", ["--sessions", "4", "--size", "1048576"]),
    ("new session each message, 1 at a time", "message/s", "fresh", ["--sessions", "1"]),
    ("new session each message, 16 at once", "message/s", "fresh", ["--sessions", "16"]),
    ("logins, yescrypt, 16 at once", "login/s", "logins", ["--sessions", "16"]),
    ("memory of an idle session, 1,000 open", "kB", "idle", ["--sessions", "1000"]),
]
RELAYED = ("steady", "fresh")


class RelayServer:
    name = "pamrelay"

    def start(self):
        self.relay = bed.Relay(limits={"sessions_per_address": 5000}, delivery={"first_retry": "10s", "longest_retry": "10s"}).start()

    def memory_pids(self):
        return [self.relay.pids()["front"]]

    def parts(self):
        return self.relay.pids()

    def stop(self):
        self.relay.stop()

    def complaints(self):
        return self.relay.log()[-2000:]


class PeerServer:
    name = "Postfix"

    def start(self):
        # Its default of 100 processes would refuse the 1,000 idle sessions; one process serves one session.
        self.postfix = postfix.Peer(bed.STARTTLS, bed.IMPLICIT, bed.SINK, default_process_limit="1200").start()

    def memory_pids(self):
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and bed.command_line(entry)[:1] == ["smtpd"]]

    def parts(self):
        return {}  # hundreds of short-lived processes

    def stop(self):
        self.postfix.stop()

    def complaints(self):
        return self.postfix.log()[-2000:]


def pss(pids):
    """kB that these processes hold, shared pages counted by halves, thirds and so on."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def cpu_seconds(pid):
    """User and system time so far, of the process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def allow_many_descriptors():
    """For the load program only: the servers raise their own limit, or do not."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Bench:
    def __init__(self, load, seconds):
        self.load = load
        self.seconds = seconds
        self.run = 0

    def command(self, mode, options, who):
        self.run += 1
        return [self.load, mode, "--relay", f"127.0.0.1:{bed.STARTTLS}", "--sink", f"127.0.0.1:{bed.SINK}", "--ca", bed.CA,
                "--name", bed.HOSTNAME, "--user", who[0], "--password", who[1], "--run", str(self.run),
                "--seconds", str(self.seconds), *options]

    def measure(self, server, mode, options):
        """One number, or a text that says why there is none."""
        server.start()
        sink = subprocess.Popen([self.load, "sink", "--listen", f"127.0.0.1:{bed.SINK}"])
        try:
            bed.wait_for("the sink listens", lambda: bed.listens(bed.SINK))
            if mode == "idle":
                return self.idle(server, options)
            who = bed.ADA if mode == "logins" else bed.QUICK
            parts = {**server.parts(), "sink": sink.pid}
            before = {name: cpu_seconds(pid) for name, pid in parts.items()}
            own = sum(os.times()[2:4])
            done = subprocess.run(self.command(mode, options, who), capture_output=True, text=True, timeout=300)
            used = {name: cpu_seconds(pid) - before[name] for name, pid in parts.items()} | {"load": sum(os.times()[2:4]) - own}
            if done.returncode:
                return done.stderr.strip()[-120:]
            seen = json.loads(done.stdout)
            wrong = {name: seen[name] for name in ("failed", "lost", "doubled", "damaged") if seen.get(name)}
            count = seen.get("acknowledged") or seen.get("done") or 1
            spent = ", ".join(f"{name} {seconds / count * 1e6:.0f}" for name, seconds in used.items())
            print(f"  {server.name}: {json.dumps(seen)}\n    microseconds of CPU for each: {spent}", file=sys.stderr, flush=True)
            return f"wrong: {wrong}" if wrong else seen["rate"]
        finally:
            sink.kill()
            sink.wait()
            server.stop()

    def idle(self, server, options):
        with bed.Client.logged_in(bed.QUICK):
            before = pss(server.memory_pids())
            load = subprocess.Popen(self.command("idle", options, bed.QUICK), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                    text=True, preexec_fn=allow_many_descriptors)
            opened = json.loads(load.stdout.readline() or '{"open": 0}')["open"]
            if not opened:
                load.wait()
                return "could not open them all"
            after = pss(server.memory_pids())
            load.stdin.write("\n")
            load.stdin.close()
            alive = json.loads(load.stdout.readline())["alive"]
            load.wait()
            print(f"  {server.name}: {opened} open, {alive} alive at the end, {before} kB before, {after} kB", file=sys.stderr, flush=True)
            return (after - before) / opened if alive == opened else f"only {alive} of {opened} lived"


def shown(value):
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def median(values):
    numbers = [value for value in values if not isinstance(value, str)]
    return statistics.median(numbers) if len(numbers) == len(values) else next(value for value in values if isinstance(value, str))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--load", required=True, help="the load program")
    parser.add_argument("--peer", choices=["none", "too", "only"], default="none")
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", 3)))
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SECONDS_EACH", 5)))
    parser.add_argument("--only", default=os.environ.get("ONLY", ""), help="rows whose name contains this")
    arguments = parser.parse_args()

    bed.make_pki()
    servers = {"none": [RelayServer()], "too": [RelayServer(), PeerServer()], "only": [PeerServer()]}[arguments.peer]
    bench = Bench(arguments.load, arguments.seconds)
    rows = []
    for name, unit, mode, options in WORKS:
        if arguments.only not in name:
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        results = {server.name: [] for server in servers}
        for _ in range(arguments.rounds if mode != "idle" else 1):
            for server in servers:
                results[server.name].append(bench.measure(server, mode, options))
        rows.append((name, unit, [median(results[server.name]) for server in servers]))

    alone = [pam_alone.rate("smtp", *bed.ADA, arguments.seconds) for _ in range(arguments.rounds)]
    print_table(rows, [server.name for server in servers], arguments)
    print(f"\nThe same password checked by PAM alone, a process for each core: {statistics.median(alone):.1f}/s, the ceiling for logins.")
    return 1 if any(isinstance(value, str) for _, _, values in rows for value in values) else 0


def print_table(rows, names, arguments):
    cpus = len(os.sched_getaffinity(0))
    print(f"\nMedian of {arguments.rounds} rounds of {arguments.seconds:g} s on {cpus} cores, which the load program and the sink "
          f"use too.\nTLS 1.3, no resumption, AUTH PLAIN through PAM; every message verified at the sink.\n")
    both = len(names) == 2
    width = max(len(name) for name, _, _ in rows)
    print(f"| {'work':{width}} | " + " | ".join(f"{name:>10}" for name in names) + " | unit      |" + (" ratio  |" if both else ""))
    print(f"|{'-' * (width + 2)}|" + "".join(f"{'-' * 11}:|" for _ in names) + "-----------|" + ("-------:|" if both else ""))
    for name, unit, values in rows:
        ratio = ""
        if both:
            ours, theirs = values
            plain = not isinstance(ours, str) and not isinstance(theirs, str) and theirs > 0 and ours > 0
            ratio = f" {(theirs / ours if unit == 'kB' else ours / theirs):6.1f} |" if plain else "      - |"
        print(f"| {name:{width}} | " + " | ".join(f"{shown(value):>10}" for value in values) + f" | {unit:9} |" + ratio)
    if both:
        print("\nRatio: how many times better pamrelay is than Postfix.")


if __name__ == "__main__":
    sys.exit(main())
