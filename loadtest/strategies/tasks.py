"""Strategies on one event loop: how a client gets what it publishes with, over the drivers' interface.

A way opens what clients share; `publisher` gives one client its way to publish, `consumer` its subscription. What a
client does with them is the same for all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Protocol

import anyio

from loadtest.drivers import load_driver
from loadtest.drivers.base import Answer, Connection, Consumer, Outcome, Session
from loadtest.strategies.table import CLIENTS_PER_CONNECTION, Strategy, Way
from loadtest.strategies.work import RETRY_AFTER, TOGETHER, Book, Cell

Publish = Callable[[bytes], Awaitable[Outcome]]
"""Publishes one message; an exception means that it was not sent."""
NAME = "loadtest strategies"


class Clients(Protocol):
    """A way at work."""

    def publisher(self, number: int) -> AbstractAsyncContextManager[Publish]:
        """What the client of that number publishes with."""
        ...

    def consumer(self, number: int) -> AbstractAsyncContextManager[Consumer]:
        """The subscription of the client of that number."""
        ...


def ignore(token: object, outcome: Outcome) -> None:
    """Nobody submits."""


class OwnConnection:
    """Each client has a connection, and a channel on it."""

    def __init__(self, cell: Cell, session: Session) -> None:
        self.cell = cell
        self.session = session

    @asynccontextmanager
    async def publisher(self, number: int) -> AsyncIterator[Publish]:
        async with (
            self.session.connect(self.cell.url, NAME) as connection,
            connection.producer(self.cell.queue_of(number), self.cell.publishing, ignore) as producer,
        ):
            yield producer.publish

    @asynccontextmanager
    async def consumer(self, number: int) -> AsyncIterator[Consumer]:
        async with (
            self.session.connect(self.cell.url, NAME) as connection,
            connection.consumer(self.cell.queue_of(number), self.cell.consuming) as consumer,
        ):
            yield consumer


class ConnectionPerMessage(OwnConnection):
    """Who publishes opens and closes a connection for each message; consumers stay connected."""

    @asynccontextmanager
    async def publisher(self, number: int) -> AsyncIterator[Publish]:
        yield partial(self._publish, self.cell.queue_of(number))

    async def _publish(self, queue: str, body: bytes) -> Outcome:
        outcome: Outcome | None = None
        try:
            async with (
                self.session.connect(self.cell.url, NAME) as connection,
                connection.producer(queue, self.cell.publishing, ignore) as producer,
            ):
                outcome = await producer.publish(body)
        except Exception:
            if outcome is None:
                raise
        return outcome  # known before the closing failed


class SharedConnections:
    """Each client has a channel, on one of few connections; half of them publish, half consume."""

    def __init__(self, cell: Cell, publishing: Sequence[Connection], consuming: Sequence[Connection]) -> None:
        self.cell = cell
        self.publishing = publishing
        self.consuming = consuming

    def publisher(self, number: int) -> AbstractAsyncContextManager[Publish]:
        return self._publisher(self.publishing[number % len(self.publishing)], self.cell.queue_of(number))

    @asynccontextmanager
    async def _publisher(self, connection: Connection, queue: str) -> AsyncIterator[Publish]:
        async with connection.producer(queue, self.cell.publishing, ignore) as producer:
            yield producer.publish

    def consumer(self, number: int) -> AbstractAsyncContextManager[Consumer]:
        connection = self.consuming[number % len(self.consuming)]
        return connection.consumer(self.cell.queue_of(number), self.cell.consuming)


class ChannelPerMessage(SharedConnections):
    """Who publishes opens and closes a channel for each message; consumers keep theirs."""

    @asynccontextmanager
    async def _publisher(self, connection: Connection, queue: str) -> AsyncIterator[Publish]:
        yield partial(self._publish, connection, queue)

    async def _publish(self, connection: Connection, queue: str, body: bytes) -> Outcome:
        async with connection.producer(queue, self.cell.publishing, ignore) as producer:
            return await producer.publish(body)


@asynccontextmanager
async def open_way(cell: Cell, strategy: Strategy) -> AsyncIterator[Clients]:
    """What the clients of that strategy share."""
    if strategy.way is Way.POOL:
        from loadtest.strategies.pools import open_pools  # its library is needed for nothing else

        async with open_pools(cell) as pools:
            yield pools
        return
    async with load_driver(strategy.driver).open() as session, AsyncExitStack() as stack:

        async def connect(number: int) -> list[Connection]:
            return [await stack.enter_async_context(session.connect(cell.url, NAME)) for _ in range(number)]

        if strategy.way is Way.OWN_CONNECTION:
            yield OwnConnection(cell, session)
        elif strategy.way is Way.CONNECTION_PER_MESSAGE:
            yield ConnectionPerMessage(cell, session)
        elif strategy.way is Way.CHANNEL_PER_MESSAGE:
            yield ChannelPerMessage(cell, await connect(1), await connect(1))
        else:
            publishing = await connect(-(-cell.producers // CLIENTS_PER_CONNECTION))
            consuming = await connect(max(1, -(-cell.consumers // CLIENTS_PER_CONNECTION)))
            yield SharedConnections(cell, publishing, consuming)


class Tasks:
    """All clients of one cell, as tasks. `arrived`, `failed` and `working` tell how far they are."""

    def __init__(self, cell: Cell, strategy: Strategy, book: Book) -> None:
        self._cell = cell
        self._strategy = strategy
        self._book = book
        self._opening = anyio.Semaphore(TOGETHER)
        self._begin = anyio.Event()
        self.books = [book]
        self.arrived = 0
        self.failed = 0
        self.working = 0

    def begin(self) -> None:
        """Has them work."""
        self._begin.set()

    async def run(self, conduct: Callable[[], Awaitable[None]]) -> None:
        """Starts all clients, and drops them when `conduct` returns."""
        async with open_way(self._cell, self._strategy) as clients, anyio.create_task_group() as tg:
            for number in range(max(self._cell.producers, self._cell.consumers)):
                if number < self._cell.producers:
                    tg.start_soon(self._guard, self._produce, clients, number)
                if number < self._cell.consumers:
                    tg.start_soon(self._guard, self._consume, clients, number)
            await conduct()
            tg.cancel_scope.cancel()

    async def _guard(self, work: Callable[[Clients, int], Awaitable[None]], clients: Clients, number: int) -> None:
        try:
            await work(clients, number)
        except Exception as error:
            self._book.note(error)
            self.failed += 1

    async def _produce(self, clients: Clients, number: int) -> None:
        book, window, is_patient = self._book, self._book.window, self._strategy.way in _PER_MESSAGE
        async with AsyncExitStack() as stack:
            async with self._opening:
                publish = await stack.enter_async_context(clients.publisher(number))
            self.arrived += 1
            await self._begin.wait()
            self.working += 1
            try:
                while not window.is_stopping:
                    body = book.begin(number)
                    try:
                        outcome = await publish(body)
                    except Exception as error:
                        book.take_back(number, error)
                        if not is_patient:
                            self.failed += 1
                            break
                        await anyio.sleep(RETRY_AFTER)
                    else:
                        book.settle(number, outcome)
            finally:
                self.working -= 1
            await anyio.sleep_forever()

    async def _consume(self, clients: Clients, number: int) -> None:
        receive = self._book.receive

        def take(body: bytes, redelivered: bool) -> Answer:
            receive(body)
            return Answer.ACK

        async with AsyncExitStack() as stack:
            async with self._opening:
                consumer = await stack.enter_async_context(clients.consumer(number))
            self.arrived += 1
            await consumer.run(take)


_PER_MESSAGE = (Way.CONNECTION_PER_MESSAGE, Way.CHANNEL_PER_MESSAGE, Way.POOL)
"""Ways in which one message that could not be sent says nothing of the next."""
