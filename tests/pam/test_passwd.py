"""/etc/passwd and /etc/shadow through pam_unix and its neighbours."""

import bed
from backend import LOGIN, WRONG, BackEnd


class Passwd(BackEnd):
    recipe = "passwd"

    def test_the_right_password_sends_over_both_kinds_of_tls_and_with_plain_and_login(self):
        self.sends(*bed.QUICK)
        self.sends(*bed.QUICK, mechanism=LOGIN, port=bed.IMPLICIT)

    def test_a_wrong_password_is_refused(self):
        self.refused("quick", "not it", WRONG, verdict="reject", phase="auth", code=7)
