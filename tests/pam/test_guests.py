"""People without a Unix account: `pamrelay guest` and pam_pwdfile, beside the people of /etc/passwd and on a listener of their own."""

import shutil
from pathlib import Path

import bed
from backend import LOGIN, RECIPES, WRONG, BackEnd, run

FILE = Path("/etc/pamrelay/guests")
SERVICE = Path("/etc/pam.d/smtp-guests")
GUEST_PORT = bed.STARTTLS + 1
FRIEND = ("friend@example.org", "friend's password €")


def guest(*words, password=None, check=True):
    """`pamrelay guest ...`: what it printed."""
    done = bed.pamrelay("guest", *words, input=None if password is None else password + "\n")
    if check and done.returncode:
        raise AssertionError(f"pamrelay guest {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


class Guests(BackEnd):
    recipe = "passwd"
    auth = {"guest_service": "smtp-guests", "guest_account": "mailguest"}

    @classmethod
    def setUpClass(cls):
        shutil.copy(RECIPES / "guests", SERVICE)
        SERVICE.chmod(0o644)
        run("useradd", "--no-log-init", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", "mailguest")
        guest("add", FRIEND[0], password=FRIEND[1])
        super().setUpClass()

    @classmethod
    def listen(cls):
        return [{"name": "submission", "address": f"127.0.0.1:{bed.STARTTLS}", "tls": "starttls"},
                {"name": "submissions", "address": f"127.0.0.1:{bed.IMPLICIT}", "tls": "implicit"},
                {"name": "guests", "address": f"127.0.0.1:{GUEST_PORT}", "tls": "starttls", "service": "smtp-guests"}]

    def sends_as_guest(self, user, password, **more):
        """The queue must have the guest's own name, and the number of the account that guests have in common."""
        login, entry = self.logs_in_and_sends(user, password, user, **more)
        uid = int(run("getent", "passwd", "mailguest").split(":")[2])
        self.assertEqual((entry["user"], entry["uid"]), (user, uid))
        self.assertEqual(login.line["service"], "smtp-guests")

    def test_a_guest_sends_beside_the_people_of_the_host_and_on_a_listener_of_their_own(self):
        self.sends_as_guest(*FRIEND)
        self.sends_as_guest(*FRIEND, mechanism=LOGIN, port=bed.IMPLICIT)
        self.sends_as_guest(*FRIEND, port=GUEST_PORT)
        self.sends(*bed.QUICK)

    def test_wrong_and_unknown_hear_the_same_everywhere(self):
        for port in (bed.STARTTLS, GUEST_PORT):
            for user, password, code in ((FRIEND[0], "not it", 7), ("stranger@example.org", "not it", 10), (FRIEND[0].upper(), FRIEND[1], 10)):
                login = self.log_in(user, password, port=port)
                self.expects(login, WRONG, verdict="reject", phase="auth", code=code, service="smtp-guests")

    def test_somebody_with_an_account_is_no_guest_whatever_the_file_says(self):
        self.addCleanup(FILE.write_text, FILE.read_text())
        with FILE.open("a") as file:
            file.write("quick:" + run("openssl", "passwd", "-6", "another password"))

        self.refused("quick", "another password", WRONG, verdict="reject", phase="auth", code=7, service="smtp")
        for password in ("another password", bed.QUICK[1]):
            login = self.log_in("quick", password, port=GUEST_PORT)
            self.expects(login, WRONG, verdict="reject", phase="identity", reason="no-guest")

    def test_guests_come_and_go_without_a_restart(self):
        guest("add", "printer-2", password="first")
        self.addCleanup(guest, "remove", "printer-2", check=False)
        self.assertEqual(guest("list").split(), [FRIEND[0], "printer-2"])
        self.sends_as_guest("printer-2", "first")

        guest("password", "printer-2", password="second")
        self.refused("printer-2", "first", WRONG, verdict="reject", phase="auth", code=7)
        self.sends_as_guest("printer-2", "second")

        guest("remove", "printer-2")
        self.refused("printer-2", "second", WRONG, verdict="reject", phase="auth", code=10)

    def test_no_account_of_the_host_can_be_made_a_guest_and_no_guest_twice(self):
        for name, words in (("quick", "an account on this host has it"), ("ROOT", "an account on this host has it"), (FRIEND[0], "already"), ("a:b", "colon")):
            self.assertIn(words, guest("add", name, password="x", check=False))
        self.assertEqual(guest("list").split(), [FRIEND[0]])
        self.assertEqual(FILE.stat().st_mode & 0o777, 0o600)

    def test_a_guest_file_that_is_away_is_nobody_s_wrong_password(self):
        aside = FILE.with_suffix(".aside")
        self.addCleanup(lambda: aside.exists() and aside.rename(FILE))

        FILE.rename(aside)
        self.unavailable(*FRIEND, phase="auth")
        self.sends(*bed.QUICK)
        aside.rename(FILE)

        self.sends_as_guest(*FRIEND)
