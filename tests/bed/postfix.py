"""A real Postfix inside a bed: as the smart host that the relay hands mail to, or as the peer that `make bench-peer` measures.

Its programs come from the packages laid over /usr (packages.sh); configuration, queue and users are the bed's own.
"""

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import bed

CONFIG = Path("/etc/postfix")
QUEUE = Path("/var/spool/postfix")
MAIL = Path("/var/spool/mailboxes")

COMMON = {
    "compatibility_level": "3.6",
    "mail_owner": "postfix",
    "setgid_group": "postdrop",
    "queue_directory": str(QUEUE),
    "data_directory": "/var/spool/postfix-data",
    "daemon_directory": "/usr/lib/postfix/sbin",
    "command_directory": "/usr/sbin",
    "inet_interfaces": "loopback-only",
    "inet_protocols": "ipv4",
    "mynetworks": "127.0.0.0/8",
    "mydestination": "",
    "alias_maps": "",
    "alias_database": "",
    "smtp_tls_security_level": "none",
    "smtputf8_enable": "yes",
    "biff": "no",

    "maillog_file_prefixes": "/var, /dev/stdout, /run",
    "smtp_host_lookup": "native",
    "smtp_dns_support_level": "disabled",
}

# The services of Debian's master.cf that are needed here, none of them in a chroot.
SERVICES = """\
pickup    unix  n  -  n  60    1  pickup
cleanup   unix  n  -  n  -     0  cleanup
qmgr      unix  n  -  n  300   1  qmgr
tlsmgr    unix  -  -  n  1000? 1  tlsmgr
rewrite   unix  -  -  n  -     -  trivial-rewrite
bounce    unix  -  -  n  -     0  bounce
defer     unix  -  -  n  -     0  bounce
trace     unix  -  -  n  -     0  bounce
verify    unix  -  -  n  -     1  verify
flush     unix  n  -  n  1000? 0  flush
proxymap  unix  -  -  n  -     -  proxymap
smtp      unix  -  -  n  -     -  smtp
relay     unix  -  -  n  -     -  smtp
showq     unix  n  -  n  -     -  showq
error     unix  -  -  n  -     -  error
retry     unix  -  -  n  -     -  error
discard   unix  -  -  n  -     -  discard
local     unix  -  n  n  -     -  local
virtual   unix  -  n  n  -     -  virtual
lmtp      unix  -  -  n  -     -  lmtp
anvil     unix  -  -  n  -     1  anvil
scache    unix  -  -  n  -     1  scache
postlog   unix-dgram n - n -   1  postlogd
"""

class Postfix:
    def __init__(self, listeners, **options):
        """`listeners`: lines for master.cf; `options`: lines for main.cf."""
        self.listeners = listeners
        self.options = {**COMMON, "maillog_file": "/run/postfix.log", **options}

    def start(self):
        if QUEUE.exists():
            shutil.rmtree(QUEUE)
        for directory in (CONFIG, QUEUE, MAIL, Path("/var/spool/postfix-data")):
            directory.mkdir(exist_ok=True)
        postfix, postdrop = pwd.getpwnam("postfix"), "postdrop"
        shutil.chown("/var/spool/postfix-data", "postfix", "postfix")
        shutil.chown(MAIL, "postfix", "postfix")
        packaged = Path("/usr/share/postfix")
        for name in ("main.cf.dist", "dynamicmaps.cf"):
            if (packaged / name).exists() and not (CONFIG / name).exists():
                shutil.copy(packaged / name, CONFIG / name)
        own = {**self.options, "virtual_uid_maps": f"static:{postfix.pw_uid}", "virtual_gid_maps": f"static:{postfix.pw_gid}"}
        (CONFIG / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in own.items()))
        (CONFIG / "master.cf").write_text("".join(self.listeners) + SERVICES)
        self.run("postfix", "check")
        for name in ("maildrop", "public"):
            shutil.chown(QUEUE / name, group=postdrop)
        self.run("postfix", "start")
        return self

    def stop(self):
        subprocess.run(["postfix", "stop"], capture_output=True)
        bed.wait_for("Postfix has stopped", lambda: subprocess.run(["postfix", "status"], capture_output=True).returncode, 60)

    def run(self, *words):
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.stdout}{done.stderr}{self.log()}")
        return done.stdout

    def log(self):
        path = Path(self.options["maillog_file"])
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

