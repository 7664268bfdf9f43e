"""LDAP over StartTLS, through nslcd and pam_ldap."""

import ldap_people
from backend import MUST_CHANGE, WRONG
from nslcd import nslcd
from slapd import password_of


class Nslcd(ldap_people.LdapPeople):
    recipe = "ldap-nslcd"
    client = staticmethod(nslcd)

    def test_another_case_is_the_same_person_and_the_queue_has_one_name(self):
        self.sends("LDAPOK", password_of("ldapok"), name="ldapok")

    def test_a_password_that_shadow_fields_call_too_old_must_be_changed(self):
        self.refused("ldapaged", password_of("ldapaged"), MUST_CHANGE, verdict="must-change", phase="acct", code=12)
        self.refused("ldapaged", "not it", WRONG, verdict="reject", phase="auth", code=7)

    def test_a_password_that_the_policy_wants_changed_is_refused_like_a_wrong_one(self):
        for name in ("ldapreset", "ldapstale"):
            self.refused(name, password_of(name), WRONG, verdict="reject", phase="auth", code=7)
