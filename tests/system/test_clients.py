"""Mail programs that people use, each with a Unix user's own password, through the real PAM stack."""

import os
import smtplib
import ssl
import subprocess
import tempfile
from pathlib import Path

import bed
from support import WithRelay, unique

TO = "someone@far.test"


def run(words, text="", **more):
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=60, **more)
    if done.returncode:
        raise AssertionError(f"{words[0]}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-1000:]}")
    return done.stdout


def lines(subject):
    return f"From: demo@relay.test\nTo: {TO}\nSubject: {subject}\n\nhello\n.\n..\nend\n"


class MailPrograms(WithRelay):
    def check_arrival(self, subject, envelope_sender="demo@relay.test"):
        message = self.arrives(subject)
        self.assertEqual((message.sender, message.recipients), (envelope_sender, [TO]))
        return message

    def swaks(self, port, mechanism, *tls, who=bed.DEMO):
        subject = unique(f"swaks {mechanism}")
        out = run(["swaks", "--server", "127.0.0.1", "--port", str(port), *tls, "--auth", mechanism, "--auth-user", who[0],
                   "--auth-password", who[1], "--ehlo", "client.test", "--from", "demo@relay.test", "--to", TO,
                   "--header", f"Subject: {subject}", "--body", "hello"])
        self.assertRegex(out, r"250 2\.0\.0 .*queued")
        self.check_arrival(subject)

    def test_swaks_sends_with_plain_over_starttls(self):
        self.swaks(bed.STARTTLS, "PLAIN", "--tls")

    def test_swaks_sends_with_login_over_starttls(self):
        self.swaks(bed.STARTTLS, "LOGIN", "--tls")

    def test_swaks_sends_with_plain_over_implicit_tls(self):
        self.swaks(bed.IMPLICIT, "PLAIN", "--tls-on-connect")

    def test_swaks_sends_with_login_over_implicit_tls(self):
        self.swaks(bed.IMPLICIT, "LOGIN", "--tls-on-connect")

    def test_swaks_sends_as_a_user_whose_password_has_umlauts_and_blanks(self):
        self.swaks(bed.STARTTLS, "PLAIN", "--tls", who=bed.GRACE)

    def curl(self, url):
        subject = unique("curl")
        run(["curl", "--silent", "--show-error", "--crlf", "--ssl-reqd", "--cacert", bed.CA, "--url", url, "--user", ":".join(bed.DEMO),
             "--mail-from", "demo@relay.test", "--mail-rcpt", TO, "--upload-file", "-"], lines(subject))
        message = self.check_arrival(subject)
        self.assertTrue(message.data.endswith(b"\r\n\r\nhello\r\n.\r\n..\r\nend\r\n"), message.data)

    def test_curl_sends_over_starttls(self):
        self.curl(f"smtp://localhost:{bed.STARTTLS}/client.test")

    def test_curl_sends_over_implicit_tls(self):
        self.curl(f"smtps://127.0.0.1:{bed.IMPLICIT}/client.test")

    def msmtp(self, port, starttls):
        subject = unique("msmtp")
        with tempfile.TemporaryDirectory() as directory:
            settings = Path(directory) / "msmtprc"
            settings.write_text(
                f"account default\nhost localhost\nport {port}\ntls on\ntls_starttls {starttls}\ntls_trust_file {bed.CA}\nauth on\n"
                f"user {bed.DEMO[0]}\npasswordeval echo '{bed.DEMO[1]}'\nfrom demo@relay.test\ndomain client.test\n")
            os.chmod(settings, 0o600)
            run(["msmtp", "--file", settings, TO], lines(subject))
        self.check_arrival(subject)

    def test_msmtp_sends_over_starttls(self):
        self.msmtp(bed.STARTTLS, "on")

    def test_msmtp_sends_over_implicit_tls(self):
        self.msmtp(bed.IMPLICIT, "off")

    def smtplib(self, connection, subject):
        with connection:
            connection.login(*bed.DEMO)
            connection.sendmail("demo@relay.test", [TO], lines(subject))
        self.check_arrival(subject)

    def test_python_smtplib_sends_over_starttls(self):
        connection = smtplib.SMTP("localhost", bed.STARTTLS, "client.test", timeout=20)
        connection.starttls(context=ssl.create_default_context(cafile=bed.CA))
        self.smtplib(connection, unique("smtplib"))

    def test_python_smtplib_sends_over_implicit_tls(self):
        context = ssl.create_default_context(cafile=bed.CA)
        self.smtplib(smtplib.SMTP_SSL("localhost", bed.IMPLICIT, "client.test", context=context, timeout=20), unique("smtplib"))

    def test_a_tls_1_2_client_sends(self):
        context = ssl.create_default_context(cafile=bed.CA)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        connection = smtplib.SMTP_SSL("localhost", bed.IMPLICIT, "client.test", context=context, timeout=20)
        self.assertEqual(connection.sock.version(), "TLSv1.2")
        self.smtplib(connection, unique("smtplib"))


class TheClassicTranscript(WithRelay):
    def test_the_classic_transcript_works_line_by_line(self):
        subject = unique("transcript")
        with bed.Client.connect() as client:
            self.assertTrue(client.greeting.startswith("220 relay.test "), client.greeting)
            offered = client.says("EHLO client.test")
            self.assertIn("STARTTLS", offered)
            self.assertNotIn("AUTH", offered)
            client.says("STARTTLS", "220 2.0.0")
            client.upgrade()

            offered = client.says("EHLO client.test").split("\n")
            self.assertNotIn("250-STARTTLS", offered)
            self.assertIn("AUTH PLAIN LOGIN", [line[4:] for line in offered])
            for extension in ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN", "SIZE 36700160"):
                self.assertIn(extension, [line[4:] for line in offered])
            client.says("AUTH CRAM-MD5", "504 5.5.4")
            self.assertEqual(client.says("AUTH LOGIN", "334"), "334 " + bed.b64("Username:"))
            self.assertEqual(client.says(bed.b64("demo"), "334"), "334 " + bed.b64("Password:"))
            client.says(bed.b64("demo password"), "235 2.7.0")

            client.says("MAIL FROM:<demo@relay.test>", "250 2.1.0")
            client.says("RCPT TO:<one@far.test>", "250 2.1.5")
            client.says("RCPT TO:<two@far.test>", "250 2.1.5")
            client.says("DATA", "354")
            client.send(bed.letter(subject) + b".\r\n")
            client.expects(r"250 2\.0\.0 .*queued")
            client.says("QUIT", "221 2.0.0")
            self.assertTrue(client.closed())

        arrived = self.sink.wait(1, where=lambda message: message.subject == subject)
        self.assertEqual(sorted(to for message in arrived for to in message.recipients), ["one@far.test", "two@far.test"])
