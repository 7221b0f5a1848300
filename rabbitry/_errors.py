"""Every error rabbitry raises, and which reply code of the broker becomes which class.

The bottom of the package: it imports nothing of it. Errors carry fields and build their own message, so that callers
never parse text; none of them ever holds a password. Timeouts stay the builtin `TimeoutError`, raised by cancel scopes.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy as copied
from typing import Any, ClassVar, Literal, Self, TypeAlias

__all__ = [
    "AccessRefused",
    "AlreadySettled",
    "AuthenticationFailed",
    "ChannelClosed",
    "Closed",
    "ConnectFailed",
    "ConnectionBlocked",
    "ConnectionClosed",
    "ConsumerCancelled",
    "ConsumerOverrun",
    "ConsumingStopped",
    "DecodeError",
    "LocalProtocolError",
    "MessageTooLarge",
    "Nacked",
    "NotConnected",
    "NotFound",
    "NotSent",
    "OutcomeUnknown",
    "PreconditionFailed",
    "ProtocolError",
    "PublishFailed",
    "PublishesFailed",
    "RabbitryError",
    "Refused",
    "RemoteError",
    "RemoteProtocolError",
    "ResourceLocked",
    "StaleDelivery",
    "Unroutable",
]


TEXT_SHOWN = 255
"""Characters of a peer's text that an error or a log line shows: what AMQP's reply texts can have, at most."""


def shown(text: str, most: int = TEXT_SHOWN) -> str:
    """A peer's text, fit for an error or a log line: short, without line breaks, controls or lone surrogates."""
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return cut if cut.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


def text_of(error: BaseException) -> str:
    """The error's text, also where it is an application's, whose `__str__` raises."""
    try:
        return str(error)
    except Exception as unprintable:
        return f"(its text can't be had: {type(unprintable).__name__})"


def shown_error(error: BaseException) -> str:
    """An error's type and text, fit for a log line."""
    return shown(f"{type(error).__name__}: {text_of(error)}")


class RabbitryError(Exception):
    """The root of everything this library raises on its own account."""

    def copy(self) -> Self:
        """The same error as a new object: one object raised in several tasks would mix their tracebacks."""
        fresh = copied(self)
        fresh.__cause__ = self.__cause__
        return fresh


# --- connections and channels that ended ---------------------------------------------------------------------------


class ConnectFailed(RabbitryError, ConnectionError):
    """No connection could be opened; the text says what answered, if anything did."""


class AuthenticationFailed(ConnectFailed):
    """The broker refused the credentials, the mechanism or the virtual host."""


class Closed(RabbitryError):
    """A connection or channel ended. `code` and `text` are the broker's (0 if it gave none), `method` what it
    objected to.

    `is_explained` tells that one publish is known which the broker ended it for: that has raised `Refused`.

    An instance is kept as the recorded cause of an end; every later operation raises a copy.
    """

    what: ClassVar[str] = "closed"

    def __init__(self, text: str, *, code: int = 0, method: str = "") -> None:
        RabbitryError.__init__(self, text)  # not OSError's, which would read the fields as errno and filename
        self.code = code
        self.text = text
        self.method = method
        self.is_explained = False

    def __str__(self) -> str:
        code = f" ({self.code})" if self.code else ""
        method = f", caused by {self.method}" if self.method else ""
        return f"{self.what}{code}: {shown(self.text, 1000)}{method}"


Blame: TypeAlias = Literal["", "this", "perhaps", "another"]
"""What the broker's reason to close a connection has to do with the operation that learns of it."""


class ConnectionClosed(Closed, ConnectionError):
    """The connection ended. From a publish: the message was certainly not sent.

    `blame` says what the broker's reason has to do with the operation that raises this: "this" one is refused, as it
    alone was under way of all that the broker's close names; "perhaps" it was this one, or another under way; "another"
    was refused, and was told; "" where no operation is known to be the reason.
    """

    what = "connection closed"

    def __init__(self, text: str, *, code: int = 0, method: str = "", blame: Blame = "") -> None:
        super().__init__(text, code=code, method=method)
        self.blame: Blame = blame


class ChannelClosed(Closed):
    """The channel ended, by either side; open a new one."""

    what = "channel closed"


