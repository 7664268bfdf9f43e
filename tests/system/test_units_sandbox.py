"""What the units leave to each role, seen from inside: by the kernel's account of the processes, and by a PAM module that tries."""

import json
import re
import subprocess

import bed
from machine import SOURCE
from support import WithMachine

READ_SEARCH, LOW_PORT, CHANGE_ROOT = 1 << 2, 1 << 10, 1 << 18  # linux/capability.h
RESULTS = "/run/pamrelay/probe"
MODULE = """\
auth required pam_exec.so quiet {program}
auth required pam_unix.so nodelay
account required pam_unix.so
"""
# What comes of each try of tests/bed/probe.py.
OUTCOMES = {
    "ok": ["read /etc/shadow", "read another's file", "count", "write in its own /tmp", "use the network", "find the name servers",
           "tell the journal"],
    "EROFS": ["write in /etc", "write /etc/shadow", "write in /usr", "write in /home", "write in /root", "write in /var", "write in /run",
              "write the accepted configuration", "write a kernel setting", "write a cgroup"],
    "ENOENT": ["read a private key", "read the queue", "read the kernel's log", "write a unit", "ask systemd", "ask D-Bus"],
    "EACCES": ["take a low port", "read another's memory"],
    "EPERM": ["make a set-user-id file", "give a file away", "make a device", "end another", "become a user", "join a group",
              "run in real time", "make a mount namespace", "make a user namespace", "memory to write and run", "another personality"],
    "EAFNOSUPPORT": ["see packets"],
    "SIGSYS": ["mount", "change root", "trace", "open a file by its number", "load a module", "rename the machine"],
    "MemoryError": ["take a gigabyte"],
    "ValueError": ["lift its memory limit", "leave a core"],
}
PLACES = ["/etc", "/usr", "/boot", "/home", "/root", "/srv", "/var/lib", "/var/lib/pamrelay/auth", "/var/spool/pamrelay", "/etc/pamrelay/certs", "/run", "/run/faillock",
          "/run/faillock-smtp", "/run/pamrelay", "/run/pamrelay/active", "/run/pamrelay/jail", "/run/pamrelay/queue"]
MAY_WRITE = {"front": set(), "keys": set(), "queue": {"/var/spool/pamrelay", "/run/pamrelay/queue"}, 
             "auth": {"/var/lib/pamrelay/auth", "/run/faillock", "/run/faillock-smtp", "/run/pamrelay"}}
MAY_SEE = {"front": set(), "keys": {"/etc/pamrelay/certs"}, "queue": {"/var/spool/pamrelay"}, "auth": set()}


