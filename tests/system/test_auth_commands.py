"""`pamrelay auth …`: an administrator asks why somebody cannot log in, who is held back, and how the helper fares."""

import json
import re
import signal

import bed
from fields import logins
from support import OwnRelay, WithRelay


def answer_to(user, password, source=None, port=bed.STARTTLS):
    """The reply to one login, from an address of loopback."""
    with bed.Client.secured(port, source=source) as client:
        client.send(bed.auth_plain(user, password) + "\r\n")
        return client.reply()


class Explain(WithRelay):
    settings = {"auth": {"names": ["strip-realm=relay.test"], "failure_floor": "10ms"},
                "listen": [{"name": "submission", "address": f"127.0.0.1:{bed.STARTTLS}", "tls": "starttls"},
                           {"address": f"127.0.0.1:{bed.IMPLICIT}", "tls": "implicit"}]}

    def test_every_refused_login_leaves_one_line_that_says_all(self):
        answer_to("gone@relay.test", "gone password")

        lines = bed.wait_for("a line", lambda: logins(self.relay.log(), "gone@relay.test"))

        self.assertEqual(len(lines), 1, lines)
        wanted = {"peer": "127.0.0.1", "verdict": "expired", "stage": "pam", "phase": "acct", "code": "13", "reason": "account-expired",
                  "account": "gone", "listener": "submission", "service": "smtp", "reply": "535 5.7.13"}
        self.assertEqual({**lines[0], **wanted}, lines[0])
        self.assertLessEqual({"session", "ms"}, set(lines[0]))

    def test_a_login_that_the_helper_never_saw_has_its_line_too(self):
        with bed.Client.secured() as client:
            client.says("AUTH PLAIN ?????", "501 5.5.2")
        self.relay.wait_log(r'event=login role=front .*listener=submission .*stage=front reply="501 5.5.2"')

        with bed.Client.connect() as client:
            client.says("EHLO client.test")
            client.says(bed.auth_plain(*bed.DEMO), "538 5.7.11")
        self.relay.wait_log(r'event=login role=front .*stage=front reply="538 5.7.11"')

    def test_explain_says_why_and_what_to_do_by_session_and_by_user(self):
        answer_to("low@relay.test", "low password")
        session = bed.wait_for("a line", lambda: logins(self.relay.log(), "low@relay.test"))[0]["session"]

        by_session, by_user = bed.pamrelay("auth", "explain", session), bed.pamrelay("auth", "explain", "--user", "low")

        self.assertEqual(by_session.returncode, 0, by_session.stderr)
        self.assertEqual(by_session.stdout, by_user.stdout)
        for part in (session, "low@relay.test", "submission", "smtp", "535 5.7.1", "below-min-uid", "auth.min_uid (1000)", "name service now"):
            self.assertIn(part, by_session.stdout)
        self.assertEqual(bed.pamrelay("auth", "explain", "0000000000000").returncode, 1)
        self.assertEqual(bed.pamrelay("auth", "explain", "nonsense").returncode, 64)

    def test_explain_in_json_has_every_field(self):
        answer_to("nobody-here", "x")

        [latest] = json.loads(bed.pamrelay("auth", "explain", "--user", "nobody-here", "--json").stdout)[:1]

        self.assertEqual((latest["user"], latest["asked"], latest["verdict"], latest["reply"]), ("nobody-here", "nobody-here", "reject", "535 5.7.8"))
        self.assertEqual(latest["cause"], {"phase": "auth", "code": 7, "reason": "refused"})  # Debian's stack ends in pam_deny

    def test_a_trial_asks_as_a_client_would_from_the_address_that_is_named(self):
        right = bed.pamrelay("auth", "test", "quick@relay.test", "--rhost", "192.0.2.9", input=bed.QUICK[1] + "\n")
        wrong = bed.pamrelay("auth", "test", "quick", "--rhost", "192.0.2.9", input="not it\n")

        self.assertEqual((right.returncode, wrong.returncode), (0, 1), right.stderr + wrong.stderr)
        self.assertIn("quick", right.stdout)
        self.assertIn("535 5.7.8", wrong.stdout)
        session = re.search(r"auth explain (\w+)", wrong.stdout)[1]
        self.assertIn("192.0.2.9", bed.pamrelay("auth", "explain", session).stdout)
        self.assertEqual(bed.pamrelay("auth", "test", "quick", "--service", "login", input="x\n").returncode, 64)

    def test_the_helper_s_state_is_shown(self):
        answer_to(*bed.QUICK)

        fares = json.loads(bed.pamrelay("auth", "status", "--json").stdout)

        self.assertGreaterEqual(fares["answered"]["accepted"], 1)
        self.assertEqual((fares["workers"]["most_busy"], fares["account"]["failures"]), (8, 10))
        self.assertIn("10 wrong passwords from one network within 30m, with pauses", bed.pamrelay("auth", "status").stdout)


