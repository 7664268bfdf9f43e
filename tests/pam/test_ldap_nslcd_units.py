"""LDAP through nslcd, asked by the helper in its own unit under a real systemd: what the unit leaves to modules is enough.

The directory and nslcd run in the bed; the machine has nslcd's socket in /run, where the helper finds it on any host.
"""

import shutil
import unittest

import backend
import bed
import ldap_people
import nslcd
from backend import EXPIRED, UNAVAILABLE, WRONG
from installed import Installed
from slapd import password_of

DIRECTORY = DAEMON = None
RIGHT = ("ldapok", password_of("ldapok"))


def setUpModule():
    global DIRECTORY, DAEMON
    DIRECTORY, DAEMON = ldap_people.start(nslcd.nslcd)


class InItsUnit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.machine = cls.enterClassContext(Installed(binds=[nslcd.RUNTIME]))
        cls.machine.boot()
        cls.machine.install()
        shutil.copy("/etc/nsswitch.conf", cls.machine.path("etc/nsswitch.conf"))
        cls.machine.pam("smtp", (backend.RECIPES / "ldap-nslcd").read_text())
        cls.machine.run("systemctl", "restart", "pamrelay-auth")  # it would see the new files by itself, within a second

    def hears(self, user, password, reply, **line):
        """The start of the reply, and fields of the helper's line in the journal."""
        heard = self.machine.answer_to(user, password)
        self.assertTrue(heard.startswith(reply), (heard, self.machine.logins(user)))
        last = bed.wait_for(f"a line about {user}", lambda: self.machine.logins(user))[-1]
        self.assertEqual({**last, **{name: str(value) for name, value in line.items()}}, last)

    def test_people_of_the_directory_hear_what_they_hear_without_the_unit(self):
        self.hears(*RIGHT, "235 2.7.0", verdict="accept", account="ldapok")
        self.hears("ldapok", "not it", WRONG, verdict="reject", phase="auth", code=7)
        self.hears("nobody-here", "not it", WRONG, verdict="reject", phase="auth", code=10)
        self.hears("ldapgone", password_of("ldapgone"), EXPIRED, verdict="expired", phase="acct", code=13)
        self.hears(*bed.QUICK, "235 2.7.0", verdict="accept", account="quick")

    def test_a_message_of_somebody_of_the_directory_has_his_name_in_the_queue(self):
        uid = backend.run("getent", "passwd", "ldapok").split(":")[2]
        self.assertEqual(self.machine.run("getent", "passwd", "ldapok").split(":")[2], uid)

        with self.machine.client(RIGHT) as client:
            client.mails(bed.letter("from the directory"))

        self.assertRegex(self.machine.run("pamrelay", "queue", "list"), r"\bldapok\b")

    def test_without_nslcd_the_directory_s_people_hear_try_again_and_others_send(self):
        self.addCleanup(lambda: DAEMON.running() or DAEMON.start())

        DAEMON.stop()
        self.hears(*RIGHT, UNAVAILABLE, verdict="unavailable", phase="auth", code=9)
        self.hears(*bed.QUICK, "235 2.7.0")
        DAEMON.start()

        self.machine.logs_in_again(RIGHT)
