"""From the queue to the next host: a real Postfix, and a sink that misbehaves on demand."""

import email
import email.policy
import os
import shutil
import time
from pathlib import Path

import bed
from postfix import Peer, SmartHost
from sink import Sink
from support import OwnRelay, unique

# Everything that a careless relay changes: dots, 8-bit text, blanks at line ends, long lines, controls, no blank line at the end.
AWKWARD = b"".join([
    b".\r\n", b"..\r\n", b"...three\r\n", b".leading dot\r\n", b"From here it looks like a mailbox\r\n", b"trailing blanks   \t \r\n", b"\r\n", b" \r\n",
    "Grüße, 世界, \N{PILE OF POO}\r\n".encode(), bytes(range(0x80, 0x100)) + b"\r\n", b"tab\tbell\x07escape\x1b\x7f\r\n",
    b"x" * 998 + b"\r\n", b"y" * 77 + b"=\r\n", b"z" * 16 + b"\r\n", b"\r\n\r\n\r\n", b"the end\r\n",
])


def smart_host(port, **more):
    return [{"domains": ["*"], "smart_hosts": [{"host": "127.0.0.1", "port": port, "tls": "none", **more}]}]


class ToPostfix(OwnRelay):
    def test_a_real_postfix_receives_every_message_byte_for_byte(self):
        postfix = SmartHost().start()
        self.addCleanup(postfix.stop)
        self.start_relay(routes=smart_host(bed.SMART_HOST))
        big = b"".join(b"%06d %s\r\n" % (n, b".dots and text" * (n % 60)) for n in range(3000))
        sent = [bed.letter(unique("bytes"), body, **{"MIME-Version": "1.0", "Content-Transfer-Encoding": "8bit"})
                for body in (AWKWARD, b"", b"one line\r\n", big)]

        with bed.Client.logged_in() as client:
            for message in sent:
                client.mails(message, mail_parameters=" BODY=8BITMIME")

        received = postfix.wait(len(sent))
        whole = sorted(message[message.index(b"\r\nFrom: demo@relay.test") + 2:] for message in received)
        self.assertEqual(whole, sorted(sent))
        for message in received:
            self.assertIn(b"Return-Path: <demo@relay.test>", message)
            self.assertRegex(message, rb"Received: from client\.test [^\r]*(\r\n[ \t][^\r]*)*by relay\.test")

    def test_a_longer_text_line_than_the_rules_allow_still_arrives_whole(self):
        sink = self.start_sink()
        self.start_relay()
        subject = unique("long line")
        message = bed.letter(subject, b"a" * 1500 + b"\r\nshort\r\n")

        with bed.Client.logged_in() as client:
            client.mails(message)

        self.assertEqual(sink.wait_subject(subject).from_line(b"From: "), message)

    def test_tls_with_a_trusted_certificate_and_a_login_reaches_a_postfix_that_demands_both(self):
        bed.make_pki()
        (bed.CERTS / "relay.secret").write_text(bed.QUICK[1] + "\n")
        os.chmod(bed.CERTS / "relay.secret", 0o600)
        sink = self.start_sink()
        postfix = Peer(2600, 2601, bed.SINK).start()
        self.addCleanup(postfix.stop)
        self.start_relay(routes=smart_host(2600, tls="required", user=bed.QUICK[0], secret="relay.secret"),
                         delivery={"trust": bed.CA})
        subject = unique("through TLS")

        with bed.Client.logged_in() as client:
            client.mails(bed.letter(subject))

        sink.wait_subject(subject)
        self.assertRegex(postfix.log(), r"sasl_username=quick")

    def test_required_tls_with_an_unknown_authority_sends_nothing(self):
        bed.make_pki()
        postfix = SmartHost(smtpd_tls_security_level="may", smtpd_tls_cert_file="/etc/postfix/tls/server.crt",
                            smtpd_tls_key_file="/etc/postfix/tls/server.key")
        Path("/etc/postfix/tls").mkdir(parents=True, exist_ok=True)
        for name in ("server.crt", "server.key"):
            Path("/etc/postfix/tls", name).write_bytes((bed.CERTS / name).read_bytes())
        postfix.start()
        self.addCleanup(postfix.stop)
        relay = self.start_relay(routes=smart_host(bed.SMART_HOST, tls="required"))

        with bed.Client.logged_in() as client:
            queued = client.mails(bed.letter(unique("never")))

        identifier = queue_id(queued)
        relay.wait_log(r"(?i)certificate|unknownissuer|tls")
        time.sleep(1)
        self.assertEqual(postfix.mails(), [])
        self.assertIn(identifier, relay.queue("list"))


def queue_id(reply):
    """The name of the message in `250 2.0.0 ... queued as NAME`."""
    return reply.split()[-1].rstrip(".")


