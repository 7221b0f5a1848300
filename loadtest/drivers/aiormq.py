"""aiormq's driver, asyncio only, made as fast as aiormq allows, so that the comparison is fair.

By default aiormq waits for the socket to drain after each publish and each ack; `wait=False` spares that, and gave
half as much again in a closed loop of 300 clients. aiormq ends what waits on a lost connection with `CancelledError`,
which structured concurrency must not mistake for its own: `own_cancellation` tells them apart. It has no window of
publishes; a task for each one in flight makes one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import uuid4

import aiormq
import aiormq.exceptions
import anyio
from aiormq.abc import AbstractConnection, DeliveredMessage
from aiormq.channel import Channel

from loadtest.drivers.base import (
    Answer,
    ConnectionLost,
    ConsumerCancelled,
    ConsumerOptions,
    Driver,
    Outcome,
    ProducerOptions,
    Receive,
    Settled,
)
from loadtest.drivers.tls import read_target
from loadtest.drivers.window import Windowed

CLOSE_BOUND = 5.0

T = TypeVar("T")


class AiormqDriver:
    """aiormq, as `loadtest.drivers.base.Driver` asks for it."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[_Session]:
        """Opens nothing: aiormq's connections share nothing."""
        yield _Session()


DRIVER: Driver = AiormqDriver()


class _Session:
    @asynccontextmanager
    async def connect(self, url: str, name: str) -> AsyncIterator[_Connection]:
        target = read_target(url)
        properties: dict[str, Any] = {"connection_name": name}
        connection = await own_cancellation(
            aiormq.connect(target.url, context=target.context, client_properties=properties)
        )
        try:
            yield _Connection(connection)
        finally:
            with anyio.move_on_after(CLOSE_BOUND, shield=True):
                await own_cancellation(connection.close())


class _Connection:
    __slots__ = ("_connection",)

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection

    @property
    def server_properties(self) -> Mapping[str, Any]:
        return self._connection.server_properties

    @property
    def is_blocked(self) -> bool | None:
        return None  # aiormq notes it for itself only

    async def open_channel(self, *, confirms: bool = False) -> Channel:
        channel = await own_cancellation(self._connection.channel(publisher_confirms=confirms))
        assert isinstance(channel, Channel)  # the abstract one doesn't know `wait`
        return channel

    @asynccontextmanager
    async def producer(self, queue: str, options: ProducerOptions, settled: Settled) -> AsyncIterator[_Producer]:
        channel = await self.open_channel(confirms=options.confirms)
        producer = _Producer(channel, queue, options, settled)
        try:
            yield producer
        finally:
            for task in producer.in_flight:
                task.cancel()

    @asynccontextmanager
    async def consumer(self, queue: str, options: ConsumerOptions) -> AsyncIterator[_Consumer]:
        channel = await self.open_channel()
        await own_cancellation(channel.basic_qos(prefetch_count=options.prefetch))
        consumer = _Consumer(channel, options)
        channel.on_consumer_cancel_callbacks.add(consumer.cancel)
        await own_cancellation(
            channel.basic_consume(queue, consumer.callback, no_ack=options.auto_ack, arguments=dict(options.arguments))
        )
        try:
            yield consumer
        finally:
            with anyio.move_on_after(CLOSE_BOUND, shield=True):
                await own_cancellation(channel.close())

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[_Caller]:
        channel = await self.open_channel()
        caller = _Caller(channel)
        await own_cancellation(channel.basic_consume("amq.rabbitmq.reply-to", caller.deliver, no_ack=True))
        yield caller

    @asynccontextmanager
    async def administrator(self) -> AsyncIterator[_Administrator]:
        yield _Administrator(self, await self.open_channel())

    async def serve(self, queue: str) -> None:
        channel = await self.open_channel()
        await own_cancellation(channel.basic_qos(prefetch_count=100))

        async def answer(message: DeliveredMessage) -> None:
            request = message.header.properties
            await channel.basic_publish(
                message.body,
                routing_key=request.reply_to or "",
                properties=aiormq.spec.Basic.Properties(correlation_id=request.correlation_id),
                wait=False,
            )
            await channel.basic_ack(_tag(message), wait=False)

        await own_cancellation(channel.basic_consume(queue, answer))
        await own_cancellation(channel.closing)


