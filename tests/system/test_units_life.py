"""The units under a real systemd: booted, killed, reloaded, stopped. Each test leaves the relay running as it found it."""

import json
import os
import signal
import socket
import threading
import time

import bed
from installed import SUBMISSION, SUBMISSIONS, UNITS
from machine import SOURCE
from support import WithMachine, unique
from test_roles import shown_certificate


class UnitsLive(WithMachine):
    def test_after_a_boot_the_relay_is_there_by_itself_and_a_message_goes_through(self):
        self.machine.off()
        self.machine.boot()

        self.machine.settle()

        sink, subject = self.start_sink(), unique("after a boot")
        with self.machine.client(bed.ADA) as client:
            client.mails(bed.letter(subject))
        sink.wait_subject(subject)

    def test_what_the_readme_installs_is_there_and_check_warns_of_no_port_of_the_running_units(self):
        for page in ("man8/pamrelay.8", "man8/pamrelay-auth.8", "man5/pamrelay.yaml.5"):
            self.assertTrue(self.machine.path(f"/usr/share/man/{page}").exists(), page)

        for file in (bed.CONFIG, f"{SOURCE}/packaging/pamrelay.yaml"):
            answer = json.loads(self.machine.run("pamrelay", "check", "--json", "--config", file))
            self.assertTrue(answer["starts"], answer)
            self.assertEqual([finding for finding in answer["findings"] if "listen" in finding["what"]], [])

    def test_every_event_in_the_journal_has_the_facility_mail(self):
        self.assertEqual(self.machine.answer_to("nobody-here", "wrong")[:3], "535")
        self.machine.run("journalctl", "--sync")

        for role in bed.ROLES:
            words = ("journalctl", "-b", "-q", "-o", "cat", "-u", f"pamrelay-{role}")
            events = [line for line in self.machine.run(*words).splitlines() if "event=" in line]
            self.assertEqual([line for line in self.machine.run(*words, "SYSLOG_FACILITY=2").splitlines() if "event=" in line], events)
            self.assertTrue(events, role)

    def role_comes_back(self, role):
        before = self.machine.pids()
        os.kill(before[role], signal.SIGKILL)
        bed.wait_for(f"{role} is started again", lambda: self.machine.pids().get(role, before[role]) != before[role], 10, 0.1)

        # The design: half a second until the restart, and a start that takes less than a few.
        self.assertLess(self.machine.logs_in_again(bed.QUICK), 8)

        self.machine.settle()
        after = self.machine.pids()
        self.assertEqual({name for name in bed.ROLES if after[name] != before[name]}, {role})
        with self.machine.client(bed.QUICK) as client:
            client.mails(bed.letter(unique(f"after the death of {role}")))

    def test_the_front_is_killed_and_the_login_works_again(self):
        self.role_comes_back("front")

    def test_the_helper_is_killed_and_the_login_works_again(self):
        self.role_comes_back("auth")

    def test_the_key_process_is_killed_and_the_login_works_again(self):
        self.role_comes_back("keys")

    def test_the_queue_is_killed_and_the_login_works_again(self):
        self.role_comes_back("queue")

    def test_the_helper_is_restarted_alone_and_sessions_go_on(self):
        before = self.machine.pids()
        with self.machine.client(bed.QUICK) as client:
            self.machine.run("systemctl", "restart", "pamrelay-auth")

            client.mails(bed.letter(unique("with the ticket of before")))

        self.machine.settle()
        self.assertEqual(changed(before, self.machine.pids()), {"auth"})
        self.machine.client(bed.QUICK).close()

    def test_an_ordinary_restart_of_the_helper_is_no_fault_in_its_log(self):
        for _ in range(5):
            self.machine.client(bed.QUICK).close()
            self.machine.run("systemctl", "restart", "pamrelay-auth")

        log = self.machine.log()
        self.assertGreaterEqual(log.count("event=stopped signal=15"), 5)
        self.assertNotIn("state=lost", log)

    def test_a_reload_with_a_changed_setting_of_the_helper_restarts_the_helper_alone(self):
        before = self.machine.pids()
        with self.machine.client(bed.QUICK) as client:
            self.reload(auth={"min_uid": 900})

            client.mails(bed.letter(unique("over a reload")))

        self.assertEqual(changed(before, self.machine.pids()), {"auth"})
        self.assertIn("min_uid=900", self.machine.log())
        self.machine.client(bed.QUICK).close()

    def test_pamrelay_reload_does_what_systemctl_reload_does_and_says_it(self):
        before = self.machine.pids()
        self.machine.configure(auth={"min_uid": 901})
        self.addCleanup(self.machine.reload)

        said = self.machine.run("pamrelay", "reload")

        self.machine.settle()
        self.assertIn("auth: restarts", said)
        self.assertEqual(changed(before, self.machine.pids()), {"auth"})
        self.assertIn("min_uid=901", self.machine.log())

    def test_a_reload_takes_new_certificates_and_no_role_restarts(self):
        before, old = self.machine.pids(), self.shown_certificate()
        with self.machine.client(bed.QUICK) as client:
            bed.make_pki()
            self.machine.take_certificates()

            self.machine.run("systemctl", "reload", "pamrelay")

            bed.wait_for("the new certificate is shown", lambda: self.shown_certificate() != old, 10, 0.1)
            client.mails(bed.letter(unique("over a new certificate")))
        self.assertEqual(self.machine.pids(), before)

    def shown_certificate(self):
        with self.machine.network():
            return shown_certificate(SUBMISSIONS)

    def test_a_broken_configuration_changes_nothing_and_says_so(self):
        before = self.machine.pids()
        self.machine.path(bed.CONFIG).write_text("hostname: relay.test\nlistten: []\n")
        self.addCleanup(self.machine.configure)

        by_unit, by_hand = self.machine.ask("systemctl", "reload", "pamrelay"), self.machine.ask("pamrelay", "reload")

        self.assertNotEqual(by_unit.returncode, 0)
        self.assertEqual(by_hand.returncode, 78)
        for said in (by_hand.stdout, self.machine.log("pamrelay")):
            self.assertRegex(said, r"pamrelay\.yaml:2:1.*listten")
        self.assertEqual(self.machine.active(), set(UNITS))
        self.assertEqual(self.machine.pids(), before)
        # And a role that dies now comes back with the copy that was accepted.
        os.kill(before["auth"], signal.SIGKILL)
        self.machine.logs_in_again(bed.QUICK)

    def test_the_first_start_with_a_broken_configuration_fails_and_says_why_and_the_repaired_one_starts(self):
        self.machine.run("systemctl", "stop", "pamrelay")
        self.machine.shell("rm /run/pamrelay/active/*")
        self.machine.path(bed.CONFIG).write_text("hostname: relay.test\nlistten: []\n")

        failed = self.machine.ask("systemctl", "start", "pamrelay")

        self.assertNotEqual(failed.returncode, 0)
        self.assertEqual(self.machine.ask("systemctl", "is-active", "pamrelay").stdout.strip(), "failed")
        self.assertRegex(self.machine.ask("systemctl", "status", "pamrelay").stdout, r"pamrelay\.yaml:2:1.*listten")
        self.assertEqual(self.machine.pids(), {})
        self.machine.configure()
        self.machine.run("systemctl", "restart", "pamrelay")
        self.machine.settle()
        self.machine.client(bed.QUICK).close()

    def test_a_restart_with_a_broken_configuration_keeps_the_last_good_one_and_says_so(self):
        self.machine.path(bed.CONFIG).write_text("hostname: relay.test\nlistten: []\n")
        self.addCleanup(self.machine.configure)

        self.machine.run("systemctl", "restart", "pamrelay")

        self.machine.settle()
        self.assertRegex(self.machine.ask("systemctl", "status", "pamrelay").stdout, r"Status: .*broken.*pamrelay\.yaml:2:1")
        self.assertRegex(self.machine.log("pamrelay-activate"), r"(?s)listten.*accepted before stays in force")
        self.machine.client(bed.QUICK).close()

    def test_a_taken_port_fails_the_start_and_the_status_line_says_it_and_the_freed_one_is_taken(self):
        self.machine.run("systemctl", "stop", "pamrelay")
        with self.machine.network():
            other = socket.create_server(("0.0.0.0", SUBMISSION))
        try:
            failed = self.machine.ask("systemctl", "start", "pamrelay")
            said = self.machine.ask("systemctl", "status", "pamrelay").stdout
            front = self.machine.log("pamrelay-front")
        finally:
            other.close()

        self.assertNotEqual(failed.returncode, 0)
        self.assertEqual(self.machine.ask("systemctl", "is-active", "pamrelay").stdout.strip(), "failed")
        self.assertRegex(said, r"cannot listen on 0\.0\.0\.0:587")
        self.assertLess(len(front.splitlines()) - self.lines_before(front), 40)
        self.machine.run("systemctl", "start", "pamrelay")
        self.machine.settle()
        self.machine.client(bed.QUICK).close()

    def lines_before(self, log):
        """Lines of starts that this test did not make."""
        return log[:log.index("cannot listen")].count("\n")

    def test_a_relay_or_a_helper_typed_beside_the_units_is_refused_and_logins_go_on(self):
        before = self.machine.pids()

        run = self.machine.ask("pamrelay", "run", timeout=30)
        helper = self.machine.ask("/usr/libexec/pamrelay/pamrelay-auth", timeout=30)
        keys = self.machine.ask("pamrelay", "keys", timeout=30)

        self.assertEqual(run.returncode, 69, run.stdout)
        self.assertIn("units of systemd", run.stdout)
        self.assertNotEqual(helper.returncode, 0)
        self.assertIn("answers here already", helper.stdout)
        self.assertNotEqual(keys.returncode, 0)
        self.assertIn("answers at", keys.stdout)
        self.assertEqual(self.machine.pids(), before)
        self.machine.client(bed.QUICK).close()

    def test_a_restart_lets_an_upload_finish_and_takes_little_time_without_one(self):
        sink, subject = self.start_sink(), unique("over a restart")
        with self.machine.client(bed.QUICK) as client:
            client.says("MAIL FROM:<quick@relay.test>")
            client.says("RCPT TO:<someone@far.test>")
            client.says("DATA", "354")
            client.send(bed.letter(subject))
            restart = threading.Thread(target=self.machine.run, args=("systemctl", "restart", "pamrelay"))
            restart.start()
            bed.wait_for("the front end stops", lambda: "event=front_stopping" in self.machine.log("pamrelay-front"), 20, 0.1)
            client.send(b".\r\n")
            client.expects("250")
        restart.join(60)
        sink.wait_subject(subject)
        self.machine.settle()

        began = time.monotonic()
        self.machine.run("systemctl", "restart", "pamrelay")

        # Two seconds on a machine that does nothing else.
        print(f"restart without sessions: {time.monotonic() - began:.1f} s")
        self.assertLess(time.monotonic() - began, 8)

    def test_stop_ends_everything_and_start_brings_it_back(self):
        self.machine.run("systemctl", "stop", "pamrelay")

        self.assertEqual(self.machine.active(), set())
        self.assertNotIn("pamrelay", self.machine.commands())
        with self.machine.network():
            self.assertFalse(bed.listens(SUBMISSION) or bed.listens(SUBMISSIONS))
        self.assertEqual(self.machine.run("systemctl", "list-units", "--failed", "--no-legend", "pamrelay*"), "")
        self.machine.run("systemctl", "start", "pamrelay")
        self.machine.settle()
        self.machine.client(bed.QUICK).close()

    def test_restart_brings_every_role_back_and_keeps_the_queue(self):
        before, subject = self.machine.pids(), unique("kept over a restart")
        busy = self.start_sink(answer=lambda verb, line: "451 4.3.0 not now" if verb == "MAIL" else None)
        with self.machine.client(bed.QUICK) as client:
            client.mails(bed.letter(subject))
        busy.close()

        self.machine.run("systemctl", "restart", "pamrelay")

        self.machine.settle()
        self.assertEqual(changed(before, self.machine.pids()), set(bed.ROLES))
        self.start_sink().wait_subject(subject)
        self.machine.client(bed.QUICK).close()


def changed(before, after):
    return {role for role in bed.ROLES if before.get(role) != after.get(role)}
