"""Every limit answers, and what was accepted stays."""

import subprocess
import time

import bed
from support import OwnRelay, WithRelay, unique


class Sizes(WithRelay):
    settings = {"limits": {"message_size": "64KiB", "recipients": 100, "bad_commands": 4}}

    def test_a_declared_size_above_the_limit_is_refused_at_mail(self):
        with bed.Client.logged_in(bed.QUICK) as client:
            self.assertIn("SIZE 65536", client.says("EHLO again.test"))
            client.says("MAIL FROM:<demo@relay.test> SIZE=65537", "552 5.3.4")
            client.says("MAIL FROM:<demo@relay.test> SIZE=65536", "250 ")

    def test_a_message_above_the_limit_is_refused_after_data_and_the_session_goes_on(self):
        subject = unique("after the large one")
        with bed.Client.logged_in(bed.QUICK) as client:
            client.mails(bed.letter(unique("large"), b"x" * 76 + b"\r\n" + b"line\r\n" * 20000), expected="552 5.3.4")
            client.mails(bed.letter(subject))
        self.arrives(subject)

    def test_one_recipient_too_many_is_a_temporary_refusal_and_the_others_get_the_mail(self):
        subject = unique("many")
        with bed.Client.logged_in(bed.QUICK) as client:
            client.says("MAIL FROM:<demo@relay.test>")
            client.send("".join(f"RCPT TO:<r{number}@far.test>\r\n" for number in range(100)))
            for _ in range(100):
                client.expects("250 2.1.5")
            client.says("RCPT TO:<r100@far.test>", "452 4.5.3")
            client.says("DATA", "354")
            client.send(bed.letter(subject) + b".\r\n")
            client.expects("250 ")
        arrived = self.sink.wait(1, where=lambda message: message.subject == subject)
        bed.wait_for("all of them", lambda: sum(len(message.recipients) for message in arrived) == 100)

    def test_too_many_bad_commands_end_the_session(self):
        with bed.Client.secured() as client:
            answers = []
            for _ in range(12):
                client.send("FROBNICATE\r\n")
                try:
                    answers.append(client.reply())
                except (EOFError, OSError):
                    break
            self.assertRegex(answers[0], "^50[02] ")
            self.assertRegex(answers[-1], "^421 ")
            self.assertLessEqual(len(answers), 6)

    def test_a_command_line_that_is_too_long_is_refused_and_the_session_goes_on(self):
        with bed.Client.secured() as client:
            client.says("NOOP " + "x" * 2100, "500 5.5.[26]")
            client.says("NOOP", "250 ")

    def test_an_endless_command_line_takes_no_memory(self):
        with bed.Client.secured() as client:
            front = self.relay.pids()["front"]
            before = bed.kilobytes(front, "VmRSS")
            try:
                for _ in range(200):
                    client.send(b"x" * 65536)
            except OSError:
                pass  # being cut off is fine
            self.assertLess(bed.kilobytes(front, "VmRSS") - before, 4096)
        with bed.Client.logged_in(bed.QUICK):
            pass


class Memory(OwnRelay):
    def test_fifty_clients_in_the_middle_of_large_messages_take_bounded_memory(self):
        relay = self.start_relay()
        clients = [bed.Client.logged_in(bed.QUICK) for _ in range(50)]
        for client in clients:
            self.addCleanup(client.close)
        pids = relay.pids()
        before = {role: bed.kilobytes(pids[role], "VmRSS") for role in ("front", "queue")}

        for client in clients:
            client.says("MAIL FROM:<demo@relay.test>")
            client.says("RCPT TO:<someone@far.test>")
            client.says("DATA", "354")
            client.send(bed.letter(unique("half")) + b"text and text\r\n" * 70000)

        # 50 megabytes are under way: at most some buffers of each session may be in memory.
        for role in before:
            self.assertLess(bed.kilobytes(pids[role], "VmRSS") - before[role], 25_000, role)


