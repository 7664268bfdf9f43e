"""The two servers that are measured, each started afresh with the same certificates, people, PAM service and sink."""

import os
from pathlib import Path

import bed
import postfix

# No limit on wrong passwords, where it is to be seen how many can be checked.
UNLIMITED = {"account_failures": 0, "network_failures_per_minute": 0, "failures_per_second": 100_000}


class RelayServer:
    name = "pamrelay"

    def start(self, **auth):
        self.relay = bed.Relay(limits={"sessions_per_address": 5000}, delivery={"first_retry": "10s", "longest_retry": "10s"}, auth=auth).start()

    def start_for_refusals(self):
        """By default a refusal is answered after a second, which costs no worker: 64 clients would do little but wait."""
        self.start(**UNLIMITED, failure_floor="50ms")

    def memory_pids(self):
        return [self.relay.pids()["front"]]

    def parts(self):
        """Processes by name; the time of workers that have ended is their template's."""
        pids = self.relay.pids()
        return {**pids, "workers": template(pids["auth"])}

    def stop(self):
        self.relay.stop()


class PeerServer:
    name = "Postfix"

    def start(self):
        # Its default of 100 processes would refuse the 1,000 idle sessions; one process serves one session.
        self.postfix = postfix.Peer(bed.STARTTLS, bed.IMPLICIT, bed.SINK, default_process_limit="1200").start()

    def start_for_refusals(self):
        self.start()  # it has no limits on passwords

    def memory_pids(self):
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and bed.command_line(entry)[:1] == ["smtpd"]]

    def parts(self):
        return {}  # hundreds of short-lived processes

    def stop(self):
        self.postfix.stop()


def template(auth):
    """The helper's process that forks its workers."""
    return bed.wait_for("the template", lambda: next((pid for pid in bed.children(auth) if name_of(pid) == "auth-template"), None))


def name_of(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None


def memory(pid):
    """kB by name, as the kernel sums them up: Rss, Pss, Anonymous, Private_Dirty and so on."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def pss(pids):
    """kB that these processes hold, shared pages counted by halves, thirds and so on."""
    return sum(memory(pid)["Pss"] for pid in pids)


def cpu_seconds(pid):
    """User and system time so far, of the process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