class Throttling(OwnRelay):
    def test_guesses_from_many_addresses_stop_before_pam_and_the_owner_still_logs_in_where_he_did(self):
        self.start_relay(auth={"failure_floor": "10ms"})
        self.assertRegex(answer_to(*bed.QUICK, source="127.5.5.5"), "^235")

        replies = [answer_to("quick", f"guess{n}", source=f"127.1.{n // 200}.{n % 200 + 1}")[:9] for n in range(60)]

        self.assertEqual(replies.count("535 5.7.8"), 3)
        self.assertEqual(replies.count("454 4.7.0"), 57)
        self.assertRegex(answer_to(*bed.QUICK, source="127.5.5.5"), "^235")
        self.assertRegex(answer_to(*bed.QUICK, source="127.6.6.6"), "^454 4.7.0 Too many attempts")
        self.assertRegex(answer_to(*bed.DEMO, source="127.6.6.6"), "^235")

    def test_what_was_counted_outlives_the_front_end_and_is_let_go_by_name(self):
        relay = self.start_relay(auth={"failure_floor": "10ms"})
        for n in range(5):
            answer_to("quick", f"guess{n}", source=f"127.1.1.{n + 1}")

        relay.role_back("front", relay.kill_role("front", signal.SIGKILL))
        bed.wait_for("the front serves again", lambda: bed.listens(bed.STARTTLS))

        self.assertRegex(answer_to(*bed.QUICK, source="127.6.6.6"), "^454")
        [held] = json.loads(bed.pamrelay("auth", "throttled", "--json").stdout)
        self.assertEqual((held["what"], held["who"], held["failures"]), ("account", "quick", 3))
        self.assertEqual(bed.pamrelay("auth", "release", "Quick").returncode, 0)
        self.assertRegex(answer_to(*bed.QUICK, source="127.6.6.6"), "^235")
        self.assertEqual(bed.pamrelay("auth", "throttled").stdout, "Nobody is held back.\n")
        self.assertEqual(bed.pamrelay("auth", "release", "quick").returncode, 1)

    def test_a_telephone_with_an_old_password_is_no_attack(self):
        self.start_relay(auth={"failure_floor": "10ms", "network_failures_per_minute": 8})
        self.assertRegex(answer_to(*bed.QUICK), "^235")

        replies = {answer_to("quick", "last year's")[:9] for _ in range(30)}

        self.assertEqual(replies, {"535 5.7.8"})
        self.assertRegex(answer_to(*bed.QUICK), "^235")
        self.assertRegex(answer_to(*bed.DEMO), "^235", "a colleague behind the same address")

    def test_an_address_that_guesses_is_held_back_and_let_go_by_number(self):
        self.start_relay(auth={"failure_floor": "10ms", "network_failures_per_minute": 8})
        replies = [answer_to(f"user{n}", "x", source="127.7.7.7")[:9] for n in range(8)]
        self.assertEqual(replies, ["535 5.7.8"] * 4 + ["454 4.7.0"] * 4)

        released = bed.pamrelay("auth", "release", "127.7.7.7")

        self.assertEqual(released.returncode, 0, released.stderr)
        self.assertRegex(answer_to("user9", "x", source="127.7.7.7"), "^535")


class Listeners(OwnRelay):
    def test_each_listener_has_its_own_service(self):
        with open("/etc/pam.d/smtp-office", "w") as service:
            service.write("auth required pam_unix.so nodelay\naccount required pam_succeed_if.so quiet user = ada\naccount required pam_unix.so\n")
        self.start_relay(auth={"failure_floor": "10ms"}, listen=[
            {"name": "submission", "address": f"127.0.0.1:{bed.STARTTLS}", "tls": "starttls"},
            {"name": "office", "address": f"127.0.0.1:{bed.STARTTLS + 1}", "tls": "starttls", "service": "smtp-office"},
        ])

        self.assertRegex(answer_to(*bed.QUICK), "^235")
        self.assertRegex(answer_to(*bed.QUICK, port=bed.STARTTLS + 1), r"^535 5\.7\.1 ")
        self.assertRegex(answer_to(*bed.ADA, port=bed.STARTTLS + 1), "^235")
        trial = bed.pamrelay("auth", "test", "quick", "--service", "smtp-office", input=bed.QUICK[1] + "\n")
        self.assertIn("535 5.7.1", trial.stdout)

    def test_a_service_that_is_missing_is_a_fault_that_names_it(self):
        relay = bed.Relay(listen=[{"address": f"127.0.0.1:{bed.STARTTLS}", "tls": "starttls", "service": "smtp-nowhere"}])
        self.addCleanup(relay.stop)

        relay.start(wait=False)

        bed.wait_for("it gives up", lambda: relay.process.poll() is not None)
        self.assertIn("smtp-nowhere", relay.log())
