"""rabbitry's driver: one reactor for all connections, public names only.

One publish at a time is `channel.publish`; a window is `channel.publisher`. Acknowledging is synchronous and coalesces
in the library, so `ack_every` above 1 only holds deliveries back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio

import rabbitry
from loadtest.drivers.base import (
    Answer,
    ConsumerCancelled,
    ConsumerOptions,
    Driver,
    Outcome,
    ProducerOptions,
    Receive,
    Settled,
)

_OUTCOMES = {
    "confirmed": Outcome.CONFIRMED,
    "nacked": Outcome.NACKED,
    "unroutable": Outcome.RETURNED,
    "refused": Outcome.NACKED,
    "unknown": Outcome.UNKNOWN,
    "unsent": Outcome.UNKNOWN,
}
_TRANSIENT = 1
_ACK = Answer.ACK  # hot


class RabbitryDriver:
    """rabbitry, as `loadtest.drivers.base.Driver` asks for it."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[_Session]:
        """Opens the one reactor that all connections share."""
        async with rabbitry.open_reactor() as reactor:
            yield _Session(reactor)


DRIVER: Driver = RabbitryDriver()


class _Session:
    def __init__(self, reactor: rabbitry.Reactor) -> None:
        self._reactor = reactor

    def connect(self, url: str, name: str) -> _Connection:
        return _Connection(self._reactor.connect(url, name=name))


class _Connection:
    # a context manager by hand: the generator of `asynccontextmanager` would cost each of 10,000 clients 0.6 KB
    __slots__ = ("_connection",)

    def __init__(self, connection: rabbitry.Connection) -> None:
        self._connection = connection

    async def __aenter__(self) -> Self:
        await self._connection.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._connection.__aexit__(kind, error, traceback)

    @property
    def server_properties(self) -> Mapping[str, Any]:
        return self._connection.server_properties

    @property
    def is_blocked(self) -> bool | None:
        return self._connection.is_blocked

    @asynccontextmanager
    async def producer(self, queue: str, options: ProducerOptions, settled: Settled) -> AsyncIterator[_Producer]:
        async with self._connection.channel(confirm=options.confirms) as channel:
            if options.window == 1 or not options.confirms:
                yield _Producer(channel, queue, options, None)
                return

            def on_outcome(confirmation: rabbitry.Confirmation) -> None:
                settled(confirmation.tag, _OUTCOMES[confirmation.outcome])

            window = channel.publisher(exchange=options.exchange, window=options.window, on_outcome=on_outcome)
            async with window as publisher:
                yield _Producer(channel, queue, options, publisher)

    @asynccontextmanager
    async def consumer(self, queue: str, options: ConsumerOptions) -> AsyncIterator[_Consumer]:
        async with (
            self._connection.channel(prefetch=options.prefetch) as channel,
            channel.consume(queue, no_ack=options.auto_ack, arguments=options.arguments or None) as deliveries,
        ):
            yield _Consumer(deliveries, options)

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[_Caller]:
        async with self._connection.rpc() as rpc:
            yield _Caller(rpc)

    @asynccontextmanager
    async def administrator(self) -> AsyncIterator[_Administrator]:
        async with self._connection.channel() as channel:
            yield _Administrator(self._connection, channel)

    async def serve(self, queue: str) -> None:
        await self._connection.serve(queue, _echo, concurrency=100)


class _Producer:
    __slots__ = ("_channel", "_done", "_exchange", "_make", "_mandatory", "_publisher", "_queue")

    def __init__(
        self, channel: rabbitry.Channel, queue: str, options: ProducerOptions, publisher: rabbitry.Publisher | None
    ) -> None:
        self._channel = channel
        self._exchange = options.exchange
        self._queue = queue
        self._mandatory = options.mandatory
        self._make = _maker(options)
        self._done = Outcome.CONFIRMED if options.confirms else Outcome.SENT
        self._publisher = publisher

    async def publish(self, body: bytes, key: str | None = None) -> Outcome:
        try:
            await self._channel.publish(
                body if self._make is None else self._make(body),
                exchange=self._exchange,
                routing_key=self._queue if key is None else key,
                mandatory=self._mandatory,
            )
        except (rabbitry.Nacked, rabbitry.Refused):
            return Outcome.NACKED
        except rabbitry.Unroutable:
            return Outcome.RETURNED
        except rabbitry.OutcomeUnknown:
            return Outcome.UNKNOWN
        return self._done

    async def submit(self, body: bytes, token: object, key: str | None = None) -> None:
        assert self._publisher is not None
        await self._publisher.submit(
            body if self._make is None else self._make(body),
            routing_key=self._queue if key is None else key,
            mandatory=self._mandatory,
            tag=token,
        )

    def confirm_sizes(self) -> dict[int, int]:
        """How many confirms answered so many publishes each."""
        return self._channel.confirm_sizes()

    async def flush(self) -> None:
        if self._publisher is not None:
            await self._publisher.flush()


