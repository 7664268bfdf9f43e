"""Guesses at one account of the directory from many addresses: pamrelay stops asking before the directory locks the account."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import backend
from backend import PLAIN, THROTTLED, WRONG, BackEnd, ask, secured
from domain import DOMAIN, LOCKOUT, PEOPLE, REALM, guessed, password_of
from member import join, sssd, winbind

# Fewer than the directory takes before it locks an account, as docs/pam.md says.
LIMITS = {"account_failures": LOCKOUT - 1, "account_window": "30m"}
GUESSES = 40
ADDRESSES = [f"127.{number}.{number}.{number}" for number in range(1, GUESSES + 1)]
WITH_DOMAIN = (r"EXAMPLE\{}", r"example\{}", rf"{REALM}\{{}}", f"{{}}@{REALM}", f"{{}}@{DOMAIN}")


class Guesses:
    """Beside `BackEnd`; `forms` are those in which a name may come there, the one of the name service first."""

    auth = LIMITS
    forms = ()

    @classmethod
    def setUpClass(cls):
        cls.domain = join()
        cls.stand_behind()
        super().setUpClass()

    def test_guesses_from_everywhere_do_not_lock_the_account(self):
        account = guessed()

        replies = self.guess(account, (f"guess {number}" for number in itertools.count()))

        self.expect_unlocked(account, replies)

    def test_one_wrong_password_again_and_again_does_not_lock_the_account(self):
        account = guessed()

        replies = self.guess(account, itertools.repeat("an old password"))

        self.expect_unlocked(account, replies)

    def test_the_owner_still_sends_from_where_he_sent_before(self):
        account = guessed()
        owner = (self.forms[0].format(account), password_of(account))
        self.sends(*owner)

        replies = self.guess(account, (f"guess {number}" for number in itertools.count()))

        self.expect_unlocked(account, replies)
        self.sends(*owner)

    def guess(self, account, passwords):
        """One guess from each address, several at a time, and every time in another form of the name; what they hear."""
        def heard(address, form, password):
            with secured(source=address) as client:
                return ask(self.relay, client, form.format(account), password, PLAIN).client.reply()

        with ThreadPoolExecutor(8) as attackers:
            return list(attackers.map(heard, ADDRESSES, itertools.cycle(self.forms), passwords))

    def expect_unlocked(self, account, replies):
        for reply in replies:
            self.assertTrue(reply.startswith((WRONG, THROTTLED)), reply)
        found = self.domain.account(account)
        self.assertIn(int(found["badPwdCount"]), range(1, LOCKOUT), found)
        self.assertEqual(int(found.get("lockoutTime", 0)), 0, found)


class ByWinbind(Guesses, BackEnd):
    recipe = "ad-winbind"
    forms = WITH_DOMAIN

    @staticmethod
    def stand_behind():
        winbind()
        backend.name_service("winbind")


class ByWinbindWithKerberos(ByWinbind):
    recipe = "ad-winbind-krb5"


class BySssd(Guesses, BackEnd):
    recipe = "ad-sssd"
    forms = ("{}", *WITH_DOMAIN)

    @staticmethod
    def stand_behind():
        sssd()
        backend.name_service("sss")


class ByKrb5(Guesses, BackEnd):
    recipe = "ad-krb5"
    forms = ("{}", f"{{}}@{REALM}")

    @classmethod
    def stand_behind(cls):
        backend.name_service("")
        for name in filter(lambda name: name.startswith("guessed"), PEOPLE):
            backend.person(name, None)
            cls.addClassCleanup(backend.run, "userdel", name)
