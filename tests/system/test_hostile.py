"""Input that no mail program sends: nothing crashes, nothing is smuggled, nothing half is queued."""

import os
import socket
import time

import bed
from support import WithRelay, unique

SECOND = "MAIL FROM:<forged@relay.test>\r\nRCPT TO:<victim@far.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nforged\r\n.\r\n"


class Strangers(WithRelay):
    settings = {"limits": {"command_timeout": "2s"}}

    def setUp(self):
        self.front = self.relay.pids()["front"]

    def tearDown(self):
        self.assertEqual(self.relay.pids().get("front"), self.front, "the front died")
        with bed.Client.connect() as client:
            client.says("EHLO still.there")

    # The log has a few lines about each network in a minute: a test that reads them comes from a network of its own.
    def raw(self, data, port=bed.STARTTLS, wait=4, source="127.0.0.1"):
        """What the relay says to bytes sent at once, until it closes or is silent."""
        with socket.create_connection(("127.0.0.1", port), timeout=wait, source_address=(source, 0)) as sock:
            said = b""
            try:
                sock.sendall(data)
                while chunk := sock.recv(65536):
                    said += chunk
            except OSError:
                pass
            return said

    def test_an_http_request_is_cut_off(self):
        said = self.raw(b"POST / HTTP/1.1\r\nHost: relay.test\r\n\r\nEHLO x\r\nMAIL FROM:<a@b.test>\r\n", source="127.0.0.80")
        self.assertRegex(said, rb"(^|\r\n)(421|500|502|554) ")
        self.assertNotIn(b"250", said)
        self.relay.wait_log(r"(?i)http")

    def test_a_tls_hello_on_the_plain_port_is_named_in_the_log(self):
        self.raw(bytes.fromhex("160301006f0100006b0303") + os.urandom(100), source="127.0.0.81")
        self.relay.wait_log(r"(?i)tls.*(plain|starttls|expected)|(plain|starttls|expected).*tls")

    def test_plain_text_on_the_tls_port_is_named_in_the_log(self):
        self.raw(b"EHLO plain.test\r\nNOOP\r\n", bed.IMPLICIT, source="127.0.0.82")
        self.relay.wait_log(r"(?i)(plain|not tls|without tls)")

    def test_binary_junk_is_survived_on_both_ports(self):
        for port in (bed.STARTTLS, bed.IMPLICIT):
            for size in (1, 100, 100_000):
                self.raw(os.urandom(size), port, wait=3)

    def test_a_hundred_connections_that_say_nothing_and_go_are_survived(self):
        for _ in range(100):
            socket.create_connection(("127.0.0.1", bed.STARTTLS)).close()

    def test_a_bare_line_feed_or_return_ends_no_command(self):
        with bed.Client.connect() as client:
            client.send("EHLO client.test\nNOOP\n")
            client.sock.settimeout(0.7)
            try:
                said = client.sock.recv(4096)
            except TimeoutError:
                said = b""
            self.assertNotIn(b"250", said)

    def smuggle(self, ending):
        """A text that `ending` must not end, then a second transaction, then the true end."""
        subject = unique("outer")
        with bed.Client.logged_in(bed.QUICK) as client:
            client.says("MAIL FROM:<demo@relay.test>")
            client.says("RCPT TO:<someone@far.test>")
            client.says("DATA", "354")
            client.send(bed.letter(subject) + b"text" + ending + SECOND.encode())
            answer = client.expects(r"250 |5\d\d |451 ")
            # One text, one answer: the forged commands were part of it.
            client.says("NOOP", "250 2.0.0")
        if answer.startswith("250"):
            self.arrives(subject)
        time.sleep(0.3)
        self.assertEqual([message.sender for message in self.sink.messages if "forged" in message.sender], [])

    def test_a_dot_between_bare_line_feeds_ends_no_message(self):
        self.smuggle(b"\n.\n")

    def test_a_dot_after_a_bare_line_feed_ends_no_message(self):
        self.smuggle(b"\n.\r\n")

    def test_a_dot_before_a_bare_line_feed_ends_no_message(self):
        self.smuggle(b"\r\n.\n")

    def test_a_dot_between_bare_returns_ends_no_message(self):
        self.smuggle(b"\r.\r")

    def test_a_dot_before_a_doubled_return_ends_no_message(self):
        self.smuggle(b"\r\n.\r\r\n")

    def test_a_nul_before_the_dot_ends_no_message(self):
        self.smuggle(b"\r\n\0.\r\n")

    def test_a_client_that_leaves_in_the_middle_of_the_text_queues_nothing(self):
        subject = unique("gone")
        client = bed.Client.logged_in(bed.QUICK)
        client.says("MAIL FROM:<demo@relay.test>")
        client.says("RCPT TO:<someone@far.test>")
        client.says("DATA", "354")
        client.send(bed.letter(subject, b"a line\r\n" * 30000))
        client.close()

        time.sleep(0.5)
        self.assertEqual(self.relay.queue_json("list"), [])
        self.assertEqual([message for message in self.sink.messages if message.subject == subject], [])

    def test_control_characters_do_not_reach_the_log(self):
        with bed.Client.secured() as client:
            client.says("NOOP \x1b[31mred\x07", r"[25]\d\d ")
            client.says("AUTH PLAIN " + bed.b64("\0demo\x1b]0;title\x07\nforged line\0x"), r"5(01|35) ")
            client.says("MAIL FROM:<\x1b[2J@far.test>", r"5\d\d ")
        self.assertNotRegex(self.relay.log(), "[\x00-\x08\x0b-\x1f\x7f]")
        self.assertNotRegex(self.relay.log(), "(?m)^forged line")

    def test_pipelined_commands_are_all_answered_in_order(self):
        subject = unique("pipelined")
        with bed.Client.logged_in(bed.QUICK) as client:
            client.send("MAIL FROM:<demo@relay.test>\r\nRCPT TO:<one@far.test>\r\nRCPT TO:<no address\r\nRCPT TO:<two@far.test>\r\nDATA\r\n")
            for expected in ("250 2.1.0", "250 2.1.5", "50[01] 5", "250 2.1.5", "354 "):
                client.expects(expected)
            client.send(bed.letter(subject) + b".\r\nNOOP\r\nQUIT\r\n")
            for expected in (r"250 2\.0\.0 .*queued", "250 2.0.0", "221 2.0.0"):
                client.expects(expected)
        self.arrives(subject)
