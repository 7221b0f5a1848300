"""Numbers and octets that AMQP 0-9-1 fixes, each with the section that fixes it.

Data only: no code, no imports but typing. "Specification" is the AMQP 0-9-1 specification, "errata" RabbitMQ's page of
corrections to it, "extensions" RabbitMQ's page of protocol extensions.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ACCESS_REFUSED",
    "BASIC_CLASS_ID",
    "CHANNEL_ERROR",
    "COMMAND_INVALID",
    "CONNECTION_FORCED",
    "CONTENT_TOO_LARGE",
    "FRAME_BODY",
    "FRAME_END",
    "FRAME_ERROR",
    "FRAME_HEADER",
    "FRAME_HEARTBEAT",
    "FRAME_MAX_SIZE",
    "FRAME_METHOD",
    "FRAME_MIN_SIZE",
    "FRAME_OVERHEAD",
    "INTERNAL_ERROR",
    "NOT_ALLOWED",
    "NOT_FOUND",
    "NOT_IMPLEMENTED",
    "NO_ROUTE",
    "PRECONDITION_FAILED",
    "PROTOCOL_HEADER",
    "REPLY_SUCCESS",
    "RESOURCE_ERROR",
    "SYNTAX_ERROR",
    "UNEXPECTED_FRAME",
]

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
"""What a client sends first: "AMQP", protocol id 0, version 0-9-1 (specification 4.2.2)."""

# --- frames (specification 4.2.3) ----------------------------------------------------------------------------------

FRAME_METHOD: Final = 1
FRAME_HEADER: Final = 2
FRAME_BODY: Final = 3
# The specification contradicts itself: 8 in the grammar of 4.2.1, 4 in the prose of 4.2.3. Everybody sends 8 (errata).
FRAME_HEARTBEAT: Final = 8

FRAME_END: Final = 0xCE
"""The last octet of every frame; anything else there means that the two sides lost step."""

FRAME_OVERHEAD: Final = 8
"""What a frame adds to its payload: the header and the frame end. `frame_max` counts it."""

FRAME_MIN_SIZE: Final = 4096
"""No peer may negotiate a smaller `frame_max`; frames sent before tuning must fit in it (specification 1.2, 4.2.3)."""

FRAME_MAX_SIZE: Final = 0xFFFFFFFF
"""The largest `frame_max` that can be said: connection.tune carries it as a long (specification 1.4.2.5)."""

BASIC_CLASS_ID: Final = 60
"""The only class whose methods carry content, and so the class id in every content header (specification 1.8)."""

# --- reply codes (specification 1.2, "constants") ------------------------------------------------------------------

REPLY_SUCCESS: Final = 200

# Soft errors: they end the channel.
CONTENT_TOO_LARGE: Final = 311
NO_ROUTE: Final = 312  # not in the specification's list of errors: the reply code of basic.return (extensions)
ACCESS_REFUSED: Final = 403
NOT_FOUND: Final = 404
PRECONDITION_FAILED: Final = 406

# Hard errors: they end the connection.
CONNECTION_FORCED: Final = 320
FRAME_ERROR: Final = 501
SYNTAX_ERROR: Final = 502
COMMAND_INVALID: Final = 503
CHANNEL_ERROR: Final = 504
UNEXPECTED_FRAME: Final = 505
RESOURCE_ERROR: Final = 506
NOT_ALLOWED: Final = 530
NOT_IMPLEMENTED: Final = 540
INTERNAL_ERROR: Final = 541
