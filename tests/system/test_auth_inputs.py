"""What a client can say in place of a login, numbered as in the list of hostile inputs: each has its reply, none is an
accept, and no name that could mean something else ever reaches PAM."""

import time
from pathlib import Path

import bed
from fields import logins
from people import person
from support import WithRelay

WRONG = "535 5.7.8 Authentication credentials invalid"
LATIN = ("latin", "pässwörd".encode("latin-1"))
OCTETS = ("octets", bytes(octet for octet in range(1, 256) if octet not in b"\r\n"))
LONGEST = ("longest", b"0123456789" * 51 + b"x")
SHUT = ("shut", b"shut password")

WITNESS = Path("/etc/pamrelay/witness")
HEARD = Path("/run/witness")


def plain(user, password, acting_as=b""):
    octets = [part.encode() if isinstance(part, str) else part for part in (acting_as, user, password)]
    return "AUTH PLAIN " + bed.b64(b"\0".join(octets))


class Inputs(WithRelay):
    """The service's first module writes down whom PAM is asked about, and with which password."""

    settings = {"auth": {"service": "witnessed", "failure_floor": "100ms", **bed.UNLIMITED}}

    @classmethod
    def setUpClass(cls):
        for name, password in (LATIN, OCTETS, LONGEST):
            person(name, password if isinstance(password, str) else password.decode(errors="surrogateescape"))
        person(*SHUT, locked=True)
        WITNESS.write_text('#!/bin/sh\n{ printf "%s " "$PAM_USER"; od -An -v -tx1 | tr -d " \\n"; echo; } >>' + f"{HEARD}\n")
        WITNESS.chmod(0o755)
        Path("/etc/pam.d/witnessed").write_text(f"auth required pam_exec.so quiet expose_authtok {WITNESS}\n"
                                                "auth required pam_unix.so nodelay try_first_pass\naccount required pam_unix.so\n")
        super().setUpClass()

    def setUp(self):
        HEARD.write_bytes(b"")

    def tearDown(self):
        with bed.Client.logged_in(bed.QUICK):
            pass

    def heard(self):
        """Names and passwords that PAM was asked about in this test."""
        lines = [line.rpartition(b" ") for line in HEARD.read_bytes().splitlines()]
        return [(name, bytes.fromhex(password.decode())) for name, _, password in lines]

    def said(self, *lines):
        """The last reply to lines in a session that has TLS and EHLO."""
        with bed.Client.secured() as client:
            for line in lines:
                client.send(line.encode() + b"\r\n")
                reply = client.reply()
        return reply

    def by_login(self, user, password):
        return self.said("AUTH LOGIN", bed.b64(user), bed.b64(password))

    def refused_unasked(self, user, password=b"demo password"):
        """By both mechanisms, in the words for a wrong password, and PAM hears nothing."""
        self.assertEqual(self.said(plain(user, password)), WRONG, (user, password))
        self.assertEqual(self.by_login(user, password), WRONG, (user, password))
        self.assertEqual(self.heard(), [], (user, password))

    def test_45_auth_before_tls_is_refused_undecoded(self):
        before = len(logins(self.relay.log()))
        with bed.Client.connect() as client:
            client.says(bed.auth_plain(*bed.DEMO), "538 5.7.11")
            self.assertNotIn("AUTH", client.says("EHLO client.test"))
            for line in (bed.auth_plain(*bed.DEMO), "AUTH PLAIN", "AUTH LOGIN", "AUTH LOGIN " + bed.b64("demo"), "AUTH PLAIN !not-base64!", "AUTH GSSAPI"):
                client.says(line, "538 5.7.11")
            client.says("NOOP", "250 ")

        self.assertEqual(self.heard(), [])
        self.assertEqual(len(logins(self.relay.log())), before)

    def test_46_auth_before_ehlo_is_out_of_order(self):
        with bed.Client.connect() as client:
            client.says("EHLO client.test")
            client.says("STARTTLS", "220")
            client.upgrade()
            client.says(bed.auth_plain(*bed.QUICK), "503 5.5.1")
            client.says("EHLO client.test")
            client.says(bed.auth_plain(*bed.QUICK), "235 ")

    def test_47_auth_after_helo_is_out_of_order(self):
        with bed.Client.secured() as client:
            client.says("HELO client.test")
            client.says(bed.auth_plain(*bed.QUICK), "503 5.5.1")

        self.assertEqual(self.heard(), [])

    def test_48_a_second_login_is_out_of_order(self):
        with bed.Client.logged_in(bed.QUICK) as client:
            client.says(bed.auth_plain(*bed.QUICK), "503 5.5.1")
            client.says(bed.auth_plain("demo", "not it"), "503 5.5.1")
            client.says("AUTH LOGIN", "503 5.5.1")

        self.assertEqual(len(self.heard()), 1)

    def test_49_auth_in_a_transaction_is_out_of_order(self):
        with bed.Client.logged_in(bed.QUICK) as client:
            client.says("MAIL FROM:<quick@relay.test>")
            client.says(bed.auth_plain(*bed.QUICK), "503 5.5.1")
            client.says("RCPT TO:<someone@far.test>")
            client.says("AUTH LOGIN", "503 5.5.1")

    def test_50_a_star_cancels_at_every_step(self):
        self.assertRegex(self.said("AUTH PLAIN", "*"), r"^501 5\.7\.0")
        self.assertRegex(self.said("AUTH LOGIN", "*"), r"^501 5\.7\.0")
        self.assertRegex(self.said("AUTH LOGIN", bed.b64("demo"), "*"), r"^501 5\.7\.0")
        self.assertEqual(self.heard(), [])

    def test_51_what_is_not_base64_is_malformed(self):
        for text in ("!!!!", "????????", "AGRl\tbW8=", "äöü=", "%00demo%00x", "\x01\x02\x03\x04", "-_-_"):
            for lines in ([f"AUTH PLAIN {text}"], ["AUTH PLAIN", text], ["AUTH LOGIN", text], ["AUTH LOGIN", bed.b64("demo"), text]):
                self.assertRegex(self.said(*lines), r"^50[01] 5\.", lines)
        self.assertEqual(self.heard(), [])

    def test_52_wrong_padding_is_malformed(self):
        right = bed.b64("\0demo\0demo password")
        self.assertTrue(right.endswith("A=="))
        bare = right.rstrip("=")
        for text in (bare, bare + "=", right + "=", right + "==", "=" + right, right[:8] + "=" + right[8:], bare[:-1] + "B==", "====", "A==="):
            self.assertRegex(self.said(f"AUTH PLAIN {text}"), r"^501 5\.", text)
            self.assertRegex(self.said("AUTH PLAIN", text), r"^501 5\.", text)
        self.assertEqual(self.heard(), [])

    def test_53_any_number_of_nuls_but_two_is_no_login(self):
        for octets, reply in ((b"", "^501 "), (b"demo demo password", "^501 "), (b"\0demo password", "^501 "), (b"demo\0demo password", "^501 "),
                              (b"\0demo\0demo password\0", f"^{WRONG}$"), (b"\0demo\0\0demo password", f"^{WRONG}$"), (b"\0\0demo\0demo password", f"^{WRONG}$"),
                              (b"\0\0\0\0\0", f"^{WRONG}$")):
            self.assertRegex(self.said("AUTH PLAIN", bed.b64(octets) or "="), reply, octets)
        self.assertEqual(self.heard(), [])

    def test_54_a_right_password_with_a_nul_behind_it_is_wrong(self):
        self.refused_unasked("demo", b"demo password\0x")
        self.refused_unasked("demo", b"demo password\0")

    def test_55_an_empty_user_or_password_is_wrong(self):
        for user, password in (("", "demo password"), ("demo", ""), ("", "")):
            self.assertEqual(self.said(plain(user, password)), WRONG, (user, password))
            self.assertEqual(self.said("AUTH LOGIN", bed.b64(user) or "=", bed.b64(password) or "="), WRONG, (user, password))
        self.assertEqual(self.heard(), [])

    def test_56_nobody_acts_as_somebody_else(self):
        for other in ("root", "ada", "demo ", "DEMO", "x" * 300):
            self.assertEqual(self.said(plain("demo", "demo password", acting_as=other)), WRONG, other)
        self.assertEqual(self.heard(), [])
        self.assertRegex(self.said(plain("quick", "quick password", acting_as="quick")), "^235 ")

    def test_58_another_spelling_is_another_user(self):
        for user in ("quick ", " quick", "\tquick", "quick\u00a0", "ｑuick", "qui\u200bck"):
            self.refused_unasked(user, "quick password")
        for user in ("QUICK", "Quick", "quick.", "quick@relay.test", "RELAY\\quick", "qui\u0308ck"):
            self.assertEqual(self.said(plain(user, "quick password")), WRONG, user)
        self.assertEqual(len(self.heard()), 6)

    def test_59_fields_of_every_length_have_a_reply(self):
        for length in (255, 256, 1023, 1024, 4096, 8192):
            self.assertEqual(self.said(plain("u" * length, "x")), WRONG, length)
            self.assertEqual(self.said(plain("quick", "p" * length)), WRONG, length)
            self.assertEqual(self.by_login("u" * length, "p" * length), WRONG, length)
        for length in (12_288, 16_384):
            self.assertRegex(self.said("AUTH PLAIN " + "A" * length), "^500 5", length)
            self.assertRegex(self.said("AUTH PLAIN", "A" * length), "^500 5", length)
            self.assertRegex(self.said("AUTH LOGIN", bed.b64("quick"), "A" * length), "^500 5", length)
        self.assertLessEqual({len(name) for name, _ in self.heard()}, {5, 255})

    def test_59_passwords_work_up_to_511_octets_and_more_is_wrong_in_the_same_words(self):
        name, password = LONGEST
        self.assertEqual(len(password), 511)

        self.assertRegex(self.said(plain(name, password)), "^235 ")
        self.assertRegex(self.by_login(name, password), "^235 ")
        self.assertEqual(self.said(plain(name, password[:-1])), WRONG)
        asked = len(self.heard())
        for more in (b"y", b"y" * 512, b"y" * 513, b"y" * 4000):
            self.assertEqual(self.said(plain(name, password + more)), WRONG, len(more))
        self.assertEqual(len(self.heard()), asked)

    def test_60_a_response_of_16_mib_is_cut(self):
        front = self.relay.pids()["front"]
        before = bed.kilobytes(front, "VmRSS")
        with bed.Client.secured() as client:
            client.says("AUTH PLAIN", "334")
            try:
                for _ in range(256):
                    client.send(b"A" * 65536)
            except OSError:
                pass  # cut, before it was all said
            self.assertTrue(client.closed())

        self.assertEqual(self.relay.pids()["front"], front)
        self.assertLess(bed.kilobytes(front, "VmRSS") - before, 4096)
        self.assertEqual(self.heard(), [])

    def test_61_octets_that_are_not_utf_8_reach_pam_unchanged(self):
        for name, password in (LATIN, OCTETS, ("grace", bed.GRACE[1].encode())):
            self.assertRegex(self.said(plain(name, password)), "^235 ", name)
            self.assertRegex(self.by_login(name, password), "^235 ", name)
        self.assertEqual(self.said(plain(LATIN[0], LATIN[1].decode("latin-1"))), WRONG, "the same letters in UTF-8")

        heard = [(name.decode(), password) for name, password in self.heard()]
        self.assertEqual(heard, [LATIN] * 2 + [OCTETS] * 2 + [("grace", bed.GRACE[1].encode())] * 2 + [("latin", "pässwörd".encode())])

    def test_62_names_that_could_mean_something_else_never_reach_pam(self):
        for user in ("-froot", "--help", "-", "../x", "/etc/passwd", "a/b", "a:b", ":", "demo:x:0:0", "demo\n", "de\nmo", "demo\r", "\x1b[2Jdemo", "demo\x7f",
                     "demo\x01", "demo\u0085", "demo\u2028", b"demo\xff", b"\xc3\x28", b"\xed\xa0\x80", "u" * 256):
            self.refused_unasked(user)
        self.assertEqual(self.by_login(b"demo\0", "demo password"), WRONG)
        self.assertEqual(self.by_login(b"\0demo", "demo password"), WRONG)
        self.assertEqual(self.heard(), [])

    def test_62_a_name_with_percent_signs_or_shell_characters_is_just_a_name(self):
        names = ["%n%n%s", "$(reboot)", "`id`", "a;b", "a|b", "a&b", "a'b\"", "*", "a\\b", "{a}", "<a>", "~demo", "#demo", "!demo"]

        for user in names:
            self.assertEqual(self.said(plain(user, "x")), WRONG, user)

        self.assertEqual([name.decode() for name, _ in self.heard()], names)

    def test_64_pipelined_commands_wait_for_the_verdict(self):
        rest = "\r\nMAIL FROM:<quick@relay.test>\r\nRCPT TO:<someone@far.test>\r\nRSET\r\n"
        with bed.Client.secured() as client:
            client.send(bed.auth_plain("quick", "not it") + rest)
            for reply in (WRONG, "530 5.7.0", "530 5.7.0", "250 2.0.0"):
                client.expects(reply)
            client.send(bed.auth_plain(*bed.QUICK) + rest)
            for reply in ("235 2.7.0", "250 2.1.0", "250 2.1.5", "250 2.0.0"):
                client.expects(reply)
        with bed.Client.secured() as client:
            client.send(f"AUTH LOGIN\r\n{bed.b64('quick')}\r\n{bed.b64('not it')}{rest}")
            for reply in ("334 ", "334 ", WRONG, "530 5.7.0", "530 5.7.0", "250 2.0.0"):
                client.expects(reply)

    def test_65_the_state_of_an_account_is_told_to_its_owner_alone(self):
        for user in ("gone", "aged", "shut", "low", "nobody-here"):
            self.assertEqual(self.said(plain(user, "not it")), WRONG, user)
        self.assertEqual(self.said(plain(*SHUT)), WRONG, "locked")
        self.assertRegex(self.said(plain("gone", "gone password")), r"^535 5\.7\.13 The password is right, but")
        self.assertRegex(self.said(plain("aged", "aged password")), r"^535 5\.7\.8 The password is right, but")
        self.assertRegex(self.said(plain("low", "low password")), r"^535 5\.7\.1 The password is right, but")


class Failures(WithRelay):
    settings = {"auth": {"failure_floor": "300ms", **bed.UNLIMITED}}

    def test_57_root_hears_what_a_wrong_password_hears_and_when(self):
        took = {}
        for user in ("root", "nobody-here", "quick", "toolong" * 100):
            with bed.Client.secured() as client:
                began = time.monotonic()
                client.says(plain(user, "not it"), f"{WRONG}$")
                took[user] = time.monotonic() - began

        for user, seconds in took.items():
            self.assertGreaterEqual(seconds, 0.3, user)
            self.assertLess(seconds, 1.5, f"{user}: no later than a slow one")
        asked = [login for login in logins(self.relay.log()) if login["user"] == "root"]
        self.assertEqual([(login["verdict"], login["phase"]) for login in asked], [("reject", "check")])

    def test_63_the_eleventh_failure_ends_the_session(self):
        with bed.Client.secured() as client:
            for _ in range(10):
                client.says(plain("quick", "not it"), WRONG)
            client.says(plain("quick", "not it"), "421 4.7.0")
            self.assertTrue(client.closed())
        with bed.Client.logged_in(bed.QUICK):
            pass
