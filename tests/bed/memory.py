"""Looks for a secret in the memory of other processes and in files: six encodings, whole or in part.

A process is read as the kernel shows it to root (/proc/PID/mem), writable memory only: what was never written is the
program itself. What is looked for is cut into pieces of sixteen octets, so that a copy that lost its beginning or its end is
found too: surely if 31 octets in a row are left of it, and by luck if sixteen are.
"""

import base64
import secrets
import string
from pathlib import Path

from bed import children, command_line

PAGE = 4096
PIECE = 16  # octets; chance alone does not make them
LENGTH = 64


class Secret:
    """A long random password, whose it is, and in which test it is used."""

    def __init__(self, user, label):
        self.user, self.label = user, label
        self.password = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(LENGTH))

    def encodings(self):
        password = self.password.encode()
        message = b"\0" + self.user.encode() + b"\0" + password
        # Only what the password has a part in: the name may be remembered.
        before = (len(message) - len(password) + 2) // 3 * 4
        return {
            "plain": password,
            "base64 as in PLAIN": base64.b64encode(message)[before:],
            "base64 as in LOGIN": base64.b64encode(password),
            "UTF-16": self.password.encode("utf-16-le"),
            "hexadecimal": password.hex().encode(),
            "reversed": password[::-1],
        }

    def pieces(self):
        for encoding, text in self.encodings().items():
            for start in range(0, len(text) - PIECE + 1, PIECE):
                yield encoding, text[start:start + PIECE]

    def found_in(self, octets):
        """The encodings of which a piece is there."""
        return {encoding for encoding, piece in self.pieces() if piece in octets}


def descendants(pid):
    """The process and all below it, each with a word or two for what it is."""
    found = {pid: name_of(pid)}
    for child in children(pid):
        found.update(descendants(child))
    return found


def name_of(pid):
    try:
        called = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        called = "gone"
    # The template and its workers differ in this name alone; the others in the second word of the command.
    if called in ("auth-template", "auth-worker"):
        return called
    return " ".join(word.rsplit("/", 1)[-1] for word in command_line(pid)[:2]).strip() or called


def written(pid):
    """What has ever been written to the memory of a process: its writable pages but those of zeros alone."""
    for attempt in range(5):
        try:
            return b"".join(pages(pid))
        except OSError:
            # A part was given back between the list and the reading of it: the list is read again.
            if attempt == 4:
                raise


def pages(pid):
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            place, rights = line.split()[:2]
            if not rights.startswith("rw"):
                continue
            start, end = (int(number, 16) for number in place.split("-"))
            memory.seek(start)
            while start < end:
                part = memory.read(min(end - start, 1 << 20))
                if not part:
                    raise OSError(f"{line.strip()} cannot be read")
                start += len(part)
                if part.count(0) != len(part):
                    yield from (part[at:at + PAGE] for at in range(0, len(part), PAGE) if any(part[at:at + PAGE]))


def in_processes(pids, wanted):
    """Sentences: which secret is in which process, in which encoding."""
    found = []
    for pid, name in pids.items():
        try:
            octets = written(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        if not octets:
            raise AssertionError(f"nothing can be read of {name} ({pid})")
        found += sentences(f"the memory of {name} ({pid})", octets, wanted)
    return found


def in_files(places, wanted):
    """The same for files, and for all files in directories."""
    found = []
    for place in map(Path, places):
        for path in [place] if place.is_file() else place.rglob("*"):
            if path.is_file():
                found += sentences(str(path), path.read_bytes(), wanted)
    return found


def sentences(where, octets, wanted):
    return [f"{secret.label}: {encoding} in {where}" for secret in wanted for encoding in sorted(secret.found_in(octets))]
