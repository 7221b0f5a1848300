"""What the load tester needs from a client library: a small interface, filled by each library in its own best way.

The contract: a driver keeps one confirmed publish for each `publish` awaited, acknowledges every delivery after
`receive` returned, and raises only when its channel or connection is of no more use. It measures nothing and counts
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol


class Outcome(Enum):
    """How one publish ended. NACKED: the broker did not take it, and said so, if need be by closing the channel."""

    CONFIRMED = "confirmed"
    NACKED = "nacked"
    RETURNED = "returned"
    UNKNOWN = "unknown"


class ConsumerCancelled(Exception):
    """The broker ended a subscription, and nothing else: the connection goes on."""


Receive = Callable[[bytes, bool], None]
"""Called with the body and whether the broker says it was delivered before."""

Settled = Callable[[Any, Outcome], None]
"""Called with what `submit` was given, once, when the outcome is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerOptions:
    """How a producer publishes."""

    window: int
    persistent: bool
    mandatory: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """How a consumer consumes. prefetch 0 is unlimited."""

    prefetch: int
    ack_every: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The subscription's arguments, as a stream needs them."""


class Producer(Protocol):
    """A channel with confirms, publishing to one queue through the default exchange."""

    async def publish(self, body: bytes) -> Outcome:
        """Publishes one message and returns how it ended. An exception means that it was certainly not sent."""
        ...

    async def submit(self, body: bytes, token: object) -> None:
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
        """Hands over and acknowledges deliveries until `stop`; raises if the subscription ends otherwise.

        It raises ConsumerCancelled if the broker ended the subscription alone, as it does when the queue is deleted.
        """
        ...

    def stop(self) -> None:
        """Ends the subscription; what was not handed over goes back to the queue."""
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