class Trouble(OwnRelay):
    def test_a_temporary_refusal_is_tried_again_until_it_works(self):
        tries = []

        def answer(verb, line):
            if verb == "RCPT" and len(tries) < 2:
                tries.append(line)
                return "451 4.3.0 not now"
            return None

        sink = self.start_sink(answer=answer)
        self.start_relay()
        subject = unique("greylisted")

        with bed.Client.logged_in() as client:
            client.mails(bed.letter(subject))

        sink.wait_subject(subject, 20)
        self.assertEqual(len(tries), 2)

    def test_a_temporary_refusal_at_the_final_dot_is_tried_again(self):
        tries = []
        sink = self.start_sink(answer=lambda verb, line: tries.append(1) or "452 4.3.1 full" if verb == "END" and not tries else None)
        self.start_relay()
        subject = unique("dot")

        with bed.Client.logged_in() as client:
            client.mails(bed.letter(subject))

        sink.wait_subject(subject, 20)
        self.assertEqual(len(sink.messages), 1)

    def test_a_smart_host_that_is_down_gets_the_mail_when_it_is_back(self):
        relay = self.start_relay()
        subject = unique("later")
        with bed.Client.logged_in() as client:
            client.mails(bed.letter(subject))
        bed.wait_for("the first attempt has failed", lambda: relay.queue_json("list")[0]["attempts"])

        sink = self.start_sink()

        sink.wait_subject(subject, 20)

    def test_the_second_smart_host_takes_over_when_the_first_is_down(self):
        sink = self.start_sink(2530)
        hosts = [{"host": "127.0.0.1", "port": port, "tls": "none"} for port in (2529, 2530)]
        self.start_relay(routes=[{"domains": ["*"], "smart_hosts": hosts}])
        subject = unique("second")

        with bed.Client.logged_in() as client:
            client.mails(bed.letter(subject))

        sink.wait_subject(subject, 10)

    def test_a_broken_starttls_and_530_return_nothing_and_the_mail_arrives_when_the_server_is_well_again(self):
        heard = []

        def answer(verb, line):
            heard.append(verb)
            if verb == "STARTTLS":
                return Sink.HANG_UP
            return "530 5.7.0 Must issue a STARTTLS command first" if verb == "MAIL" and heard.count("MAIL") <= 6 else None

        sink = self.start_sink(answer=answer)
        sink.EXTENSIONS = Sink.EXTENSIONS + ("STARTTLS",)
        self.start_relay(routes=smart_host(sink.port, tls="opportunistic"))
        subjects = [unique("channel") for _ in range(3)]

        with bed.Client.logged_in() as client:
            for subject in subjects:
                client.mails(bed.letter(subject))

        for subject in subjects:
            sink.wait_subject(subject, 60)
        self.assertEqual(len(sink.messages), 3, "and no report")
        self.assertGreaterEqual(heard.count("STARTTLS"), 3, "TLS is tried afresh")

    def test_replies_that_make_no_sense_are_no_delivery_and_no_failure(self):
        odd = ["250 2.0.0 ok", "150 wait", "550-5.7.1 no\r\n250 2.0.0 yes"]
        sink = self.start_sink(answer=lambda verb, line: odd.pop() if verb == "DATA" and odd else None)
        self.start_relay()
        subject = unique("nonsense")

        with bed.Client.logged_in() as client:
            client.mails(bed.letter(subject))

        sink.wait_subject(subject, 60)
        self.assertEqual(len(sink.messages), 1, "and no report")
        self.assertEqual(odd, [])

    def refuse_bad(self, verb, line):
        return "550 5.1.1 no such user: bad" if verb == "RCPT" and "<bad@" in line else None

    def test_a_permanent_refusal_sends_the_sender_a_report_and_the_others_their_mail(self):
        sink = self.start_sink(answer=self.refuse_bad)
        self.start_relay()
        subject = unique("half")

        with bed.Client.logged_in() as client:
            client.mails(bed.letter(subject), to=("good@far.test", "bad@far.test"))

        self.assertEqual(sink.wait_subject(subject).recipients, ["good@far.test"])
        report = sink.wait(1, where=lambda message: message.sender == "")[0]
        self.assertEqual(report.recipients, ["demo@relay.test"])
        self.assertIn("multipart/report", report.header("Content-Type"))
        for wanted in (b"message/delivery-status", b"bad@far.test", b"Action: failed", b"Status: 5.1.1", b"550 5.1.1 no such user: bad"):
            self.assertIn(wanted, report.data)
        self.assertRegex(report.data, rb"Final-Recipient: rfc822; ?bad@far\.test")
        self.assertNotRegex(report.data, rb"Final-Recipient: rfc822; ?good@far\.test")

    def test_a_report_carries_envid_and_orcpt_and_only_the_header_when_asked(self):
        sink = self.start_sink(answer=self.refuse_bad)
        self.start_relay()

        with bed.Client.logged_in() as client:
            client.says("MAIL FROM:<demo@relay.test> RET=HDRS ENVID=my+2Bown+3Did")
            client.says("RCPT TO:<bad@far.test> NOTIFY=FAILURE ORCPT=rfc822;first@near.test")
            client.says("DATA", "354")
            client.send(bed.letter(unique("dsn"), b"the secret body\r\n") + b".\r\n")
            client.expects("250")

        report = sink.wait(1, where=lambda message: message.sender == "")[0].data
        self.assertIn(b"Original-Envelope-Id: my+own=id", report)
        self.assertRegex(report, rb"Original-Recipient: rfc822; ?first@near\.test")
        self.assertNotIn(b"the secret body", report)

    def test_every_report_on_8_bit_mail_passes_the_only_hop_though_that_takes_7_bits_only(self):
        refusal = "550 5.1.1 Empfänger „bad“ unbekannt"
        sink = self.start_sink(answer=lambda verb, line: refusal if verb == "RCPT" and "<bad@" in line else None)
        sink.EXTENSIONS = ("PIPELINING", "SIZE 104857600", "ENHANCEDSTATUSCODES")
        relay = self.start_relay()
        body = "Grüße, 世界\r\n.\r\nFrom here on\r\n".encode()
        plain = {"MIME-Version": "1.0", "Content-Type": "text/plain; charset=utf-8", "Content-Transfer-Encoding": "8bit"}
        eight_bit_name = {"Content-Disposition": 'inline; filename="ü.txt"', **plain}
        ways = {"declared": (" BODY=8BITMIME", "", body, plain), "undeclared": ("", "", body, {}), "ascii": ("", "", b"hello\r\n", {}),
                "header only": (" RET=HDRS BODY=8BITMIME", " NOTIFY=FAILURE", body, eight_bit_name)}
        marks = {way: unique(f"8 bit {way}") for way in ways}

        with bed.Client.logged_in() as client:
            for way, (of_mail, of_rcpt, text, fields) in ways.items():
                client.says(f"MAIL FROM:<demo@relay.test>{of_mail}")
                client.says(f"RCPT TO:<bad@far.test>{of_rcpt}")
                client.says("DATA", "354")
                client.send(bed.stuffed(bed.letter(marks[way], text, **{"X-Note": "für alle", **fields})) + b".\r\n")
                client.expects("250")
            client.says("MAIL FROM:<demo@relay.test> BODY=8BITMIME")
            client.says("RCPT TO:<good@far.test> NOTIFY=SUCCESS")
            client.says("DATA", "354")
            client.send(bed.stuffed(bed.letter(unique("8 bit success"), body, **{"X-Note": "für alle", **plain})) + b".\r\n")
            client.expects("250")

        reports = sink.wait(5, 30, where=lambda message: message.sender == "")
        for message in sink.messages:
            self.assertTrue(message.data.isascii(), message.data)
            self.assertLessEqual(max(map(len, message.data.split(b"\r\n"))), 998)
        found = {}
        for report in reports:
            self.assertEqual(report.recipients, ["demo@relay.test"])
            words, fields, original = email.message_from_bytes(report.data, policy=email.policy.default).iter_parts()
            octets = original.get_payload(decode=True)
            head = original.get_content() if octets is None else email.message_from_string(octets.decode(), policy=email.policy.default)
            self.assertEqual(head["X-Note"], "für alle")
            found[head["Subject"]] = (words.get_content(), head, original.get_content_type())
        for way, (_, _, text, _) in ways.items():
            said, head, kind = found[marks[way]]
            self.assertIn(refusal, " ".join(said.split()))
            if way == "header only":
                self.assertEqual(kind, "text/rfc822-headers")
            else:
                self.assertEqual(head.get_content().splitlines(), text.decode().splitlines())
        good = sink.wait(1, where=lambda message: message.recipients == ["good@far.test"])[0]
        taken = email.message_from_bytes(good.data, policy=email.policy.default)
        self.assertEqual(taken.get_content().splitlines(), body.decode().splitlines())
        self.assertNotIn("event=dropped", relay.log())

    def test_nobody_is_told_who_asked_not_to_be_nor_a_null_sender(self):
        sink = self.start_sink(answer=self.refuse_bad)
        relay = self.start_relay()

        with bed.Client.logged_in() as client:
            client.says("MAIL FROM:<demo@relay.test>")
            client.says("RCPT TO:<bad@far.test> NOTIFY=NEVER")
            client.says("DATA", "354")
            client.send(bed.letter(unique("silent")) + b".\r\n")
            client.expects("250")
            client.mails(bed.letter(unique("null")), sender="", to=("bad@far.test",))

        bed.wait_for("the queue is empty", lambda: not relay.queue_json("list"))
        time.sleep(0.5)
        self.assertEqual(sink.messages, [])

    def test_a_message_nobody_takes_is_given_up_and_reported(self):
        sink = self.start_sink(2530)
        routes = [{"domains": ["relay.test"], "smart_hosts": [{"host": "127.0.0.1", "port": 2530, "tls": "none"}]},
                  {"domains": ["*"], "smart_hosts": [{"host": "127.0.0.1", "port": 2529, "tls": "none"}]}]
        self.start_relay(routes=routes, delivery={"first_retry": "1s", "longest_retry": "1s", "give_up": "3s"})

        with bed.Client.logged_in() as client:
            client.mails(bed.letter(unique("given up")))

        report = sink.wait(1, timeout=20, where=lambda message: message.sender == "")[0]
        self.assertIn(b"Action: failed", report.data)

    def replace(self, path, text):
        """As an editor or a DHCP client does it: a new file under the old name."""
        new = Path(f"{path}.new")
        new.write_text(text)
        new.chmod(0o644)
        new.rename(path)

    def test_a_hosts_file_that_is_replaced_by_rename_is_read_again_within_seconds(self):
        sink = self.start_sink()
        hosts = Path("/etc/hosts").read_text()
        self.addCleanup(self.replace, "/etc/hosts", hosts)
        self.start_relay(routes=[{"domains": ["*"], "smart_hosts": [{"host": "later.test", "port": bed.SINK, "tls": "none"}]}])

        for number in (1, 2):
            subject = unique("replaced")
            self.replace("/etc/hosts", f"{hosts}127.0.0.{number} {'later.test' if number == 1 else 'other.test later.test'}\n")
            with bed.Client.logged_in() as client:
                client.mails(bed.letter(subject))
            sink.wait_subject(subject, 20)

    def test_a_resolv_conf_that_was_missing_at_the_start_is_looked_for_again(self):
        path = Path("/etc/resolv.conf")
        before = path.read_text() if path.exists() else None
        self.addCleanup(lambda: path.unlink(missing_ok=True) if before is None else self.replace(path, before))
        path.unlink(missing_ok=True)
        relay = self.start_relay()
        relay.wait_log(r"event=file_missing .*file=/etc/resolv\.conf")

        self.replace(path, "nameserver 127.0.0.53\n")

        relay.wait_log(r"event=read_again .*file=/etc/resolv\.conf")

    def test_without_routes_no_mail_goes_to_the_hosts_own_port_25(self):
        own = self.start_sink(25)
        relay = self.start_relay(routes=[{"domains": ["*"], "mx": "direct"}])
        addresses = ("root@localhost", "root@x.localhost", "root@relay.test")

        with bed.Client.logged_in() as client:
            client.says("MAIL FROM:<demo@relay.test>")
            client.says("RCPT TO:<root@127.0.0.1>", "501")
            client.says("RCPT TO:<root@10>", "501")
            client.says("RCPT TO:<root@[127.0.0.1]>", "550")
            for address in addresses:
                client.says(f"RCPT TO:<{address}>")
            client.says("DATA", "354")
            client.send(bed.letter(unique("loop")) + b".\r\n")
            client.expects("250")

        relay.wait_log(r"event=failed .*rcpt=root@localhost .*status=5\.4\.6")
        relay.wait_log(r"event=failed .*rcpt=root@x\.localhost .*status=5\.4\.6")
        relay.wait_log(r"event=(failed|deferred) .*rcpt=root@relay\.test ")
        self.assertEqual(own.connections, 0)

    def test_a_smart_host_that_is_the_relay_itself_returns_no_mail(self):
        relay = self.start_relay(routes=[{"domains": ["*"], "smart_hosts": [{"host": "relay.test", "port": bed.STARTTLS, "tls": "none"}]}])

        with bed.Client.logged_in() as client:
            client.mails(bed.letter(unique("circle")))

        relay.wait_log(r"event=smart_host_is_us .*remedy=")
        relay.wait_log(r"event=deferred .*status=4\.4\.6")

    def test_a_maildir_route_files_the_mail(self):
        box = Path("/var/mail/archive")
        box.mkdir(exist_ok=True)
        shutil.chown(box, "pamrelay-queue", "pamrelay-queue")
        self.start_relay(routes=[{"domains": ["archive.test"], "maildir": str(box)}, *smart_host(bed.SINK)])
        message = bed.letter(unique("archive"), AWKWARD)

        with bed.Client.logged_in() as client:
            client.mails(message, to=("keep@archive.test",))

        filed = bed.wait_for("a file in new/", lambda: list((box / "new").glob("*")) if (box / "new").exists() else None)
        stored = filed[0].read_bytes()
        self.assertTrue(stored.endswith(message) or stored.endswith(message.replace(b"\r\n", b"\n")), stored[-300:])