class Times(OwnRelay):
    def test_a_silent_client_is_told_421_before_and_after_login(self):
        self.start_relay(limits={"command_timeout": "1s"})
        with bed.Client.connect() as client, bed.Client.logged_in(bed.QUICK) as other:
            began = time.monotonic()
            client.expects("421 4.4.2")
            other.expects("421 4.4.2")
            self.assertTrue(client.closed())
            self.assertLess(time.monotonic() - began, 30)

    def test_a_client_that_drips_bytes_cannot_hold_a_session_for_ever(self):
        self.start_relay(limits={"command_timeout": "2s"})
        with bed.Client.connect() as client:
            began = time.monotonic()
            client.sock.settimeout(0.4)
            while time.monotonic() - began < 10:
                try:
                    client.send("x")
                    if b"421" in client.sock.recv(100):
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            self.assertLess(time.monotonic() - began, 6)

    def test_no_progress_in_the_text_ends_the_session_and_queues_nothing(self):
        relay = self.start_relay(limits={"data_timeout": "1s"})
        with bed.Client.logged_in(bed.QUICK) as client:
            client.says("MAIL FROM:<demo@relay.test>")
            client.says("RCPT TO:<someone@far.test>")
            client.says("DATA", "354")
            client.send("Subject: stuck\r\n")
            client.expects("421 4.4.2")
        self.assertEqual(relay.queue_json("list"), [])

    def test_a_session_ends_when_its_time_is_over(self):
        self.start_relay(limits={"session_timeout": "2s"})
        with bed.Client.secured() as client:
            began = time.monotonic()
            try:
                while time.monotonic() - began < 60:
                    client.says("NOOP", "250|421")
                    time.sleep(0.2)
            except (EOFError, OSError, AssertionError):
                pass
            self.assertLess(time.monotonic() - began, 30)


class Numbers(OwnRelay):
    def test_one_address_may_not_have_more_sessions_than_allowed(self):
        self.start_relay(limits={"sessions_per_address": 3})
        held = [bed.Client.connect() for _ in range(3)]
        for client in held:
            self.addCleanup(client.close)

        with bed.Client.connect() as refused:
            self.assertRegex(refused.greeting, "^421 4.7.0")
        held.pop().close()
        bed.wait_for("a place is free again", lambda: self.greeting().startswith("220"))

    def greeting(self):
        with bed.Client.connect() as client:
            return client.greeting

    def test_a_site_of_many_addresses_leaves_sessions_to_the_others(self):
        self.start_relay(limits={"sessions_per_address": 2, "sessions_per_site": 4})
        time.sleep(0.3)
        held = [bed.Client.connect(source=f"127.0.5.{number // 2 + 1}") for number in range(4)]
        for client in held:
            self.addCleanup(client.close)

        with bed.Client.connect(source="127.0.5.9") as refused, bed.Client.connect(source="127.0.6.1") as served:
            self.assertRegex(refused.greeting, "^421 4.7.0")
            self.assertRegex(served.greeting, "^220 ")

    def test_there_may_not_be_more_sessions_in_all_than_allowed(self):
        self.start_relay(limits={"sessions": 3, "sessions_per_address": 100})
        held = [bed.Client.connect() for _ in range(3)]
        for client in held:
            self.addCleanup(client.close)

        with bed.Client.connect() as refused:
            self.assertRegex(refused.greeting, "^421 4")


class Lines(OwnRelay):
    def test_strangers_do_not_decide_how_much_is_logged_and_who_logs_in_still_has_a_line(self):
        relay = self.start_relay(limits={"sessions_per_address": 1000})
        for _ in range(300):
            bed.Client.connect().close()
        with bed.Client.logged_in(bed.QUICK) as client:
            client.mails(bed.letter(unique("among strangers")))
        wait = bed.wait_for("the line of the session", lambda: [line for line in relay.log().splitlines()
                                                               if "event=session_ended" in line and "tls=none" not in line])
        self.assertEqual(len(wait), 1)

        relay.stop()

        ended = [line for line in relay.log().splitlines() if "event=session_ended" in line]
        self.assertLessEqual(len(ended), 20)
        self.assertRegex(relay.log(), r"event=repeats role=front of=session_ended network=127\.0\.0\.1 lines=2\d\d")


