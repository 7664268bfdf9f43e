"""What every back end's tests share: a relay that uses one recipe of pam.d/recipes, and logins through the whole path.

A login goes mail client, TLS, front, helper, PAM, directory, and leaves a reply, a line in the helper's log and, if it was
right, an identity in the queue. A test says what each of them must be in one call of `refused`, `unavailable` or `sends`.
"""

import itertools
import re
import shutil
import subprocess
import time
import unittest
from collections import namedtuple
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import bed
from fields import logins

RECIPES = bed.ROOT / "pam.d/recipes"
DAEMONS = bed.ROOT / "pam.d/etc"  # configuration of what stands behind the modules
DEADLINE = 3  # seconds, of one question to PAM
SLACK = 3  # seconds that a busy machine may add
WITHOUT_SHADOW = ("winbind",)  # sources of accounts that have no shadow lines
_networks = itertools.count()
LOCAL = bed.QUICK  # somebody of /etc/passwd, with a cheap hash

PLAIN, LOGIN = "PLAIN", "LOGIN"
WRONG = "535 5.7.8 Authentication credentials invalid"
EXPIRED = "535 5.7.13 The password is right"
MUST_CHANGE = "535 5.7.8 The password is right"
NOT_PERMITTED = "535 5.7.1 The password is right"
THROTTLED = "454 4.7.0 Too many attempts"
UNAVAILABLE = "454 4.7.0 Authentication is not available"

class Login:
    """One login: the reply, what it took, and the helper's line about it, which is looked for when a test asks.

    There is not always a line: logins that PAM was not asked about are counted once a minute has a few of them.
    """

    def __init__(self, relay, asked, reply, seconds):
        self.asked, self.reply, self.seconds = asked, reply, seconds
        self._relay = relay

    @cached_property
    def line(self):
        line = bed.wait_for(f"the helper's line about {self.asked.user!r}", lambda: login_line(self._relay, self.asked))
        if not self.reply.startswith(line["reply"]):
            raise AssertionError(f"{self.reply}: the helper's line is {line}")
        return line

    def __repr__(self):
        return f"<{self.asked.user!r} heard {self.reply!r} after {self.seconds:.1f} s>"


def network_of_its_own():
    """An address that no other login comes from: of each network, a minute has few lines about logins that got no answer."""
    number = next(_networks)
    return f"127.{1 + number // 250 % 250}.{1 + number % 250}.1"


def without_limits():
    """The settings that let one account fail as often as a test likes: what is tried here is the back end."""
    return {**bed.UNLIMITED, "failure_floor": "10ms"}


def install(recipe, service="smtp"):
    """The recipe, exactly as it is printed for administrators."""
    place = Path("/etc/pam.d") / service
    shutil.copy(RECIPES / recipe, place)
    place.chmod(0o644)


def configure(file, place=None, mode=0o644):
    """A file of pam.d/etc, exactly as it is printed for administrators, in /etc or at `place`."""
    place = Path(place or f"/etc/{file}")
    place.parent.mkdir(exist_ok=True)
    shutil.copy(DAEMONS / file, place)
    place.chmod(mode)


def name_service(source):
    """Accounts come from the files and then from `source`, in the lines that docs/pam.md names."""
    def line(match):
        asked = match[1] != "shadow" or source not in WITHOUT_SHADOW
        return f"{match[1]}: files {source if asked else ''}".rstrip()

    path = Path("/etc/nsswitch.conf")
    path.write_text(re.sub(r"(?m)^(passwd|group|shadow):.*", line, path.read_text()))


def groups_end_with_the_files(source):
    """Whoever is in a group of the files is not asked about at `source`."""
    with open("/etc/nsswitch.conf", "a") as names:
        names.write(f"initgroups: files [SUCCESS=return] {source}\n")


