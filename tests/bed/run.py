"""`make run`: the real relay in the foreground, with a demo user and a place where mail arrives.

Runs inside enter.sh, on the machine's own network so that a mail client can reach it, on loopback only.
"""

import os
import shlex
import signal
import subprocess
import sys

import bed
import sink

DEMO_DIRECTORY = bed.ROOT / "target/bed/demo"

CONFIGURATION = """\
hostname: {hostname}
listen:
  - {{ address: "127.0.0.1:{starttls}", tls: starttls }}
  - {{ address: "127.0.0.1:{implicit}", tls: implicit }}
tls:
  directory: {certs}
  certificate: server.crt
  key: server.key
auth:
  service: smtp
routes:
  - domains: ["*"]
    smart_hosts:
      - {{ host: "127.0.0.1", port: {sink}, tls: none }}
"""


def ready_command():
    """What a person pastes into another terminal."""
    user, password = bed.DEMO
    message = r"From: demo@relay.test\nTo: you@far.test\nSubject: It works\n\nSent through pamrelay.\n"
    words = ["curl", "--silent", "--show-error", "--crlf", "--ssl-reqd", "--cacert", str(DEMO_DIRECTORY / "ca.crt"),
             "--url", f"smtp://127.0.0.1:{bed.STARTTLS}/client.test", "--user", f"{user}:{password}", "--mail-from", "demo@relay.test", "--mail-rcpt", "you@far.test",
             "--upload-file", "-"]
    return f"printf '{message}' | {shlex.join(words)}"


def arrived(message):
    print(f"\n>>> arrived: from <{message.sender}> to {', '.join(f'<{to}>' for to in message.recipients)}, "
          f"{len(message.data)} bytes\n>>> subject: {message.subject}\n", flush=True)


def publish_authority():
    """The test authority's certificate, where the user's own terminal can read it; the rest of the PKI stays private."""
    DEMO_DIRECTORY.mkdir(parents=True, exist_ok=True)
    target = DEMO_DIRECTORY / "ca.crt"
    target.write_bytes(open(bed.CA, "rb").read())
    target.chmod(0o644)


def main():
    for port in (bed.STARTTLS, bed.IMPLICIT):
        if bed.listens(port):
            print(f"port {port} on 127.0.0.1 is already in use", file=sys.stderr)
            return 1
    bed.make_pki()
    publish_authority()
    target = sink.Sink(0, on_message=arrived)
    bed.CONFIG.write_text(CONFIGURATION.format(hostname=bed.HOSTNAME, starttls=bed.STARTTLS, implicit=bed.IMPLICIT,
                                               certs=bed.CERTS, sink=target.port))

    # A session of its own: Ctrl-C reaches this program, which then stops the relay as a supervisor would.
    relay = subprocess.Popen([bed.PAMRELAY, "run", "--config", bed.CONFIG], stdin=subprocess.DEVNULL, start_new_session=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        bed.wait_for("the relay listens", lambda: relay.poll() is not None or bed.listens(bed.STARTTLS), 300)
        if relay.poll() is not None:
            return relay.returncode
        print(f"""
pamrelay runs: STARTTLS on 127.0.0.1:{bed.STARTTLS}, TLS on 127.0.0.1:{bed.IMPLICIT}.
User {bed.DEMO[0]}, password "{bed.DEMO[1]}". Whatever is sent arrives here and is shown. To send a message:

{ready_command()}

Its queue:  nsenter --target {host_pid()} --mount {bed.PAMRELAY} queue list
Ctrl-C ends everything.
""", flush=True)
        if os.environ.get("DEMO") == "1":
            subprocess.run(["sh", "-c", ready_command()], check=True)
        relay.wait()
    except KeyboardInterrupt:
        print("\nstopping ...", flush=True)
    finally:
        if relay.poll() is None:
            relay.terminate()
            relay.wait(15)
    print("stopped", flush=True)
    return relay.returncode


def host_pid():
    """This program's number as other terminals see it, the first of the numbers that nested namespaces give."""
    return os.environ.get("BED_OUTER_PID", os.getpid())


if __name__ == "__main__":
    sys.exit(main())