class SmartHost(Postfix):
    """Takes mail for anybody from loopback and files it in one Maildir."""

    def __init__(self, port=bed.SMART_HOST, **options):
        listener = f"127.0.0.1:{port} inet n - n - - smtpd\n"
        super().__init__([listener], **{
            "myhostname": "smarthost.test",
            "virtual_mailbox_domains": "static:all",
            "virtual_mailbox_maps": "static:all/",
            "virtual_mailbox_base": str(MAIL),
            "virtual_transport": "virtual",
            "virtual_mailbox_limit": "0",
            "message_size_limit": "104857600",
            "smtpd_relay_restrictions": "permit_mynetworks, reject",
            "smtpd_recipient_restrictions": "",
            **options,
        })

    def start(self):
        if MAIL.exists():
            shutil.rmtree(MAIL)
        return super().start()

    def mails(self):
        """Every message filed so far, as bytes with CRLF, oldest first."""
        new = MAIL / "all/new"
        files = sorted(new.iterdir(), key=lambda path: path.stat().st_mtime_ns) if new.exists() else []
        return [path.read_bytes().replace(b"\n", b"\r\n") for path in files]

    def wait(self, count=1, timeout=20):
        try:
            return bed.wait_for(f"{count} messages at the smart host", lambda: len(self.mails()) >= count and self.mails(), timeout, 0.1)
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self.log()[-2000:]}") from None


class Peer(Postfix):
    """Postfix as a submission relay: TLS, passwords through PAM by saslauthd, everything to one relay host. The package's defaults, but for what the work needs."""

    def __init__(self, starttls, implicit, sink, **options):
        tls = "-o smtpd_tls_security_level={} -o smtpd_tls_wrappermode={} -o smtpd_sasl_auth_enable=yes -o smtpd_tls_auth_only=yes " \
              "-o smtpd_relay_restrictions=permit_sasl_authenticated,reject -o smtpd_recipient_restrictions="
        super().__init__([
            f"127.0.0.1:{starttls} inet n - n - - smtpd {tls.format('encrypt', 'no')}\n",
            f"127.0.0.1:{implicit} inet n - n - - smtpd {tls.format('encrypt', 'yes')}\n",
        ], **{
            "myhostname": bed.HOSTNAME,
            "relayhost": f"[127.0.0.1]:{sink}",
            "smtpd_tls_cert_file": "/etc/postfix/tls/server.crt",
            "smtpd_tls_key_file": "/etc/postfix/tls/server.key",
            "smtpd_sasl_type": "cyrus",
            "smtpd_sasl_path": "smtpd",
            "cyrus_sasl_config_path": "/etc/postfix/sasl",
            "smtpd_client_connection_count_limit": "0",
            **options,
        })

    def start(self):
        sasl = CONFIG / "sasl"
        sasl.mkdir(parents=True, exist_ok=True)
        (sasl / "smtpd.conf").write_text("pwcheck_method: saslauthd\nmech_list: PLAIN LOGIN\nsaslauthd_path: /run/saslauthd/mux\n")
        tls = CONFIG / "tls"
        tls.mkdir(exist_ok=True)
        for name in ("server.crt", "server.key"):
            shutil.copy(bed.CERTS / name, tls / name)
        os.makedirs("/run/saslauthd", exist_ok=True)
        self.run("saslauthd", "-a", "pam", "-m", "/run/saslauthd", "-n", "5")
        bed.wait_for("saslauthd listens", Path("/run/saslauthd/mux").exists)
        return super().start()

    def stop(self):
        super().stop()
        os.kill(int(Path("/run/saslauthd/saslauthd.pid").read_text()), signal.SIGTERM)
        bed.wait_for("saslauthd has stopped", lambda: not Path("/run/saslauthd/saslauthd.pid").exists())
