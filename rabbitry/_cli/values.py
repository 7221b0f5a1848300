"""How values are written on the command line: durations, numbers, key=value pairs, and URLs with their passwords.

Everything refuses by ValueError with advice; nothing here shows a password.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]*)")
_SECONDS = {"ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_COUNTS = {"": 1, "k": 1000, "m": 10**6}


def parse_duration(text: str) -> float:
    """Seconds from `20`, `500ms`, `20s`, `10m`, `2h` or `1d`."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or match[2] not in _SECONDS:
        raise ValueError(f"{text!r} is no duration (write for example 20, 500ms, 20s, 10m, 2h)")
    return float(match[1]) * _SECONDS[match[2]]


def parse_count(text: str) -> int:
    """A whole number from `10000`, `10k` or `1m` (a million), at least 1."""
    number = parse_number(text)
    if number < 1:
        raise ValueError(f"{number} is less than 1")
    return number


def parse_number(text: str) -> int:
    """A whole number from `0`, `10000`, `10k` or `1m` (a million)."""
    match = re.fullmatch(r"([0-9]{1,12})([km]?)", text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no whole number (write for example 10000, 10k, 1m)")
    return int(match[1]) * _COUNTS[match[2]]


def parse_pairs(texts: Iterable[str], flag: str) -> dict[str, str]:
    """What several `--flag key=value` say together."""
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ValueError(f"{flag} {text!r}: write it as key=value")
        pairs[key] = value
    return pairs


def parse_value(text: str) -> Any:
    """What the text is as JSON (a number, true, false, null, "text", a list, an object), or else the text itself."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return text
    return text if isinstance(value, float) and not math.isfinite(value) else value


def _refuse_constant(_: str) -> Any:
    raise ValueError("AMQP carries no NaN and no infinity")


# --- URLs ---------------------------------------------------------------------------------------------------------

DEFAULT_URL = "amqp://guest:guest@localhost/"
"""What `rabbitry.connect` itself takes by default. It stands here, too, as `--help` does not wait for the client's
import; a test holds them equal.
"""


def with_vhost(url: str, vhost: str | None) -> str:
    """The URL with another virtual host; unchanged for None."""
    if vhost is None:
        return url
    if url.startswith("amqp+unix:"):
        raise ValueError("--vhost: the URL of a Unix socket names it itself, as in ?vhost=%2F")
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc, "/" + quote(vhost, safe=""), parts.query, parts.fragment))
    except ValueError:  # its text may have the password
        pass
    raise ValueError("the URL is malformed: amqp://user:password@host:port/vhost")


def redact(word: str) -> str:
    """A word of the command line without the password of a URL in it, well-formed or not."""
    before, at, after = word.rpartition("@")
    if "://" in before:
        start = before.index("://") + 3
    else:  # of `--url=user:password@host`, the flag is kept; a password may hold a "=", too
        start = before.find("=") + 1 if word.startswith("--") else 0
    user, colon, _ = before[start:].partition(":")
    return before[:start] + user + (":***" if colon else "") + at + after


def redact_in(text: str, words: Iterable[str]) -> str:
    """The text, in which those words may occur, without the passwords in them."""
    for word in words:
        if "@" in word:
            text = text.replace(repr(word)[1:-1], redact(word)).replace(word, redact(word))
    return text
