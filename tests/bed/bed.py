"""The parts of a bed that tests, `make run` and `make bench` start: the relay, a Postfix, a client that speaks raw SMTP.

Runs only inside enter.sh: it writes to /etc and /run as if they were its own, because there they are.
"""

import base64
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

ROOT = Path(os.environ["BED_ROOT"])
BINARIES = Path(os.environ.get("BED_BINARIES", ROOT / "target/debug"))
PAMRELAY = str(BINARIES / "pamrelay")
CONFIG = Path("/etc/pamrelay/pamrelay.yaml")
CERTS = Path("/etc/pamrelay/certs")
SPOOL = Path("/var/spool/pamrelay")
RUNTIME = Path("/run/pamrelay")
CA = "/etc/pamrelay-test-ca.crt"
HOSTNAME = "relay.test"
STARTTLS, IMPLICIT, SINK, SMART_HOST = 2587, 2465, 2525, 2526
ROLES = ("front", "auth", "keys", "queue")

DEMO = ("demo", "demo password")
ADA = ("ada", "Correct horse 1")
GRACE = ("grace", "pässwörd €")
QUICK = ("quick", "quick password")  # a cheap hash, where many logins are wanted


# No limit on wrong passwords, for tests that need many or are about something else: the one place that knows these options.
UNLIMITED = {"account_failures": 0, "network_failures_per_minute": 0, "failures_per_second": 100_000}


