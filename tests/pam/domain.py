"""An Active Directory: Samba as the domain controller of ad.example.org, on a host of its own, with people in every state.

Invariant: one for all tests of a bed. Who changes somebody in it puts him back, or has him for himself.
"""

import base64
import re
import subprocess
from contextlib import contextmanager

import bed
from host import Host
from once import once

REALM, DOMAIN, WORKGROUP = "AD.EXAMPLE.ORG", "ad.example.org", "EXAMPLE"
ADMINISTRATOR = "Administrator%Adm1n-Secret"
CONTROLLER, MEMBER = "10.9.0.1", "10.9.0.2"
PORTS = (53, 88, 389, 445)
DIRECTORY = "/var/lib/samba/private/sam.ldb"
PEOPLE_AT = "CN=Users,DC=ad,DC=example,DC=org"

LOCKOUT = 5  # wrong passwords until the directory locks an account
ENABLED, DISABLED = 512, 514
LONG_AGO = 130_000_000_000_000_000  # a day of 2012, as this directory counts

PEOPLE = {
    "alice": {},  # in mailusers
    "bob": {},  # not in it
    "disabled": {"userAccountControl": DISABLED},
    "expired": {"accountExpires": LONG_AGO},
    "mustchange": {"pwdLastSet": 0},
    "locked": {},
    "unseen": {},  # nobody logs in as this one before an outage
    **{f"guessed{number}": {} for number in range(1, 13)},
}
GROUP = "mailusers"
_not_guessed_at = iter([name for name in PEOPLE if name.startswith("guessed")])


def guessed():
    """Somebody at whose account no other test has guessed."""
    account = next(_not_guessed_at, None)
    if account is None:
        raise AssertionError("more tests guess than PEOPLE has accounts for them")
    return account


def password_of(name):
    return f"{name}'s Secret 1"


@once
def domain():
    """The directory, with its people in it; started by the first who asks."""
    return Domain()


class Domain:
    def __init__(self):
        self.host = Host("dc1", CONTROLLER, MEMBER)
        self._provision()
        self._serve()
        self.tool("domain", "passwordsettings", "set", "--complexity=off", "--history-length=0", "--min-pwd-age=0",
                  f"--account-lockout-threshold={LOCKOUT}", "--account-lockout-duration=30", "--reset-account-lockout-after=30")
        self.host.run("ldbadd", "-H", DIRECTORY, input="\n".join([*map(person, PEOPLE), group()]))

    def _provision(self):
        self.host.run("bash", "-c", "rm -f /etc/samba/smb.conf; mkdir -p /run/samba /var/cache/samba /var/lib/samba/private /var/log/samba;"
                                    f"printf '127.0.0.1 localhost\n{CONTROLLER} dc1.{DOMAIN} dc1\n' >/etc/hosts;"
                                    f"printf 'search {DOMAIN}\nnameserver {CONTROLLER}\n' >/etc/resolv.conf")
        self.tool("domain", "provision", f"--realm={REALM}", f"--domain={WORKGROUP}", "--server-role=dc", "--dns-backend=SAMBA_INTERNAL",
                  f"--adminpass={ADMINISTRATOR.partition('%')[2]}", f"--host-ip={CONTROLLER}", "--option=interfaces=lo cable",
                  "--option=bind interfaces only=yes")
        self.host.run("cp", "/var/lib/samba/private/krb5.conf", "/etc/krb5.conf")

    def _serve(self):
        self.host.run("samba", "--daemon")
        for port in PORTS:
            bed.wait_for(f"the domain controller listens on {port}", lambda: bed.listens(port, CONTROLLER), 60, 0.1)

    @contextmanager
    def refuses(self):
        """The controller's programs have ended; its host is there and refuses connections."""
        try:
            self.host.end_programs()
            if any(bed.listens(port, CONTROLLER) for port in PORTS):
                raise AssertionError("the domain controller still listens")
            yield
        finally:
            self._serve()

    def tool(self, *words):
        return self.host.run("samba-tool", *words)

    def account(self, name):
        """What the directory holds about somebody, the password's hash included."""
        found = self.host.run("ldbsearch", "-H", DIRECTORY, f"(sAMAccountName={name})", "badPwdCount", "lockoutTime", "pwdLastSet",
                              "msDS-KeyVersionNumber", "unicodePwd", "supplementalCredentials")
        return dict(re.findall(r"(?m)^([\w-]+)::? (.*)$", found.replace("\n ", "")))

    def change(self, name, attribute, value):
        self.host.run("ldbmodify", "-H", DIRECTORY,
                      input=f"dn: CN={name},{PEOPLE_AT}\nchangetype: modify\nreplace: {attribute}\n{attribute}: {value}\n")

    def lock_out(self, name):
        """As an attacker does who comes by another way."""
        for _ in range(LOCKOUT):
            subprocess.run(self.host.enter("wbinfo", f"--authenticate={WORKGROUP}\\{name}%not it"), capture_output=True)
        if int(self.account(name).get("lockoutTime", 0)) == 0:
            raise AssertionError(f"{name} is not locked out: {self.account(name)}")

    def forgive(self, name):
        """Unlocks an account and forgets its wrong passwords."""
        self.change(name, "lockoutTime", 0)


def person(name):
    secret = base64.b64encode(f'"{password_of(name)}"'.encode("utf-16-le")).decode()
    attributes = {"objectClass": "user", "sAMAccountName": name, "userPrincipalName": f"{name}@{DOMAIN}", "userAccountControl": ENABLED,
                  "unicodePwd:": secret, **PEOPLE[name]}
    return f"dn: CN={name},{PEOPLE_AT}\n" + "".join(f"{attribute}: {value}\n" for attribute, value in attributes.items())


def group():
    return f"dn: CN={GROUP},{PEOPLE_AT}\nobjectClass: group\nsAMAccountName: {GROUP}\nmember: CN=alice,{PEOPLE_AT}\n"
