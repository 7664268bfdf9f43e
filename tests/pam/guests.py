"""People without an account on this host: a second PAM service, and the command that keeps its file."""

from pathlib import Path

import bed
from backend import BackEnd, install, run
from people import person

ACCOUNT = "mailguest"
FILE = Path("/var/lib/pamrelay/guests")


class Guests(BackEnd):
    """A back end with guests beside it."""

    auth = {"guest_service": "smtp-guests", "guest_account": ACCOUNT}

    @classmethod
    def setUpClass(cls):
        person(ACCOUNT, None)
        add("first.guest", "guest password")  # the command makes the file
        install("guests", "smtp-guests")
        super().setUpClass()


def add(name, password):
    run(bed.PAMRELAY, "guest", "add", name, input=password + "\n")


def remove(name):
    run(bed.PAMRELAY, "guest", "remove", name)