class AccessRefused(ChannelClosed):
    """403: the user lacks the permission, or another consumer holds the queue exclusively."""


class NotFound(ChannelClosed):
    """404: no such exchange, queue or virtual host."""


class ResourceLocked(ChannelClosed):
    """405: the queue is exclusive to another connection."""


class PreconditionFailed(ChannelClosed):
    """406: an entity exists with other properties, a delivery tag is unknown, a delivery was not acknowledged in
    time.
    """


CHANNEL_ERRORS: dict[int, type[ChannelClosed]] = {
    403: AccessRefused,
    404: NotFound,
    405: ResourceLocked,
    406: PreconditionFailed,
}
"""AMQP 0-9-1 reply codes of soft errors (specification §1.5.2.5, `constants`) and the class each becomes."""


class NotConnected(RabbitryError, ConnectionError):
    """There is no connection at the moment. From a publish: the message was certainly not sent."""


class ConnectionBlocked(RabbitryError):
    """The broker has blocked publishing on this connection (a memory or disk alarm); its reason is the text.

    A client's publish raises it with `while_down="fail"`; nothing was sent. Otherwise publishing waits, as it does on a
    `Connection` (`is_blocked` tells).
    """


# --- consuming -----------------------------------------------------------------------------------------------------


class ConsumerCancelled(RabbitryError):
    """The broker cancelled the consumer: its queue was deleted, or its node went away."""

    def __init__(self, consumer_tag: str, queue: str) -> None:
        super().__init__(consumer_tag, queue)
        self.consumer_tag = consumer_tag
        self.queue = queue

    def __str__(self) -> str:
        return f"the broker cancelled the consumer of queue {self.queue!r}: was the queue deleted?"


class ConsumerOverrun(RabbitryError):
    """Deliveries piled up past the hard mark while reading could not pause. Set a `prefetch`, or iterate faster."""

    def __init__(self, queue: str, buffered_bytes: int) -> None:
        super().__init__(queue, buffered_bytes)
        self.queue = queue
        self.buffered_bytes = buffered_bytes

    def __str__(self) -> str:
        return (
            f"consumer of queue {self.queue!r} was ended with {self.buffered_bytes} bytes not yet iterated: "
            "set a prefetch, or iterate faster"
        )


class MessageTooLarge(RabbitryError):
    """A message of `size` bytes came from `queue` that is larger than the `limit` which this connection was opened with
    as its `max_message_size`; where it is not, its properties and headers, which `size` then includes, are over 1 MiB.
    It ended the consumer or the get that it came for, and nothing else. It went back to its queue, unless it needed no
    acknowledgement: then it `is_lost`.
    """

    def __init__(self, queue: str, size: int, limit: int, is_lost: bool) -> None:
        super().__init__(queue, size, limit, is_lost)
        self.queue = queue
        self.size = size
        self.limit = limit
        self.is_lost = is_lost

    def __str__(self) -> str:
        fate = "is lost, as it needed no acknowledgement" if self.is_lost else "stays there"
        if self.size <= self.limit:
            return (
                f"a message of {self.size:,} bytes from queue {self.queue!r} has properties and headers of over 1 MiB, "
                f"and {fate}: such messages are not received (nor can they be published at RabbitMQ's default "
                "frame_max), purge the queue or take it by other means"
            )
        return (
            f"a message of {self.size:,} bytes from queue {self.queue!r} exceeds max_message_size ({self.limit:,}) and "
            f"{fate}: to receive such messages, connect with a larger max_message_size"
        )


class StaleDelivery(RabbitryError):
    """The delivery's channel has ended or was recovered: the broker has requeued it, settling means nothing now."""


class AlreadySettled(RabbitryError):
    """The delivery was acknowledged, negatively acknowledged or rejected before."""


# --- publishing ----------------------------------------------------------------------------------------------------


class PublishFailed(RabbitryError):
    """A publish the broker took no responsibility for. `message`, `exchange` and `routing_key` are as given."""

    reason: ClassVar[str] = "publish failed"

    def __init__(self, message: Any, exchange: str, routing_key: str, detail: str = "") -> None:
        RabbitryError.__init__(self, message, exchange, routing_key, detail)  # not OSError's: see NotSent
        self.message = message
        self.exchange = exchange
        self.routing_key = routing_key
        self.detail = detail

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.reason} (exchange {self.exchange!r}, routing key {self.routing_key!r}){detail}"

    def __repr__(self) -> str:
        """Without the message: what shows errors need not show what users send, nor megabytes of it."""
        return f"{type(self).__name__}({str(self)!r})"


