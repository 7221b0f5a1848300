"""What `Connection.receive_data` reports: one small class per kind of event.

A received message is its own event: an instance of the `delivery_type` the connection was given. Tokens are whatever
the caller handed in with the action an event answers; the protocol never looks into them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rabbitry._errors import RabbitryError

if TYPE_CHECKING:
    from rabbitry.protocol.client.channel import ProtocolChannel
    from rabbitry.protocol.client.content import Content

__all__ = [
    "Blocked",
    "ChannelEnded",
    "Confirmed",
    "ConnectionEnded",
    "ConsumerCancelledByBroker",
    "Event",
    "Opened",
    "Recovered",
    "Replied",
    "Returned",
    "Unblocked",
]


class Opened:
    """The handshake is done: the connection is ready for channels."""

    __slots__ = ()


class Replied:
    """A request was answered; `reply` is the broker's method, or a `Content` for a get that found a message."""

    __slots__ = ("reply", "token")

    def __init__(self, token: Any, reply: Any) -> None:
        self.token = token
        self.reply = reply


class Confirmed:
    """The broker settled publishes: accepted them (`acked`) or refused them."""

    __slots__ = ("acked", "tokens")

    def __init__(self, tokens: list[Any], acked: bool) -> None:
        self.tokens = tokens
        self.acked = acked


class Returned:
    """A mandatory message reached no queue. `token` is its publish's, None if it could not be matched to one."""

    __slots__ = ("channel", "code", "content", "text", "token")

    def __init__(self, channel: ProtocolChannel, token: Any, code: int, text: str, content: Content) -> None:
        self.channel = channel
        self.token = token
        self.code = code
        self.text = text
        self.content = content


class ConsumerCancelledByBroker:
    """basic.cancel from the broker: no more deliveries for this consumer."""

    __slots__ = ("token",)

    def __init__(self, token: Any) -> None:
        self.token = token


class Blocked:
    """connection.blocked: the broker reads nothing more from a connection that publishes, until `Unblocked`."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Unblocked:
    """connection.unblocked."""

    __slots__ = ()


class Recovered:
    """basic.recover took effect: what consumers of the channel still hold will be delivered again."""

    __slots__ = ("channel",)

    def __init__(self, channel: ProtocolChannel) -> None:
        self.channel = channel


class ChannelEnded:
    """A channel is over. `waiting` are the tokens of unanswered requests, `consumers` those of its consumers,
    `unknown` of publishes that may have arrived, `unsent` of publishes whose frames never left.
    """

    __slots__ = ("channel", "consumers", "error", "unknown", "unsent", "waiting")

    def __init__(
        self,
        channel: ProtocolChannel,
        error: RabbitryError,
        waiting: list[Any],
        consumers: list[Any],
        unknown: list[Any],
        unsent: list[Any],
    ) -> None:
        self.channel = channel
        self.error = error
        self.waiting = waiting
        self.consumers = consumers
        self.unknown = unknown
        self.unsent = unsent


class ConnectionEnded:
    """The connection is over; a `ChannelEnded` for each of its channels came before. `waiting` as there."""

    __slots__ = ("error", "waiting")

    def __init__(self, error: RabbitryError, waiting: list[Any]) -> None:
        self.error = error
        self.waiting = waiting


Event = (
    Opened
    | Replied
    | Confirmed
    | Returned
    | ConsumerCancelledByBroker
    | Blocked
    | Unblocked
    | Recovered
    | ChannelEnded
    | ConnectionEnded
)
