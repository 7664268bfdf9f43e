"""Active Directory through winbind on a joined member."""

import backend
import bed
from backend import LOCAL, LOGIN, MUST_CHANGE, WRONG, BackEnd
from domain import password_of
from member import join, winbind, tickets
from outage import Outages, gone, hung


class WithWinbind(BackEnd):
    @classmethod
    def setUpClass(cls):
        cls.domain = join()
        cls.daemon = winbind()
        backend.name_service("winbind")
        super().setUpClass()


class Winbind(WithWinbind, Outages):
    recipe = "ad-winbind"
    called = r"EXAMPLE\{}"
    code = {"disabled": 13, "expired": 13, "locked": 11, "gone": 9}

    def test_the_right_password_sends_over_both_kinds_of_tls_and_with_both_mechanisms(self):
        self.sends(r"EXAMPLE\alice", password_of("alice"))
        self.sends(r"EXAMPLE\alice", password_of("alice"), mechanism=LOGIN, port=bed.IMPLICIT)

    def test_a_name_may_come_in_every_form_and_becomes_the_one_of_the_name_service(self):
        for name in (r"example\ALICE", r"AD.EXAMPLE.ORG\alice", "alice@AD.EXAMPLE.ORG", "Alice@ad.example.org"):
            with self.subTest(name):
                self.sends(name, password_of("alice"), r"EXAMPLE\alice")

    def test_a_name_without_its_domain_is_nobodys(self):
        self.refused("alice", password_of("alice"), verdict="reject", phase="auth", code=10, reason="refused")

    def test_a_wrong_password_and_an_unknown_name_are_refused(self):
        self.refused(r"EXAMPLE\alice", "not it", verdict="reject", phase="auth", code=7, reason="refused")
        self.refused(r"EXAMPLE\nobody-here", "not it", verdict="reject", phase="auth", code=10, reason="refused")
        self.refused("alice@elsewhere.example.org", password_of("alice"), verdict="reject", phase="auth", code=10, reason="refused")

    def test_a_disabled_and_an_expired_account_are_refused_and_the_log_says_why(self):
        for name in ("disabled", "expired"):
            login = self.refused(rf"EXAMPLE\{name}", password_of(name), verdict="reject", phase="auth", code=self.code[name], reason="refused")
            self.assertIn("account", login.line["text"])

    def test_an_account_that_the_directory_locked_is_refused(self):
        self.domain.lock_out("locked")
        self.addCleanup(self.domain.forgive, "locked")

        self.refused(r"EXAMPLE\locked", password_of("locked"), verdict="reject", phase="auth", code=self.code["locked"], reason="refused")

    def test_a_password_that_must_be_changed_is_told_so_and_only_to_who_knows_it(self):
        self.addCleanup(self.domain.forgive, "mustchange")
        before = self.domain.account("mustchange")

        self.refused(r"EXAMPLE\mustchange", password_of("mustchange"), MUST_CHANGE, verdict="must-change", phase="acct", code=12)
        self.refused(r"EXAMPLE\mustchange", "not it", WRONG, verdict="reject", phase="auth", code=7)

        self.assertEqual({**self.domain.account("mustchange"), "badPwdCount": None}, {**before, "badPwdCount": None})

    def test_a_winbind_that_is_gone_or_hangs_is_a_temporary_failure_and_then_it_serves_again(self):
        self.outage(gone(self.daemon), phase="auth", code=self.code["gone"])
        self.outage(hung(self.daemon))

    def test_no_ticket_of_anybody_is_left_behind(self):
        before = tickets()

        self.sends(*self.somebody("alice"))
        self.refused(self.somebody("alice")[0], "not it")

        self.assertEqual(tickets(), before)

    def test_local_people_send_beside_those_of_the_directory(self):
        self.sends(*LOCAL)
        self.refused(LOCAL[0], "not it", verdict="reject", phase="auth", code=7, reason="refused")


class WinbindByKerberos(Winbind):
    recipe = "ad-winbind-krb5"
    code = {"disabled": 11, "expired": 11, "locked": 11, "gone": 10}


class WinbindGroup(WithWinbind):
    recipe = "ad-winbind-group"

    def test_a_member_of_the_group_sends_and_anybody_else_hears_what_a_wrong_password_hears(self):
        self.sends(r"EXAMPLE\alice", password_of("alice"))
        self.refused(r"EXAMPLE\bob", password_of("bob"), WRONG, verdict="reject", phase="auth", code=7, reason="refused")


class WinbindGroupOfPamrelay(WithWinbind):
    recipe = "ad-winbind"
    auth = {"groups": [r"EXAMPLE\mailusers"]}

    def test_a_member_of_the_group_sends_and_anybody_else_is_told_why_not(self):
        self.sends(r"EXAMPLE\alice", password_of("alice"))
        self.refused(r"EXAMPLE\bob", password_of("bob"), backend.NOT_PERMITTED, verdict="not-permitted", phase="identity", reason="not-in-groups")
