"""`address_url`: the URL that an address given by keywords stands for, alone or beside a URL that leaves parts open.

What must stay true: nothing has to be escaped by whoever gives a part; a part that the URL has as well, and otherwise,
is refused; no message shows the password, nor what may be a part of it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypedDict

from rabbitry._later import Later
from rabbitry._secrets import Secret, unwatched
from rabbitry._values.address import DEFAULT_URL, parse_uri
from rabbitry._values.arguments import check_flag, whole

if TYPE_CHECKING:
    import ipaddress
    from urllib import parse as quoting
else:
    ipaddress = Later("ipaddress")
    quoting = Later("urllib.parse")

__all__ = ["AddressParts", "address_url"]


class AddressParts(TypedDict, total=False):
    """An address by its parts. None: not given."""

    host: str | None
    port: int | None
    user: str | None
    password: Secret[str] | None
    virtual_host: str | None
    tls: bool | None


def address_url(url: Secret[str], parts: AddressParts) -> Secret[str]:
    """The URL with these parts. `url.reveal() is DEFAULT_URL` where none was given: then the parts not given are the
    defaults of the URI specification.
    """
    given = {name: value for name, value in parts.items() if value is not None}
    if not given:
        return url
    _check(given)
    if url.reveal() is DEFAULT_URL:
        url = Secret("amqps://" if given.get("tls") else "amqp://")
    parse_uri(url)  # says what is wrong with it
    return unwatched(lambda: Secret(_with_parts(url.reveal(), given)))


def _with_parts(url: str, given: dict[str, Any]) -> str:
    match = re.fullmatch(_PARTS, url)
    assert match is not None
    scheme, credentials, host, port, path, query = match.groups(default="")
    is_tls = scheme.lower() == "amqps"
    if given.get("tls", is_tls) is not is_tls:
        raise _contradiction("tls", "the URL, whose scheme says it: amqps:// uses TLS, amqp:// does not")
    is_unix = scheme.lower() == "amqp+unix"
    if is_unix and ("host" in given or "port" in given):
        raise ValueError("a Unix socket has no host and no port: leave out host= and port=, or the URL")

    user, colon, password = credentials.partition(":")
    user = _merged("user", quoting.unquote(user), given.get("user"))
    secret = _merged("password", quoting.unquote(password) if colon else "", given.get("password"))
    if secret and not user:
        raise ValueError("a password is of a user: give user= as well")
    if given.get("user") and not (secret or colon):
        raise ValueError("a user has a password: give password= as well (or credentials= alone, or the URL)")
    location = ""
    if not is_unix:
        name = _merged("host", quoting.unquote(host.strip("[]")), given.get("host"), fold=True)
        number = _merged("port", port, str(given["port"]) if "port" in given else None)
        quoted = quoting.quote(name)
        location = (f"[{quoted}]" if ":" in name else quoted) + (f":{number}" if number else "")
    virtual_host = given.get("virtual_host")
    if virtual_host is not None and is_unix:
        found = re.search("(?:^|&)vhost=([^&]*)", query)
        _merged("virtual_host", quoting.unquote(found[1]) if found else "", virtual_host)
        if not found:
            query += ("&" if query else "") + f"vhost={quoting.quote(virtual_host, safe='')}"
    elif virtual_host is not None:
        of_url = "/" if path == "//" else quoting.unquote(path.removeprefix("/"))
        path = "/" + quoting.quote(_merged("virtual_host", of_url, virtual_host), safe="")
    who = ""
    if user:
        who = quoting.quote(user, safe="") + (f":{quoting.quote(secret, safe='')}@" if secret or colon else "@")
    return f"{scheme}://{who}{location}{path}" + (f"?{query}" if query else "")


_PARTS = r"([^:/?#]+)://(?:([^/?#@]*)@)?(\[[^]]*\]|[^:/?#]*)(?::([0-9]*))?(/[^?#]*)?(?:\?([^#]*))?"
"""Scheme, credentials, host, port, path and query of a URL that `parse_uri` has taken."""


def _merged(name: str, of_url: str, given: str | Secret[str] | None, *, fold: bool = False) -> str:
    """The part that one of them gives, or both alike; "" where neither does."""
    value = given.reveal() if isinstance(given, Secret) else given
    if value is None or not of_url:
        return value or of_url
    if (value.lower() != of_url.lower()) if fold else (value != of_url):
        raise _contradiction(name, "the URL, where it is another")
    return value


def _contradiction(name: str, what: str) -> ValueError:
    return ValueError(f"{name}= contradicts {what}: give it once, there or here")


# --- each by itself ---------------------------------------------------------------------------------------------------


def _check(given: dict[str, Any]) -> None:
    """Refuse what is no such part, and have a host without brackets."""
    for name in ("host", "user", "virtual_host"):
        if name in given:
            _check_text(name, given[name])
    if "password" in given:
        _check_password(given["password"])
    if "host" in given:
        given["host"] = _checked_host(given["host"])
    if "port" in given:
        given["port"] = whole(given["port"], "port", 1, 65535)
    if "tls" in given:
        check_flag("tls", given["tls"])
    if len(given.get("virtual_host", "").encode()) > 255:
        raise ValueError("the name of the virtual host is longer than 255 bytes")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} is text, not a {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} is not empty: leave it out for the default{_DEFAULTS.get(name, '')}")
    if "\0" in value or not _is_utf8(value):
        raise ValueError(f"{name} contains what can't be sent: a NUL, or half of a surrogate pair")


_DEFAULTS = {"host": ', "localhost"', "virtual_host": ', "/"', "user": ', "guest"'}


def _check_password(password: Secret[Any]) -> None:
    """Never shown, nor its length."""
    kind = type(password.reveal())
    if not issubclass(kind, str):
        raise TypeError(f"password is text, not a {kind.__name__}")
    if not password.reveal():
        raise ValueError("password is not empty: RabbitMQ refuses an empty one")
    if "\0" in password.reveal() or not _is_utf8(password.reveal()):
        raise ValueError("password contains what can't be sent: a NUL, or half of a surrogate pair")


def _checked_host(host: str) -> str:
    if host.startswith("[") or ":" in host:
        address = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        try:
            ipaddress.IPv6Address(address)
        except ipaddress.AddressValueError:
            raise ValueError(
                "host is a name or an IP address alone: a port is given by port=, and a URL instead of it all"
            ) from None
        return address
    if re.search(r"[\s\[\]/@?#%]", host):
        raise ValueError("the host contains a character that no host name has")
    return host


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeError:
        return False
    return True