class _Producer(Windowed):
    def __init__(self, channel: Channel, queue: str, options: ProducerOptions, settled: Settled) -> None:
        super().__init__(options.window, settled)
        self._channel = channel
        self._queue = queue
        self._exchange = options.exchange
        self._make_properties = _maker(options)
        self._mandatory = options.mandatory
        self._confirms = options.confirms

    def check_open(self) -> None:
        if self._channel.is_closed:
            raise ConnectionLost("the channel is closed")

    async def publish(self, body: bytes, key: str | None = None) -> Outcome:
        self.check_open()
        try:
            confirmation = await own_cancellation(
                self._channel.basic_publish(
                    body,
                    exchange=self._exchange,
                    routing_key=self._queue if key is None else key,
                    mandatory=self._mandatory,
                    properties=self._make_properties(),
                    wait=not self._confirms,  # or nothing would hold it back
                )
            )
        except aiormq.exceptions.PublishError:
            return Outcome.RETURNED
        except aiormq.exceptions.DeliveryError:
            return Outcome.NACKED
        except Exception:  # aiormq doesn't tell whether the message had left
            return Outcome.UNKNOWN
        if not self._confirms:
            return Outcome.SENT
        return Outcome.RETURNED if isinstance(confirmation, DeliveredMessage) else Outcome.CONFIRMED


def _maker(options: ProducerOptions) -> Callable[[], aiormq.spec.Basic.Properties]:
    """What makes each message's properties: aiormq adds a message id to them, so that each needs its own."""
    properties = aiormq.spec.Basic.Properties
    mode = 2 if options.persistent else 1
    headers, priority = dict(options.headers or {}), options.priority
    if priority is not None:
        return lambda: properties(delivery_mode=mode, headers=dict(headers), priority=priority())
    if headers:
        return lambda: properties(delivery_mode=mode, headers=dict(headers))
    return lambda: properties(delivery_mode=mode)


