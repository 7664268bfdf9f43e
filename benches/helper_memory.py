"""What the login helper holds in memory: its listener and its template, idle and after many questions.

10,000 questions from 5,000 addresses: half are right passwords, so that every address is remembered as known; half are
wrong ones for 5,000 different names, so that every table of failures is full.

Invariant: a size is printed only if all 10,000 were answered as they should be.
"""

import json
import sys

import bed
from servers import UNLIMITED, memory, template
from table import Wrong, print_table

ADDRESSES = 5000
WORK = ("memory of the login helper, 10,000 questions",)


def measured(bench, chosen):
    if not chosen(WORK):
        return []
    with bed.Relay(auth=UNLIMITED) as relay:
        with bed.Client.logged_in(bed.QUICK):
            pass
        pids = processes(relay)
        before = {name: sizes(pid) for name, pid in pids.items()}
        problem = questions(bench, [], bed.QUICK, 32) or questions(bench, ["--wrong", "--users", str(ADDRESSES)], ("guess", "guess"), 300)
        after = {name: sizes(pid) for name, pid in processes(relay).items()}
        told = json.loads(bed.pamrelay("auth", "status", "--json").stdout)
    print(f"  the helper says: {json.dumps(told)}", file=sys.stderr, flush=True)
    if problem:
        rows = [[WORK[0], problem]]
    elif sum(told["answered"].values()) <= 2 * ADDRESSES:
        rows = [[WORK[0], Wrong(f"it answered {told['answered']}")]]
    else:
        rows = [[f"{name}, {when}", *seen[name]] for name in before for when, seen in (("idle", before), ("after 10,000 questions", after))]
    title = ("Memory of the login helper. Private: what would be free without it. Resident also counts the pages of the program and its\n"
             "libraries, which it shares with its template and workers, and libc with everybody.")
    print_table(title, ["KiB", "private", "of it written", "Pss", "resident"], rows)
    return rows


def processes(relay):
    auth = relay.pids()["auth"]
    return {"listener": auth, "template": template(auth)}


def sizes(pid):
    seen = memory(pid)
    return [seen["Private_Clean"] + seen["Private_Dirty"], seen["Anonymous"], seen["Pss"], seen["Rss"]]


def questions(bench, options, who, sessions):
    """All of them, from all addresses; what went wrong, if something did."""
    wanted = {"--wrong"} & set(options)
    load = bench.load_started("logins", ["--sessions", str(sessions), "--count", str(ADDRESSES), "--from", "127.1.0.1",
                                         "--addresses", str(ADDRESSES), *options], who)
    out, err = load.communicate(timeout=600)
    if load.returncode:
        return Wrong(err.strip()[-120:])
    seen = json.loads(out)
    print(f"  {'wrong' if wanted else 'right'} passwords: {json.dumps(seen)}", file=sys.stderr, flush=True)
    return Wrong(f"{seen['failed']} failed, {seen['replies']}: {err.strip()[:120]}") if seen["failed"] or seen["done"] < ADDRESSES else None
