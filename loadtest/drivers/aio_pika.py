"""aio-pika's driver, asyncio only: `Exchange.publish` on channels with confirms, `Queue.consume` with a prefetch.

They are used as its documentation shows (https://docs.aio-pika.com/quick-start.html), but with `connect` where that
has `connect_robust`: a robust connection comes back by itself, so that nobody could say what became of what was in
flight. `loadtest strategies` uses robust ones. aio-pika stands on aiormq, whose channel tells of its end and of
cancelled consumers; what aiormq does to a task that waits on a lost connection is undone by `own_cancellation`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aio_pika
import aio_pika.exceptions
import anyio
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage, AbstractQueue

from loadtest.drivers.aiormq import own_cancellation
from loadtest.drivers.base import (
    Answer,
    ConnectionLost,
    Consumer,
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
DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"


class AioPikaDriver:
    """aio-pika, as `loadtest.drivers.base.Driver` asks for it."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[_Session]:
        """Opens nothing: aio-pika's connections share nothing."""
        yield _Session()


DRIVER: Driver = AioPikaDriver()


class _Session:
    @asynccontextmanager
    async def connect(self, url: str, name: str) -> AsyncIterator[_Connection]:
        target = read_target(url)
        connection = await own_cancellation(
            aio_pika.connect(target.url, ssl_context=target.context, client_properties={"connection_name": name})
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
        transport = self._connection.transport
        return {} if transport is None else transport.connection.server_properties

    @property
    def is_blocked(self) -> bool | None:
        return None  # aiormq notes it for itself only

    async def open_channel(self, *, confirms: bool = False) -> AbstractChannel:
        channel = self._connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
        await own_cancellation(channel.initialize())
        return channel

    @asynccontextmanager
    async def producer(self, queue: str, options: ProducerOptions, settled: Settled) -> AsyncIterator[_Producer]:
        channel = await self.open_channel(confirms=options.confirms)
        exchange = channel.default_exchange
        if options.exchange:
            exchange = await own_cancellation(channel.get_exchange(options.exchange, ensure=False))
        producer = _Producer(channel, exchange, queue, options, settled)
        try:
            yield producer
        finally:
            for task in producer.in_flight:
                task.cancel()

    @asynccontextmanager
    async def consumer(self, queue: str, options: ConsumerOptions) -> AsyncIterator[Consumer]:
        channel = await self.open_channel()
        consumer = await make_consumer(channel, queue, options)
        try:
            yield consumer
        finally:
            with anyio.move_on_after(CLOSE_BOUND, shield=True):
                await own_cancellation(channel.close())

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[_Caller]:
        channel = await self.open_channel()
        caller = _Caller(channel)
        replies = await channel.get_queue(DIRECT_REPLY_TO, ensure=False)
        await own_cancellation(replies.consume(caller.deliver, no_ack=True))
        yield caller

    @asynccontextmanager
    async def administrator(self) -> AsyncIterator[_Administrator]:
        yield _Administrator(self, await self.open_channel())

    async def serve(self, queue: str) -> None:
        channel = await self.open_channel()
        await own_cancellation(channel.set_qos(100))

        async def answer(request: AbstractIncomingMessage) -> None:
            reply = aio_pika.Message(request.body, correlation_id=request.correlation_id)
            await channel.default_exchange.publish(reply, request.reply_to or "", mandatory=False)
            await request.ack()

        await own_cancellation((await channel.get_queue(queue, ensure=False)).consume(answer))
        await _until_closed(channel)


class _Producer(Windowed):
    def __init__(
        self,
        channel: AbstractChannel,
        exchange: AbstractExchange,
        queue: str,
        options: ProducerOptions,
        settled: Settled,
    ) -> None:
        super().__init__(options.window, settled)
        self._channel = channel
        self._exchange = exchange
        self._queue = queue
        self._mode = 2 if options.persistent else 1
        self._headers = dict(options.headers) if options.headers else None
        self._priority = options.priority
        self._mandatory = options.mandatory
        self._settles_as = Outcome.CONFIRMED if options.confirms else Outcome.SENT

    def check_open(self) -> None:
        if self._channel.is_closed:
            raise ConnectionLost("the channel is closed")

    async def publish(self, body: bytes, key: str | None = None) -> Outcome:
        self.check_open()
        priority = None if self._priority is None else self._priority()
        message = aio_pika.Message(body, delivery_mode=self._mode, headers=self._headers, priority=priority)
        try:
            await own_cancellation(
                self._exchange.publish(message, self._queue if key is None else key, mandatory=self._mandatory)
            )
        except aio_pika.exceptions.PublishError:
            return Outcome.RETURNED
        except aio_pika.exceptions.DeliveryError:
            return Outcome.NACKED
        except Exception:  # it doesn't tell whether the message had left
            return Outcome.UNKNOWN
        return self._settles_as


class _Consumer:
    def __init__(self, channel: AbstractChannel, options: ConsumerOptions) -> None:
        self._channel = channel
        self._options = options
        self._working = asyncio.Lock()
        self._acknowledging = asyncio.Lock()
        self._held = 0
        self._last: AbstractIncomingMessage | None = None
        self._stopped = asyncio.Event()
        self._is_cancelled = False
        self._receive: Receive | None = None
        self._early: deque[AbstractIncomingMessage] = deque()

    async def subscribe(self, queue: AbstractQueue) -> None:
        (await self._channel.get_underlay_channel()).on_consumer_cancel_callbacks.add(self._on_cancel)
        deliver = self._deliver if self._options.work is None else self._deliver_in_turn
        await queue.consume(deliver, no_ack=self._options.auto_ack, arguments=dict(self._options.arguments))

    async def run(self, receive: Receive) -> None:
        while self._early and not self._stopped.is_set():  # what comes meanwhile comes after these
            await self._answer(self._early.popleft(), receive)
        self._receive = receive
        lost = asyncio.create_task(_until_closed(self._channel))
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait((lost, stopped), return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._stopped.set()  # who is cancelled takes no more
            raise
        finally:
            lost.cancel()
            stopped.cancel()
        if self._is_cancelled:
            raise ConsumerCancelled("the broker cancelled the consumer")
        if not self._stopped.is_set():
            raise ConnectionLost("the channel was closed")
        async with self._working:  # who works finishes first
            pass
        if self._held and self._last is not None:
            await own_cancellation(self._last.ack(multiple=True))

    def stop(self) -> None:
        self._stopped.set()

    async def _deliver_in_turn(self, message: AbstractIncomingMessage) -> None:
        async with self._working:  # the first comes first
            await self._deliver(message)

    async def _deliver(self, message: AbstractIncomingMessage) -> None:
        """aio-pika calls it for each delivery, in a task of its own."""
        if self._stopped.is_set():
            return  # closing the channel puts it back
        if self._receive is None:
            self._early.append(message)
            return
        await self._answer(message, self._receive)

    async def _answer(self, message: AbstractIncomingMessage, receive: Receive) -> None:
        answer = receive(message.body, bool(message.redelivered))
        if self._options.work is not None:
            await asyncio.sleep(self._options.work())
        if self._options.auto_ack:
            return
        if answer is Answer.REQUEUE:
            await message.nack(requeue=True)
        elif answer is Answer.REJECT:
            await message.reject(requeue=False)
        else:
            self._held += 1
            self._last = message
            if self._held < self._options.ack_every:
                return
            self._held = 0
            if self._options.ack_every == 1:
                await message.ack()
                return
            async with self._acknowledging:  # or a later one might overtake it, after which its tag is unknown
                await message.ack(multiple=True)

    def _on_cancel(self, _: object) -> None:
        self._is_cancelled = True
        self._stopped.set()


async def make_consumer(channel: AbstractChannel, queue: str, options: ConsumerOptions) -> Consumer:
    """Subscribes to a queue on a channel, which is the consumer's own from then on."""
    await own_cancellation(channel.set_qos(options.prefetch))
    consumer = _Consumer(channel, options)
    await own_cancellation(consumer.subscribe(await channel.get_queue(queue, ensure=False)))
    return consumer


class _Caller:
    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    async def deliver(self, message: AbstractIncomingMessage) -> None:
        """aio-pika calls it for each reply."""
        waiter = self._waiting.pop(message.correlation_id or "", None)
        if waiter is not None and not waiter.done():
            waiter.set_result(message.body)

    async def call(self, queue: str, body: bytes) -> bytes:
        if self._channel.is_closed:
            raise ConnectionLost("the channel is closed")
        correlation_id = uuid4().hex
        waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[correlation_id] = waiter
        lost = asyncio.create_task(_until_closed(self._channel))
        request = aio_pika.Message(body, delivery_mode=1, reply_to=DIRECT_REPLY_TO, correlation_id=correlation_id)
        try:
            await own_cancellation(self._channel.default_exchange.publish(request, queue, mandatory=False))
            await asyncio.wait((waiter, lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.pop(correlation_id, None)
            lost.cancel()
        if not waiter.done():
            raise ConnectionLost("the channel was closed")
        return waiter.result()


class _Administrator:
    def __init__(self, connection: _Connection, channel: AbstractChannel) -> None:
        self._connection = connection
        self._channel = channel

    async def declare_queue(self, name: str, arguments: Mapping[str, Any]) -> None:
        await own_cancellation(self._channel.declare_queue(name, durable=True, arguments=dict(arguments)))

    async def declare_exchange(self, name: str, kind: str) -> None:
        await own_cancellation(self._channel.declare_exchange(name, kind, durable=True, auto_delete=True))

    async def delete_exchange(self, name: str) -> None:
        await own_cancellation(self._channel.exchange_delete(name))

    async def bind(self, queue: str, exchange: str, key: str) -> None:
        found = await self._channel.get_queue(queue, ensure=False)
        await own_cancellation(found.bind(exchange, key))

    async def count_messages(self, name: str) -> int | None:
        channel = await self._connection.open_channel()  # its own, as the question may close it
        try:
            queue = await own_cancellation(channel.declare_queue(name, passive=True))
        except aio_pika.exceptions.ChannelNotFoundEntity:
            return None
        count = queue.declaration_result.message_count or 0
        await own_cancellation(channel.close())
        return count

    async def delete_queue(self, name: str) -> None:
        await own_cancellation(self._channel.queue_delete(name))


async def _until_closed(channel: AbstractChannel) -> None:
    """Returns when the channel has ended, however that was."""
    closing = (await channel.get_underlay_channel()).closing
    try:
        await asyncio.wait((closing,))
    finally:
        closing.cancel()
