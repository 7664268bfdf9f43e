"""What an administrator types: `pamrelay check`, `pamrelay queue ...`, and the law about certificate directories."""

import json
import os
import time

import bed
from support import OwnRelay, unique
from test_delivery import queue_id


class Check(OwnRelay):
    def check(self, text=None, **settings):
        bed.make_pki()
        bed.CONFIG.write_text(text if text is not None else json.dumps(bed.settings(**settings), indent=1))
        done = bed.pamrelay("check", "--config", str(bed.CONFIG))
        return done.returncode, done.stdout + done.stderr

    def test_a_good_configuration_is_called_good(self):
        self.assertEqual(self.check()[0], 0, self.check()[1])

    def test_an_unknown_key_is_refused_with_file_line_and_column(self):
        status, said = self.check("hostname: relay.test\nlistten: []\n")

        self.assertEqual(status, 1)
        self.assertRegex(said, r"pamrelay\.yaml:2:1")
        self.assertIn("listten", said)

    def test_a_repeated_key_is_refused(self):
        status, said = self.check("hostname: one.test\nhostname: two.test\n")

        self.assertEqual(status, 1)
        self.assertRegex(said, r"pamrelay\.yaml:2")

    def test_all_mistakes_are_reported_at_once(self):
        status, said = self.check("hostnam: relay.test\nspol: /x\nlimits:\n  recipients: many\n")

        self.assertEqual(status, 1)
        for wanted in ("hostnam", "spol", "recipients"):
            self.assertIn(wanted, said)

    def test_a_missing_pam_service_is_reported(self):
        status, said = self.check(auth={"service": "not-there"})

        self.assertEqual(status, 1)
        self.assertIn("/etc/pam.d/not-there", said)

    def loosened(self, change):
        bed.make_pki()
        change()
        bed.CONFIG.write_text(json.dumps(bed.settings(), indent=1))
        done = bed.pamrelay("check", "--config", str(bed.CONFIG))
        relay = bed.Relay()
        self.addCleanup(bed.make_pki)
        self.addCleanup(relay.stop)
        relay.start(wait=False)
        bed.wait_for("the relay refuses to start", lambda: relay.process.poll() is not None)
        self.assertNotEqual(relay.process.returncode, 0)
        self.assertFalse(bed.listens(bed.STARTTLS))
        self.assertEqual(done.returncode, 1)
        return done.stdout + done.stderr

    def test_a_certificate_directory_that_others_can_enter_stops_the_start(self):
        said = self.loosened(lambda: os.chmod(bed.CERTS, 0o755))

        self.assertIn(str(bed.CERTS), said)
        self.assertIn("0755", said)
        self.assertRegex(said, rf"chmod 0{{0,2}}700 {bed.CERTS}")

    def test_a_key_that_others_can_read_stops_the_start(self):
        said = self.loosened(lambda: os.chmod(bed.CERTS / "server.key", 0o640))

        self.assertRegex(said, r"chmod 0?600 \S*server\.key")

    def test_a_certificate_of_another_owner_stops_the_start(self):
        said = self.loosened(lambda: os.chown(bed.CERTS / "server.crt", 65534, 65534))

        self.assertRegex(said, r"chown \S+ \S*server\.crt")

    def test_a_link_out_of_the_directory_stops_the_start(self):
        def change():
            (bed.CERTS / "server.key").rename("/etc/elsewhere.key")
            (bed.CERTS / "server.key").symlink_to("/etc/elsewhere.key")

        self.assertIn("server.key", self.loosened(change))

    def test_a_key_that_does_not_fit_the_certificate_stops_the_start(self):
        def change():
            (bed.CERTS / "server.key").write_bytes((bed.CERTS / "client.key").read_bytes())

        self.assertRegex(self.loosened(change), r"server\.key is not the key of")


