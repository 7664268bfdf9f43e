"""A machine of its own: a real systemd as its first process.

Its root is this machine's own /, read-only, under a layer in memory; its network is a loopback that nobody else has.
Runs only inside enter.sh with a layer that has systemd-nspawn. Invariant: nothing outlives `off`, or the bed.
systemd-nspawn cannot enforce MemoryMax= and TasksMax= where this machine keeps those controllers from it.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
from pathlib import Path

import bed

SOURCE = "/source"  # the project, as the machine sees it
CALLS_NSPAWN_HIDES = "landlock_create_ruleset landlock_add_rule landlock_restrict_self @memlock"
POWER_OFF = signal.SIGRTMIN + 4  # systemd(1)
CLONE_NEWNET = 0x40000000
JOURNAL = "[Journal]\nStorage=volatile\nForwardToConsole=yes\nMaxLevelConsole=debug\n"
LIBC = ctypes.CDLL(None, use_errno=True)


class Machine:
    """`binds` are directories of the bed that the machine has in the same places."""

    def __init__(self, binds=()):
        self.binds = binds
        self.directory = Path(os.environ["BED_PRIVATE"]) / "machine"
        self.root = self.directory / "root"
        self.console = Path(os.environ["BED_PRIVATE"]) / "tmp/relay.log"  # what is shown when a test fails
        self.cgroup = Path("/sys/fs/cgroup") / f"pamrelay-{os.environ['BED_OUTER_PID']}"
        self.nspawn = self.leader = None

    def __enter__(self):
        self.make()
        return self

    def __exit__(self, *_):
        self.off()
        subprocess.run(["umount", self.root], check=True)
        shutil.rmtree(self.directory)

    # Power.

    def make(self):
        """The root file system: nothing of this machine's own services, disks and names is left in it."""
        upper, work = self.directory / "upper", self.directory / "work"
        for part in (upper, work, self.root):
            part.mkdir(parents=True)
        self.console.write_bytes(b"")
        # Copied: an overlay takes no layer that lies below another.
        subprocess.run(["cp", "-a", *(Path(os.environ["BED_LAYER"]) / part for part in ("usr", "etc")), upper], check=True)
        subprocess.run(["mount", "-t", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", "machine", self.root], check=True)
        etc = self.root / "etc"
        for part in (etc / "systemd/system", *etc.glob("rc?.d")):
            shutil.rmtree(part, ignore_errors=True)
        (etc / "systemd/system").mkdir()
        for name, text in {"fstab": "", "machine-id": "", "hostname": "relay\n", "resolv.conf": "nameserver 127.0.0.1\n",
                           "hosts": f"127.0.0.1 localhost {bed.HOSTNAME}\n", "systemd/journald.conf": JOURNAL}.items():
            (etc / name).unlink(missing_ok=True)
            (etc / name).write_text(text)
        if "messagebus:" not in (etc / "passwd").read_text():  # which dbus would make when it is installed
            subprocess.run(["chroot", self.root, "useradd", "--system", "--no-create-home", "messagebus"], check=True)
        (self.root / SOURCE[1:]).mkdir()

    def boot(self):
        """Until systemd says that all is started."""
        self.claim_cgroup()
        console = open(self.console, "ab")
        self.nspawn = subprocess.Popen(
            ["systemd-nspawn", f"--directory={self.root}", "--boot", "--machine=relay", "--register=no", "--keep-unit", "--private-network",
             "--console=read-only", "--link-journal=no", "--resolv-conf=off", f"--bind-ro={bed.ROOT}:{SOURCE}:norbind",
             *(f"--bind={place}" for place in self.binds), f"--system-call-filter={CALLS_NSPAWN_HIDES}"],
            stdin=subprocess.DEVNULL, stdout=console, stderr=console, preexec_fn=lambda: (self.cgroup / "cgroup.procs").write_text("0"),
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"})
        self.leader = bed.wait_for("the machine has a first process", self.first_process)
        # Degraded: a service of this machine's own, which does not concern us, did not start there.
        up = lambda: self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded")
        bed.wait_for("the machine is up", up, 60, 0.1)

    def first_process(self):
        if self.nspawn.poll() is not None:
            raise AssertionError(f"systemd-nspawn ended with {self.nspawn.returncode}:\n{self.console.read_text()}")
        return next((pid for pid in bed.children(self.nspawn.pid) if bed.command_line(pid)[0].endswith(("systemd", "init"))), None)

    def off(self):
        if self.nspawn is None:
            return
        if self.leader:
            os.kill(self.leader, POWER_OFF)
        try:
            self.nspawn.wait(30)
        finally:
            if self.nspawn.poll() is None:
                os.kill(self.leader or self.nspawn.pid, signal.SIGKILL)
                self.nspawn.wait()
            self.nspawn = self.leader = None
            for directory, *_ in os.walk(self.cgroup, topdown=False):
                os.rmdir(directory)

    def claim_cgroup(self):
        """systemd-nspawn makes its groups where it is itself; and of whatever this machine mounts there it shall see the one hierarchy."""
        if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
            subprocess.run(["mount", "-t", "cgroup2", "cgroup", "/sys/fs/cgroup"], check=True)
        self.cgroup.mkdir()

    # Commands and files.

    def run(self, *words, check=True, input=None, timeout=60):
        """What a command prints that root types there."""
        done = self.ask(*words, input=input, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, words))}: {done.returncode}\n{done.stdout}")
        return done.stdout

    def ask(self, *words, input=None, timeout=60):
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8",
                       "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
        more = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run([*self.spaces(), *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=timeout, **more)

    def spaces(self):
        return ["nsenter", f"--target={self.leader}", "--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wd"]

    def shell(self, script, **more):
        return self.run("sh", "-euc", script, **more)

    def path(self, name):
        """A file there, from here."""
        return Path(f"/proc/{self.leader}/root") / str(name).lstrip("/")

    def commands(self):
        """The command of everything that runs there."""
        return "\n".join(" ".join(bed.command_line(pid)) for pid in bed.family(self.leader))

    # The network.

    @contextlib.contextmanager
    def network(self):
        """Sockets made inside are the machine's."""
        with open("/proc/thread-self/ns/net") as here, open(f"/proc/{self.leader}/ns/net") as there:
            enter(there)
            try:
                yield
            finally:
                enter(here)


def enter(namespace):
    if LIBC.setns(namespace.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
