"""Broker URLs as people write them: whether one is one, which virtual host it names, and what of it may be shown.

It owns what stands in a result instead of a URL with a password: a result is made to be passed on. What the parts of a
URL mean for a connection is the client library's business.
"""

from __future__ import annotations

from urllib.parse import quote, urlsplit, urlunsplit

_DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}


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


def with_vhost(url: str, vhost: str | None) -> str:
    """The URL with another virtual host; unchanged for None."""
    if vhost is None:
        return url
    scheme, location, _, query, fragment = urlsplit(url)
    return urlunsplit((scheme, location, "/" + quote(vhost, safe=""), query, fragment))


def redact(word: str) -> str:
    """A word of the command line without the password of a URL in it, well-formed or not."""
    before, at, after = word.rpartition("@")
    if "://" in before:
        start = before.index("://") + 3
    else:  # of `--url=user:password@host`, the flag is kept; a password may hold a "=", too
        start = before.find("=") + 1 if word.startswith("--") else 0
    return before[:start] + before[start:].partition(":")[0] + at + after
