"""Who a client says it is: the user and the password in a SASL response, by mechanism. Functions only."""

from __future__ import annotations

from rabbitry._errors import RemoteProtocolError
from rabbitry.protocol.wire.tables import decode_table

__all__ = ["HEADERS", "MECHANISMS", "credentials"]

MECHANISMS = ("PLAIN", "AMQPLAIN")
"""What RabbitMQ offers by default. EXTERNAL comes with TLS, where the client's certificate says who it is."""

HEADERS = (b"AMQP\x00\x00\x09\x01", b"AMQP\x01\x01\x00\x09", b"AMQP\x01\x01\x08\x00", b"AMQP\x01\x01\x09\x01")
"""Protocol headers that are answered with connection.start: 0-9-1, and what older clients send who speak it."""


def credentials(mechanism: str, response: bytes) -> tuple[str, bytes] | None:
    """User name and password; None if the response is not one of this mechanism, or it has none of the kind."""
    if mechanism == "PLAIN":
        parts = response.split(b"\0")
        return (parts[1].decode("utf-8", "surrogateescape"), parts[2]) if len(parts) == 3 else None
    if mechanism == "AMQPLAIN":
        try:
            table, _ = decode_table(len(response).to_bytes(4, "big") + response)
        except RemoteProtocolError:
            return None
        login, password = table.get("LOGIN"), table.get("PASSWORD")
        if isinstance(login, str) and isinstance(password, str):
            return login, password.encode("utf-8", "surrogateescape")
        return None
    return None  # EXTERNAL has none: who the client is, its certificate says