class Queue(OwnRelay):
    def waiting(self, count=1):
        """A relay with messages that wait, because the smart host said "not now" so far; their names."""
        self.open = False
        self.sink = self.start_sink(answer=lambda verb, line: "451 4.3.0 not now" if verb == "MAIL" and not self.open else None)
        relay = self.start_relay(delivery={"first_retry": "10m", "longest_retry": "1h", "give_up": "5d"})
        with bed.Client.logged_in(bed.QUICK) as client:
            names = [queue_id(client.mails(bed.letter(unique("waiting"), b"body text\r\n"))) for _ in range(count)]
        deferred = lambda: [entry["state"] for entry in relay.queue_json("list")] == ["deferred"] * count
        bed.wait_for("the first attempt of each is over", deferred)
        return relay, names

    def test_list_and_show_tell_people_and_programs_what_waits(self):
        relay, (name,) = self.waiting()

        for text in (relay.queue("list"), relay.queue("show", name)):
            self.assertIn(name, text)
            self.assertIn("demo@relay.test", text)
            self.assertIn("someone@far.test", text)
        self.assertNotIn("control_ended", relay.log())
        self.assertIn(name, json.dumps(relay.queue_json("list")))
        self.assertIn("someone@far.test", json.dumps(relay.queue_json("show", name)))

    def test_show_never_shows_the_body(self):
        relay, (name,) = self.waiting()

        self.assertNotIn("body text", relay.queue("show", name))

    def test_retry_delivers_at_once_what_would_have_waited(self):
        relay, (name,) = self.waiting()
        self.open = True

        relay.queue("retry", name)

        self.sink.wait(1, 10)
        bed.wait_for("the queue is empty", lambda: not relay.queue_json("list"))

    def test_a_held_message_stays_until_it_is_released(self):
        relay, (name,) = self.waiting()
        relay.queue("hold", name)
        self.open = True

        self.assertRegex(relay.queue("show", name), r"(?i)h[eo]ld")
        for words in (("retry", name), ("retry", "--all"), ("retry", "--state", "held")):
            tried = bed.pamrelay("queue", *words)
            self.assertEqual(tried.returncode, 1, tried)
            self.assertRegex(tried.stderr, r"held.*pamrelay queue release")
        time.sleep(1)
        self.assertEqual(self.sink.messages, [])
        relay.queue("release", name)
        self.sink.wait(1, 10)

    def test_delete_removes_one_message_and_no_other(self):
        relay, (first, second) = self.waiting(2)

        relay.queue("delete", first)

        listed = relay.queue("list")
        self.assertNotIn(first, listed)
        self.assertIn(second, listed)

    def test_a_name_that_is_not_there_is_an_error(self):
        relay, _ = self.waiting()

        done = bed.pamrelay("queue", "show", "NOSUCHNAME")

        self.assertNotEqual(done.returncode, 0)
        self.assertTrue(done.stderr.strip())

    def test_an_ordinary_user_may_not_touch_the_queue(self):
        self.waiting()

        done = bed.pamrelay("queue", "list", user="demo", group="demo", extra_groups=[])

        self.assertNotEqual(done.returncode, 0)

    def test_the_queue_survives_a_restart(self):
        relay, (name,) = self.waiting()
        relay.stop()
        relay.fresh = False

        relay.start()

        self.assertIn(name, relay.queue("list"))


class AuthTest(OwnRelay):
    def ask(self, user, password):
        return bed.pamrelay("auth", "test", user, input=password + "\n")

    def test_auth_test_says_whether_a_password_would_do(self):
        self.start_relay()

        right, wrong = self.ask("demo", "demo password"), self.ask("demo", "not it")

        self.assertEqual(right.returncode, 0, right.stderr)
        self.assertNotEqual(wrong.returncode, 0)
        self.assertNotIn("demo password", right.stdout + right.stderr)


class Words(OwnRelay):
    def test_version_and_help_are_told(self):
        self.assertRegex(bed.pamrelay("--version").stdout, r"^pamrelay \d+\.\d+\.\d+")
        for word in ("run", "front", "keys", "queue", "check", "reload", "auth"):
            self.assertIn(word, bed.pamrelay("--help").stdout)
