"""TLS for the libraries that take Python's own `ssl.SSLContext`: one reading of a URL for all of them.

The options are those of RabbitMQ's URIs, as rabbitry takes them: `cacertfile`, `certfile`, `keyfile`, `password`,
`verify`, `server_name_indication`. A library gets them as a context, and the URL without them.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_OPTIONS = ("cacertfile", "certfile", "keyfile", "password", "verify", "server_name_indication")


@dataclass(frozen=True, slots=True)
class Target:
    """A broker's URL, and how to encrypt the connection to it."""

    url: str
    context: ssl.SSLContext | None
    """None for a connection without TLS."""
    server_name: str | None
    """What the certificate must be made out to."""


@lru_cache(maxsize=64)
def read_target(url: str) -> Target:
    """What a URL asks for. OSError or ValueError if its files can't be used; one context serves all connections."""
    scheme, location, path, query, _ = urlsplit(url)
    if scheme != "amqps":
        return Target(url, None, None)
    pairs = parse_qsl(query)
    asked = {name: value for name, value in pairs if name in _OPTIONS}
    rest = urlencode([(name, value) for name, value in pairs if name not in _OPTIONS])
    context = ssl.create_default_context(cafile=asked.get("cacertfile"))
    if asked.get("verify") == "verify_none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if "certfile" in asked:
        context.load_cert_chain(asked["certfile"], asked.get("keyfile"), asked.get("password", ""))
    name = asked.get("server_name_indication") or urlsplit(url).hostname
    return Target(urlunsplit((scheme, location, path, rest, "")), context, name)
