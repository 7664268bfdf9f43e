"""What remains of a password once it was answered: nothing, anywhere, though the session goes on."""

import itertools
import re
import socket
import ssl
import subprocess
import time

import bed
import memory
from people import person
from support import OwnRelay, WithRelay, unique

_numbers = itertools.count(1)


class Session(bed.Client):
    """A client with one version of TLS, which stays when the test goes on."""

    version = ssl.TLSVersion.TLSv1_3

    def upgrade(self):
        context = ssl.create_default_context(cafile=bed.CA)
        context.minimum_version = context.maximum_version = self.version
        self.sock = context.wrap_socket(self.sock, server_hostname=bed.HOSTNAME)


class OldSession(Session):
    version = ssl.TLSVersion.TLSv1_2


def right(label):
    """A password that opens an account of its own."""
    secret = memory.Secret(f"right{next(_numbers):03}", label)
    person(secret.user, secret.password)
    return secret


def wrong(label, user=None):
    """A password that opens nothing; by default that of nobody."""
    return memory.Secret(user or f"wrong{next(_numbers):03}", label)


def plain(secret):
    return bed.b64(f"\0{secret.user}\0{secret.password}")


def says_plain_at_once(client, secret, expected):
    client.says(f"AUTH PLAIN {plain(secret)}", expected)


def says_plain_when_asked(client, secret, expected):
    client.says("AUTH PLAIN", "334")
    client.says(plain(secret), expected)


def says_login(client, secret, expected):
    client.says("AUTH LOGIN", "334")
    client.says(bed.b64(secret.user), "334")
    client.says(bed.b64(secret.password), expected)


FORMS = {"PLAIN at once": says_plain_at_once, "PLAIN when asked": says_plain_when_asked, "LOGIN": says_login}


class Looking:
    """What the tests of this file share: a relay in `self.relay`, and looking for secrets in all of it."""

    def everywhere(self, wanted):
        processes = memory.descendants(self.relay.process.pid)
        names = " ".join(processes.values())
        for part in ("pamrelay run", "pamrelay front", "pamrelay keys", "pamrelay queue", "pamrelay watch-files", "auth-template"):
            self.assertIn(part, names, "this would not look at everything")
        files = memory.in_files([self.relay.log_path, bed.SPOOL, bed.RUNTIME], wanted)
        return memory.in_processes(processes, wanted) + files

    def assert_forgotten(self, *wanted):
        """A reply is on its way a moment before its session waits again: what stays is a leak, what goes at once is none."""
        deadline = time.monotonic() + 2
        while (found := self.everywhere(wanted)) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertEqual(found, [])

    def front(self):
        pid = self.relay.pids()["front"]
        return {pid: "front"}

    def open(self, kind=Session, port=bed.STARTTLS):
        client = kind.secured(port)
        self.addCleanup(client.close)
        return client


