"""Accounts of people and of daemons, made the same way wherever a test needs one.

Invariant: who has a name of a test already, because this machine has such a user, becomes the test's.
"""

import subprocess

CHEAP = ("--crypt-method", "SHA512", "--sha-rounds", "1000")
YESCRYPT = ("--crypt-method", "YESCRYPT")
NOBODY_S = ("--no-log-init", "--no-create-home", "--home-dir", "/nonexistent")


def run_here(*words, input=None):
    """Runs a program to its end, which must be a good one."""
    done = subprocess.run(words, input=input, capture_output=True, encoding="utf-8", errors="surrogateescape", timeout=120)
    if done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")


def person(name, password, *age, hash=CHEAP, locked=False, home=NOBODY_S, run=run_here):
    """Somebody of /etc/passwd; `age` are options for chage. No password: the account has none that could be right.
    `run` runs a command where the account is to be."""
    if not exists(name, run):
        run("useradd", *home, "--shell", "/bin/sh", name)
    if password is None:
        run("usermod", "--password", "!", name)
    else:
        run("chpasswd", *hash, input=f"{name}:{password}\n")
    if age:
        run("chage", *age, name)
    if locked:
        run("usermod", "--lock", name)


def system_user(name, *groups):
    """A user as a package's installation makes one."""
    if not exists(name, run_here):
        run_here("useradd", "--system", "--user-group", *NOBODY_S, "--shell", "/usr/sbin/nologin", name)
    for group in groups:
        run_here("usermod", "--append", "--groups", group, name)


def exists(name, run):
    try:
        run("id", name)
        return True
    except AssertionError:
        return False
