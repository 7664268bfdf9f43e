"""/etc/passwd and /etc/shadow through pam_unix, and the modules that are put beside it."""

import re
import time
from pathlib import Path

import bed
import otherprogram
from backend import EXPIRED, LOGIN, MUST_CHANGE, NOT_PERMITTED, WRONG, BackEnd, configure, run
from people import person

FAILLOCK = Path("/etc/security/faillock-smtp.conf")
LONG_AGO = "2020-01-01"


def setUpModule():
    """What the bed's own people (bed.DEMO and others) do not have."""
    person("passwdold", "old password", "-d", LONG_AGO, "-M", "30", "-I", "-1")
    person("passwddead", "dead password", "-d", LONG_AGO, "-M", "30", "-I", "10")
    person("passwdlocked", "locked password")
    run("usermod", "--lock", "passwdlocked")
    person("passwdnone", None)
    for number in range(1, 6):
        person(f"guessed{number}", "guessed password")
    for group, members in {"mailusers": "quick", "travellers": "ada"}.items():
        run("groupadd", group)
        run("gpasswd", "--members", members, group)


class PamUnix(BackEnd):
    recipe = "passwd"

    def test_a_yescrypt_hash_sends_over_both_kinds_of_tls_with_plain_and_login(self):
        self.assertIn(":$y$", run("getent", "shadow", "demo"))

        self.sends(*bed.DEMO)
        self.sends(*bed.DEMO, mechanism=LOGIN)
        self.sends(*bed.DEMO, port=bed.IMPLICIT)
        self.sends(*bed.DEMO, mechanism=LOGIN, port=bed.IMPLICIT)

    def test_a_sha512_hash_sends(self):
        self.assertIn(":$6$", run("getent", "shadow", "quick"))

        self.sends(*bed.QUICK)

    def test_wrong_and_unknown_and_locked_hear_the_same(self):
        self.refused("demo", "not it", verdict="reject", phase="auth", code=7)
        self.refused("nobody-here", "not it", verdict="reject", phase="auth", code=10)
        self.refused("passwdlocked", "locked password", verdict="reject", phase="auth", code=7)
        self.refused("passwdnone", "anything", verdict="reject", phase="auth", code=7)

    def test_an_expired_account_is_told_so_with_the_right_password_alone(self):
        self.refused("gone", "gone password", EXPIRED, verdict="expired", phase="acct", code=13)
        self.refused("gone", "not it", WRONG, verdict="reject", phase="auth", code=7)

    def test_a_password_that_is_too_old_for_its_grace_is_an_expired_account(self):
        self.refused("passwddead", "dead password", EXPIRED, verdict="expired", phase="acct", code=27)
        self.refused("passwddead", "not it", WRONG, verdict="reject", phase="auth", code=7)

    def test_an_old_password_and_one_that_somebody_else_has_set_must_be_changed(self):
        self.refused("passwdold", "old password", MUST_CHANGE, verdict="must-change", phase="acct", code=12)
        self.refused("aged", "aged password", MUST_CHANGE, verdict="must-change", phase="acct", code=12)
        self.refused("aged", "not it", WRONG, verdict="reject", phase="auth", code=7)


