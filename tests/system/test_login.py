"""Who may send: the verdicts of the real PAM stack, and what a client hears of them."""

import signal
import time

import bed
from support import OwnRelay, WithRelay


class Verdicts(WithRelay):
    def answer_to(self, user, password):
        with bed.Client.secured() as client:
            client.send(bed.auth_plain(user, password).encode() + b"\r\n")
            return client.reply()

    def test_a_wrong_password_and_an_unknown_user_hear_the_same(self):
        wrong, unknown = self.answer_to("demo", "not it"), self.answer_to("nobody-here", "not it")

        self.assertRegex(wrong, r"^535 5\.7\.8 ")
        self.assertEqual(wrong, unknown)

    def test_a_refusal_is_answered_no_sooner_than_the_floor(self):
        began = time.monotonic()

        self.answer_to("nobody-here", "not it")

        self.assertGreaterEqual(time.monotonic() - began, 1)

    def test_a_user_below_min_uid_is_told_that_he_may_not_send(self):
        self.assertRegex(self.answer_to("low", "low password"), r"^535 5\.7\.1 ")

    def test_an_expired_account_with_the_right_password_is_told_so(self):
        self.assertRegex(self.answer_to("gone", "gone password"), r"^535 5\.7\.13 ")

    def test_an_expired_account_with_a_wrong_password_is_not_told_so(self):
        self.assertRegex(self.answer_to("gone", "not it"), r"^535 5\.7\.8 ")

    def test_a_password_that_must_be_changed_is_told_so(self):
        answer = self.answer_to("aged", "aged password")

        self.assertRegex(answer, r"^535 5\.7\.8 ")
        self.assertRegex(answer, r"(?i)chang|expire")

    def test_an_empty_password_is_refused(self):
        self.assertRegex(self.answer_to("demo", ""), r"^(535|501) ")

    def test_auth_is_neither_offered_nor_decoded_before_tls(self):
        with bed.Client.connect() as client:
            self.assertNotIn("AUTH", client.says("EHLO client.test"))
            client.says(bed.auth_plain(*bed.DEMO), r"53[08] ")
            client.says("AUTH PLAIN !!!not-base64!!!", r"53[08] ")
            client.says("MAIL FROM:<demo@relay.test>", "530 5.7.0")

    def test_nothing_is_relayed_without_a_login(self):
        with bed.Client.secured() as client:
            client.says("MAIL FROM:<demo@relay.test>", "530 5.7.0")
            client.says("RCPT TO:<someone@far.test>", r"5\d\d ")
            client.says("DATA", r"5\d\d ")

    def test_commands_pipelined_before_the_handshake_end_the_session(self):
        with bed.Client.connect() as client:
            client.says("EHLO client.test")
            client.send("STARTTLS\r\nMAIL FROM:<x@far.test>\r\n")
            client.expects("554 5.7.0")
            self.assertTrue(client.closed())

    def test_login_takes_an_initial_response_and_any_case(self):
        with bed.Client.secured() as client:
            self.assertEqual(client.says(f"auth login {bed.b64('demo')}", "334"), "334 " + bed.b64("Password:"))
            client.says(bed.b64("demo password"), "235 ")

    def test_plain_takes_its_response_on_a_line_of_its_own(self):
        with bed.Client.secured() as client:
            client.says("AUTH PLAIN", "334 ?$")
            client.says(bed.b64("\0demo\0demo password"), "235 ")

    def test_a_login_can_be_cancelled_and_nonsense_is_not_base64(self):
        with bed.Client.secured() as client:
            client.says("AUTH LOGIN", "334 ")
            client.says("*", "501 ")
            client.says("AUTH PLAIN ?????", "501 ")
            client.says(bed.auth_plain(*bed.DEMO), "235 ")

    def test_a_second_login_is_out_of_order(self):
        with bed.Client.logged_in() as client:
            client.says(bed.auth_plain(*bed.DEMO), "503 5.5.1")

    def test_no_password_is_in_the_log(self):
        self.answer_to("demo", "Very-Secret-Wrong-1")
        with bed.Client.logged_in(bed.ADA):
            pass

        self.relay.wait_log(r"\bada\b")
        log = self.relay.log()
        for secret in ("Very-Secret-Wrong-1", bed.ADA[1], bed.b64("\0ada\0" + bed.ADA[1])):
            self.assertNotIn(secret, log)


