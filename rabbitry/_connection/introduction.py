"""What a client says of itself as it connects: who it is, by SASL, and what it is, by its client properties.

What must stay true: no error that comes from here carries a user name, a password or a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rabbitry._later import Later
from rabbitry._secrets import Secret, unwatched
from rabbitry._values.address import Address
from rabbitry.protocol.wire.tables import encode_table

if TYPE_CHECKING:
    import platform
    from importlib import metadata
else:
    metadata, platform = Later("importlib.metadata"), Later("platform")

__all__ = ["mechanisms", "octets", "own_properties"]


def mechanisms(address: Address) -> list[tuple[str, Secret[bytes]]]:
    """The initial responses of the SASL mechanisms asked for, PLAIN unless the URI names others."""
    responses = unwatched(lambda: _responses(address.username, address.password.reveal()))
    wanted = [name.upper() for name in address.auth_mechanism] or ["PLAIN", "AMQPLAIN"]
    unknown = [name for name in wanted if name not in responses]
    if unknown:
        raise ValueError(f"no such authentication mechanism: {', '.join(unknown)}; there are {', '.join(responses)}")
    return [(name, responses[name]) for name in wanted]


def _responses(user: str, password: str) -> dict[str, Secret[bytes]]:
    return {
        "PLAIN": Secret(b"\0" + octets(user, "user name") + b"\0" + octets(password, "password")),
        # A table without its length (rabbit_auth_mechanism_amqplain).
        "AMQPLAIN": Secret(encode_table({"LOGIN": user, "PASSWORD": password})[4:]),
        "EXTERNAL": Secret(b""),
    }


def octets(text: str, what: str) -> bytes:
    """The text as it is sent. What is raised must not carry it, as a UnicodeError would."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise ValueError(f"the {what} has a NUL character, or one that UTF-8 can't represent")
    return encoded


@lru_cache(maxsize=1)
def own_properties() -> Mapping[str, Any]:
    """What the broker is told of this client, and the extensions it may use."""
    try:
        release = metadata.version("rabbitry")
    except metadata.PackageNotFoundError:
        release = "unknown"
    return {
        "product": "rabbitry",
        "version": release,
        "platform": f"{platform.python_implementation()} {platform.python_version()}",
        "information": "AMQP 0-9-1 for trio and asyncio",
        "capabilities": {
            "publisher_confirms": True,
            "exchange_exchange_bindings": True,
            "basic.nack": True,
            "consumer_cancel_notify": True,
            "connection.blocked": True,
            "authentication_failure_close": True,
        },
    }
