"""People without a Unix account: `pamrelay guest` and pam_pwdfile, beside the people of /etc/passwd and on a listener of their own."""

import bed
import guests
from backend import LOGIN, WRONG, BackEnd, install, run
from people import person

GUEST_PORT = bed.STARTTLS + 1
FRIEND = ("friend@example.org", "friend's password €")


def guest(*words, password=None):
    """What `pamrelay guest ...` says, which may be no."""
    done = bed.pamrelay("guest", *words, input=None if password is None else password + "\n")
    return done.stdout + done.stderr


class Guests(guests.Guests):
    recipe = "passwd"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        guests.add(*FRIEND)

    @classmethod
    def listen(cls):
        return [{"name": "submission", "address": f"127.0.0.1:{bed.STARTTLS}", "tls": "starttls"},
                {"name": "submissions", "address": f"127.0.0.1:{bed.IMPLICIT}", "tls": "implicit"},
                {"name": "guests", "address": f"127.0.0.1:{GUEST_PORT}", "tls": "starttls", "service": "smtp-guests"}]

    def sends_as_guest(self, user, password, **more):
        login = self.sends(user, password, account=guests.ACCOUNT, **more)
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
        self.addCleanup(guests.FILE.write_text, guests.FILE.read_text())
        with guests.FILE.open("a") as file:
            file.write("quick:" + run("openssl", "passwd", "-6", "another password"))

        self.refused("quick", "another password", WRONG, verdict="reject", phase="auth", code=7, service="smtp")
        for password in ("another password", bed.QUICK[1]):
            login = self.log_in("quick", password, port=GUEST_PORT)
            self.expects(login, WRONG, verdict="reject", phase="identity", reason="no-guest")

    def test_guests_come_and_go_without_a_restart(self):
        guests.add("printer-2", "first")
        self.addCleanup(guest, "remove", "printer-2")
        self.assertIn("printer-2", guest("list").split())
        self.sends_as_guest("printer-2", "first")

        guest("password", "printer-2", password="second")
        self.refused("printer-2", "first", WRONG, verdict="reject", phase="auth", code=7)
        self.sends_as_guest("printer-2", "second")

        guests.remove("printer-2")
        self.refused("printer-2", "second", WRONG, verdict="reject", phase="auth", code=10)

    def test_no_account_of_the_host_can_be_made_a_guest_and_no_guest_twice(self):
        for name, words in (("quick", "an account on this host has it"), ("ROOT", "an account on this host has it"), (FRIEND[0], "already"), ("a:b", "colon")):
            self.assertIn(words, guest("add", name, password="x"))
        self.assertEqual(guest("list").split(), ["first.guest", FRIEND[0]])
        self.assertEqual(guests.FILE.stat().st_mode & 0o777, 0o600)

    def test_the_account_that_guests_have_in_common_lets_nobody_in(self):
        self.refused(guests.ACCOUNT, "guest password", WRONG, verdict="reject", phase="auth", code=7, service="smtp")

    def test_a_guest_file_that_is_away_is_nobody_s_wrong_password(self):
        aside = guests.FILE.with_suffix(".aside")
        self.addCleanup(lambda: aside.exists() and aside.rename(guests.FILE))

        guests.FILE.rename(aside)
        self.unavailable(*FRIEND, phase="auth")
        self.sends(*bed.QUICK)
        aside.rename(guests.FILE)

        self.sends_as_guest(*FRIEND)


class GuestsInUserdb(BackEnd):
    """The recipe for pam_userdb as the service of guests."""

    recipe = "passwd"
    auth = guests.Guests.auth

    @classmethod
    def setUpClass(cls):
        person(guests.ACCOUNT, None)
        hashed = run("openssl", "passwd", "-6", FRIEND[1]).strip()
        run("db_load", "-T", "-t", "hash", "/etc/smtp-users.db", input=f"{FRIEND[0]}\n{hashed}\n")
        install("userdb", "smtp-guests")
        super().setUpClass()

    def test_a_guest_of_the_database_sends_and_others_hear_the_same(self):
        self.sends(*FRIEND, account=guests.ACCOUNT)
        self.refused(FRIEND[0], "not it", WRONG, verdict="reject", phase="auth", code=7, service="smtp-guests")
        self.refused("stranger@example.org", "not it", WRONG, verdict="reject", phase="auth", code=10, service="smtp-guests")
        self.sends(*bed.QUICK)
