"""A NIS domain on this host: rpcbind, ypserv with maps of its own, ypbind, and the name service that asks it.

Two kinds of maps: hashes in a shadow map, which ypserv shows only to ports below 1024, or hashes in the passwd map.
"""

import socket
from pathlib import Path

import bed
from backend import finds, name_service, run, succeeds
from daemon import Daemon
from people import system_user

DOMAIN = "example.nis"
HOST = "nis.example.org"
MAPS = Path("/var/yp") / DOMAIN
FIRST_UID = 30001
TODAY = 20500  # a day that is not long ago, as shadow counts them

# Of each: the day of the last change, the days that a password is good for, the day on which the account ends; or no hash.
PEOPLE = {
    "nisok": (TODAY, 99999, ""),
    "nisgone": (TODAY, 99999, "10000"),
    "nisaged": (10000, 30, ""),
    "nislocked": (TODAY, 99999, ""),
}
OPEN = "nisopen"  # the one whose hash stands in the passwd map


def password_of(name):
    return f"pw-{name}"


def hashed(name):
    return run("openssl", "passwd", "-6", password_of(name)).strip()


class Nis:
    """The domain's maps and daemons, none of them started."""

    def __init__(self):
        socket.sethostname(HOST)
        Path("/proc/sys/kernel/domainname").write_text(DOMAIN)
        with open("/etc/hosts", "a") as hosts:
            hosts.write(f"127.0.0.1 {HOST}\n")
        system_user("_rpc")
        for directory in (Path("/run/rpcbind"), Path("/run/sendsigs.omit.d"), Path("/var/yp/binding"), MAPS):
            directory.mkdir(parents=True, exist_ok=True)
        Path("/etc/ypserv.securenets").write_text("host 127.0.0.1\n")
        Path("/etc/yp.conf").write_text(f"domain {DOMAIN} server 127.0.0.1\n")
        self._make_maps()
        self.portmapper = Daemon("rpcbind", "-f", "-w", ready=lambda: succeeds("rpcinfo", "-p"))
        self.server = Daemon("ypserv", "-f", ready=lambda: succeeds("rpcinfo", "-u", "127.0.0.1", "ypserv"))
        self.client = Daemon("ypbind", "-foreground", ready=lambda: succeeds("ypwhich"))

    def start(self):
        for daemon in (self.portmapper, self.server, self.client):
            daemon.start()
        name_service("nis")
        bed.wait_for("the name service knows nisok", lambda: finds("nisok"))
        return self

    def stop(self):
        for daemon in (self.client, self.server, self.portmapper):
            daemon.stop()

    @staticmethod
    def _make_maps():
        passwd, shadow = {}, {}
        for uid, (name, (changed, longest, end)) in enumerate(PEOPLE.items(), FIRST_UID):
            passwd[name] = f"{name}:x:{uid}:30000::/nonexistent:/bin/sh"
            lock = "!" if name == "nislocked" else ""
            shadow[name] = f"{name}:{lock}{hashed(name)}:{changed}:0:{longest}:7::{end}:"
        passwd[OPEN] = f"{OPEN}:{hashed(OPEN)}:{FIRST_UID + 100}:30000::/nonexistent:/bin/sh"
        group = {"nispeople": "nispeople:x:30000:"}
        make_map("passwd.byname", passwd)
        make_map("passwd.byuid", {line.split(":")[2]: line for line in passwd.values()})
        make_map("group.byname", group)
        make_map("group.bygid", {line.split(":")[2]: line for line in group.values()})
        make_map("shadow.byname", shadow, "-s")


def make_map(name, entries, *options):
    text = "".join(f"{key} {value}\n" for key, value in entries.items())
    run("/usr/lib/yp/makedbm", *options, "-m", HOST, "-d", DOMAIN, "-", MAPS / name, input=text)
