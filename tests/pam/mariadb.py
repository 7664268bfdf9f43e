"""MariaDB with the one table that /etc/pam-mysql.conf names."""

import shutil
from pathlib import Path

import backend
from daemon import Daemon
from people import person, system_user

DATA = Path("/var/lib/mysql")
SOCKET = "/run/mysqld/mysqld.sock"

# Of each, the number in the status column, and what stands before the hash.
PEOPLE = {"sqlok": (0, ""), "sqlgone": (1, ""), "sqlaged": (2, ""), "sqllocked": (0, "!")}


def password_of(name):
    return f"pw-{name}"


def hashed(name):
    return backend.run("openssl", "passwd", "-6", password_of(name)).strip()


def table():
    """The server, started, with everybody in it; each also has a Unix account, without a password."""
    system_user("mysql")
    for directory in (DATA, Path("/run/mysqld")):
        directory.mkdir(exist_ok=True)
        shutil.chown(directory, "mysql", "mysql")
    backend.run("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={DATA}", "--skip-test-db", "--innodb-log-file-size=4M")
    server = Daemon("mariadbd", "--no-defaults", "--user=mysql", f"--datadir={DATA}", f"--socket={SOCKET}", "--bind-address=127.0.0.1",
                    "--innodb-use-native-aio=0", "--innodb-log-file-size=4M", "--innodb-buffer-pool-size=8M", ready=answers).start()
    sql((backend.DAEMONS / "smtp-users.sql").read_text())
    for name, (status, lock) in PEOPLE.items():
        sql(f"insert into mail.users values ('{name}', '{lock}{hashed(name)}', {status})")
    backend.configure("pam-mysql.conf", mode=0o600)
    for name in PEOPLE:
        person(name, None)
    return server


def sql(statements):
    return backend.run("mariadb", "--no-defaults", f"--socket={SOCKET}", input=statements)


def answers():
    return backend.succeeds("mariadb", "--no-defaults", f"--socket={SOCKET}", "--execute=select 1")
