"""Guesses at one account of a directory that locks accounts, from many addresses: pamrelay stops asking before that, and
the account's owner still sends. The same tests for every directory."""

import itertools
from concurrent.futures import ThreadPoolExecutor

from backend import PLAIN, THROTTLED, WRONG, ask, secured

GUESSES = 40
ADDRESSES = [f"127.{number}.{number}.{number}" for number in range(1, GUESSES + 1)]


class Guesses:
    """Beside `BackEnd`, with the limits in `auth`. `forms` are those in which a name may come, the one of the name service
    first; `threshold` is the number of failures at which the directory locks."""

    forms = ("{}",)
    threshold = 0

    def nobody_guessed_at(self):
        """An account that no other test uses, and its password."""
        raise NotImplementedError

    def state(self, account):
        """How many failures the directory has counted, and whether it has locked the account."""
        raise NotImplementedError

    def test_guesses_from_everywhere_do_not_lock_the_account(self):
        account, _ = self.nobody_guessed_at()

        replies = self.guess(account, (f"guess {number}" for number in itertools.count()))

        self.assertIn(THROTTLED, {reply[:len(THROTTLED)] for reply in replies})
        self.expect_unlocked(account, replies)

    def test_one_wrong_password_again_and_again_does_not_lock_the_account(self):
        account, _ = self.nobody_guessed_at()

        replies = self.guess(account, itertools.repeat("an old password"))

        self.expect_unlocked(account, replies)

    def test_the_owner_still_sends_from_where_he_sent_before(self):
        account, password = self.nobody_guessed_at()
        owner = (self.forms[0].format(account), password)
        self.sends(*owner)

        replies = self.guess(account, (f"guess {number}" for number in itertools.count()))

        self.assertIn(THROTTLED, {reply[:len(THROTTLED)] for reply in replies})
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
        failures, locked = self.state(account)
        self.assertIn(failures, range(1, self.threshold), "nothing, or too much, came to the directory")
        self.assertFalse(locked)