class Disk(OwnRelay):
    def small_spool(self, size):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "bed", bed.SPOOL], check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", bed.SPOOL], check=True)
        subprocess.run(["chown", "pamrelay-queue:pamrelay-queue", bed.SPOOL], check=True)

    def fill(self, path):
        with open(path, "ab", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                pass

    def full_at_the_start(self, end):
        """Messages wait, the relay ends, the disk is filled to the last block, the relay starts."""
        self.small_spool("64m")
        filler = bed.SPOOL / "filler"
        relay = self.start_relay()
        self.assertGreater((bed.SPOOL / "reserve").stat().st_blocks, 0)
        subjects = [unique("waits") for _ in range(30)]
        with bed.Client.logged_in(bed.QUICK) as client:
            for number, subject in enumerate(subjects):
                client.mails(bed.letter(subject, b"sixteen bytes...\r\n" * (8000 if number % 5 == 0 else 300)))
        bed.wait_for("all of them are deferred", lambda: all(it["state"] == "deferred" for it in relay.queue_json("list")), 30)
        end(relay)
        self.fill(filler)
        relay.fresh = False
        relay.start()
        listed = relay.queue_json("list")
        self.assertEqual(len(listed), 30)

        with bed.Client.logged_in(bed.QUICK) as client:
            client.says("MAIL FROM:<demo@relay.test>", "452 4.3.1")
            client.says("MAIL FROM:<demo@relay.test> SIZE=100", "452 4.3.1")
            client.says("NOOP", "250 ")
        relay.queue("delete", listed[0]["id"], listed[5]["id"])
        sink = self.start_sink()
        relay.queue("retry", "--all")
        sink.wait(28, 30)
        bed.wait_for("the queue is empty", lambda: not relay.queue_json("list"))
        self.assertEqual(len(sink.messages), 28)
        self.assertEqual(len({message.subject for message in sink.messages}), 28)

        filler.unlink()
        bed.wait_for("mail is taken again", self.mail_is_taken)

    def mail_is_taken(self):
        with bed.Client.logged_in(bed.QUICK) as client:
            return client.mails(bed.letter(unique("room again")), expected="250|452").startswith("250")

    def test_a_disk_that_is_full_at_the_start_is_worked_off_and_new_mail_is_refused_at_mail(self):
        self.full_at_the_start(lambda relay: relay.stop())

    def test_a_disk_that_is_full_after_a_crash_is_worked_off_too(self):
        self.full_at_the_start(lambda relay: relay.crash())

    def test_a_full_disk_is_a_temporary_refusal_and_what_was_accepted_stays(self):
        # The relay stops taking mail while 32 MiB are still free, so that it can go on working: 8 MiB are left to fill.
        self.small_spool("40m")
        relay = self.start_relay()
        accepted, refusal = [], ""
        with bed.Client.logged_in(bed.QUICK) as client:
            for number in range(200):
                subject = unique("disk")
                body = b"sixteen bytes...\r\n" * (20000 if number % 2 else 100)
                answer = client.mails(bed.letter(subject, body), expected="250|452")
                if answer.startswith("250"):
                    accepted.append(subject)
                else:
                    refusal = answer
                    break
            self.assertRegex(refusal, r"^452 4\.3\.1")
            self.assertGreater(len(accepted), 2)
            client.says("NOOP", "250 ")

        sink = self.start_sink()

        sink.wait(len(accepted), 30)
        self.assertEqual(sorted(message.subject for message in sink.messages), sorted(accepted))
        bed.wait_for("the queue is empty", lambda: not relay.queue_json("list"))
        with bed.Client.logged_in(bed.QUICK) as client:
            client.mails(bed.letter(unique("room again")))

    def test_a_damaged_store_is_refused_with_words(self):
        relay = bed.Relay()
        relay.start()
        with bed.Client.logged_in(bed.QUICK) as client:
            client.mails(bed.letter(unique("kept")))
        relay.stop()
        (bed.SPOOL / "queue.db").write_bytes(b"this is not a database at all, just text\n" * 500)
        for extra in bed.SPOOL.glob("queue.db-*"):
            extra.unlink()

        relay.fresh = False
        self.addCleanup(relay.stop)
        relay.start(wait=False)

        relay.wait_log(r"(?i)damaged|not a database|corrupt|malformed", 15)
        self.assertIn("queue.db", relay.log())
