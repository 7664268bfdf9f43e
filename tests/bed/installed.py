"""The relay as an administrator installs it: README.md's steps on a machine that runs systemd, and the units asked about.

Invariant: `install`, `start` and `reload` return when systemd has nothing left to do and every unit is up.
"""

import json
import re
import shutil
import time
from pathlib import Path

import bed
from fields import logins
from machine import SOURCE, Machine
from people import CHEAP, YESCRYPT, person

SUBMISSION, SUBMISSIONS = 587, 465
UNITS = ("pamrelay", *(f"pamrelay-{role}" for role in bed.ROLES))
GONE, AGED = ("gone", "gone password"), ("aged", "aged password")
PEOPLE = {bed.ADA: [YESCRYPT], bed.QUICK: [CHEAP], GONE: [CHEAP, "-E", "2020-01-01"], AGED: [CHEAP, "-d", "0"]}  # hash and age of each


def settings(**changes):
    """The usual configuration, on the real ports. What slows down and limits wrong passwords is out of the way: other tests are about that."""
    listen = [{"address": f"0.0.0.0:{SUBMISSION}", "tls": "starttls"}, {"address": f"0.0.0.0:{SUBMISSIONS}", "tls": "implicit"}]
    auth = {**bed.UNLIMITED, "failure_floor": "0s", **changes.pop("auth", {})}
    return bed.settings(listen=listen, auth=auth, **changes)


def readme_commands(step):
    """The commands of a numbered step of README.md's first configuration, line by line."""
    text = (bed.ROOT / "README.md").read_text()
    body = re.search(rf"(?ms)^{step}\. .*?(?=^\d+\. |^## )", text).group()
    return [line.strip() for line in body.splitlines() if re.match(r" {7}\S", line)]


class Installed(Machine):
    def install(self):
        """Step 1 of README.md with the programs that the tests were built with, certificates, people; then step 4, which starts it."""
        built = str(bed.BINARIES.relative_to(bed.ROOT))
        commands = [line.replace("target/release", built) for line in readme_commands(1) if not line.startswith("make ")]
        self.shell("\n".join([f"cd {SOURCE}", *commands]))
        if not bed.CERTS.exists():
            bed.make_pki()
        self.take_certificates()
        for (name, password), (hash, *age) in PEOPLE.items():
            person(name, password, *age, hash=hash, home=("--create-home",), run=self.run)
        self.configure()
        checks, starts, _ = readme_commands(4)
        self.shell(f"{checks}\n{starts}")
        self.settle()

    def take_certificates(self):
        """The bed's own, so that its clients trust them."""
        shutil.rmtree(self.path(bed.CERTS), ignore_errors=True)
        shutil.copytree(bed.CERTS, self.path(bed.CERTS))

    def configure(self, **changes):
        self.path(bed.CONFIG).write_text(json.dumps(settings(**changes), indent=1))

    def reload(self, **changes):
        """A changed configuration holds."""
        self.configure(**changes)
        self.run("systemctl", "reload", "pamrelay")
        self.settle()

    def start(self):
        self.run("systemctl", "start", "pamrelay")
        self.settle()

    def settle(self):
        """Until systemd has nothing left to start or stop, and all units are up."""
        bed.wait_for("all units are active", lambda: self.active() == set(UNITS) and "No jobs" in self.run("systemctl", "list-jobs"), 120, 0.1)

    def pam(self, service, text):
        """Writes a service file; the helper that has it loaded sees that within a second."""
        self.path("etc/pam.d").joinpath(service).write_text(text)

    def active(self):
        states = self.show("ActiveState", *UNITS)
        return {unit for unit, state in zip(UNITS, states) if state == "active"}

    def pids(self):
        """The first process of each role, as numbered here; a role that does not run is not in it."""
        ours = set(bed.children(self.leader))
        return {role: pid for role in bed.ROLES for pid in self.processes(role) if pid in ours}

    def processes(self, role):
        """All processes of a role, as numbered here, and what they call themselves."""
        group = self.path(f"sys/fs/cgroup/system.slice/pamrelay-{role}.service/cgroup.procs")
        found = {int(pid): name_of(pid) for pid in (text_of(group) or "").split()}
        return {pid: name for pid, name in found.items() if name}

    def show(self, name, *units):
        """A property of each of these units."""
        return self.run("systemctl", "show", "--value", f"--property={name}", *units).replace("\n\n", "\n").splitlines()

    def log(self, unit="pamrelay-auth"):
        """What the journal has from one unit since the start of the machine, a line for each message."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "-b", "-q", "-o", "cat", "-u", unit)

    def logins(self, user):
        """The helper's lines about this user's logins, each as a dict."""
        return logins(self.log(), user)

    def client(self, who=None, port=SUBMISSION):
        """A mail client that has TLS, and has logged in if `who` is given."""
        with self.network():
            return bed.Client.logged_in(who, port=port) if who else bed.Client.secured(port)

    def answer_to(self, user, password):
        """What a login is answered."""
        with self.client() as client:
            client.send(bed.auth_plain(user, password) + "\r\n")
            return client.reply()

    def logs_in_again(self, who, timeout=15):
        """Until a new login works; how long that took."""
        began = time.monotonic()
        bed.wait_for(f"{who[0]} can log in", lambda: self.can_log_in(who), timeout, 0.1)
        return time.monotonic() - began

    def can_log_in(self, who):
        try:
            return self.answer_to(*who).startswith("235 ")
        except (OSError, EOFError, AssertionError):
            return False


def name_of(pid):
    return (text_of(f"/proc/{pid}/comm") or "").strip()


def text_of(path):
    """None for a process or a group that ended meanwhile."""
    try:
        return Path(path).read_text()
    except OSError:
        return None
