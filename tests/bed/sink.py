"""A small SMTP server that keeps what it is given: the far end of the relay in tests and in `make run`.

Invariant: a message counts as received only after its `250` was written, and it is kept exactly as it came
(dots unstuffed, CRLF as sent).
"""

import contextlib
import re
import socket
import socketserver
import threading
import time
from dataclasses import dataclass, field


@dataclass
class Message:
    sender: str
    recipients: list
    data: bytes
    mail_line: str = ""
    rcpt_lines: list = field(default_factory=list)
    received_at: float = 0.0

    def header(self, name):
        """The first field of this name, unfolded, or None."""
        head = self.data.partition(b"\r\n\r\n")[0].decode("utf-8", "replace")
        found = re.search(rf"^{re.escape(name)}:[ \t]*(.*(?:\r\n[ \t].*)*)", head, re.I | re.M)
        return re.sub(r"\r\n[ \t]+", " ", found.group(1)).rstrip("\r") if found else None

    @property
    def subject(self):
        return self.header("Subject")

    def from_line(self, start):
        """The message from the first line that begins with `start`: what lies above it was added on the way."""
        at = 0 if self.data.startswith(start) else self.data.find(b"\r\n" + start) + 2
        return self.data[at:] if at != 1 else None


class Sink:
    """Listens from the moment it is made; port 0 takes a free one. `answer(verb, line)` may return another reply than the usual, or
    `HANG_UP`; `EXTENSIONS` may be changed for one sink, also to what it cannot do."""

    HANG_UP = "(hangs up)"
    EXTENSIONS = ("PIPELINING", "8BITMIME", "SIZE 104857600", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")

    def __init__(self, port, host="127.0.0.1", answer=None, on_message=None):
        self.messages = []
        self.connections = 0
        self.answer = answer or (lambda verb, line: None)
        self.on_message = on_message or (lambda message: None)
        self._changed = threading.Condition()
        self._open = set()
        sink = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                sink._open.add(self.connection)
                try:
                    sink._converse(self)
                except OSError:
                    pass
                sink._open.discard(self.connection)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 128
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        self._server = Server((host, port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self):
        """Ends its conversations too: a relay that keeps one open must not go on with a sink that is gone."""
        self._server.shutdown()
        self._server.server_close()
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _converse(self, handler):
        reader, connection = handler.rfile, handler.connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections += 1

        def say(text):
            connection.sendall(text.encode() + b"\r\n")

        say(self.answer("CONNECT", "") or "220 sink.test ESMTP")
        sender = mail_line = None
        recipients, rcpt_lines = [], []
        while line := reader.readline(65536):
            line = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
            verb = line.split(" ")[0].split(":")[0].upper()
            special = self.answer(verb, line)
            if special == self.HANG_UP:
                return
            if special:
                say(special)
                if special.startswith("421"):
                    return
                continue
            if verb == "EHLO":
                names = ("sink.test",) + self.EXTENSIONS
                say("\r\n".join(f"250{'-' if n < len(names) else ' '}{name}" for n, name in enumerate(names, 1)))
            elif verb == "HELO":
                say("250 sink.test")
            elif verb == "MAIL":
                sender, mail_line = path_of(line), line
                recipients, rcpt_lines = [], []
                say("250 2.1.0 sender noted")
            elif verb == "RCPT":
                recipients.append(path_of(line))
                rcpt_lines.append(line)
                say("250 2.1.5 recipient noted")
            elif verb == "DATA":
                if sender is None or not recipients:
                    say("503 5.5.1 MAIL and RCPT first")
                    continue
                say("354 go on")
                data = read_data(reader)
                if data is None:
                    return
                special = self.answer("END", "")
                if special:
                    say(special)
                    sender = None
                    continue
                message = Message(sender, recipients, data, mail_line, rcpt_lines, time.monotonic())
                with self._changed:
                    self.messages.append(message)
                    self._changed.notify_all()
                say("250 2.0.0 kept")
                self.on_message(message)
                sender, recipients, rcpt_lines = None, [], []
            elif verb == "QUIT":
                say("221 2.0.0 bye")
                return
            elif verb in ("RSET", "NOOP"):
                if verb == "RSET":
                    sender, recipients, rcpt_lines = None, [], []
                say("250 2.0.0 ok")
            else:
                say("502 5.5.2 not here")

    def wait(self, count=1, timeout=15, where=lambda message: True):
        """The messages that satisfy `where`, once there are `count` of them; fails when they do not come."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                found = [message for message in self.messages if where(message)]
                if len(found) >= count:
                    return found
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"{len(found)} of {count} messages came within {timeout} s")
                self._changed.wait(left)

    def wait_subject(self, subject, timeout=15):
        return self.wait(1, timeout, lambda message: message.subject == subject)[0]


def path_of(line):
    found = re.search(r"<(.*?)>", line)
    return found.group(1) if found else ""


def read_data(reader):
    """Up to the lone dot, unstuffed; None if the connection ended first."""
    lines = []
    while True:
        line = reader.readline()
        if not line:
            return None
        if line == b".\r\n" and (not lines or lines[-1].endswith(b"\r\n")):
            return b"".join(lines)
        if line.startswith(b".") and (not lines or lines[-1].endswith(b"\r\n")):
            line = line[1:]
        lines.append(line)
