"""What requests and replies carry beside their payload: the caller's deadline, the way back, how a handler failed.

What must stay true: all of it comes from a peer, so what has another type or range than it should counts as not there;
an exception crosses the wire as text only. Where a message's headers can't be decoded, its address still can.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping
from contextlib import suppress
from traceback import format_exception
from typing import Any

from rabbitry._channel.delivery import Delivery
from rabbitry._concurrency.clock import monotonic, wall_time
from rabbitry._errors import DecodeError, RabbitryError, RemoteError, text_of
from rabbitry._values.durations import LONGEST_MS
from rabbitry._values.message import Message
from rabbitry.protocol.client.content import Content
from rabbitry.protocol.wire.properties import Properties, decode_all_but_headers

__all__ = [
    "DIRECT",
    "DIRECT_PREFIX",
    "REPLY_EXCHANGE_HEADER",
    "REQUEST_HEADERS",
    "Request",
    "address_of",
    "check_clock_skew",
    "deadline_headers",
    "error_reply",
    "is_error",
    "read_request",
    "remote_error",
    "time_left",
]

DIRECT = "amq.rabbitmq.reply-to"
"""The pseudo-queue of RabbitMQ's direct reply-to."""
DIRECT_PREFIX = "amq.rabbitmq.reply-to."
"""What the addresses made from it begin with."""

REMAINING_HEADER = "x-rabbitry-remaining"
"""On a request whose caller has a deadline: the milliseconds it had left when it sent it."""
DEADLINE_HEADER = "x-rabbitry-deadline"
"""The deadline of that caller as a moment: milliseconds since 1970, UTC, by the caller's clock."""
REPLY_EXCHANGE_HEADER = "x-rabbitry-reply-exchange"
"""On a request whose reply goes to an exchange other than the default one, where the server has named it, too: its
name. `reply_to` is the routing key.
"""
REQUEST_HEADERS = frozenset((REMAINING_HEADER, DEADLINE_HEADER, REPLY_EXCHANGE_HEADER))
"""The headers that are one request's alone: where it is passed on they are left out."""
ERROR_HEADER = "x-rabbitry-error"
"""On a reply whose handler raised: the exception's type name. The body is its text, or JSON with "text" and
"traceback".
"""

TRACEBACK_SENT = 65536
"""Characters of a traceback that are sent, its last ones."""


# --- requests ---------------------------------------------------------------------------------------------------------


class Request:
    """What a request says, read once. `expires_at` is by the monotonic clock, None where its caller has no deadline;
    `key` is where its reply goes ("" for nowhere) and which of the replies there it is.

    `unreadable` is why its headers can't be decoded: then what they would say counts as not there, and `properties` has
    the others alone.
    """

    __slots__ = ("delivery", "expires_at", "key", "properties", "reply_exchange", "unreadable")

    def __init__(self, delivery: Delivery, properties: Properties, unreadable: DecodeError | None) -> None:
        self.delivery = delivery
        self.properties = properties
        self.unreadable = unreadable
        self.key = properties.reply_to or "", properties.correlation_id or ""
        self.reply_exchange = ""
        self.expires_at: float | None = None


def read_request(
    delivery: Delivery, arrived: float, clock_skew: float | None, exchanges: Container[str] = ()
) -> Request:
    """The request that `arrived` (monotonic), whose reply may go to one of these `exchanges`. Raises `DecodeError`
    where not even its address can be read.
    """
    try:
        request = Request(delivery, delivery.properties, None)
    except DecodeError as error:
        address = address_of(delivery)
        if address is None:
            raise
        request = Request(delivery, address, error)
    headers = request.properties.headers
    if headers:
        if exchanges:
            request.reply_exchange = _reply_exchange(headers, exchanges)
        now = monotonic()
        left = time_left(headers, now - arrived, clock_skew)
        request.expires_at = None if left is None else now + left
    return request


# --- deadlines --------------------------------------------------------------------------------------------------------


def deadline_headers(remaining: float) -> tuple[str, dict[str, Any]]:
    """What tells a server of the seconds that are left: the `expiration` property, and headers."""
    milliseconds = LONGEST_MS if remaining * 1000 >= LONGEST_MS else math.ceil(remaining * 1000)
    deadline = int(wall_time() * 1000) + milliseconds
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
        by_clock = deadline / 1000 - wall_time()
        if by_clock <= left + clock_skew:
            left = min(left, by_clock + clock_skew)
    return left


def check_clock_skew(clock_skew: float | None) -> None:
    """Refuse what is no bound for how far clocks are apart."""
    if clock_skew is not None and not 0 <= clock_skew < math.inf:
        raise ValueError(f"clock_skew is a number of seconds from 0 on, or None, not {clock_skew!r}")


# --- addresses --------------------------------------------------------------------------------------------------------


def _reply_exchange(headers: Mapping[str, Any], exchanges: Container[str]) -> str:
    """The exchange that the reply is published to; "" where none of these is named."""
    exchange = headers.get(REPLY_EXCHANGE_HEADER)
    return exchange if isinstance(exchange, str) and exchange in exchanges else ""


def address_of(content: Content) -> Properties | None:
    """The properties of a message whose headers can't be decoded, without them; None if the rest can't, either."""
    header = content._header
    if type(header) is not bytes:
        return None
    with suppress(RabbitryError):
        return decode_all_but_headers(header)
    return None


# --- errors -----------------------------------------------------------------------------------------------------------


def error_reply(error: BaseException, correlation_id: str | None, *, send_traceback: bool) -> Message:
    """The reply that tells a caller that the handler raised."""
    text = text_of(error)
    headers = {ERROR_HEADER: type(error).__name__}
    if send_traceback:
        traceback = "".join(format_exception(error))[-TRACEBACK_SENT:]
        body, kind = json.dumps({"text": text, "traceback": traceback}), "application/json"
    else:
        body, kind = text, "text/plain"
    return Message(
        body.encode("utf-8", "replace"),
        content_type=kind,
        headers=headers,
        correlation_id=correlation_id,
        delivery_mode=1,
    )


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