class TheUnitsFromInside(WithMachine):
    maxDiff = None

    def test_a_module_can_do_what_modules_are_for_and_nothing_else(self):
        wanted = {attempt: outcome for outcome, attempts in OUTCOMES.items() for attempt in attempts}

        self.assertEqual(self.what_a_module_can_do(), wanted)

        # NIS, the documented extra.
        self.assertEqual(self.what_a_module_can_do(low_ports="yes"), {**wanted, "take a low port": "ok"})

    def what_a_module_can_do(self, **auth):
        self.machine.shell("""
            install -o ada -g ada -m 600 /dev/null /home/ada/.second-factor
            install -d /run/systemd/resolve # as systemd-resolved has it; /etc/resolv.conf is often a link to this file
            install -m 644 /etc/resolv.conf /run/systemd/resolve/stub-resolv.conf
        """)
        keys = self.machine.show("MainPID", "pamrelay-keys")[0]
        self.machine.pam("tries", MODULE.format(program=f"/usr/bin/python3 {SOURCE}/tests/bed/probe.py {RESULTS} {keys}"))
        self.reload(auth={"service": "tries", **auth})
        # Since the helper started systemd has made its socket anew, as after an update of systemd.
        self.machine.run("systemctl", "daemon-reexec")

        self.assertRegex(self.machine.answer_to(*bed.QUICK), "^235 ")

        return json.loads(self.machine.path(RESULTS).read_text())

    def test_each_role_writes_and_sees_only_what_is_its_own(self):
        for role, pid in self.machine.pids().items():
            with self.subTest(role=role):
                self.assertEqual(self.places(pid, 'touch "$place/written" && rm "$place/written"'), MAY_WRITE[role])
                seen = self.places(pid, 'test -n "$(ls -A "$place")"')
                self.assertEqual(seen & {"/etc/pamrelay/certs", "/var/spool/pamrelay"}, MAY_SEE[role])

    def places(self, pid, condition):
        """Those for which a command succeeds that has all rights, and the role's view of the files."""
        script = f"for place in {' '.join(PLACES)}; do if {condition}; then echo $place; fi; done"
        done = subprocess.run(["nsenter", f"--target={pid}", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True, check=True)
        return set(done.stdout.split())

    def test_the_helper_has_one_capability_and_a_filter_in_all_its_processes(self):
        self.machine.pam("hangs", MODULE.format(program="/bin/sleep 600"))
        for low_ports, kept in (("no", READ_SEARCH), ("yes", READ_SEARCH | LOW_PORT)):
            self.reload(auth={"service": "hangs", "low_ports": low_ports, "deadline": "5s"})
            processes = self.processes_of_the_helper()

            # The last is the module's own child, a program that root may run.
            self.assertEqual(set(processes), {"pamrelay-auth", "auth-template", "auth-worker", "sleep"})
            for kind, pid in processes.items():
                with self.subTest(kind=kind, low_ports=low_ports):
                    # The listener has it for those that it starts, and does not use it.
                    used = 0 if kind == "pamrelay-auth" else kept
                    self.confined(pid, "root", used, permitted=kept, bound=kept)

    def processes_of_the_helper(self):
        """One of each kind, while a module hangs."""
        client = self.machine.client()
        self.addCleanup(client.close)
        client.send(bed.auth_plain(*bed.QUICK) + "\r\n")
        kinds = lambda: {name: pid for pid, name in self.machine.processes("auth").items()}
        bed.wait_for("a worker waits for a module", lambda: "sleep" in kinds())
        return kinds()

    def test_the_other_roles_have_no_right_that_they_do_not_use(self):
        pids = self.machine.pids()
        self.confined(pids["front"], "pamrelay", 0, permitted=0, bound=LOW_PORT | CHANGE_ROOT)
        self.confined(pids["queue"], "pamrelay-queue", 0, permitted=0, bound=0)
        self.confined(pids["keys"], "pamrelay-keys", READ_SEARCH, permitted=READ_SEARCH, bound=READ_SEARCH)

    def test_replaced_files_are_read_again_by_a_process_that_is_as_closed_as_the_queue(self):
        self.addCleanup(self.machine.shell, "mv -f /etc/hosts.before /etc/hosts")
        queue = self.machine.pids()["queue"]
        [reader] = set(self.machine.processes("queue")) - {queue}
        self.confined(reader, "pamrelay-queue", 0, permitted=0, bound=0)

        self.machine.shell("cp -a /etc/hosts /etc/hosts.before; (cat /etc/hosts; echo 192.0.2.1 replaced.test) >/etc/hosts.new; mv /etc/hosts.new /etc/hosts")

        told = lambda: "event=read_again role=queue file=/etc/hosts" in self.machine.log("pamrelay-queue")
        bed.wait_for("the queue has read /etc/hosts again", told)
        self.assertEqual(self.machine.pids()["queue"], queue)

    def confined(self, pid, user, used, permitted, bound):
        status = bed.status(pid)
        capabilities = {name: int(status[f"Cap{name}"], 16) for name in ("Eff", "Prm", "Bnd", "Inh", "Amb")}
        self.assertEqual(capabilities, {"Eff": used, "Prm": permitted, "Bnd": bound, "Inh": 0, "Amb": 0})
        self.assertEqual((status["NoNewPrivs"], status["Seccomp"]), ("1", "2"))
        self.assertEqual(status["Uid"].split(), [self.machine.run("id", "-u", user).strip()] * 4)

    def test_systemd_has_the_bounds_for_the_helper_as_a_whole(self):
        # As loaded: in systemd-nspawn the kernel's controllers that would enforce the first two are out of reach.
        for name, wanted in (("TasksMax", "512"), ("MemoryMax", str(2 << 30)), ("OOMPolicy", "continue")):
            self.assertEqual(self.machine.show(name, "pamrelay-auth"), [wanted], name)

    def test_the_running_roles_are_as_closed_as_their_files_say(self):
        # One table for both: tests/units.rs asks systemd about the files, this about what it has loaded.
        table = re.findall(r'\("(pamrelay-\w+\.service)", "(\d+)"\)', (bed.ROOT / "tests/units.rs").read_text())
        self.assertEqual(len(table), len(bed.ROLES))
        for unit, threshold in table:
            with self.subTest(unit=unit):
                self.machine.run("systemd-analyze", "security", "--no-pager", f"--threshold={threshold}", unit)
