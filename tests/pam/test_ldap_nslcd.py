"""LDAP over StartTLS, through nslcd and pam_ldap."""

import guests
import ldap_people
from backend import MUST_CHANGE, WRONG, BackEnd
from nslcd import nslcd
from slapd import password_of


DIRECTORY = DAEMON = None


def setUpModule():
    global DIRECTORY, DAEMON
    DIRECTORY, DAEMON = ldap_people.start(nslcd)


class Nslcd(ldap_people.LdapPeople):
    recipe = "ldap-nslcd"

    @classmethod
    def setUpClass(cls):
        cls.directory, cls.daemon = DIRECTORY, DAEMON
        super().setUpClass()

    def test_another_case_is_the_same_person_and_the_queue_has_one_name(self):
        self.sends("LDAPOK", password_of("ldapok"), name="ldapok")

    def test_a_password_that_shadow_fields_call_too_old_must_be_changed(self):
        self.refused("ldapaged", password_of("ldapaged"), MUST_CHANGE, verdict="must-change", phase="acct", code=12)
        self.refused("ldapaged", "not it", WRONG, verdict="reject", phase="auth", code=7)

    def test_a_password_that_the_policy_wants_changed_is_refused_like_a_wrong_one(self):
        for name in ("ldapreset", "ldapstale"):
            self.refused(name, password_of(name), WRONG, verdict="reject", phase="auth", code=7)


class Guests(guests.Guests):
    recipe = "ldap-nslcd"

    def test_a_name_that_the_directory_could_not_have_is_nobody_s(self):
        self.refused("*", "guest password", verdict="reject", phase="auth", code=10, service="smtp-guests")

    def test_while_the_directory_is_away_nobody_is_taken_for_a_guest(self):
        self.addCleanup(lambda: DIRECTORY.server.running() or DIRECTORY.server.start())
        self.sends("first.guest", "guest password", account=guests.ACCOUNT)

        DIRECTORY.server.stop()
        self.unavailable("ldapok", password_of("ldapok"))
        self.unavailable("first.guest", "guest password")
        DIRECTORY.server.start()

        self.sends_again("ldapok", password_of("ldapok"), within=20)
        self.sends("first.guest", "guest password", account=guests.ACCOUNT)


class Guessed(ldap_people.LdapGuesses, BackEnd):
    recipe = "ldap-nslcd"

    @classmethod
    def setUpClass(cls):
        cls.directory = DIRECTORY
        super().setUpClass()
