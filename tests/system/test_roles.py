"""One role dies, the others go on: SIGKILL under load, and the whole relay at once."""

import os
import pwd
import signal
import smtplib
import socket
import ssl
import threading
import time

import bed
from support import OwnRelay


class Load:
    """Senders that never give up; remembers every subject that was acknowledged."""

    def __init__(self, senders=6):
        self.acknowledged = []
        self.refused = []
        self.stopping = threading.Event()
        self.context = ssl.create_default_context(cafile=bed.CA)
        self.threads = [threading.Thread(target=self.send, args=(number,), daemon=True) for number in range(senders)]
        for thread in self.threads:
            thread.start()

    def send(self, number):
        count = 0
        while not self.stopping.is_set():
            try:
                with smtplib.SMTP_SSL("127.0.0.1", bed.IMPLICIT, "client.test", context=self.context, timeout=20) as session:
                    session.login(*bed.QUICK)
                    for _ in range(20):
                        if self.stopping.is_set():
                            return
                        count += 1
                        subject = f"load {number} {count}"
                        # Every tenth is large enough for a body file of its own.
                        body = b"line of text\r\n" * (8000 if count % 10 == 0 else 5)
                        session.sendmail("demo@relay.test", ["someone@far.test"], bed.letter(subject, body))
                        self.acknowledged.append(subject)
            except (OSError, smtplib.SMTPException) as problem:
                self.refused.append(str(problem))
                time.sleep(0.05)

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(30)

    def wait_for_more(self, count=30, timeout=20):
        wanted = len(self.acknowledged) + count
        bed.wait_for("messages go on being accepted", lambda: len(self.acknowledged) >= wanted, timeout)


class OneRoleDies(OwnRelay):
    def kill_under_load(self, role):
        # Six senders from one address, each with a session in ten ends: far below any limit.
        sink = self.start_sink()
        relay = self.start_relay()
        load = Load()
        self.addCleanup(load.stop)
        load.wait_for_more()
        before = relay.pids()
        self.assertEqual(set(before), set(bed.ROLES))

        for _ in range(3):
            old = relay.kill_role(role)
            relay.role_back(role, old)
            load.wait_for_more()

        load.stop()
        after = relay.pids()
        for other in set(bed.ROLES) - {role}:
            self.assertEqual(after[other], before[other], f"{other} was disturbed by the death of {role}")
        self.assertNotEqual(after[role], before[role])
        self.all_arrive(sink, load)

    def all_arrive(self, sink, load, timeout=40):
        acknowledged = set(load.acknowledged)
        self.assertGreater(len(acknowledged), 0)
        missing = lambda: acknowledged - {message.subject for message in sink.messages}
        try:
            bed.wait_for("every acknowledged message arrives", lambda: not missing(), timeout, 0.2)
        except AssertionError:
            self.fail(f"{len(missing())} of {len(acknowledged)} acknowledged messages were lost: {sorted(missing())[:5]}")

    def test_the_front_is_killed_under_load_and_no_acknowledged_message_is_lost(self):
        self.kill_under_load("front")

    def test_the_pam_helper_is_killed_under_load_and_no_acknowledged_message_is_lost(self):
        self.kill_under_load("auth")

    def test_the_key_process_is_killed_under_load_and_no_acknowledged_message_is_lost(self):
        self.kill_under_load("keys")

    def test_the_queue_is_killed_under_load_and_no_acknowledged_message_is_lost(self):
        self.kill_under_load("queue")

    def test_a_session_survives_the_death_of_every_role_but_the_front(self):
        sink = self.start_sink()
        relay = self.start_relay()
        with bed.Client.logged_in(bed.QUICK) as client:
            for role in ("auth", "keys", "queue"):
                relay.role_back(role, relay.kill_role(role))
                wait_until_accepted(client, f"after {role}")
                sink.wait_subject(f"after {role}", 20)

    def test_a_message_in_data_when_the_queue_dies_is_a_temporary_failure(self):
        relay = self.start_relay()
        with bed.Client.logged_in(bed.QUICK) as client:
            client.says("MAIL FROM:<demo@relay.test>")
            client.says("RCPT TO:<someone@far.test>")
            client.says("DATA", "354")
            client.send(bed.letter("cut", b"some text\r\n" * 20000))
            time.sleep(0.2)
            old = relay.kill_role("queue")
            client.send(b"more text\r\n" * 20000 + b".\r\n")
            client.expects("4[25]1 ")
        relay.role_back("queue", old)

    def test_everything_is_killed_under_load_and_no_acknowledged_message_is_lost(self):
        sink = self.start_sink()
        relay = self.start_relay()
        load = Load()
        self.addCleanup(load.stop)
        for _ in range(2):
            load.wait_for_more()
            relay.crash()
            relay.fresh = False
            relay.start()
        load.wait_for_more()

        load.stop()
        self.all_arrive(sink, load)

    def test_sigterm_ends_every_process(self):
        relay = self.start_relay()
        pids = list(relay.pids().values())

        self.assertEqual(relay.stop(), 0)

        self.assertEqual([pid for pid in pids if bed.running(pid)], [])

    def test_each_role_runs_as_its_own_user(self):
        relay = self.start_relay()
        owners = {role: user_of(pid) for role, pid in relay.pids().items()}
        self.assertEqual(owners, {"front": "pamrelay", "auth": "root", "keys": "pamrelay-keys", "queue": "pamrelay-queue"})
        for role in ("front", "keys", "queue"):
            self.assertIn("NoNewPrivs:\t1", open(f"/proc/{relay.pids()[role]}/status").read(), role)

    def test_the_front_is_caged(self):
        relay = self.start_relay()
        front = relay.pids()["front"]
        status = open(f"/proc/{front}/status").read()
        self.assertIn("Seccomp:\t2", status)
        self.assertIn("CapEff:\t0000000000000000", status)
        self.assertEqual(sorted(os.listdir(f"/proc/{front}/root")), ["auth", "keys", "queue"])

    def test_a_reload_signal_keeps_sessions_and_takes_new_certificates(self):
        relay = self.start_relay()
        with bed.Client.logged_in(bed.QUICK) as client:
            old = shown_certificate()
            bed.make_pki()
            relay.process.send_signal(signal.SIGHUP)
            bed.wait_for("the new certificate is shown", lambda: shown_certificate() != old, 10, 0.2)
            client.says("NOOP")
            with bed.Client.logged_in(bed.QUICK):
                pass


def shown_certificate(port=bed.IMPLICIT):
    """Whatever certificate the relay shows, trusted or not."""
    context = ssl._create_unverified_context()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain, context.wrap_socket(plain) as secured:
        return secured.getpeercert(binary_form=True)


def user_of(pid):
    uid = next(line.split()[1] for line in open(f"/proc/{pid}/status") if line.startswith("Uid:"))
    return pwd.getpwuid(int(uid)).pw_name


def wait_until_accepted(client, subject, timeout=15):
    """Sends until the answer is 250: a 4xx in between is allowed, the end of the session is not."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return client.mails(bed.letter(subject))
        except AssertionError as refusal:
            if time.monotonic() > deadline or ", got '4" not in str(refusal):
                raise
            client.says("RSET")
            time.sleep(0.1)
