"""The bed as a member of the domain: the configuration that docs/pam.md prints, a join, and the daemons that ask the directory."""

from pathlib import Path

import sssd as sssd_daemon
from backend import configure, run, succeeds
from daemon import Daemon
from domain import ADMINISTRATOR, CONTROLLER, DOMAIN, MEMBER, domain
from once import once


@once
def join():
    """Makes the bed a member of the domain; gives back the domain."""
    directory = domain()
    run("hostname", "mail")
    hosts = Path("/etc/hosts")
    hosts.write_text(f"{hosts.read_text()}{MEMBER} mail.{DOMAIN} mail\n")
    Path("/etc/resolv.conf").write_text(f"search {DOMAIN}\nnameserver {CONTROLLER}\n")
    configure("krb5.conf")
    configure("smb.conf", "/etc/samba/smb.conf")
    for place in ("/run/samba", "/var/cache/samba", "/var/lib/samba/private", "/var/log/samba"):
        Path(place).mkdir(parents=True, exist_ok=True)
    run("net", "ads", "join", f"--user={ADMINISTRATOR}", "--no-dns-updates")
    return directory


@once
def winbind():
    """winbindd, running."""
    join()
    return Daemon("winbindd", "--foreground", "--no-process-group", ready=reaches_the_domain).start()


@once
def sssd():
    """sssd, running."""
    join()
    return sssd_daemon.sssd("sssd-ad.conf", "alice").start()


def tickets():
    """The Kerberos tickets of people that lie on this host, where Kerberos puts them unless told otherwise."""
    return set(Path("/tmp").glob("krb5cc*"))


def reaches_the_domain():
    return succeeds("wbinfo", "--ping-dc")