def run(*words, **more):
    """Runs a program to its end, which must be a good one, and gives back what it printed."""
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=120, **more)
    if done.returncode:
        raise AssertionError(f"{' '.join(map(str, words))}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def succeeds(*words):
    return subprocess.run(words, capture_output=True).returncode == 0


def finds(name):
    """Whether the name service knows this person."""
    return succeeds("getent", "passwd", name)


class BackEnd(unittest.TestCase):
    """One relay with one recipe for all tests of the class. `auth` are the settings that belong to the recipe."""

    recipe = None
    auth = {}
    limits = without_limits()

    @classmethod
    def setUpClass(cls):
        install(cls.recipe)
        cls.start_relay()

    @classmethod
    def start_relay(cls, **auth):
        """Mail waits in the queue, for nobody listens where it should go: so its author can be looked at."""
        cls.relay = bed.Relay(
            listen=cls.listen(),
            auth={"deadline": f"{DEADLINE}s", **cls.limits, **cls.auth, **auth},
            routes=[{"domains": ["*"], "smart_hosts": [{"host": "127.0.0.1", "port": 1, "tls": "none"}]}],
            delivery={"first_retry": "10m", "longest_retry": "10m", "give_up": "1h"},
        ).start()
        cls.addClassCleanup(cls.relay.stop)

    @classmethod
    def listen(cls):
        return bed.settings()["listen"]

    def log_in(self, user, password, mechanism=PLAIN, port=bed.STARTTLS, source=None):
        """One login on a connection of its own."""
        with secured(port, source) as client:
            return self.answer(ask(self.relay, client, user, password, mechanism))

    def answer(self, asked):
        """The reply to a login that was asked; the helper's line about it can be asked for."""
        reply = asked.client.reply()
        return Login(self.relay, asked, reply, time.monotonic() - asked.at)

    def expects(self, login, reply, **line):
        """The start of the reply, and fields of the helper's line; a number may stand for its digits."""
        self.assertTrue(login.reply.startswith(reply), login)
        if line:
            self.assertEqual({name: login.line.get(name) for name in line}, {name: str(value) for name, value in line.items()}, login)
        return login

    def refused(self, user, password, reply=WRONG, **line):
        return self.expects(self.log_in(user, password), reply, **line)

    def unavailable(self, user, password, within=DEADLINE + SLACK, **line):
        login = self.expects(self.log_in(user, password, source=network_of_its_own()), UNAVAILABLE, verdict="unavailable", **line)
        self.assertLess(login.seconds, within, login)
        return login

    def sends(self, user, password, name=None, mechanism=PLAIN, port=bed.STARTTLS, within=None, account=None):
        """Logs in and sends; the queue must have `name` (the one typed, unless given) with the number that the name service has for it, or for `account`."""
        name = name or user
        login, entry = self.logs_in_and_sends(user, password, name, mechanism, port)
        uid = int(run("getent", "passwd", account or name).split(":")[2])
        self.assertEqual((entry["user"], entry["uid"], entry["session"]), (name, uid, login.line["session"]))
        self.assertEqual(login.line["uid"], str(uid))
        if within is not None:
            self.assertLess(login.seconds, within, login)
        return login

    def logs_in_and_sends(self, user, password, name, mechanism=PLAIN, port=bed.STARTTLS):
        """A login that must be accepted as `name`, and what the queue has of the message that follows."""
        with secured(port) as client:
            login = self.answer(ask(self.relay, client, user, password, mechanism))
            self.expects(login, "235 2.7.0", verdict="accept", account=name)
            queued = client.mails(bed.letter("from " + name))
        return login, self.relay.queue_json("show", re.search(r"queued as (\w+)", queued)[1])["entry"]

    def sends_again(self, user, password, within):
        """After an outage: works within so many seconds, by itself."""
        bed.wait_for(f"{user} can log in again", lambda: self.log_in(user, password, source=network_of_its_own()).reply.startswith("235"), within, 0.3)
        return self.sends(user, password)

    def outlasts_a_hang(self, user, password, server, back_within):
        """While the server takes questions and answers none: 454 by the deadline, people of /etc/passwd as fast as ever; afterwards all is well by itself."""
        server.suspend()
        try:
            with self.hanging(user, password):
                self.sends(*LOCAL, within=2)
        finally:
            server.resume()
        self.sends_again(user, password, back_within)

    @contextmanager
    def hanging(self, user, password, count=4):
        """Logins that wait for an answer of a back end that gives none; afterwards each must have heard 454 in time."""
        clients = [secured() for _ in range(count)]
        asked = [ask(self.relay, client, user, password, PLAIN) for client in clients]
        try:
            yield
            for one in asked:
                reply = one.client.reply()
                self.assertTrue(reply.startswith(UNAVAILABLE), reply)
                self.assertLess(time.monotonic() - one.at, DEADLINE + SLACK)
        finally:
            for client in clients:
                client.close()


Asked = namedtuple("Asked", "client user at log_position")


def secured(port=bed.STARTTLS, source=None):
    """A client that has done everything but log in. `source` is the address that it comes from, any of 127.0.0.0/8."""
    return bed.Client.secured(port, source=source)


def ask(relay, client, user, password, mechanism):
    """Sends a login to its last line and does not wait for the reply."""
    position = relay.log_path.stat().st_size
    if mechanism == LOGIN:
        client.says("AUTH LOGIN", "334 ")
        client.says(bed.b64(user), "334 ")
        client.send(bed.b64(password) + "\r\n")
    else:
        client.send(bed.auth_plain(user, password) + "\r\n")
    return Asked(client, user, time.monotonic(), position)


def login_line(relay, asked):
    """The first line of the helper about this user since he was asked for."""
    with open(relay.log_path, "rb") as log:
        log.seek(asked.log_position)
        text = log.read().decode(errors="replace")
    return next(iter(logins(text, asked.user)), None)
