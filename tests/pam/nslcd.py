"""nslcd, with the configuration that docs/pam.md prints, and the name service that asks it."""

import shutil
from pathlib import Path

import backend
from daemon import Daemon
from people import system_user

RUNTIME = Path("/run/nslcd")


def nslcd():
    """The daemon, not started."""
    system_user("nslcd")
    RUNTIME.mkdir(exist_ok=True)
    shutil.chown(RUNTIME, "nslcd", "nslcd")
    backend.configure("nslcd.conf", mode=0o640)
    backend.name_service("ldap")
    return Daemon("nslcd", "--nofork", ready=lambda: backend.finds("ldapok"))