class TheSearch(Looking, WithRelay):
    """That a password is not found means something only where one that is there is found."""

    def test_a_process_that_holds_a_password_is_found_in_each_encoding(self):
        secret = wrong("held")
        holder = ("import sys\nheld = [bytearray.fromhex(line) for line in sys.stdin.readline().split()]\n"
                  "print('ready', flush=True)\nsys.stdin.readline()")
        with subprocess.Popen(["/usr/bin/python3", "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            # Two octets short at the front: a copy need not be whole to be found.
            process.stdin.write(" ".join(text[2:].hex() for text in secret.encodings().values()) + "\n")
            process.stdin.flush()
            self.assertEqual(process.stdout.readline(), "ready\n")

            found = memory.in_processes({process.pid: "the holder"}, [secret])

            process.stdin.close()
        for encoding in secret.encodings():
            self.assertIn(f"held: {encoding} in the memory of the holder ({process.pid})", found)
        self.assertEqual(self.everywhere([secret]), [])

    def test_a_file_that_holds_a_password_is_found(self):
        secret = wrong("written")
        path = bed.RUNTIME / "written"
        path.write_text(f"some text\n{bed.b64(secret.password)}\n")
        self.addCleanup(path.unlink)

        self.assertEqual(self.everywhere([secret]), [f"written: base64 as in LOGIN in {path}"])

    def test_a_line_with_a_password_that_has_not_ended_is_in_the_front_and_is_gone_when_the_client_is(self):
        secret = wrong("half a line")
        client = self.open()
        client.send(f"AUTH PLAIN {plain(secret)}")

        held = ["half a line: base64 as in PLAIN in the memory of front"]
        bed.wait_for("it is there", lambda: [re.sub(r" \(.*", "", one) for one in memory.in_processes(self.front(), [secret])] == held)
        client.sock.close()

        self.relay.wait_log("event=session_ended")
        self.assert_forgotten(secret)


class Forgotten(Looking, WithRelay):
    settings = {"auth": {"failure_floor": "100ms", "network_failures_per_minute": 0}, "log": "debug"}

    def goes_on(self, client, secret, logged_in):
        client.says("NOOP", "250")
        client.says("RSET", "250")
        if logged_in:
            client.mails(bed.letter(unique(f"of {secret.user}")))
            client.says("NOOP", "250")

    def test_whatever_the_form_the_port_and_the_version_of_tls_a_password_is_forgotten(self):
        sessions = []
        for kind, port, (form, login), verdict in itertools.product(
                (Session, OldSession), (bed.STARTTLS, bed.IMPLICIT), FORMS.items(), (right, wrong)):
            secret = verdict(f"{verdict.__name__}, {form}, port {port}, {kind.version.name}")
            client = self.open(kind, port)
            login(client, secret, "235" if verdict is right else "535")
            sessions.append((client, secret, verdict is right))
        wanted = [secret for _, secret, _ in sessions]

        self.assert_forgotten(*wanted)
        for session in sessions:
            self.goes_on(*session)
        self.assert_forgotten(*wanted)

    def test_a_wrong_password_and_then_the_right_one_in_one_session_are_forgotten(self):
        good = right("the right one")
        bad = wrong("the wrong one", good.user)
        client = self.open()

        says_login(client, bad, "535")
        says_plain_at_once(client, good, "235")

        self.assert_forgotten(good, bad)
        self.goes_on(client, good, True)
        self.assert_forgotten(good, bad)

    def test_a_login_with_commands_behind_it_in_the_same_record_is_forgotten(self):
        for verdict, login in itertools.product((right, wrong), ("AUTH PLAIN {}\r\n", "AUTH PLAIN\r\n{}\r\n")):
            secret = verdict(f"pipelined, {verdict.__name__}, {login!r}")
            client = self.open()
            client.send(login.format(plain(secret)) + "NOOP\r\nMAIL FROM:<demo@relay.test>\r\nRCPT TO:<someone@far.test>\r\nRSET\r\n")
            answers = [client.reply()[:3] for _ in range(5 + login.count("\r\n") - 1)]

            self.assertEqual(answers[-5], "235" if verdict is right else "535")
            self.assert_forgotten(secret)

    def test_a_line_that_comes_in_pieces_behind_other_commands_is_forgotten(self):
        # What is left of a read moves to the front of its buffer to make room for the next: the place where it was counts too.
        for before in (0, 1, 30, 60):
            secret = right(f"in pieces behind {before} commands")
            client = self.open()
            for piece in ("NOOP " + "x" * 300, "x" * 150, "\r\n"):  # the buffer is a large one from here on
                client.send(piece)
                time.sleep(0.05)
            client.expects("250")
            line = f"AUTH PLAIN {plain(secret)}\r\n"
            client.send("NOOP\r\n" * before + line[:-20])
            for _ in range(before):
                client.expects("250")
            time.sleep(0.1)
            client.send(line[-20:-9])
            time.sleep(0.1)
            client.send(line[-9:])
            client.expects("235")

            self.assert_forgotten(secret)
            self.goes_on(client, secret, True)
            self.assert_forgotten(secret)

    def test_a_client_that_never_pauses_leaves_no_password_behind_its_commands(self):
        secret = right("without a pause")
        client = self.open()
        client.send(f"AUTH PLAIN {plain(secret)}\r\nNOOP\r\n")
        client.expects("235")
        for _ in range(300):
            client.send("NOOP\r\n")
        for _ in range(301):
            client.expects("250")

        self.assert_forgotten(secret)

    def test_passwords_that_were_said_out_of_place_are_forgotten(self):
        demo = wrong("a second login")
        client = self.open()
        says_plain_at_once(client, right("the first login"), "235")
        client.says(f"AUTH PLAIN {plain(demo)}", "503")
        clear = wrong("in the clear")
        plain_client = Session.connect()
        self.addCleanup(plain_client.close)
        plain_client.says("EHLO client.test")
        plain_client.says(f"AUTH PLAIN {plain(clear)}", "53[08]")
        nonsense = wrong("as a command")
        stranger = self.open()
        stranger.says(plain(nonsense), "500")
        stranger.says(f"AUTH PLAIN {plain(nonsense)}?", "501")
        stranger.says(f"AUTH {plain(nonsense)}", "504")
        stranger.says(f"EHLO {nonsense.password}\n{plain(nonsense)}", "500")
        over_long = wrong("in a line that is too long")
        stranger.says(f"AUTH PLAIN {plain(over_long)}{'A' * 12_300}", "500")
        stranger.says(f"AUTH PLAIN {bed.b64(chr(0) + 'demo' + chr(0) + over_long.password * 9)}", "535")

        self.assert_forgotten(demo, clear, nonsense, over_long)

    def test_a_client_that_vanishes_in_the_middle_of_a_login_leaves_no_password(self):
        cut, answered = wrong("cut in the password"), wrong("gone before the answer")
        client = self.open()
        client.says("AUTH LOGIN", "334")
        client.says(bed.b64(cut.user), "334")
        client.send(bed.b64(cut.password)[:-9])
        time.sleep(0.1)
        reset(client)
        client = self.open()
        client.send(f"AUTH PLAIN {plain(answered)}\r\n")
        reset(client)

        self.relay.wait_log(rf"event=login .*user=\"?{answered.user}")
        self.assert_forgotten(cut, answered)

    def test_no_password_is_written_anywhere_while_mail_is_queued(self):
        secret = right("beside mail")
        client = self.open()
        says_login(client, secret, "235")
        subject = unique("a large one")
        client.mails(bed.letter(subject, b"line of text\r\n" * 40_000))
        self.arrives(subject)

        self.assert_forgotten(secret)


class NotAnswered(Looking, OwnRelay):
    def test_while_a_module_thinks_the_password_is_where_it_must_be_and_after_the_454_nowhere(self):
        self.relay = self.start_relay(auth={"service": slow_service(), "deadline": "6s", "failure_floor": "100ms"})
        secret = right("not answered")
        client = self.open()
        client.send(f"AUTH PLAIN {plain(secret)}\r\n")

        bed.wait_for("the worker holds it", lambda: any(": plain in the memory of auth-worker" in one for one in self.everywhere([secret])))
        client.expects("454 4.7.0")

        self.assert_forgotten(secret)
        client.says("NOOP", "250")
        self.assert_forgotten(secret)


class Sealed(OwnRelay):
    """Every process while a login is under way: supervisor, roles, template, worker."""

    auth = {"deadline": "20s"}

    def start(self, through, **settings):
        relay = bed.Relay(auth={**self.auth, "service": slow_service()}, **settings)
        relay.through = through
        self.addCleanup(relay.stop)
        relay.start()
        client = Session.secured()
        self.addCleanup(client.close)
        client.send(f"AUTH PLAIN {plain(right('under way'))}\r\n")
        # The worker's child bears the worker's name until it has become the program that thinks.
        everybody = lambda: memory.descendants(relay.process.pid).items()
        thinking = bed.wait_for("the worker thinks", lambda: [pid for pid, name in everybody() if name.startswith("sleep")])
        processes = {name: pid for pid, name in everybody() if pid not in thinking}
        self.addCleanup(bed.kill, processes["auth-worker"])  # a login under way holds the end of the relay up
        return relay, processes

    def test_cores_are_off_and_nobody_looks_into_a_process_though_it_is_his_own(self):
        # Without the right to look into everything, root is a user like others. All of the relay runs without it here, because
        # nobody may look into a process that has a right which he has not.
        unprivileged = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
        _, processes = self.start(unprivileged)

        self.assertEqual(set(processes), {"pamrelay run", "pamrelay front", "pamrelay keys", "pamrelay queue", "pamrelay watch-files",
                                          "pamrelay-auth", "auth-template", "auth-worker"})
        for name, pid in processes.items():
            with self.subTest(name):
                limit = next(line.split()[4:6] for line in open(f"/proc/{pid}/limits") if line.startswith("Max core file size"))
                self.assertEqual(limit, ["0", "0"])
                user, group = (bed.status(pid)[word].split()[1] for word in ("Uid", "Gid"))
                his = [*unprivileged, f"--reuid={user}", f"--regid={group}", "--clear-groups"]
                with subprocess.Popen([*his, "sleep", "60"]) as ordinary:
                    bed.wait_for("it sleeps", lambda: memory.name_of(ordinary.pid).startswith("sleep"))
                    self.assertEqual(looks_into(ordinary.pid, his), "", "this would find nothing")
                    ordinary.kill()
                self.assertRegex(looks_into(pid, his), "Permission denied|not permitted", name)

    def test_memory_is_locked_where_no_limit_forbids_it(self):
        if not unlimited():
            self.skipTest("RLIMIT_MEMLOCK cannot be raised here (no CAP_SYS_RESOURCE)")
        relay, processes = self.start([])

        for name in ("pamrelay front", "pamrelay keys", "pamrelay-auth", "auth-worker"):
            self.assertEqual(swappable(processes[name]), [], name)
        self.assertNotIn("locked memory", relay.log())
        self.assertNotIn("memory-not-locked", relay.log())

    def test_where_memory_cannot_be_locked_the_log_says_so_and_the_relay_goes_on(self):
        relay, processes = self.start(LIMITED)

        said = [line for line in relay.log().splitlines() if "sandbox_part_missing" in line and "locked memory" in line]
        self.assertEqual(sorted(re.search(r"role=(\w+)", line)[1] for line in said), ["front", "keys"])
        self.assertEqual(relay.log().count("event=memory-not-locked"), 1)
        for name, pid in processes.items():
            self.assertEqual(bed.kilobytes(pid, "VmLck"), 0, name)

    def test_where_memory_cannot_be_locked_a_required_sandbox_is_refused(self):
        relay = bed.Relay(sandbox="required")
        relay.through = LIMITED
        self.addCleanup(relay.stop)
        relay.start(wait=False)

        relay.wait_log("role=front .*sandbox: required, but this is missing: .*locked memory")
        self.assertNotIn("role_ready role=front", relay.log())


# A limit as many machines have it, and no right to raise it.
LIMITED = ["prlimit", "--memlock=8388608:8388608", "setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]


def unlimited():
    raised = subprocess.run(["prlimit", "--memlock=unlimited:unlimited", "true"], capture_output=True)
    return raised.returncode == 0


def slow_service():
    """A PAM service that checks a password and then thinks for a minute."""
    with open("/etc/pam.d/slow", "w") as service:
        service.write("auth required pam_unix.so nodelay\nauth required pam_exec.so quiet /bin/sleep 60\naccount required pam_permit.so\n")
    return "slow"


def looks_into(pid, his):
    """What stands in the way of a user who opens the memory of a process; nothing if nothing does."""
    return subprocess.run([*his, "dd", f"if=/proc/{pid}/mem", "of=/dev/null", "count=0", "status=none"], capture_output=True, text=True).stderr


def swappable(pid):
    """The writable memory that is not locked."""
    found, place = [], ""
    for line in open(f"/proc/{pid}/smaps"):
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            place = line.strip()
        elif line.startswith("VmFlags:") and " rw" in place and " lo" not in line:
            found.append(place)
    return found


def reset(client):
    """The connection is gone at once, as that of a telephone in a tunnel, and the relay hears of it."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.sock.close()
