"""What the load tester needs from a client library: a small interface, filled by each library in its own best way.

The contract: a driver keeps one publish for each `publish` awaited, answers every delivery as `receive` says and after
it has worked on it, and raises only when its channel or connection is of no more use. It measures nothing and counts
nothing. What a library can't do, its driver need not: the table of drivers says so, and the command line refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol


class Outcome(Enum):
    """How one publish ended.

    NACKED: the broker did not take it, and said so, if need be by closing the channel. SENT: it left without asking for
    a confirm, so that nothing more will be known of it.
    """

    CONFIRMED = "confirmed"
    NACKED = "nacked"
    RETURNED = "returned"
    UNKNOWN = "unknown"
    SENT = "sent"


class Answer(Enum):
    """What the broker is told of a delivery."""

    ACK = "ack"
    REQUEUE = "requeue"
    """basic.nack with requeue: it comes again, here or elsewhere."""
    REJECT = "reject"
    """basic.reject without requeue: it is dead-lettered where the queue says so, and otherwise dropped."""


class ConnectionLost(ConnectionError):
    """The broker, or the library, ended a channel or the connection: it is of no more use."""


class ConsumerCancelled(Exception):
    """The broker ended a subscription, and nothing else: the connection goes on."""


Receive = Callable[[bytes, bool], Answer]
"""Called with the body and whether the broker says it was delivered before; what is to be answered."""

Settled = Callable[[Any, Outcome], None]
"""Called with what `submit` was given, once, when the outcome is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerOptions:
    """How a producer publishes. Without confirms the window is 1: nothing says when there is room in a larger one."""

    window: int
    persistent: bool
    mandatory: bool
    exchange: str = ""
    confirms: bool = True
    priority: Callable[[], int] | None = None
    """Says the next message's priority; without it messages have none."""
    headers: Mapping[str, Any] | None = None
    """What each message has as its headers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """How a consumer consumes. prefetch 0 is unlimited.

    `ack_every` counts those to be acknowledged; what is answered otherwise is answered at once, each for itself.
    """

    prefetch: int
    ack_every: int
    auto_ack: bool = False
    """The broker takes each delivery for acknowledged when it has sent it; nothing is answered."""
    work: Callable[[], float] | None = None
    """Says for how many seconds the consumer works on the next delivery, one after the other: after `receive`, before
    the answer.
    """
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The subscription's arguments, as a stream needs them."""


class Producer(Protocol):
    """A channel that publishes to one exchange, with confirms or without. `key` is the routing key, the producer's own
    (its queue) where there is none.
    """

    async def publish(self, body: bytes, key: str | None = None) -> Outcome:
        """Publishes one message and returns how it ended. An exception means that it was certainly not sent.

        Without confirms it returns SENT once the library has taken the message, and waits while it has no room.
        """
        ...

    async def submit(self, body: bytes, token: object, key: str | None = None) -> None:
        """Publishes one message as soon as fewer than `window` are in flight; `settled` hears of the outcome.

        An exception means that it was certainly not sent, and that `settled` will not hear of it.
        """
        ...

    async def flush(self) -> None:
        """Returns once nothing submitted is in flight any more."""
        ...


class Consumer(Protocol):
    """A subscription to one queue."""

    async def run(self, receive: Receive) -> None:
        """Hands over and answers deliveries until `stop`; raises if the subscription ends otherwise.

        It raises ConsumerCancelled if the broker ended the subscription alone, as it does when the queue is deleted.
        """
        ...

    def stop(self) -> None:
        """Ends the subscription; what was not handed over goes back to the queue, or is lost with `auto_ack`."""
        ...


class Caller(Protocol):
    """A caller of RPC, over direct reply-to."""

    async def call(self, queue: str, body: bytes) -> bytes:
        """The server's reply. Waits for ever: the caller's cancel scope says for how long."""
        ...


class Administrator(Protocol):
    """What the run itself asks the broker."""

    async def declare_queue(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Declares a durable queue."""
        ...

    async def declare_exchange(self, name: str, kind: str) -> None:
        """Declares a durable exchange of that type (`direct`, `fanout`, `topic`), auto-delete: it goes with its last
        binding.
        """
        ...

    async def delete_exchange(self, name: str) -> None:
        """Deletes the exchange, if there is one."""
        ...

    async def bind(self, queue: str, exchange: str, key: str) -> None:
        """Binds the queue to the exchange with that routing key, or pattern."""
        ...

    async def count_messages(self, name: str) -> int | None:
        """How many messages are ready in the queue; None if there is no such queue."""
        ...

    async def delete_queue(self, name: str) -> None:
        """Deletes the queue, whatever is in it."""
        ...


class Connection(Protocol):
    """An open AMQP connection."""

    @property
    def server_properties(self) -> Mapping[str, Any]:
        """What the broker said of itself."""
        ...

    @property
    def is_blocked(self) -> bool | None:
        """Whether the broker has blocked publishing here; None if the library doesn't tell."""
        ...

    def producer(
        self, queue: str, options: ProducerOptions, settled: Settled
    ) -> AbstractAsyncContextManager[Producer]: ...

    def consumer(self, queue: str, options: ConsumerOptions) -> AbstractAsyncContextManager[Consumer]: ...

    def caller(self) -> AbstractAsyncContextManager[Caller]: ...

    def administrator(self) -> AbstractAsyncContextManager[Administrator]: ...

    async def serve(self, queue: str) -> None:
        """Answers each request from the queue with its own body, until cancelled."""
        ...


class Session(Protocol):
    """A driver at work, inside its event loop."""

    def connect(self, url: str, name: str) -> AbstractAsyncContextManager[Connection]:
        """Opens a new TCP connection, closed at the block's end in bounded time."""
        ...


class Driver(Protocol):
    """A client library under test. What is known of it without importing it stands in the table of drivers."""

    def open(self) -> AbstractAsyncContextManager[Session]:
        """Opens whatever the library shares among connections."""
        ...


class LastingSession(Session, Protocol):
    """A session that also opens what outlives its connections: who uses it waits while there is none, and goes on."""

    def connect_lasting(self, url: str, name: str, *, consuming: bool) -> AbstractAsyncContextManager[Connection]:
        """Connects, until cancelled if need be, and again whenever the connection is lost.

        `consuming`: nobody will publish on it. Publishes of unknown outcome are repeated, and calls made again.
        """
        ...

    @property
    def reconnects(self) -> int:
        """How often a connection that was lost was replaced, all together."""
        ...


class LastingDriver(Protocol):
    """The same library, where it can do that."""

    def open(self) -> AbstractAsyncContextManager[LastingSession]:
        """As a driver's."""
        ...