class Nacked(PublishFailed):
    """The broker answered the message with a nack (a queue's length limit with reject-publish, or an internal
    failure). Sent again, it may be taken.
    """

    reason = "the broker did not take the message (nacked)"


class Unroutable(PublishFailed):
    """A mandatory message reached no queue. `reply` is the broker's (code, text)."""

    reason = "no queue is bound for the message"

    def __init__(
        self, message: Any, exchange: str, routing_key: str, reply: tuple[int, str] = (312, "NO_ROUTE")
    ) -> None:
        super().__init__(message, exchange, routing_key, f"{reply[0]} {shown(reply[1])}")
        self.reply = reply


class Refused(PublishFailed):
    """The broker does not accept such a message: it closed the channel, or the connection, over it. `code` and `text`
    are the broker's; what it closed is the `__cause__`. Sent again it would be refused again.
    """

    reason = "the broker does not accept such a message"

    def __init__(self, message: Any, exchange: str, routing_key: str, code: int = 0, text: str = "") -> None:
        super().__init__(message, exchange, routing_key, f"{code} {shown(text)}")
        self.args: tuple[Any, ...] = (message, exchange, routing_key, code, text)  # by which it is copied
        self.code = code
        self.text = text


class OutcomeUnknown(PublishFailed):
    """The message was on its way when the connection or channel ended: it may or may not have arrived."""

    reason = "the message was sent but its outcome is unknown"


class NotSent(PublishFailed, NotConnected):
    """The channel or connection ended before the broker could take the message: it certainly has not arrived."""

    reason = "the message was not sent, or not taken: what it was sent on had ended"


class PublishesFailed(RabbitryError):
    """Some publishes of a publisher failed. `failures` holds the first 1,000, `count` counts all of them."""

    def __init__(self, failures: Sequence[PublishFailed], count: int) -> None:
        super().__init__(failures, count)
        self.failures: tuple[PublishFailed, ...] = tuple(failures)
        self.count = count

    def __str__(self) -> str:
        first = f"; the first: {self.failures[0]}" if self.failures else ""
        return f"{self.count} publish{'es' if self.count != 1 else ''} failed{first}"


# --- contents and RPC ----------------------------------------------------------------------------------------------


class DecodeError(RabbitryError):
    """A body could not be decoded: its content type is unknown, or the bytes do not match it."""


class RemoteError(RabbitryError):
    """An RPC handler raised. `type_name` is the class name of its exception, `text` its message; `traceback` is the
    server's, as text, if it serves with `send_traceback=True`.
    """

    def __init__(self, type_name: str, text: str, traceback: str | None = None) -> None:
        super().__init__(type_name, text, traceback)
        self.type_name = type_name
        self.text = text
        self.traceback = traceback

    def __str__(self) -> str:
        return f"the server's handler raised {shown(self.type_name)}: {shown(self.text, 1000)}"


# --- violations of the protocol ------------------------------------------------------------------------------------


class ProtocolError(RabbitryError):
    """Somebody broke the protocol: see the two subclasses for who."""


class LocalProtocolError(ProtocolError):
    """Our caller asked for something that is not allowed now, or here: before entering, twice, in another mode of the
    channel. Nothing was sent. (An argument that is never allowed is a `ValueError` or `TypeError`.)
    """


class ConsumingStopped(NotConnected, LocalProtocolError):
    """`client.stop_consuming()` was called, which is for good: what would consume after it, or would wait for a
    connection in order to consume (`declare`, say), ends instead. On SIGTERM this is what ends a program that is still
    on its way to its `process`.
    """


class RemoteProtocolError(ProtocolError):
    """The peer sent something that is not legal AMQP. `code` is the reply code we close the connection with."""

    def __init__(self, text: str, code: int = 501) -> None:
        super().__init__(text, code)
        self.text = text
        self.code = code

    def __str__(self) -> str:
        return self.text
