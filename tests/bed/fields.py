"""Lines of pamrelay's log as dicts of their fields, and those about logins among them."""

import re

_FIELD = re.compile(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|(\S*))')
_ESCAPE = re.compile(r"\\(?:u\{([0-9a-f]+)\}|x([0-9a-f]{2})|(.))")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "0": "\0"}


def fields(line):
    """`event=login user="a\\"b" ms=3` is {"event": "login", "user": 'a"b', "ms": "3"}."""
    return {name: _plain(quoted) if bare is None else bare for name, quoted, bare in _found(line)}


def logins(log, user=None):
    """The helper's lines about logins in a log: of everybody, or those in which this name was typed."""
    found = [line for line in map(fields, log.splitlines()) if line.get("event") == "login" and line.get("role") == "auth"]
    return [line for line in found if user is None or line.get("user") == user]


def _found(line):
    for match in _FIELD.finditer(line):
        yield match.groups()


def _plain(text):
    def character(match):
        number = match[1] or match[2]
        return chr(int(number, 16)) if number else _LETTERS.get(match[3], match[3])

    return _ESCAPE.sub(character, text)
