"""Guesses at accounts of an Active Directory, by each way to it: pamrelay stops asking before the directory locks the account."""

import backend
from backend import BackEnd
from domain import DOMAIN, LOCKOUT, PEOPLE, REALM, guessed, password_of
from guesses import Guesses
from member import join, sssd, winbind
from people import person

WITH_DOMAIN = (r"EXAMPLE\{}", r"example\{}", rf"{REALM}\{{}}", f"{{}}@{REALM}", f"{{}}@{DOMAIN}")


class AtDomain(Guesses):
    # The most that is less than what the directory takes: docs/pam.md advises half, for what a test does not see.
    auth = {"account_failures": LOCKOUT - 1, "account_window": "30m"}
    threshold = LOCKOUT

    @classmethod
    def setUpClass(cls):
        cls.domain = join()
        cls.stand_behind()
        super().setUpClass()

    def nobody_guessed_at(self):
        account = guessed()
        return account, password_of(account)

    def state(self, account):
        found = self.domain.account(account)
        return int(found["badPwdCount"]), int(found.get("lockoutTime", 0)) != 0


class ByWinbind(AtDomain, BackEnd):
    recipe = "ad-winbind"
    forms = WITH_DOMAIN

    @staticmethod
    def stand_behind():
        winbind()
        backend.name_service("winbind")


class ByWinbindWithKerberos(ByWinbind):
    recipe = "ad-winbind-krb5"


class BySssd(AtDomain, BackEnd):
    recipe = "ad-sssd"
    forms = ("{}", *WITH_DOMAIN)

    @staticmethod
    def stand_behind():
        sssd()
        backend.name_service("sss")


class ByKrb5(AtDomain, BackEnd):
    recipe = "ad-krb5"
    forms = ("{}", f"{{}}@{REALM}")

    @classmethod
    def stand_behind(cls):
        backend.name_service("")
        for name in filter(lambda name: name.startswith("guessed"), PEOPLE):
            person(name, None)
            cls.addClassCleanup(backend.run, "userdel", name)
