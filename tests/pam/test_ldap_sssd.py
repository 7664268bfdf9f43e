"""LDAP over TLS from the first byte, through sssd and pam_sss."""

import bed
import ldap_people
from backend import MUST_CHANGE, WRONG, BackEnd
from slapd import password_of
from sssd import remembers, sssd


DIRECTORY = DAEMON = None


def setUpModule():
    global DIRECTORY, DAEMON
    DIRECTORY, DAEMON = ldap_people.start(sssd)


class Sssd(ldap_people.LdapPeople):
    recipe = "ldap-sssd"

    @classmethod
    def setUpClass(cls):
        cls.directory, cls.daemon = DIRECTORY, DAEMON
        super().setUpClass()

    def test_another_case_is_another_name(self):
        self.refused("LDAPOK", password_of("ldapok"), verdict="reject", phase="auth", code=10)

    def test_a_password_that_the_policy_wants_changed_must_be_changed(self):
        for name in ("ldapreset", "ldapstale"):
            self.refused(name, password_of(name), MUST_CHANGE, verdict="must-change", phase="acct", code=12)
            self.refused(name, "not it", WRONG, verdict="reject", phase="auth", code=7)

    def test_shadow_fields_about_the_age_of_a_password_are_not_looked_at(self):
        self.sends("ldapaged", password_of("ldapaged"))

    def test_while_the_directory_is_away_people_whom_sssd_has_listed_are_not_called_unknown_but_strangers_are(self):
        self.addCleanup(lambda: self.directory.server.running() or self.directory.server.start())
        bed.wait_for("sssd has listed everybody", lambda: remembers("ldapunseen"), 90)

        self.directory.server.stop()
        self.unavailable("ldapunseen", password_of("ldapunseen"), phase="auth", code=9)
        self.refused("nobody-here", "not it", verdict="reject", phase="auth", code=10)
        self.directory.server.start()

        self.sends_again("ldapunseen", password_of("ldapunseen"), self.back_within)


class Guessed(ldap_people.LdapGuesses, BackEnd):
    recipe = "ldap-sssd"

    @classmethod
    def setUpClass(cls):
        cls.directory = DIRECTORY
        super().setUpClass()
