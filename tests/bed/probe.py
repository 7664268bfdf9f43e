"""What a PAM module can do inside the helper's worker: pam_exec runs this there. Each try has a process of its own, because some are killed for it.

    probe.py RESULTS PID

RESULTS is a file that maps each try to `ok`, an error, or the signal that it died of. PID is a process of another role.
"""

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import sys

RESULTS, OTHER = sys.argv[1], int(sys.argv[2])
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUSER, ADDR_NO_RANDOMIZE, PTRACE_ATTACH = 0x20000, 0x10000000, 0x40000, 16


def call(name, *arguments):
    def attempt():
        if getattr(LIBC, name)(*arguments) == -1:
            raise OSError(ctypes.get_errno(), name)
    return attempt


def write(path):
    def attempt():
        with open(path, "w") as file:
            file.write("written by a module")
    return attempt


def read(path):
    def attempt():
        with open(path, "rb") as file:
            file.read(16)
    return attempt


def bind(port):
    return lambda: socket.socket().bind(("127.0.0.1", port))


def connect(path):
    return lambda: socket.socket(socket.AF_UNIX).connect(path)


def change(path, how):
    def attempt():
        write(path)()
        how(path)
    return attempt


TRIES = {
    # What modules are there for.
    "read /etc/shadow": read("/etc/shadow"),
    "read another's file": read("/home/ada/.second-factor"),
    "count": write("/run/faillock/nobody"),
    "write in its own /tmp": write("/tmp/module"),
    "use the network": bind(0),
    "find the name servers": read("/run/systemd/resolve/stub-resolv.conf"),
    "tell the journal": connect("/run/systemd/journal/stdout"),
    # Files.
    "write in /etc": write("/etc/module"),
    "write /etc/shadow": write("/etc/shadow"),
    "write in /usr": write("/usr/module"),
    "write in /home": write("/home/ada/module"),
    "write in /root": write("/root/module"),
    "write in /var": write("/var/lib/module"),
    "write in /run": write("/run/module"),
    "write a unit": write("/run/systemd/system/module.service"),
    "write the accepted configuration": write("/run/pamrelay/active/pamrelay.yaml"),
    "write a kernel setting": write("/proc/sys/kernel/domainname"),
    "write a cgroup": write("/sys/fs/cgroup/cgroup.procs"),
    "read a private key": read("/etc/pamrelay/certs/server.key"),
    "read the queue": read("/var/spool/pamrelay/queue.db"),
    "read the kernel's log": read("/dev/kmsg"),
    "make a set-user-id file": change("/tmp/suid", lambda path: os.chmod(path, 0o4755)),
    "give a file away": change("/tmp/given", lambda path: os.chown(path, 1000, 1000)),
    "make a device": lambda: os.mknod("/tmp/device", 0o20600, os.makedev(1, 1)),
    # Others.
    "ask systemd": connect("/run/systemd/private"),
    "ask D-Bus": connect("/run/dbus/system_bus_socket"),
    "read another's memory": read(f"/proc/{OTHER}/mem"),
    "end another": lambda: os.kill(OTHER, signal.SIGTERM),
    # Rights.
    "become a user": lambda: os.setuid(1000),
    "join a group": lambda: os.setgroups([1000]),
    "take a low port": bind(999),
    "run in real time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "lift its memory limit": lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)),
    "take a gigabyte": lambda: bytearray(1 << 30),
    "leave a core": lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20)),
    # Calls.
    "see packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "make a mount namespace": call("unshare", CLONE_NEWNS),
    "make a user namespace": call("unshare", CLONE_NEWUSER),
    "memory to write and run": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    "another personality": call("personality", ADDR_NO_RANDOMIZE),
    "mount": call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "change root": lambda: os.chroot("/tmp"),
    "trace": call("ptrace", PTRACE_ATTACH, OTHER, 0, 0),
    "open a file by its number": call("open_by_handle_at", -1, None, 0),
    "load a module": call("init_module", None, 0, b""),
    "rename the machine": lambda: socket.sethostname("other"),
}


def word_for(attempt):
    try:
        attempt()
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
    except (MemoryError, ValueError) as error:  # the second is how Python says that a limit cannot be lifted
        return type(error).__name__


def outcome(attempt):
    """In a child, which may be killed for it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, word_for(attempt).encode())
        os._exit(0)
    os.close(writing)
    word = os.read(reading, 100).decode()
    os.close(reading)
    _, status = os.waitpid(child, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else word


results = {name: outcome(attempt) for name, attempt in TRIES.items()}
with open(RESULTS, "w") as file:
    json.dump(results, file, indent=1)
