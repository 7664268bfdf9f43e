"""Active Directory through pam_krb5: the account is in /etc/passwd, the password in the directory."""

import backend
from backend import DEADLINE, LOCAL, BackEnd
from domain import REALM, password_of
from member import join, tickets
from outage import RECOVERY, Outages
from people import person

HERE_TOO = ("alice", "disabled", "expired", "mustchange", "locked", "unseen")


class Krb5(BackEnd, Outages):
    recipe = "ad-krb5"

    @classmethod
    def setUpClass(cls):
        cls.domain = join()
        backend.name_service("")
        for name in HERE_TOO:
            person(name, None)
            cls.addClassCleanup(backend.run, "userdel", name)
        super().setUpClass()

    def test_a_name_with_and_without_its_realm_sends_as_the_local_account(self):
        self.sends("alice", password_of("alice"))
        self.sends(f"alice@{REALM}", password_of("alice"), "alice")

    def test_a_wrong_password_and_an_unknown_name_are_refused(self):
        self.refused("alice", "not it", verdict="reject", phase="auth", code=7, reason="refused")
        self.refused("nobody-here", "not it", verdict="reject", phase="auth", code=10, reason="refused")

    def test_another_case_is_another_name(self):
        self.refused("ALICE", password_of("alice"), verdict="reject", phase="auth", code=10, reason="refused")

    def test_a_name_with_the_short_name_of_the_domain_is_nobodys(self):
        self.refused(r"EXAMPLE\alice", password_of("alice"), verdict="reject", phase="auth", code=7, reason="refused")

    def test_a_backslash_that_kerberos_would_drop_makes_no_other_name(self):
        before = self.domain.account("alice")

        for name in (r"a\lice", r"ali\ce", r"\alice", rf"a\lice@{REALM}"):
            with self.subTest(name):
                self.refused(name, "not it", verdict="reject", phase="auth", code=7, reason="refused")
                self.refused(name, password_of("alice"), verdict="reject", phase="auth", code=7, reason="refused")

        self.assertEqual(self.domain.account("alice"), before)

    def test_a_name_of_another_realm_is_refused_and_nobody_is_asked_about_it(self):
        for name in ("alice@ad.example.org", "alice@ELSEWHERE.EXAMPLE.ORG", "alice@AD.EXAMPLE.ORG@ELSEWHERE.EXAMPLE.ORG"):
            with self.subTest(name):
                login = self.refused(name, password_of("alice"), verdict="reject", phase="auth", code=7, reason="refused")
                self.assertLess(login.seconds, DEADLINE)

    def test_somebody_of_the_directory_without_an_account_here_is_refused(self):
        self.refused("bob", password_of("bob"), verdict="reject", phase="auth", code=10, reason="refused")

    def test_a_disabled_an_expired_and_a_locked_account_are_refused(self):
        self.domain.lock_out("locked")
        self.addCleanup(self.domain.forgive, "locked")

        for name in ("disabled", "expired", "locked"):
            with self.subTest(name):
                self.refused(name, password_of(name), verdict="reject", phase="auth", code=7, reason="refused")

    def test_a_password_that_has_expired_is_refused_and_stays_as_it_was_in_the_directory(self):
        before = self.domain.account("mustchange")

        for _ in range(3):
            login = self.refused("mustchange", password_of("mustchange"), verdict="reject", phase="auth", code=9, reason="asked-for-more")
            self.assertIn("Enter new password", login.line["text"])

        self.assertEqual(self.domain.account("mustchange"), before)
        self.assertEqual((before["pwdLastSet"], before["msDS-KeyVersionNumber"]), ("0", "1"))
        self.domain.change("mustchange", "pwdLastSet", -1)
        self.addCleanup(self.domain.change, "mustchange", "pwdLastSet", 0)
        self.sends("mustchange", password_of("mustchange"))

    def test_an_expired_password_that_is_wrong_is_a_wrong_password(self):
        self.addCleanup(self.domain.forgive, "mustchange")

        self.refused("mustchange", "not it", verdict="reject", phase="auth", code=7, reason="refused")

    def test_while_the_controller_is_away_a_wrong_password_of_local_people_may_be_right_there(self):
        with self.domain.host.unplugged():
            self.unavailable(LOCAL[0], "not it")

        self.sends_again(*self.somebody("alice"), within=RECOVERY)

    def test_no_ticket_of_anybody_is_left_behind(self):
        before = tickets()

        self.sends(*self.somebody("alice"))
        self.refused(self.somebody("alice")[0], "not it")

        self.assertEqual(tickets(), before)

    def test_local_people_send_beside_those_of_the_directory(self):
        self.sends(*LOCAL)
        self.refused(LOCAL[0], "not it", verdict="reject", phase="auth", code=10, reason="refused")