def _maker(options: ProducerOptions) -> Callable[[bytes], rabbitry.Message] | None:
    """What makes a message of a body; None where the body alone is one: persistent, and without properties."""
    mode = 2 if options.persistent else _TRANSIENT
    headers, priority = options.headers or None, options.priority
    if priority is not None:
        return lambda body: rabbitry.Message(body, delivery_mode=mode, headers=headers, priority=priority())
    if headers is not None:
        return lambda body: rabbitry.Message(body, delivery_mode=mode, headers=headers)
    return None if options.persistent else lambda body: rabbitry.Message(body, delivery_mode=_TRANSIENT)


class _Consumer:
    __slots__ = ("_deliveries", "_options")

    def __init__(self, deliveries: rabbitry.Consumer, options: ConsumerOptions) -> None:
        self._deliveries = deliveries
        self._options = options

    async def run(self, receive: Receive) -> None:
        options = self._options
        try:
            if options.auto_ack:
                await self._run_unanswered(receive, options.work)
            elif options.ack_every > 1:
                await self._run_in_batches(receive, options.ack_every, options.work)
            elif options.work is not None:
                await self._run_working(receive, options.work)
            else:
                await self._run_one_by_one(receive)
        except rabbitry.ConsumerCancelled as error:
            raise ConsumerCancelled(str(error)) from error

    async def _run_one_by_one(self, receive: Receive) -> None:
        async for delivery in self._deliveries:
            if (answer := receive(delivery.body, delivery.redelivered)) is _ACK:
                delivery.ack()
            else:
                _answer(delivery, answer)

    async def _run_working(self, receive: Receive, work: Callable[[], float]) -> None:
        async for delivery in self._deliveries:
            answer = receive(delivery.body, delivery.redelivered)
            await anyio.sleep(work())
            _answer(delivery, answer)

    async def _run_in_batches(self, receive: Receive, ack_every: int, work: Callable[[], float] | None) -> None:
        held: list[rabbitry.Delivery] = []
        async for delivery in self._deliveries:
            answer = receive(delivery.body, delivery.redelivered)
            if work is not None:
                await anyio.sleep(work())
            if answer is not Answer.ACK:
                _answer(delivery, answer)
                continue
            held.append(delivery)
            if len(held) == ack_every:
                _ack_all(held)
        _ack_all(held)

    async def _run_unanswered(self, receive: Receive, work: Callable[[], float] | None) -> None:
        async for delivery in self._deliveries:
            receive(delivery.body, delivery.redelivered)
            if work is not None:
                await anyio.sleep(work())

    def stop(self) -> None:
        self._deliveries.stop()


class _Caller:
    __slots__ = ("_rpc",)

    def __init__(self, rpc: rabbitry.RPC) -> None:
        self._rpc = rpc

    async def call(self, queue: str, body: bytes) -> bytes:
        reply: bytes = await self._rpc.call(queue, body)
        return reply


class _Administrator:
    def __init__(self, connection: rabbitry.Connection, channel: rabbitry.Channel) -> None:
        self._connection = connection
        self._channel = channel

    async def declare_queue(self, name: str, arguments: Mapping[str, Any]) -> None:
        await self._channel.declare_queue(name, arguments=dict(arguments))

    async def declare_exchange(self, name: str, kind: str) -> None:
        await self._channel.declare_exchange(name, kind, auto_delete=True)

    async def delete_exchange(self, name: str) -> None:
        await self._channel.delete_exchange(name)

    async def bind(self, queue: str, exchange: str, key: str) -> None:
        await self._channel.bind_queue(queue, exchange, key)

    async def count_messages(self, name: str) -> int | None:
        try:
            async with self._connection.channel() as channel:  # its own, as the question may close it
                return (await channel.declare_queue(name, passive=True)).message_count
        except rabbitry.NotFound:
            return None

    async def delete_queue(self, name: str) -> None:
        await self._channel.delete_queue(name)


async def _echo(payload: Any) -> Any:
    return payload


def _answer(delivery: rabbitry.Delivery, answer: Answer) -> None:
    if answer is Answer.ACK:
        delivery.ack()
    elif answer is Answer.REQUEUE:
        delivery.nack(requeue=True)
    else:
        delivery.reject(requeue=False)


def _ack_all(held: list[rabbitry.Delivery]) -> None:
    for delivery in held:
        delivery.ack()
    held.clear()