class Faillock(BackEnd):
    """Each test has a person of its own, because the relay remembers failures too."""

    recipe = "faillock"
    limits = {"failure_floor": "10ms"}  # the rest as it is without a word in the configuration

    @classmethod
    def setUpClass(cls):
        configure("faillock-smtp.conf", FAILLOCK)
        super().setUpClass()

    def test_an_account_that_another_program_locked_is_refused_until_the_administrator_unlocks_it(self):
        codes = {otherprogram.authenticate("smtp", "guessed1", "not it") for _ in range(deny())}
        self.assertEqual(codes, {7})

        locked = self.refused("guessed1", "guessed password", WRONG, verdict="reject", phase="auth", code=7)
        self.assertIn("locked", locked.line["text"])
        run("faillock", "--dir", "/run/faillock-smtp", "--user", "guessed1", "--reset")
        self.sends("guessed1", "guessed password")
        self.assertFalse(Path("/run/faillock/guessed1").exists())

    def test_guessers_are_held_back_before_they_lock_anybody_out(self):
        replies = [self.log_in("guessed2", f"guess {number}").reply[:9] for number in range(3 * deny())]

        self.assertEqual(set(replies), {"535 5.7.8", "454 4.7.0"})
        self.assertEqual(tries_at("guessed2"), replies.count("535 5.7.8"))
        self.assertLess(tries_at("guessed2"), deny())

    def test_a_file_that_is_edited_in_place_is_heeded(self):
        before, inode = FAILLOCK.read_text(), FAILLOCK.stat().st_ino
        self.addCleanup(edit, before)

        edit(before.replace(f"deny = {deny()}", "deny = 3"))
        self.assertEqual((FAILLOCK.stat().st_ino, deny()), (inode, 3))
        replies = [self.log_in("guessed5", f"guess {number}").reply[:3] for number in range(6)]

        self.assertEqual(set(replies), {"535", "454"})
        self.assertLess(tries_at("guessed5"), 3)

    def test_the_same_wrong_password_again_and_again_locks_nobody_out(self):
        replies = {self.log_in("guessed3", "an old password").reply for _ in range(3 * deny())}

        self.assertEqual(replies, {WRONG})
        self.assertLess(tries_at("guessed3"), deny())

    def test_a_right_password_begins_the_count_anew(self):
        self.sends("guessed4", "guessed password")

        self.refused("guessed4", "not it", verdict="reject", phase="auth", code=7)
        self.assertEqual(tries_at("guessed4"), 1)
        self.sends("guessed4", "guessed password")

        self.assertEqual(tries_at("guessed4"), 0)

    def test_an_unknown_user_is_told_what_a_wrong_password_is(self):
        self.refused("nobody-here", "not it", WRONG, verdict="reject", phase="auth", code=10)


def edit(text):
    """In place, and until the helper looks, which it does five times a second at most."""
    FAILLOCK.write_text(text)
    time.sleep(0.3)


def deny():
    """How many wrong passwords faillock lets pass."""
    return int(re.search(r"(?m)^deny = (\d+)", FAILLOCK.read_text())[1])


def tries_at(name):
    """How many wrong passwords faillock has counted."""
    return sum(line.endswith(" V") for line in run("faillock", "--dir", "/run/faillock-smtp", "--user", name).splitlines())


class Nologin(BackEnd):
    recipe = "nologin"

    def test_while_the_file_is_there_nobody_sends_and_the_log_has_its_text(self):
        file = Path("/etc/nologin")
        self.addCleanup(file.unlink, missing_ok=True)

        self.sends(*bed.QUICK)
        file.write_text("Down for an hour\n")
        held = self.refused(*bed.QUICK, NOT_PERMITTED, verdict="not-permitted", phase="acct", code=7)
        self.assertIn("Down for an hour", held.line["text"])
        self.refused("quick", "not it", WRONG, verdict="reject", phase="auth", code=7)
        file.unlink()

        self.sends(*bed.QUICK)


class Access(BackEnd):
    recipe = "access"

    @classmethod
    def setUpClass(cls):
        configure("access-smtp.conf", "/etc/security/access-smtp.conf")
        super().setUpClass()

    def test_the_client_s_address_decides(self):
        self.expects(self.log_in(*bed.QUICK, source="127.0.0.1"), "235 ")
        self.expects(self.log_in(*bed.QUICK, source="127.0.0.2"), NOT_PERMITTED, verdict="not-permitted", phase="acct", code=6)
        self.expects(self.log_in("quick", "not it", source="127.0.0.2"), WRONG, verdict="reject", phase="auth", code=7)

    def test_a_group_may_come_from_anywhere(self):
        self.expects(self.log_in(*bed.ADA, source="127.0.0.2"), "235 ")


class Group(BackEnd):
    recipe = "group"

    def test_members_send_and_others_are_told_that_they_may_not(self):
        self.sends(*bed.QUICK)
        self.refused(*bed.DEMO, NOT_PERMITTED, verdict="not-permitted", phase="acct", code=7)
        self.refused("demo", "not it", WRONG, verdict="reject", phase="auth", code=7)


class GroupOfTheRelay(BackEnd):
    recipe = "passwd"
    auth = {"groups": ["mailusers"]}

    def test_the_relay_s_own_list_does_the_same_without_a_module(self):
        self.sends(*bed.QUICK)
        self.refused(*bed.DEMO, NOT_PERMITTED, verdict="not-permitted", phase="identity", reason="not-in-groups")
