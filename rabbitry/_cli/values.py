"""How values are written on the command line: durations, numbers, key=value pairs, and URLs with their passwords.

Everything refuses by ValueError with advice; nothing here shows a password.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

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
_SECRETS = ("pass", "pwd", "secret", "token", "credential")
"""What a query's parameter has in its name if its value is one: of those that RabbitMQ knows, `password`."""
_NAME = re.compile(r"[?&;]([^?&;=]*)=")
_NEXT = re.compile(r"&(?=[\w%.-]+=[^=&])")
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://\S*?)([\"'`,.:;)\]]*(?=\s|$))")
"""A URL in a text, apart from the punctuation behind it."""


def with_vhost(url: str, vhost: str | None) -> str:
    """The URL with another virtual host; unchanged for None."""
    if vhost is None:
        return url
    if url.startswith("amqp+unix:"):
        raise ValueError("--vhost: the URL of a Unix socket names it itself, as in ?vhost=%2F")
    try:
        scheme, location, _, query, fragment = urlsplit(url)
        if scheme:
            rest = urlunsplit(("", "", "", query, fragment))
            return f"{scheme}://{location}/{quote(vhost, safe='')}{rest}"  # urlunsplit drops the // of no location
    except ValueError:  # its text may have the password
        pass
    raise ValueError("the URL is malformed: amqp://user:password@host:port/vhost")


def redact(word: str) -> str:
    """A word of the command line without the secrets of a URL in it, well-formed or not: the password of its user, and
    what its query says of one.
    """
    word = _hide_parameters(word)
    before, at, after = word.rpartition("@")
    if not at:
        match = re.search(r"://(?:\[[^]]*\]|[^/?#:]*)(:[^/?#]*)", word)
        is_port = match is None or match[1][1:].isdecimal() or match[1] == ":"
        return word if match is None or is_port else word[: match.start(1)] + ":***"  # of one without a host
    if "://" in before:
        start = before.index("://") + 3
    else:  # of `--url=user:password@host`, the flag is kept; a password may hold a "=", too
        start = before.find("=") + 1 if word.startswith("--") else 0
    user, colon, _ = before[start:].partition(":")
    return before[:start] + user + (":***" if colon else "") + at + after


def _hide_parameters(word: str) -> str:
    """The word without the values of a query's secret parameters, wherever in it the query begins. A value ends with
    the next parameter, as an unescaped "#", ";" or "&" may be a part of it.
    """
    place = 0
    while match := _NAME.search(word, place):
        place = match.end()
        name = unquote(unquote(match[1])).lower()
        if any(part in name for part in _SECRETS):
            following = _NEXT.search(word, place)
            word = word[:place] + "***" + (word[following.start() :] if following else "")
    return word


def redact_in(text: str, words: Iterable[str] = ()) -> str:
    """The text, in which those words and other URLs may occur, without the secrets in them."""
    parts = {part for word in words for part in (word, word.partition("=")[2])}
    for part in sorted(filter(None, parts), key=len, reverse=True):
        if (clean := redact(part)) != part:
            text = text.replace(repr(part)[1:-1], clean).replace(part, clean)
    return _URL.sub(lambda match: redact(match[1]) + match[2], text)
