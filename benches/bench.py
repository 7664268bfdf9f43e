"""`make bench` and `make bench-peer`: the tables.

Runs inside enter.sh. For each work it starts a server afresh, drives it with the load program, and takes the median of
three rounds; in every round all take turns (PAM alone, the relay, with --peer Postfix), so that a busy moment of the
machine hits all of them.

Invariant: a number is printed only if the sink had every message, once and unchanged, and every login was answered as
it should be; else the row says what went wrong.
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
import helper_memory
import pam_alone
import under_attack
from servers import PeerServer, RelayServer, cpu_seconds, pss
from table import CORES, Wrong, median, percent, print_table, quotient, times

# name, unit, mode of the load program, its options
WORKS = [
    ("1 session that stays, 4 KiB", "message/s", "steady", ["--sessions", "1"]),
    ("16 sessions that stay, 4 KiB", "message/s", "steady", ["--sessions", "16"]),
    ("64 sessions that stay, 4 KiB", "message/s", "steady", ["--sessions", "64"]),
    ("4 sessions that stay, 1 MiB", "message/s", "steady", ["--sessions", "4", "--size", "1048576"]),
    ("new session each message, 1 at a time", "message/s", "fresh", ["--sessions", "1"]),
    ("new session each message, 16 at once", "message/s", "fresh", ["--sessions", "16"]),
    ("memory of an idle session, 1,000 open", "kB", "idle", ["--sessions", "1000"]),
]
# name, clients at once, options of the load program
LOGINS = [
    ("logins accepted, 1 client", 1, []),
    ("logins accepted, 16 clients", 16, []),
    ("logins accepted, 64 clients", 64, []),
    ("logins refused, 64 clients", 64, ["--wrong"]),
]


def allow_many_descriptors():
    """For the load program only: the servers raise their own limit, or do not."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Bench:
    def __init__(self, load, seconds, rounds):
        self.load = load
        self.seconds = seconds
        self.rounds = rounds
        self.run = 0

    def command(self, mode, options, who, seconds=None):
        self.run += 1
        return [self.load, mode, "--relay", f"127.0.0.1:{bed.STARTTLS}", "--sink", f"127.0.0.1:{bed.SINK}", "--ca", bed.CA,
                "--name", bed.HOSTNAME, "--user", who[0], "--password", who[1], "--run", str(self.run),
                "--seconds", str(seconds or self.seconds), *options]

    def load_started(self, mode, options, who, seconds=None):
        return subprocess.Popen(self.command(mode, options, who, seconds), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, preexec_fn=allow_many_descriptors)

    def measure(self, server, mode, options):
        """One number, or a text that says why there is none."""
        server.start_for_refusals() if "--wrong" in options else server.start()
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
                return Wrong(done.stderr.strip()[-120:] or "the load program failed")
            seen = json.loads(done.stdout)
            wrong = {name: seen[name] for name in ("failed", "lost", "doubled", "damaged") if seen.get(name)}
            wrong |= {reply: count for reply, count in seen.get("replies", {}).items() if not reply.startswith("535")}
            count = seen.get("acknowledged") or seen.get("done") or 1
            spent = ", ".join(f"{name} {seconds / count * 1e6:.0f}" for name, seconds in used.items())
            print(f"  {server.name}: {json.dumps(seen)}\n    microseconds of CPU for each: {spent}", file=sys.stderr, flush=True)
            return Wrong(f"wrong: {wrong}") if wrong else seen["rate"]
        finally:
            sink.kill()
            sink.wait()
            server.stop()

    def idle(self, server, options):
        with bed.Client.logged_in(bed.QUICK):
            before = pss(server.memory_pids())
            load = self.load_started("idle", options, bed.QUICK)
            opened = json.loads(load.stdout.readline() or '{"open": 0}')["open"]
            if not opened:
                return Wrong(f"could not open them all: {load.communicate()[1].strip()[-120:]}")
            after = pss(server.memory_pids())
            load.stdin.write("\n")
            load.stdin.close()
            alive = json.loads(load.stdout.readline())["alive"]
            load.wait()
            print(f"  {server.name}: {opened} open, {alive} alive at the end, {before} kB before, {after} kB", file=sys.stderr, flush=True)
            return (after - before) / opened if alive == opened else Wrong(f"only {alive} of {opened} lived")

    def works(self, servers, chosen):
        """The table of messages and sessions."""
        both = len(servers) == 2
        rows = []
        for name, unit, mode, options in filter(chosen, WORKS):
            results = {server.name: [] for server in servers}
            for _ in range(self.rounds if mode != "idle" else 1):
                for server in servers:
                    results[server.name].append(self.measure(server, mode, options))
            values = [median(results[server.name]) for server in servers]
            rows.append([name, *values, unit] + ([quotient(*(values[::-1] if unit == "kB" else values))] if both else []))
        title = (f"Median of {self.rounds} rounds of {self.seconds:g} s on {CORES} cores, which the load program and the sink use too.\n"
                 "TLS 1.3, no resumption, AUTH PLAIN through PAM; every message verified at the sink.")
        if both:
            title += "\nRatio: how many times better pamrelay is than Postfix."
        print_table(title, ["work", *(server.name for server in servers), "unit", *[("ratio", times)] * both], rows)
        return rows

    def logins(self, servers, chosen):
        """The table of logins, each round beside PAM alone just before and just after the relay."""
        rows = []
        for name, clients, options in filter(chosen, LOGINS):
            results = {server.name: [] for server in servers}
            ceilings, parts = [], []
            for _ in range(self.rounds):
                around = [self.alone(clients)]
                for server in servers:
                    results[server.name].append(self.measure(server, "logins", ["--sessions", str(clients), *options]))
                    if server is servers[0]:
                        around.append(self.alone(clients))
                ceilings.append(statistics.mean(around))
                parts.append(quotient(results[servers[0].name][-1], ceilings[-1]))
                print(f"  PAM alone: {around[0]:.1f}/s before, {around[1]:.1f}/s after", file=sys.stderr, flush=True)
            values = [median(results[server.name]) for server in servers]
            peer = [values[1], quotient(*values)] if len(servers) == 2 else []
            rows.append([name, values[0], median(ceilings), median(parts), *peer])
        title = (f"Median of {self.rounds} rounds of {self.seconds:g} s; a connection, a handshake and a password (yescrypt) each time.\n"
                 f"PAM alone: right passwords in a bare loop on the same {CORES} cores, before and after in every round, in as many processes\n"
                 "as there are clients, one for each core at most. Refused: wrong passwords, all different, without limits on them\n"
                 "and (pamrelay) with auth.failure_floor at 50ms, so that clients do not wait for it.")
        peer = [servers[1].name, ("ratio", times)] if len(servers) == 2 else []
        print_table(title, ["login/s", servers[0].name, "PAM alone", ("of it", percent), *peer], rows)
        return rows

    def alone(self, clients):
        return pam_alone.rate("smtp", *bed.ADA, self.seconds, min(clients, CORES))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--load", required=True, help="the load program")
    parser.add_argument("--peer", choices=["none", "too", "only"], default="none")
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", 3)))
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SECONDS_EACH", 5)))
    parser.add_argument("--only", default=os.environ.get("ONLY", ""), help="rows whose name contains this")
    arguments = parser.parse_args()

    def chosen(work):
        if arguments.only not in work[0]:
            return False
        print(f"{work[0]} ...", file=sys.stderr, flush=True)
        return True

    bed.make_pki()
    servers = {"none": [RelayServer()], "too": [RelayServer(), PeerServer()], "only": [PeerServer()]}[arguments.peer]
    bench = Bench(arguments.load, arguments.seconds, arguments.rounds)
    rows = bench.works(servers, chosen) + bench.logins(servers, chosen)
    if arguments.peer != "only":
        rows += under_attack.measured(bench, chosen) + helper_memory.measured(bench, chosen)
    if not rows:
        sys.exit(f"bench: no row has {arguments.only!r} in its name")
    print(f"\nLoad average of the machine at the end: {os.getloadavg()[0]:.1f} on {CORES} cores.")
    return 1 if any(isinstance(value, Wrong) for row in rows for value in row) else 0


if __name__ == "__main__":
    sys.exit(main())
