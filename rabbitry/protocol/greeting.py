"""What else may answer on a port that should speak AMQP, told by its first bytes."""

from __future__ import annotations

__all__ = ["shown", "what_answered"]

BYTES_SHOWN = 60


def shown(data: bytes) -> str:
    """The beginning of `data`, for a message."""
    more = "…" if len(data) > BYTES_SHOWN else ""
    return f"{bytes(data[:BYTES_SHOWN])!r}{more}"


def what_answered(data: bytes) -> str:
    """The first bytes of something that is no AMQP server, and a guess at what it is."""
    guess = ""
    if data[:5] == b"HTTP/":
        guess = " (an HTTP server: the management port is not the AMQP port)"
    elif data[:1] in (b"\x15", b"\x16") and data[1:2] == b"\x03":
        guess = " (a TLS server: use amqps://)"
    return f"it began with {shown(data)}{guess}"
