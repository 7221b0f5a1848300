"""What a library that blocks fills, so that threads can use it: one connection and its parts, all in the words of
`loadtest.drivers.base`.

All methods are called in the connection's own thread, except those that say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from loadtest.drivers.base import Answer, ConsumerOptions, Outcome, ProducerOptions, Settled

DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"

Told = tuple[int, Answer, bool]
"""What is answered: the delivery tag, how, and whether that is for all before it, too."""

Handle = Callable[[bytes, bool, int], None]
"""Called with each delivery: the body, whether it was delivered before, the delivery tag."""


class BlockingProducer(Protocol):
    """A channel that publishes."""

    def publish(self, body: bytes, key: str | None) -> Outcome:
        """Publishes one message and returns how it ended. An exception means that it was certainly not sent."""
        ...

    def submit(self, body: bytes, token: object, key: str | None) -> None:
        """Publishes one message without waiting for its confirm; for drivers that can have more than one in flight."""
        ...

    def flush(self) -> None:
        """Returns once nothing submitted is in flight any more."""
        ...


class BlockingConsumer(Protocol):
    """A subscription."""

    def run(self, handle: Handle) -> None:
        """Calls `handle` with each delivery until `stop`; raises if the subscription ends otherwise."""
        ...

    def answer(self, answers: list[Told]) -> None:
        """Has them sent soon, in this order. Called in any thread, waits for nothing, never raises."""
        ...

    def ack(self, tag: int) -> None:
        """Acknowledges that delivery at once: for who handles deliveries in the connection's own thread."""
        ...

    def stop(self) -> None:
        """Ends `run` after what was answered before. Called in any thread, waits for nothing, never raises."""
        ...

    def close(self) -> None:
        """Gives back what was not answered."""
        ...


class BlockingCaller(Protocol):
    """A caller of RPC."""

    def call(self, queue: str, body: bytes, is_given_up: Callable[[], bool], seconds: float) -> bytes:
        """The server's reply. It looks now and then whether anybody still waits, and returns if nobody does, as is so
        after that many seconds (for ever, if infinite).
        """
        ...


class BlockingAdministrator(Protocol):
    """What the run itself asks the broker: as in `loadtest.drivers.base`, but blocking."""

    def declare_queue(self, name: str, arguments: Mapping[str, Any]) -> None: ...
    def declare_exchange(self, name: str, kind: str) -> None: ...
    def delete_exchange(self, name: str) -> None: ...
    def bind(self, queue: str, exchange: str, key: str) -> None: ...
    def count_messages(self, name: str) -> int | None: ...
    def delete_queue(self, name: str) -> None: ...


class BlockingConnection(Protocol):
    """An open connection. Opening it is the library's function; it raises what the library raises."""

    @property
    def server_properties(self) -> Mapping[str, Any]: ...

    @property
    def is_blocked(self) -> bool | None:
        """Whether the broker blocks publishing here; None if the library doesn't tell. Called in any thread."""
        ...

    def producer(self, queue: str, options: ProducerOptions, settled: Settled) -> BlockingProducer:
        """`settled` may be called in any thread."""
        ...

    def consumer(self, queue: str, options: ConsumerOptions) -> BlockingConsumer: ...
    def caller(self) -> BlockingCaller: ...
    def administrator(self) -> BlockingAdministrator: ...

    def server(self, queue: str) -> BlockingConsumer:
        """A subscription that answers each request itself, with the request's own body."""
        ...

    def rest(self) -> None:
        """Sees to heartbeats; raises if the connection is lost."""
        ...

    def close(self) -> None: ...


Connect = Callable[[str, str], BlockingConnection]
"""Opens a connection to a URL, under a name."""


# --- what several of these libraries share ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a library's connection has, each made from the library's own connection or, for a producer, channel."""

    producer: Callable[[Any, str, ProducerOptions, Settled], BlockingProducer]
    consumer: Callable[[Any, str, ConsumerOptions], BlockingConsumer]
    caller: Callable[[Any], BlockingCaller]
    administrator: Callable[[Any], BlockingAdministrator]
    server: Callable[[Any, str], BlockingConsumer]


class PlainConnection:
    """A connection that makes its parts, and has nothing else to do with them."""

    parts: ClassVar[Parts]

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def producer(self, queue: str, options: ProducerOptions, settled: Settled) -> BlockingProducer:
        return self.parts.producer(self._connection.channel(), queue, options, settled)

    def consumer(self, queue: str, options: ConsumerOptions) -> BlockingConsumer:
        return self.parts.consumer(self._connection, queue, options)

    def caller(self) -> BlockingCaller:
        return self.parts.caller(self._connection)

    def administrator(self) -> BlockingAdministrator:
        return self.parts.administrator(self._connection)

    def server(self, queue: str) -> BlockingConsumer:
        return self.parts.server(self._connection, queue)

    def close(self) -> None:
        self._connection.close()


class OneByOne:
    """A producer of a library whose publish returns with its confirm: nothing is in flight when it does."""

    def __init__(self, settled: Settled) -> None:
        self._settled = settled

    def publish(self, body: bytes, key: str | None) -> Outcome:
        raise NotImplementedError

    def submit(self, body: bytes, token: object, key: str | None) -> None:
        self._settled(token, self.publish(body, key))

    def flush(self) -> None:
        return


def properties_of(options: ProducerOptions) -> dict[str, Any]:
    """The properties that all messages of a producer have, by the names that these libraries give them."""
    properties: dict[str, Any] = {"delivery_mode": 2 if options.persistent else 1}
    if options.headers:
        properties["headers"] = dict(options.headers)
    return properties