class _Consumer:
    def __init__(self, channel: Channel, options: ConsumerOptions) -> None:
        self._channel = channel
        self._ack_every = options.ack_every
        self._auto_ack = options.auto_ack
        self._work = options.work
        self._working = asyncio.Lock()
        self._acknowledging = asyncio.Lock()
        self._held = 0
        self._last = 0
        self._stopped = asyncio.Event()
        self._cancelled = False
        self._receive: Receive | None = None
        self._early: list[DeliveredMessage] = []
        self.callback = self._deliver if self._work is None else self._deliver_in_turn
        """aiormq calls it for each delivery, in a task of its own."""

    async def _deliver_in_turn(self, message: DeliveredMessage) -> None:
        async with self._working:  # the first comes first
            await self._deliver(message)

    async def _deliver(self, message: DeliveredMessage) -> None:
        if self._stopped.is_set():
            return  # closing the channel puts it back
        if self._receive is None:
            self._early.append(message)
            return
        answer = self._receive(message.body, bool(message.redelivered))
        if self._work is not None:
            await asyncio.sleep(self._work())
        if self._auto_ack:
            return
        if answer is not Answer.ACK:
            await self._refuse(message, answer)
            return
        self._held += 1
        self._last = _tag(message)
        if self._held == self._ack_every:
            self._held = 0
            if self._ack_every == 1:
                await self._channel.basic_ack(self._last, wait=False)
            else:
                await self._acknowledge_to(self._last)

    async def _acknowledge_to(self, tag: int) -> None:
        """Acknowledges all up to that tag, one call after the other: where aiormq's queue is full, a later one could
        overtake an earlier one, whose tag would then be unknown to the broker, and end the channel.
        """
        async with self._acknowledging:
            await own_cancellation(self._channel.basic_ack(tag, multiple=True, wait=self._stopped.is_set()))

    async def _refuse(self, message: DeliveredMessage, answer: Answer) -> None:
        if answer is Answer.REQUEUE:
            await self._channel.basic_nack(_tag(message), requeue=True, wait=False)
        else:
            await self._channel.basic_reject(_tag(message), requeue=False, wait=False)

    async def run(self, receive: Receive) -> None:
        self._receive = receive
        early, self._early = self._early, []
        for message in early:
            await self.callback(message)
        closing = self._channel.closing
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait((closing, stopped), return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._stopped.set()  # who is cancelled takes no more
            raise
        finally:
            stopped.cancel()
            lost = closing.done()
            closing.cancel()
        if self._cancelled:
            raise ConsumerCancelled("the broker cancelled the consumer")
        if lost and not self._stopped.is_set():
            raise ConnectionLost("the channel was closed")
        async with self._working:  # who works finishes first
            pass
        if self._held:
            await self._acknowledge_to(self._last)

    def stop(self) -> None:
        self._stopped.set()

    def cancel(self, _: object) -> None:
        """aiormq calls it when the broker has ended the subscription."""
        self._cancelled = True
        self._stopped.set()


class _Caller:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    async def deliver(self, message: DeliveredMessage) -> None:
        """aiormq calls it for each reply."""
        waiter = self._waiting.pop(message.header.properties.correlation_id or "", None)
        if waiter is not None and not waiter.done():
            waiter.set_result(message.body)

    async def call(self, queue: str, body: bytes) -> bytes:
        if self._channel.is_closed:
            raise ConnectionLost("the channel is closed")
        correlation_id = uuid4().hex
        waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[correlation_id] = waiter
        closing = self._channel.closing
        try:
            await own_cancellation(
                self._channel.basic_publish(
                    body,
                    routing_key=queue,
                    properties=aiormq.spec.Basic.Properties(
                        delivery_mode=1, reply_to="amq.rabbitmq.reply-to", correlation_id=correlation_id
                    ),
                    wait=False,
                )
            )
            await asyncio.wait((waiter, closing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.pop(correlation_id, None)
            closing.cancel()
        if not waiter.done():
            raise ConnectionLost("the channel was closed")
        return waiter.result()


class _Administrator:
    def __init__(self, connection: _Connection, channel: Channel) -> None:
        self._connection = connection
        self._channel = channel

    async def declare_queue(self, name: str, arguments: Mapping[str, Any]) -> None:
        await own_cancellation(self._channel.queue_declare(name, durable=True, arguments=dict(arguments)))

    async def declare_exchange(self, name: str, kind: str) -> None:
        await own_cancellation(self._channel.exchange_declare(name, exchange_type=kind, durable=True, auto_delete=True))

    async def delete_exchange(self, name: str) -> None:
        await own_cancellation(self._channel.exchange_delete(name))

    async def bind(self, queue: str, exchange: str, key: str) -> None:
        await own_cancellation(self._channel.queue_bind(queue, exchange, key))

    async def count_messages(self, name: str) -> int | None:
        channel = await self._connection.open_channel()  # its own, as the question may close it
        try:
            declared = await own_cancellation(channel.queue_declare(name, passive=True))
        except aiormq.exceptions.ChannelNotFoundEntity:
            return None
        await own_cancellation(channel.close())
        return declared.message_count or 0

    async def delete_queue(self, name: str) -> None:
        await own_cancellation(self._channel.queue_delete(name))


async def own_cancellation(awaitable: Awaitable[T]) -> T:
    """Awaits it, and turns a CancelledError that nobody asked of this task into ConnectionLost."""
    task = asyncio.current_task()
    try:
        return await awaitable
    except asyncio.CancelledError:
        if task is None or task.cancelling():
            raise
        raise ConnectionLost("the connection was lost") from None


def _tag(message: DeliveredMessage) -> int:
    tag: int | None = message.delivery_tag
    assert tag is not None
    return tag
