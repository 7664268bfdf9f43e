"""LDAP over TLS from the first byte, through sssd and pam_sss."""

import ldap_people
from backend import MUST_CHANGE, WRONG
from slapd import password_of
from sssd import sssd


class Sssd(ldap_people.LdapPeople):
    recipe = "ldap-sssd"
    client = staticmethod(sssd)

    def test_another_case_is_another_name(self):
        self.refused("LDAPOK", password_of("ldapok"), verdict="reject", phase="auth", code=10)

    def test_a_password_that_the_policy_wants_changed_must_be_changed(self):
        for name in ("ldapreset", "ldapstale"):
            self.refused(name, password_of(name), MUST_CHANGE, verdict="must-change", phase="acct", code=12)
            self.refused(name, "not it", WRONG, verdict="reject", phase="auth", code=7)

    def test_shadow_fields_about_the_age_of_a_password_are_not_looked_at(self):
        self.sends("ldapaged", password_of("ldapaged"))
