"""What `ProtocolConnection.receive_data` reports: one small class per kind of event.

A received message is its own event: an instance of the `delivery_type` the connection was given. Tokens are whatever
the caller handed in with the action an event answers; the protocol never looks into them. Events name a channel by its
number: what is needed of it to act on them, they carry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rabbitry._errors import RabbitryError

__all__ = [
    "Blocked",
    "ChannelEnded",
    "Confirmed",
    "ConnectionEnded",
    "ConsumerCancelledByBroker",
    "Event",
    "Failed",
    "Opened",
    "Recovered",
    "Replied",
    "Returned",
    "TooLarge",
    "Unblocked",
]


class Opened:
    """The handshake is done: the connection is ready for channels."""

    __slots__ = ()


class Replied:
    """A request was answered; `reply` is the broker's method, or a `Content` for a get that found a message."""

    __slots__ = ("reply", "token")

    def __init__(self, token: Any, reply: Any) -> None:
        self.token: Any = token
        self.reply: Any = reply


class Failed:
    """The request of this token came to nothing, by `error`, and not by what its channel's other requests learn."""

    __slots__ = ("error", "token")

    def __init__(self, token: Any, error: RabbitryError) -> None:
        self.token: Any = token
        self.error: RabbitryError = error


class Confirmed:
    """The broker settled publishes: accepted them (`acked`) or refused them."""

    __slots__ = ("acked", "tokens")

    def __init__(self, tokens: list[Any], acked: bool) -> None:
        self.tokens: list[Any] = tokens
        self.acked: bool = acked


class Returned:
    """A mandatory message reached no queue. `token` is its publish's, None if it could not be matched to one: then it
    is `on_return`'s, where the channel has one. `content` is an instance of the connection's `delivery_type`.
    """

    __slots__ = ("code", "content", "on_return", "text", "token")

    def __init__(
        self, on_return: Callable[[int, str, Any], None] | None, token: Any, code: int, text: str, content: Any
    ) -> None:
        self.on_return: Callable[[int, str, Any], None] | None = on_return
        self.token: Any = token
        self.code: int = code
        self.text: str = text
        self.content: Any = content


class TooLarge:
    """A delivery of `size` bytes whose body is larger than `max_message_size`, or whose properties are than may be:
    `content` is an instance of the connection's `delivery_type` without the body.
    """

    __slots__ = ("content", "size")

    def __init__(self, content: Any, size: int) -> None:
        self.content: Any = content
        self.size: int = size


class ConsumerCancelledByBroker:
    """basic.cancel from the broker: no more deliveries for this consumer."""

    __slots__ = ("token",)

    def __init__(self, token: Any) -> None:
        self.token: Any = token


class Blocked:
    """connection.blocked: the broker reads nothing more from a connection that publishes, until `Unblocked`."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason: str = reason


class Unblocked:
    """connection.unblocked."""

    __slots__ = ()


class Recovered:
    """basic.recover took effect on channel `number`: what its consumers, whose tokens these are, still hold will be
    delivered again.
    """

    __slots__ = ("consumers", "number")

    def __init__(self, number: int, consumers: list[Any]) -> None:
        self.number: int = number
        self.consumers: list[Any] = consumers


class ChannelEnded:
    """Channel `number` is over. `waiting` are the tokens of unanswered requests, `consumers` those of its consumers,
    `unknown` of publishes that may have arrived, `unsent` of publishes whose frames never left. It `is_alone` unless
    other channels with publishes ended with it.
    """

    __slots__ = ("consumers", "error", "is_alone", "number", "unknown", "unsent", "waiting")

    def __init__(
        self,
        number: int,
        error: RabbitryError,
        waiting: list[Any],
        consumers: list[Any],
        unknown: list[Any],
        unsent: list[Any],
        is_alone: bool = True,
    ) -> None:
        self.number: int = number
        self.error: RabbitryError = error
        self.waiting: list[Any] = waiting
        self.consumers: list[Any] = consumers
        self.unknown: list[Any] = unknown
        self.unsent: list[Any] = unsent
        self.is_alone: bool = is_alone


class ConnectionEnded:
    """The connection is over; a `ChannelEnded` for each of its channels came before.

    `waiting` are the tokens of requests on the connection itself that were not answered.
    """

    __slots__ = ("error", "waiting")

    def __init__(self, error: RabbitryError, waiting: list[Any]) -> None:
        self.error: RabbitryError = error
        self.waiting: list[Any] = waiting


Event = (
    Opened
    | Replied
    | Failed
    | Confirmed
    | Returned
    | TooLarge
    | ConsumerCancelledByBroker
    | Blocked
    | Unblocked
    | Recovered
    | ChannelEnded
    | ConnectionEnded
)
