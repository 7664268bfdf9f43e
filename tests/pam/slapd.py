"""A directory of OpenLDAP with a handful of people, one for each thing that can be wrong with an account.

It serves StartTLS on port 389 and TLS on port 636, takes no password in the clear, and knows password policies.
"""

import os
import re
import shutil
from pathlib import Path

import bed
from backend import run
from daemon import Daemon
from once import once
from people import system_user

HOST = "ldap.example.org"
BASE = "dc=example,dc=org"
TLS = Path("/etc/ldap/tls")
AUTHORITY = TLS / "ca.crt"
CA = Path("/etc/ssl/certs/example-ca.pem")
DATA = Path("/var/lib/ldap")
CONFIG = Path("/etc/ldap/slapd.conf")
FIRST_UID = 20001
MAX_FAILURES = 3  # until the directory locks an account
COUNT_INTERVAL = 1800  # seconds that it counts one, in the policy "window"; in "guessed" it never forgets

# What is said of each beside name, number and password.
PEOPLE = {
    "ldapok": "",
    "ldap.dot-dash": "",
    "ldapunseen": "",
    "ldapgone": "shadowExpire: 10000\n",
    "ldapaged": "shadowLastChange: 10000\nshadowMax: 30\nshadowInactive: -1\n",
    "ldaplocked": "pwdAccountLockedTime: 000001010000Z\n",
    "ldapreset": "pwdReset: TRUE\n",
    "ldapstale": f"pwdChangedTime: 20200101000000Z\npwdPolicySubentry: cn=short,ou=policies,{BASE}\n",
    "ldapguessed": f"pwdPolicySubentry: cn=guessed,ou=policies,{BASE}\n",
    **{f"ldapwindow{number}": f"pwdPolicySubentry: cn=window,ou=policies,{BASE}\n" for number in range(1, 4)},
}

CONFIGURATION = f"""\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload ppolicy
pidfile /run/slapd/slapd.pid
TLSCACertificateFile {CA}
TLSCertificateFile {TLS}/server.crt
TLSCertificateKeyFile {TLS}/server.key
security simple_bind=128
database mdb
maxsize 16777216
suffix {BASE}
rootdn cn=admin,{BASE}
directory {DATA}
overlay ppolicy
ppolicy_default cn=default,ou=policies,{BASE}
access to attrs=userPassword by anonymous auth by * none
access to * by * read
"""

FRAME = f"""\
dn: {BASE}
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: ou=people,{BASE}
objectClass: organizationalUnit
ou: people

dn: ou=groups,{BASE}
objectClass: organizationalUnit
ou: groups

dn: cn=writers,ou=groups,{BASE}
objectClass: posixGroup
cn: writers
gidNumber: 20000

dn: ou=policies,{BASE}
objectClass: organizationalUnit
ou: policies

dn: cn=default,ou=policies,{BASE}
objectClass: pwdPolicy
objectClass: organizationalRole
cn: default
pwdAttribute: userPassword
pwdMustChange: TRUE
pwdLockout: TRUE

dn: cn=short,ou=policies,{BASE}
objectClass: pwdPolicy
objectClass: organizationalRole
cn: short
pwdAttribute: userPassword
pwdMaxAge: 86400

dn: cn=guessed,ou=policies,{BASE}
objectClass: pwdPolicy
objectClass: organizationalRole
cn: guessed
pwdAttribute: userPassword
pwdLockout: TRUE
pwdMaxFailure: {MAX_FAILURES}

dn: cn=window,ou=policies,{BASE}
objectClass: pwdPolicy
objectClass: organizationalRole
cn: window
pwdAttribute: userPassword
pwdLockout: TRUE
pwdMaxFailure: {MAX_FAILURES}
pwdFailureCountInterval: {COUNT_INTERVAL}
"""


def password_of(name):
    return f"pw-{name}"


def entry(name, uid, more):
    return f"""
dn: uid={name},ou=people,{BASE}
objectClass: inetOrgPerson
objectClass: posixAccount
objectClass: shadowAccount
uid: {name}
cn: {name}
sn: {name}
uidNumber: {uid}
gidNumber: 20000
homeDirectory: /nonexistent
loginShell: /bin/sh
userPassword: {password_of(name)}
{more}"""


@once
def directory():
    """The one directory of a bed, whoever starts its server."""
    return Directory()


class Directory:
    """The server's files, and the server."""

    def __init__(self):
        system_user("openldap")
        run(bed.ROOT / "certs/make-test-pki", TLS, HOST)
        publish(AUTHORITY)
        self._give_away(TLS, TLS / "server.crt", TLS / "server.key")
        for directory in (DATA, Path("/run/slapd")):
            directory.mkdir(exist_ok=True)
            self._give_away(directory)
        with open("/etc/hosts", "a") as hosts:
            hosts.write(f"127.0.0.1 {HOST}\n")
        CONFIG.write_text(CONFIGURATION)
        content = Path(os.environ["TMPDIR"]) / "content.ldif"
        content.write_text(FRAME + "".join(entry(name, uid, more) for uid, (name, more) in enumerate(PEOPLE.items(), FIRST_UID)))
        run("slapadd", "-q", "-f", CONFIG, "-l", content)
        self._give_away(*DATA.iterdir())
        self.server = Daemon("slapd", "-d", "0", "-u", "openldap", "-g", "openldap", "-h", "ldap:/// ldaps:///", "-f", CONFIG,
                             ready=lambda: bed.listens(389) and bed.listens(636))

    @staticmethod
    def failures(name):
        """How many wrong passwords the directory has counted, and whether it has locked the account."""
        found = run("slapcat", "-f", CONFIG, "-a", f"(uid={name})")
        if f"uid: {name}\n" not in found:
            raise AssertionError(f"the directory has no {name}")
        return len(re.findall("(?m)^pwdFailureTime:", found)), "pwdAccountLockedTime:" in found

    @staticmethod
    def _give_away(*paths):
        for path in paths:
            shutil.chown(path, "openldap", "openldap")


def publish(authority):
    """Makes this the authority that clients of the directory trust."""
    shutil.copy(authority, CA)
    CA.chmod(0o644)


def stranger_authority():
    """An authority that the server's certificate is not from."""
    directory = Path("/etc/ldap/stranger")
    if directory.exists():
        shutil.rmtree(directory)
    run(bed.ROOT / "certs/make-test-pki", directory, "stranger.example.org")
    return directory / "ca.crt"
