"""What requests and replies carry beside their payload: the caller's deadline, the way back, how a handler failed.

What must stay true: all of it comes from a peer, so what has another type or range than it should counts as not there;
an exception crosses the wire as text only. Where a message's headers can't be decoded, its address still can.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from traceback import format_exception
from typing import Any

from rabbitry._errors import RemoteError
from rabbitry._values.durations import LONGEST_MS
from rabbitry._values.message import Message
from rabbitry.protocol.client.content import Content
from rabbitry.protocol.wire.properties import Properties, decode_properties

__all__ = [
    "DIRECT",
    "REPLY_EXCHANGE_HEADER",
    "REQUEST_HEADERS",
    "address_of",
    "check_clock_skew",
    "deadline_headers",
    "error_reply",
    "is_error",
    "remote_error",
    "reply_exchange",
    "time_left",
]

DIRECT = "amq.rabbitmq.reply-to"
"""The pseudo-queue of RabbitMQ's direct reply-to, and what the addresses made from it begin with."""

REMAINING_HEADER = "x-rabbitry-remaining"
"""On a request whose caller has a deadline: the milliseconds it had left when it sent it."""
DEADLINE_HEADER = "x-rabbitry-deadline"
"""The deadline of that caller as a moment: milliseconds since 1970, UTC, by the caller's clock."""
REPLY_EXCHANGE_HEADER = "x-rabbitry-reply-exchange"
"""On a request whose reply goes to an exchange other than the default one: its name. `reply_to` is the routing key."""
REQUEST_HEADERS = frozenset((REMAINING_HEADER, DEADLINE_HEADER, REPLY_EXCHANGE_HEADER))
"""The headers that are one request's alone: where it is passed on they are left out."""
ERROR_HEADER = "x-rabbitry-error"
"""On a reply whose handler raised: the exception's type name. The body is its text, or JSON with "text" and
"traceback".
"""

TRACEBACK_SENT = 65536
"""Characters of a traceback that are sent, its last ones."""


# --- deadlines --------------------------------------------------------------------------------------------------------


def deadline_headers(remaining: float) -> tuple[str, dict[str, Any]]:
    """What tells a server of the seconds that are left: the `expiration` property, and headers."""
    milliseconds = LONGEST_MS if remaining * 1000 >= LONGEST_MS else math.ceil(remaining * 1000)
    deadline = int(time.time() * 1000) + milliseconds
    return str(milliseconds), {REMAINING_HEADER: milliseconds, DEADLINE_HEADER: deadline}


def time_left(headers: Mapping[str, Any], waited: float, clock_skew: float | None) -> float | None:
    """Seconds that a request has left which arrived `waited` seconds ago; None if its caller has no deadline.

    That is the caller's remaining time from the arrival, or less by its deadline, where the clocks are taken to agree
    within `clock_skew` seconds: a request that comes from the future shows that they don't.
    """
    remaining, deadline = headers.get(REMAINING_HEADER), headers.get(DEADLINE_HEADER)
    if type(remaining) is not int:
        return None
    left = remaining / 1000 - waited
    if type(deadline) is int and clock_skew is not None:
        by_clock = deadline / 1000 - time.time()
        if by_clock <= left + clock_skew:
            left = min(left, by_clock + clock_skew)
    return left


def check_clock_skew(clock_skew: float | None) -> None:
    """Refuse what is no bound for how far clocks are apart."""
    if clock_skew is not None and not 0 <= clock_skew < math.inf:
        raise ValueError(f"clock_skew is a number of seconds from 0 on, or None, not {clock_skew!r}")


# --- addresses --------------------------------------------------------------------------------------------------------


def reply_exchange(headers: Mapping[str, Any]) -> str:
    """The exchange that the reply is published to; "" where none, or no valid one, is named."""
    exchange = headers.get(REPLY_EXCHANGE_HEADER)
    return exchange if isinstance(exchange, str) and len(exchange.encode("utf-8", "replace")) <= 255 else ""


def address_of(content: Content) -> Properties | None:
    """The properties of a message whose headers can't be decoded, without them; None if the rest can't, either."""
    header = content._header
    if type(header) is not bytes:
        return None
    with suppress(Exception):
        flags = int.from_bytes(header[:2], "big")
        at = 2
        for flag in (_CONTENT_TYPE, _CONTENT_ENCODING):
            if flags & flag:
                at += 1 + header[at]
        if flags & _HEADERS:
            rest = at + 4 + int.from_bytes(header[at : at + 4], "big")
            return decode_properties((flags & ~_HEADERS).to_bytes(2, "big") + header[2:at] + header[rest:])
    return None


# The first three property flags (specification 4.2.6.1: from the high bit down, in the order of the properties).
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS = 1 << 15, 1 << 14, 1 << 13


# --- errors -----------------------------------------------------------------------------------------------------------


def error_reply(error: BaseException, properties: Mapping[str, Any], *, send_traceback: bool) -> Message:
    """What tells a caller that the handler raised."""
    try:
        text = str(error)
    except Exception as unprintable:
        text = f"(its text can't be had: {type(unprintable).__name__})"
    headers = {ERROR_HEADER: type(error).__name__}
    if send_traceback:
        traceback = "".join(format_exception(error))[-TRACEBACK_SENT:]
        body, kind = json.dumps({"text": text, "traceback": traceback}), "application/json"
    else:
        body, kind = text, "text/plain"
    return Message(body.encode("utf-8", "replace"), content_type=kind, headers=headers, **properties)


def is_error(reply: Message) -> bool:
    """Whether `error_reply` made it."""
    return reply.headers is not None and ERROR_HEADER in reply.headers


def remote_error(body: bytes, properties: Properties) -> RemoteError | None:
    """The error that a reply tells of, if it does."""
    if not properties.headers or ERROR_HEADER not in properties.headers:
        return None
    type_name, text = str(properties.headers[ERROR_HEADER]), body.decode("utf-8", "replace")
    if properties.content_type == "application/json":
        with suppress(ValueError, RecursionError, KeyError, TypeError):
            told = json.loads(body)
            return RemoteError(type_name, str(told["text"]), str(told["traceback"]))
    return RemoteError(type_name, text)