class TheHelper(OwnRelay):
    def test_a_hanging_pam_module_is_a_temporary_failure_by_the_deadline(self):
        with open("/etc/pam.d/slow", "w") as service:
            service.write("auth required pam_exec.so quiet /bin/sleep 60\naccount required pam_permit.so\n")
        relay = self.start_relay(auth={"service": "slow", "deadline": "1s"})

        began = time.monotonic()
        with bed.Client.secured() as client:
            client.says(bed.auth_plain(*bed.DEMO), "454 4.7.0")
        self.assertLess(time.monotonic() - began, 6)
        self.assertIn("front", relay.pids())

    def test_an_expired_account_is_told_so_where_the_stack_says_so(self):
        with open("/etc/pam.d/unix-only", "w") as service:
            service.write("auth required pam_unix.so nodelay\naccount required pam_unix.so\n")
        self.start_relay(auth={"service": "unix-only"})

        with bed.Client.secured() as client:
            client.says(bed.auth_plain("gone", "gone password"), "535 5.7.13")

    def test_a_pam_stack_that_loses_its_module_is_a_temporary_failure(self):
        with open("/etc/pam.d/broken", "w") as service:
            service.write("auth required pam_unix.so nodelay\naccount required pam_unix.so\n")
        self.start_relay(auth={"service": "broken"})
        with bed.Client.logged_in(bed.DEMO):
            pass

        with open("/etc/pam.d/broken", "w") as service:
            service.write("auth required pam_no_such_module.so\naccount required pam_no_such_module.so\n")

        def heard():
            with bed.Client.secured() as client:
                return client.says(bed.auth_plain(*bed.DEMO), "[24]")

        # The template that has the old file loaded is replaced within moments.
        bed.wait_for("the module is missed", lambda: heard().startswith("454 4.7.0"))

    def test_a_stopped_helper_is_a_temporary_failure_and_then_it_serves_again(self):
        relay = self.start_relay(auth={"deadline": "1s"})
        helper = relay.kill_role("auth", signal.SIGSTOP)

        with bed.Client.secured() as client:
            client.says(bed.auth_plain(*bed.DEMO), "454 4.7.0")
        relay.kill_role("auth", signal.SIGCONT)

        self.assertEqual(relay.pids()["auth"], helper)
        with bed.Client.logged_in(bed.DEMO):
            pass

    def test_a_login_in_progress_when_the_helper_is_killed_is_a_temporary_failure(self):
        with open("/etc/pam.d/slow", "w") as service:
            service.write("auth required pam_exec.so quiet /bin/sleep 15\naccount required pam_permit.so\n")
        relay = self.start_relay(auth={"service": "slow", "deadline": "20s"})

        with bed.Client.secured() as client:
            client.send(bed.auth_plain(*bed.DEMO) + "\r\n")
            bed.wait_for("PAM is at work", lambda: any(words[0] == "/bin/sleep" for words in map(bed.command_line, bed.family(relay.pids()["auth"])) if words))
            old = relay.kill_role("auth")
            client.expects("454 4.7.0")
        relay.role_back("auth", old)

    def test_slow_logins_do_not_hold_up_a_session_that_sends(self):
        with open("/etc/pam.d/mixed", "w") as service:
            service.write("auth [success=ignore default=1] pam_succeed_if.so quiet user = ada\n"
                          "auth required pam_exec.so quiet /bin/sleep 60\n"
                          "auth required pam_unix.so nodelay\naccount required pam_unix.so\n")
        sink = self.start_sink()
        self.start_relay(auth={"service": "mixed", "deadline": "5s", "workers": 8})
        hanging = [bed.Client.secured() for _ in range(4)]
        for client in hanging:
            self.addCleanup(client.close)
            client.send(bed.auth_plain(*bed.ADA) + "\r\n")

        began = time.monotonic()
        with bed.Client.logged_in(bed.QUICK) as client:
            client.mails(bed.letter("while others hang"))
        self.assertLess(time.monotonic() - began, 2)
        sink.wait_subject("while others hang")

    def test_the_helper_refuses_to_run_without_its_pam_service(self):
        relay = bed.Relay(auth={"service": "not-there"})
        self.addCleanup(relay.stop)

        relay.start(wait=False)

        bed.wait_for("the relay gives up or says why", lambda: relay.process.poll() is not None or "not-there" in relay.log())
        self.assertIn("not-there", relay.log())
        self.assertFalse(relay.process.poll() == 0)