def wait_for(what, condition, timeout=60.0, pause=0.02):
    """The first true value of `condition`; fails with `what` in words. The bound is for a machine that is busy with other work."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout} s: {what}")
        time.sleep(pause)


def listens(port, host="127.0.0.1"):
    try:
        socket.create_connection((host, port), timeout=1).close()
        return True
    except OSError:
        return False


def make_pki(directory=CERTS):
    """Fresh test certificates in a directory the relay accepts; the authority also where clients can read it."""
    if directory.exists():
        shutil.rmtree(directory)
    subprocess.run([ROOT / "certs/make-test-pki", directory, HOSTNAME, "localhost", "smarthost.test", "127.0.0.1"],
                   check=True, stdout=subprocess.DEVNULL)
    shutil.copy(directory / "ca.crt", CA)
    os.chmod(CA, 0o644)


def settings(**changes):
    """The configuration of most tests; a keyword replaces or (both mappings) extends a top-level part."""
    config = {
        "hostname": HOSTNAME,
        "listen": [
            {"address": f"127.0.0.1:{STARTTLS}", "tls": "starttls"},
            {"address": f"127.0.0.1:{IMPLICIT}", "tls": "implicit"},
        ],
        "tls": {"directory": str(CERTS), "certificate": "server.crt", "key": "server.key"},
        "auth": {"service": "smtp", "min_uid": 1000},
        "limits": {},
        "spool": str(SPOOL),
        "runtime_dir": str(RUNTIME),
        "routes": [{"domains": ["*"], "smart_hosts": [{"host": "127.0.0.1", "port": SINK, "tls": "none"}]}],
        "delivery": {"first_retry": "1s", "longest_retry": "2s", "give_up": "1m"},
    }
    for name, value in changes.items():
        if isinstance(value, dict):
            config[name] = {**config.get(name, {}), **value}
        else:
            config[name] = value
    return {name: value for name, value in config.items() if value != {}}


def children(pid):
    try:
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir()
                for child in (task / "children").read_text().split()]
    except OSError:
        return []


def family(pid):
    """A process, its children, theirs and so on."""
    found = [pid]
    for one in found:
        found.extend(children(one))
    return found


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def status(pid):
    """What the kernel says of a process, by its names for it."""
    return dict(re.findall(r"(?m)^(\w+):\t *(.*)$", Path(f"/proc/{pid}/status").read_text()))


def kilobytes(pid, name):
    """A number of kB in there, such as VmRSS."""
    return int(status(pid)[name].split()[0])


def role_of(pid):
    words = command_line(pid)
    if words and words[0].endswith("pamrelay-auth"):
        return "auth"
    return words[1] if len(words) > 1 and words[1] in ROLES else None


class Relay:
    """`pamrelay run` with everything real. Settings as for `settings`, or a whole text in `config`."""

    def __init__(self, config=None, fresh=True, **changes):
        self.config = config if config is not None else json.dumps(settings(**changes), indent=1)
        self.fresh = fresh
        self.process = None
        self.through = ()  # a command that starts the relay, such as prlimit
        self.log_path = Path(os.environ["BED_PRIVATE"]) / "tmp/relay.log"
        self.log_start = 0  # of this start, in bytes

    def start(self, wait=True):
        if not CERTS.exists():
            make_pki()
        CONFIG.write_text(self.config)
        if self.fresh:
            for entry in SPOOL.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            Path("/var/lib/pamrelay/auth/known").unlink(missing_ok=True)  # who logged in during another test
            self.log_path.write_bytes(b"")
        self.log_start = self.log_path.stat().st_size
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([*self.through, PAMRELAY, "run", "--config", CONFIG], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
        if wait:
            try:
                wait_for("every role is ready", self.ready_or_ended, 120)
            except AssertionError as problem:
                self.stop()
                raise AssertionError(f"{problem}\n{self.log()}") from None
        return self

    def ready_or_ended(self):
        if self.process.poll() is not None:
            raise AssertionError(f"pamrelay run ended with {self.process.returncode}")
        return b"event=ready role=supervisor" in self.log_path.read_bytes()[self.log_start:]

    def stop(self):
        """Asks with SIGTERM, as an administrator does; after 10 s without an end that is a failure."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                left = self.pids()
                self.process.kill()
                for pid in left.values():
                    kill(pid)
                self.process.wait()
                raise AssertionError(f"pamrelay run did not end on SIGTERM; running: {left}") from None
        return self.process.returncode if self.process else None

    def crash(self):
        """Ends everything at once, as a power cut would (but for the page cache)."""
        pids = self.pids()
        self.process.kill()
        self.process.wait()
        for pid in pids.values():
            kill(pid)
        wait_for("all roles are gone", lambda: not any(map(running, pids.values())))

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def pids(self):
        found = {role_of(pid): pid for pid in children(self.process.pid)}
        found.pop(None, None)
        return found

    def kill_role(self, role, how=signal.SIGKILL):
        pid = wait_for(f"{role} runs", lambda: self.pids().get(role))
        os.kill(pid, how)
        return pid

    def role_back(self, role, old_pid, timeout=60):
        return wait_for(f"{role} is started again", lambda: self.pids().get(role, old_pid) != old_pid, timeout)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def wait_log(self, pattern, timeout=60):
        try:
            return wait_for(f"the log says {pattern!r}", lambda: re.search(pattern, self.log()), timeout)
        except AssertionError as problem:
            raise AssertionError(f"{problem}:\n{self.log()}") from None

    def queue(self, *words, check=True):
        """`pamrelay queue ...`: what it prints."""
        done = pamrelay("queue", *words)
        if check and done.returncode != 0:
            raise AssertionError(f"pamrelay queue {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def queue_json(self, *words):
        return json.loads(self.queue(*words, "--json"))


def pamrelay(*words, **more):
    return subprocess.run([PAMRELAY, *words], capture_output=True, text=True, timeout=60, **more)


def kill(pid, how=signal.SIGKILL):
    """Also one that has ended meanwhile."""
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        pass


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Client:
    """A conversation in raw SMTP, for what a mail program would never say."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""
        self.greeting = ""

    @classmethod
    def connect(cls, port=STARTTLS, host="127.0.0.1", greeting=True, timeout=20, source=None):
        client = cls(socket.create_connection((host, port), timeout=timeout, source_address=source and (source, 0)))
        if port == IMPLICIT:
            client.upgrade()
        if greeting:
            client.greeting = client.reply()
        return client

    @classmethod
    def secured(cls, port=STARTTLS, **more):
        client = cls.connect(port, **more)
        client.says("EHLO client.test")
        if port != IMPLICIT:
            client.says("STARTTLS", "220")
            client.upgrade()
            client.says("EHLO client.test")
        return client

    @classmethod
    def logged_in(cls, who=DEMO, **more):
        client = cls.secured(**more)
        client.says(auth_plain(*who), "235")
        return client

    def upgrade(self):
        context = ssl.create_default_context(cafile=CA)
        self.sock = context.wrap_socket(self.sock, server_hostname=HOSTNAME)

    def send(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode())

    def reply(self):
        """One whole reply, lines joined with newlines."""
        lines = []
        while True:
            while b"\r\n" not in self.buffer:
                chunk = self.sock.recv(65536)
                if not chunk:
                    raise EOFError(f"the server closed; before that: {lines} {self.buffer!r}")
                self.buffer += chunk
            line, _, self.buffer = self.buffer.partition(b"\r\n")
            lines.append(line.decode("utf-8", "replace"))
            if line[3:4] != b"-":
                return "\n".join(lines)

    def says(self, line, expected="250"):
        """Sends one line and checks the start of the reply."""
        self.send(line.encode() + b"\r\n" if isinstance(line, str) else line + b"\r\n")
        return self.expects(expected, line)

    def expects(self, expected, after=""):
        reply = self.reply()
        if not re.match(expected, reply):
            raise AssertionError(f"after {after!r}: wanted {expected!r}, got {reply!r}")
        return reply

    def mails(self, data, sender="demo@relay.test", to=("someone@far.test",), expected="250", mail_parameters=""):
        """One whole transaction; `data` is stuffed here. The expected reply may come to MAIL already."""
        answer = self.says(f"MAIL FROM:<{sender}>{mail_parameters}", f"250|{expected}")
        if not answer.startswith("250"):
            return answer
        for recipient in to:
            self.says(f"RCPT TO:<{recipient}>")
        self.says("DATA", "354")
        self.send(stuffed(data) + b".\r\n")
        return self.expects(expected, "the final dot")

    def closed(self, timeout=10):
        """Whether the server ends the connection; what it still said is dropped."""
        self.sock.settimeout(timeout)
        try:
            while self.sock.recv(65536):
                pass
            return True
        except (ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return True
        except (TimeoutError, socket.timeout):
            return False

    def close(self):
        try:
            self.sock.close()
        except OSError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def auth_plain(user, password):
    return "AUTH PLAIN " + b64(f"\0{user}\0{password}")


def b64(text):
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def stuffed(data):
    return re.sub(rb"(?m)^\.", b"..", data)


def letter(subject, body=b"hello\r\n", **fields):
    """A small complete message, so that nobody on the way has a reason to add a field."""
    head = {"From": "demo@relay.test", "To": "someone@far.test", "Date": "Fri, 20 Nov 2026 12:00:00 +0000",
            "Message-ID": f"<{re.sub('[^A-Za-z0-9]+', '.', subject)}@relay.test>", "Subject": subject, **fields}
    return "".join(f"{name}: {value}\r\n" for name, value in head.items()).encode() + b"\r\n" + body
