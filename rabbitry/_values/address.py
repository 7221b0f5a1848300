"""Broker URIs: `parse_uri` makes an `Address` of RabbitMQ's "URI specification" and "URI query parameters".

What must stay true: whatever is wrong with a URI is a `ValueError` that says what, and never shows a part that may be
the password, which an unescaped `/`, `?`, `#` or `@` can carry to any place. Opens nothing and reads no file.

    amqp://user:password@host:5672/virtual%20host?heartbeat=30
    amqps://host/?cacertfile=/etc/ca.pem          TLS, port 5671
    amqp+unix:///run/rabbitmq.sock?vhost=%2F      a Unix domain socket

Absent parts take the defaults of the specification: guest, guest, localhost. One deviation, which every Python client
shares: an empty path, `amqp://host/`, is the virtual host "/" and not the one named "". A `+` is a plus.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rabbitry._later import Later
from rabbitry._secrets import Secret, unwatched
from rabbitry._values.query import TLS_PARAMETERS, decode, parse_query

if TYPE_CHECKING:
    import ipaddress
else:
    ipaddress = Later("ipaddress")

__all__ = ["DEFAULT_URL", "Address", "parse_uri"]

DEFAULT_URL = "amqp://guest:guest@localhost/"
"""The broker on this machine as it is when installed."""
_GUEST = Secret("guest")
DEFAULT_PORT = 5672
DEFAULT_TLS_PORT = 5671


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a broker is, who connects, and what the URI's query asks for (None: it says nothing)."""

    scheme: str
    """"amqp", "amqps" or "amqp+unix"."""
    host: str
    """A name or an IP address, IPv6 without brackets; "" with `unix_path`."""
    port: int
    """0 with `unix_path`."""
    unix_path: str | None = None
    username: str = "guest"
    password: Secret[str] = _GUEST
    virtual_host: str = "/"
    tls: bool = False

    heartbeat: int | None = None
    """Seconds, 0 for none."""
    connection_timeout: float | None = None
    """Seconds (milliseconds in the URI)."""
    channel_max: int | None = None
    frame_max: int | None = None
    auth_mechanism: tuple[str, ...] = ()
    """Names in the order given; the parameter may be repeated."""
    name: str | None = None
    """How the connection is called in the management interface; `name` or `connection_name` in the URI."""

    cacertfile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    key_password: Secret[str] | None = None
    """What opens the key file; `password` in the URI's query."""
    verify: bool | None = None
    """Whether the broker's certificate is verified; `verify_peer` or `verify_none` in the URI."""
    fail_if_no_peer_cert: bool | None = None
    server_name_indication: str | None = None
    """The name the certificate must have; "disable" for none."""
    depth: int | None = None
    """The longest chain of certificates."""


def parse_uri(uri: str | Secret[str]) -> Address:
    """The address a URI stands for. `ValueError` says what is wrong with it, without the password."""
    hidden = uri if isinstance(uri, Secret) else Secret(uri)
    del uri
    return unwatched(lambda: _parse(hidden.reveal()))


def _parse(uri: str) -> Address:
    if not isinstance(uri, str):
        raise ValueError(f"a broker's URI must be a str, not {type(uri).__name__}")
    if re.search(r"[\x00-\x20\x7f]", uri):
        raise ValueError("the URI contains white space or control characters; write them as %20 and so on")
    match = re.fullmatch(_URI, uri)
    if match is None or match["scheme"].lower() not in _SCHEMES:
        raise ValueError(f"a broker's URI begins with {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
    scheme, query = match["scheme"].lower(), match["query"] or ""
    # What an unescaped password leaves behind; read on, it would make part of the password a host or a virtual host.
    if match["fragment"] is not None or "@" in match["path"] + query:
        raise ValueError(
            "the URI has a '#', or an '@' behind the host: in user name, password, virtual host and query "
            "'#' is written %23, '@' %40, '/' %2F, '?' %3F and ':' %3A (or given by user=, password=, as it is)"
        )
    credentials, _, location = match["authority"].rpartition("@")
    arguments = parse_query(query)
    arguments.pop("locale", None)
    if arguments.pop("ssl", scheme == "amqps") != (scheme == "amqps"):
        raise ValueError("query parameter ssl is not what the scheme says: amqps:// uses TLS, amqp:// does not")
    virtual_host = arguments.pop("vhost", None)
    if scheme == "amqp+unix":
        host, port = "", 0
        if location:
            raise ValueError("a Unix socket has no host: three slashes, amqp+unix:///path/to/socket")
        unix_path = decode(match["path"], "path of the socket")
        if unix_path in ("", "/"):
            raise ValueError("the path of the socket is missing: amqp+unix:///path/to/socket")
    else:
        if virtual_host is not None:
            raise ValueError("the virtual host is the path here: amqp://host/name; vhost= is for amqp+unix")
        host, port = _parse_location(location, DEFAULT_TLS_PORT if scheme == "amqps" else DEFAULT_PORT)
        unix_path = None
        virtual_host = _parse_virtual_host(match["path"])
    if scheme != "amqps" and not TLS_PARAMETERS.isdisjoint(arguments):
        raise ValueError(f"{', '.join(sorted(TLS_PARAMETERS & arguments.keys()))}: only amqps:// uses TLS")
    if "@" in match["authority"]:
        arguments |= _parse_credentials(credentials)
    return Address(
        scheme=scheme,
        host=host,
        port=port,
        unix_path=unix_path,
        virtual_host=_checked_virtual_host(virtual_host or "/"),
        tls=scheme == "amqps",
        **arguments,
    )


_SCHEMES = ("amqp", "amqps", "amqp+unix")

# RFC 3986, appendix B, with the authority required.
_URI = r"(?P<scheme>[^:/?#]+)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?"


def _parse_credentials(text: str) -> dict[str, str | Secret[str]]:
    username, colon, password = text.partition(":")
    username, password = decode(username, "user name"), decode(password, "password")
    if "\0" in username + password:
        raise ValueError("neither user name nor password may contain %00")
    return {"username": username} | ({"password": Secret(password)} if colon else {})


def _parse_location(text: str, default_port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(?P<host>\[[^]]*\]|[^:]*)(?::(?P<port>[^:]*))?", text)
    if match is None:
        raise ValueError("the URI has too many colons: an IPv6 address stands in brackets, as in amqp://[::1]:5672/")
    host, port = match["host"], match["port"]
    if host.startswith("["):
        host = decode(host[1:-1], "host")
        try:
            ipaddress.IPv6Address(host)
        except ipaddress.AddressValueError:
            raise ValueError("there is no IPv6 address between the brackets") from None
    else:
        host = decode(host, "host") or "localhost"
        if re.search(r"[\s\[\]/@:]", host):
            raise ValueError("the host contains a character that no host name has")
    if not port:
        return host, default_port
    # Not shown: "user:pass/word@host" makes the beginning of the password the port.
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError("the port must be a number from 1 to 65535; a '/' in a password is written %2F")
    return host, int(port)


def _parse_virtual_host(path: str) -> str:
    name = path.removeprefix("/")
    if name == "/":
        return name  # as kombu writes the virtual host "/"
    if "/" in name:
        raise ValueError("the virtual host contains a '/'; write it as %2F, or leave the path empty for \"/\"")
    return decode(name, "virtual host")


def _checked_virtual_host(name: str) -> str:
    if len(name.encode()) > 255:
        raise ValueError("the name of the virtual host is longer than 255 bytes")
    return name
