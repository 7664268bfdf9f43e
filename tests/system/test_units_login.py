"""The helper at work inside its own unit: password files of both families, modules that count, and modules that hang."""

import os
import shutil
import stat
import threading
import time

import bed
from installed import AGED, GONE
from support import WithMachine, unique

WORKERS, SLOW_WORKERS = 2, 24  # the second is the helper's own default: pamrelay-auth(8)
COUNTS = """\
auth required pam_faillock.so preauth silent deny=3
auth sufficient pam_unix.so nodelay
auth [default=die] pam_faillock.so authfail deny=3
account required pam_unix.so
"""
HANGS_FOR_ADA = """\
auth [success=ignore default=1] pam_succeed_if.so quiet user = ada
auth required pam_exec.so quiet /bin/sleep 600
auth required pam_unix.so nodelay
account required pam_unix.so
"""
# As Fedora and its relatives ship it, but for modules that Debian does not have.
PASSWORD_AUTH = """\
auth required pam_env.so
auth required pam_faildelay.so delay=2000000
auth sufficient pam_unix.so nullok
auth required pam_deny.so
account required pam_unix.so
"""


class TheHelperInItsUnit(WithMachine):
    def test_a_user_with_a_yescrypt_password_logs_in_and_the_message_is_queued_and_sent(self):
        sink, subject = self.start_sink(), unique("from inside the unit")

        with self.machine.client(bed.ADA) as client:
            client.mails(bed.letter(subject))

        sink.wait_subject(subject)
        self.assertIn("$y$", self.machine.run("getent", "shadow", "ada"))
        login = self.machine.logins("ada")[-1]
        self.assertEqual((login["verdict"], login["account"]), ("accept", "ada"))
        self.assertIn("user=ada", self.machine.log("pamrelay-queue"))

    def test_a_wrong_password_is_refused_and_one_that_is_right_but_of_no_use_is_told_so(self):
        self.assertRegex(self.machine.answer_to("ada", "not it"), "^535 5.7.8 ")
        self.assertRegex(self.machine.answer_to(*GONE), "^535 5.7.13 ")
        self.assertRegex(self.machine.answer_to(*AGED), "^535 5.7.8 .*(?i:chang|expire)")

    def test_pamrelay_auth_test_says_what_a_client_would_hear(self):
        right = self.machine.ask("pamrelay", "auth", "test", "ada", input=bed.ADA[1] + "\n")
        wrong = self.machine.ask("pamrelay", "auth", "test", "ada", input="not it\n")

        self.assertEqual((right.returncode, wrong.returncode), (0, 1), right.stdout + wrong.stdout)

    def shadow(self, mode, group):
        """The modes of another family, for this test alone."""
        path = self.machine.path("/etc/shadow")
        before = path.stat()
        self.addCleanup(os.chmod, path, stat.S_IMODE(before.st_mode))
        self.addCleanup(os.chown, path, before.st_uid, before.st_gid)
        self.machine.run("chown", f"root:{group}", "/etc/shadow")
        path.chmod(mode)

    def test_the_password_file_may_have_debians_modes_red_hats_or_stricter_ones(self):
        for mode, group in ((0o640, "shadow"), (0o000, "root"), (0o600, "root"), (0o400, "root")):
            with self.subTest(mode=oct(mode), group=group):
                self.shadow(mode, group)

                self.assertRegex(self.machine.answer_to(*bed.ADA), "^235 ")
                self.assertRegex(self.machine.answer_to("ada", f"not it {mode}"), "^535 5.7.8 ")
                self.assertRegex(self.machine.answer_to(*GONE), "^535 5.7.13 ")

    def test_red_hats_service_works_with_red_hats_modes(self):
        self.machine.pam("password-auth", PASSWORD_AUTH)
        self.machine.pam("redhat", (bed.ROOT / "pam.d/redhat/smtp").read_text())
        self.shadow(0o000, "root")
        self.reload(auth={"service": "redhat"})

        self.assertRegex(self.machine.answer_to(*bed.ADA), "^235 ")
        self.assertRegex(self.machine.answer_to("ada", "not it either"), "^535 5.7.8 ")
        self.assertRegex(self.machine.answer_to("nobody-here", "not it"), "^535 5.7.8 ")

    def test_the_recipe_with_faillock_counts_and_locks_and_faillock_releases(self):
        self.machine.pam("counts", (bed.ROOT / "pam.d/recipes/faillock").read_text())
        shutil.copy(bed.ROOT / "pam.d/etc/faillock-smtp.conf", self.machine.path("/etc/security"))
        counts, faillock = self.machine.path("/run/faillock-smtp/quick"), ["faillock", "--dir", "/run/faillock-smtp", "--user", "quick"]
        self.reload(auth={"service": "counts"})

        for number in range(3):
            self.assertRegex(self.machine.answer_to("quick", f"not {number}"), "^535 5.7.8 ")

        self.assertEqual(self.machine.run(*faillock).count(" V\n"), 3)
        # As many as lock, which pamrelay's own limits let nobody reach over mail.
        counts.write_bytes(counts.read_bytes() * 4)
        self.assertRegex(self.machine.answer_to(*bed.QUICK), "^535 5.7.8 ")
        self.assertIn("locked", self.machine.log())
        self.machine.run(*faillock, "--reset")
        # A right password that was refused for the lock is known as refused.
        self.machine.run("pamrelay", "auth", "release", "quick")
        self.assertRegex(self.machine.answer_to(*bed.QUICK), "^235 ")

    def test_faillock_counts_where_another_service_made_the_file(self):
        self.machine.pam("counts", COUNTS)
        self.reload(auth={"service": "counts"})
        # As sshd with all of root's rights leaves it: the user's own, and of root's group.
        self.machine.run("install", "-o", "ada", "-g", "root", "-m", "660", "/dev/null", "/run/faillock/ada")

        self.assertRegex(self.machine.answer_to("ada", "not it"), "^535 5.7.8 ")

        self.assertEqual(self.machine.run("faillock", "--user", "ada").count(" V\n"), 1)
        self.machine.run("faillock", "--user", "ada", "--reset")

    def test_hung_workers_are_few_and_gone_after_the_deadline_and_others_log_in_meanwhile(self):
        self.machine.pam("hangs", HANGS_FOR_ADA)
        self.reload(auth={"service": "hangs", "workers": WORKERS, "deadline": "4s"})
        self.machine.client(bed.QUICK).close()  # from now on no stranger here
        clients = [self.machine.client() for _ in range(WORKERS + SLOW_WORKERS + 14)]
        for client in clients:
            self.addCleanup(client.close)
            client.send(bed.auth_plain(*bed.ADA) + "\r\n")
        most, enough = [], threading.Event()
        watcher = threading.Thread(target=self.count_workers, args=(most, enough))
        watcher.start()
        self.addCleanup(watcher.join)
        self.addCleanup(enough.set)

        bed.wait_for("workers hang", lambda: most and max(most) > WORKERS)
        began = time.monotonic()
        self.machine.client(bed.QUICK).close()
        self.assertLess(time.monotonic() - began, 3)
        answers = [client.reply()[:9] for client in clients]

        enough.set()
        watcher.join()
        self.assertEqual(set(answers), {"454 4.7.0"})
        self.assertLessEqual(max(most), WORKERS + SLOW_WORKERS)
        bed.wait_for("workers and what they started are gone", lambda: self.kinds() == ["auth-template", "pamrelay-auth"], 5, 0.1)
        self.assertGreaterEqual(len([line for line in self.machine.logins("ada") if line.get("reason") == "deadline"]), WORKERS)

    def count_workers(self, most, enough):
        while not enough.wait(0.05):
            most.append(self.kinds().count("auth-worker"))

    def kinds(self):
        return sorted(self.machine.processes("auth").values())
