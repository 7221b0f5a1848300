"""Broker URLs as people write them: whether one is one, which virtual host it names, and what of it may be shown.

It owns what stands in a result instead of a URL with a password: a result is made to be passed on. What the parts of a
URL mean for a connection is the client library's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from urllib.parse import quote, unquote, urlsplit, urlunsplit

_DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}

_SECRETS = ("pass", "pwd", "secret", "token", "credential")
"""What a query's parameter has in its name if its value is one: of those that RabbitMQ knows, `password`."""
_NAME = re.compile(r"[?&;]([^?&;=]*)=")
_NEXT = re.compile(r"&(?=[\w%.-]+=[^=&])")
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://\S*?)([\"'`,.:;)\]]*(?=\s|$))")
"""A URL in a text, apart from the punctuation behind it."""


def is_amqp_url(url: str) -> bool:
    """Whether it is an ``amqp://`` or ``amqps://`` URL, with a port that can be one."""
    try:
        parts = urlsplit(url)
        return parts.scheme in _DEFAULT_PORTS and parts.port != 0
    except ValueError:  # a port that is none
        return False


def is_encrypted(url: str) -> bool:
    """Whether connections to it are TLS's."""
    return url.startswith("amqps")


def find_address(url: str) -> tuple[str, int | None]:
    """The host and the port that a URL leads to."""
    parts = urlsplit(url)
    return parts.hostname or "localhost", parts.port or _DEFAULT_PORTS.get(parts.scheme)


def is_loopback(url: str) -> bool:
    """Whether it certainly leads to this machine: by an address of it alone, or as `localhost`."""
    host = unquote(find_address(url)[0]).lower().removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or (
        isinstance(address, IPv6Address) and getattr(address.ipv4_mapped, "is_loopback", False)
    )


def with_vhost(url: str, vhost: str | None) -> str:
    """The URL with another virtual host; unchanged for None."""
    if vhost is None:
        return url
    scheme, location, _, query, fragment = urlsplit(url)
    rest = urlunsplit(("", "", "", query, fragment))
    return f"{scheme}://{location}/{quote(vhost, safe='')}{rest}"  # urlunsplit drops the // of no location


def redact(word: str) -> str:
    """A word of the command line without the secrets of a URL in it, well-formed or not: the password of its user, and
    what its query says of one.
    """
    word = _hide_parameters(word)
    before, at, after = word.rpartition("@")
    if not at:
        match = re.search(r"://(?:\[[^]]*\]|[^/?#:]*)(:[^/?#]*)", word)
        is_port = match is None or match[1][1:].isdecimal() or match[1] == ":"
        return word if match is None or is_port else word[: match.start(1)]  # of one without a host
    if "://" in before:
        start = before.index("://") + 3
    else:  # of `--url=user:password@host`, the flag is kept; a password may hold a "=", too
        start = before.find("=") + 1 if word.startswith("--") else 0
    return before[:start] + before[start:].partition(":")[0] + at + after


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
