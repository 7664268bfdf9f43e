"""Active Directory through sssd on a joined member."""

import backend
import bed
from backend import LOCAL, LOGIN, MUST_CHANGE, WRONG, BackEnd
from domain import password_of
from member import join, sssd, tickets
from outage import Outages, gone, hung


class Sssd(BackEnd, Outages):
    recipe = "ad-sssd"

    @classmethod
    def setUpClass(cls):
        cls.domain = join()
        cls.daemon = sssd()
        backend.name_service("sss")
        super().setUpClass()

    def test_the_right_password_sends_over_both_kinds_of_tls_and_with_both_mechanisms(self):
        self.sends("alice", password_of("alice"))
        self.sends("alice", password_of("alice"), mechanism=LOGIN, port=bed.IMPLICIT)

    def test_a_name_may_come_in_every_form_and_becomes_the_one_of_the_name_service(self):
        for name in ("ALICE", r"EXAMPLE\alice", r"example\Alice", r"AD.EXAMPLE.ORG\alice", "alice@AD.EXAMPLE.ORG", "Alice@ad.example.org"):
            with self.subTest(name):
                self.sends(name, password_of("alice"), "alice")

    def test_a_wrong_password_and_an_unknown_name_are_refused(self):
        self.refused("alice", "not it", verdict="reject", phase="auth", code=7, reason="refused")
        self.refused("nobody-here", "not it", verdict="reject", phase="auth", code=10, reason="refused")
        self.refused("alice@elsewhere.example.org", password_of("alice"), verdict="reject", phase="auth", code=10, reason="refused")

    def test_a_disabled_an_expired_and_a_locked_account_are_refused(self):
        self.domain.lock_out("locked")
        self.addCleanup(self.domain.forgive, "locked")

        for name in ("disabled", "expired", "locked"):
            with self.subTest(name):
                self.refused(name, password_of(name), verdict="reject", phase="auth", code=6, reason="refused")

    def test_a_password_that_must_be_changed_is_told_so_and_only_to_who_knows_it(self):
        self.addCleanup(self.domain.forgive, "mustchange")
        before = self.domain.account("mustchange")

        self.refused("mustchange", password_of("mustchange"), MUST_CHANGE, verdict="must-change", phase="acct", code=12)
        self.refused("mustchange", "not it", WRONG, verdict="reject", phase="auth", code=7)

        self.assertEqual({**self.domain.account("mustchange"), "badPwdCount": None}, {**before, "badPwdCount": None})

    def test_an_sssd_that_is_gone_or_hangs_is_a_temporary_failure_and_then_it_serves_again(self):
        self.outage(gone(self.daemon), phase="auth", code=9)
        self.outage(hung(self.daemon))

    def test_no_ticket_of_anybody_is_left_behind(self):
        before = tickets()

        self.sends(*self.somebody("alice"))
        self.refused(self.somebody("alice")[0], "not it")

        self.assertEqual(tickets(), before)

    def test_local_people_send_beside_those_of_the_directory(self):
        self.sends(*LOCAL)
        self.refused(LOCAL[0], "not it", verdict="reject", phase="auth", code=7, reason="refused")
