"""sssd, with the configuration that docs/pam.md prints, and the name service that asks it."""

from pathlib import Path

import backend
from daemon import Daemon
from people import system_user

DIRECTORIES = ("db", "deskprofile", "gpo_cache", "mc", "pipes/private", "pubconf/krb5.include.d", "secrets")


def sssd(configuration="sssd.conf", somebody="ldapok"):
    """The daemon, not started; it serves when it finds `somebody`."""
    system_user("sssd")
    for name in DIRECTORIES:
        (Path("/var/lib/sss") / name).mkdir(parents=True, exist_ok=True)
    Path("/var/log/sssd").mkdir(exist_ok=True)
    backend.configure(configuration, "/etc/sssd/sssd.conf", mode=0o600)
    backend.name_service("sss")
    return Daemon("sssd", "--interactive", ready=lambda: backend.finds(somebody))


def remembers(name):
    """Whether sssd has this person in its own files."""
    return name.encode() in Path("/var/lib/sss/db/cache_example.ldb").read_bytes()
