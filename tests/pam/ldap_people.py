"""What an LDAP directory's people hear, whichever client daemon stands between PAM and the directory.

The two suites name the daemon and say what it takes the harder cases for.
"""

import unittest

import slapd
from backend import EXPIRED, LOCAL, LOGIN, WRONG, BackEnd
from guesses import Guesses
from slapd import password_of


def start(client):
    """A directory and a client daemon that asks it, for the tests of a module; gives both."""
    directory = slapd.directory()
    directory.server.start()
    unittest.addModuleCleanup(directory.server.stop)
    daemon = client().start()
    unittest.addModuleCleanup(daemon.stop)
    return directory, daemon


class LdapPeople(BackEnd):
    directory = None
    daemon = None
    back_within = 20  # seconds, after an outage of the directory

    def test_the_right_password_sends(self):
        self.sends("ldapok", password_of("ldapok"))
        self.sends("ldapok", password_of("ldapok"), mechanism=LOGIN)
        self.sends("ldap.dot-dash", password_of("ldap.dot-dash"))

    def test_wrong_and_unknown_and_locked_hear_the_same(self):
        self.refused("ldapok", "not it", verdict="reject", phase="auth", code=7)
        self.refused("nobody-here", "not it", verdict="reject", phase="auth", code=10)
        self.refused("ldaplocked", password_of("ldaplocked"), verdict="reject", phase="auth", code=7)

    def test_an_account_that_the_directory_locks_for_its_failures_is_refused_like_a_wrong_password(self):
        self.sends("ldapguessed", password_of("ldapguessed"))

        for number in range(slapd.MAX_FAILURES):
            self.refused("ldapguessed", f"guess {number}")
        self.assertEqual(self.directory.failures("ldapguessed"), (slapd.MAX_FAILURES, True))

        self.refused("ldapguessed", password_of("ldapguessed"), WRONG, verdict="reject", phase="auth", code=7)

    def test_names_are_no_filters(self):
        for name in ("*", "ldapok)(uid=*", "ldap*", "ldapok)(&)", "zoë"):
            self.refused(name, password_of("ldapok"), verdict="reject", phase="auth", code=10)

    def test_an_expired_account_is_told_so_with_the_right_password_alone(self):
        self.refused("ldapgone", password_of("ldapgone"), EXPIRED, verdict="expired", phase="acct", code=13)
        self.refused("ldapgone", "not it", WRONG, verdict="reject", phase="auth", code=7)

    def test_people_of_the_files_send_too(self):
        self.sends(*LOCAL)
        self.refused(LOCAL[0], "not it", verdict="reject", phase="auth", code=7)

    def test_a_directory_that_is_away_is_nobody_s_wrong_password_and_works_when_it_is_back(self):
        self.addCleanup(lambda: self.directory.server.running() or self.directory.server.start())

        self.directory.server.stop()
        for _ in range(2):
            self.unavailable("ldapok", password_of("ldapok"))
        self.sends(*LOCAL, within=2)
        self.directory.server.start()

        self.sends_again("ldapok", password_of("ldapok"), self.back_within)

    def test_a_directory_that_hangs_costs_its_own_logins_and_nobody_else_s(self):
        self.outlasts_a_hang("ldapok", password_of("ldapok"), self.directory.server, self.back_within)

    def test_without_the_client_daemon_nobody_has_a_wrong_password_and_it_works_when_it_is_back(self):
        self.addCleanup(lambda: self.daemon.running() or self.daemon.start())

        self.daemon.stop()
        self.unavailable("ldapok", password_of("ldapok"), phase="auth", code=9)
        self.unavailable("nobody-here", "not it", phase="auth", code=9)
        self.sends(*LOCAL, within=2)
        self.daemon.start()

        self.sends_again("ldapok", password_of("ldapok"), self.back_within)

    def test_a_client_daemon_that_hangs_costs_its_own_logins_and_nobody_else_s(self):
        self.outlasts_a_hang("ldapok", password_of("ldapok"), self.daemon, self.back_within)

    def test_a_server_with_a_certificate_of_a_stranger_is_not_asked(self):
        self.restarts_with(slapd.stranger_authority())
        self.addCleanup(lambda: self.restarts_with(slapd.AUTHORITY) or self.sends_again("ldapok", password_of("ldapok"), self.back_within))

        self.unavailable("ldapok", password_of("ldapok"))

    def restarts_with(self, authority):
        """The client daemon anew, trusting this authority; whether it then finds anybody is what the test is about."""
        self.daemon.stop()
        slapd.publish(authority)
        self.daemon.start(wait=False)


class LdapGuesses(Guesses):
    """Beside `BackEnd`, with the settings that docs/pam.md wants for a directory that locks."""

    auth = {"account_failures": slapd.MAX_FAILURES - 1, "account_window": f"{slapd.COUNT_INTERVAL}s"}
    threshold = slapd.MAX_FAILURES
    directory = None

    @classmethod
    def setUpClass(cls):
        cls.accounts = (name for name in slapd.PEOPLE if name.startswith("ldapwindow"))
        super().setUpClass()

    def nobody_guessed_at(self):
        account = next(self.accounts, None)
        self.assertIsNotNone(account, "more tests guess than slapd.PEOPLE has accounts for them")
        return account, password_of(account)

    def state(self, account):
        return self.directory.failures(account)
