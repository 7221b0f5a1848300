"""aio-pika's documented way: robust connections and pools (https://docs.aio-pika.com/quick-start.html).

As there, a pool of two connections gives a pool of ten channels, and each publish borrows one of these. A consumer
holds its channel for good, so consumers have channels of their own on robust connections of their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import aio_pika
import aio_pika.exceptions
from aio_pika.abc import AbstractChannel, AbstractRobustConnection
from aio_pika.pool import Pool

from loadtest.drivers.aio_pika import make_consumer
from loadtest.drivers.aiormq import own_cancellation
from loadtest.drivers.base import Consumer, Outcome
from loadtest.strategies.table import CLIENTS_PER_CONNECTION, DOCUMENTED_POOL
from loadtest.strategies.work import Cell


@asynccontextmanager
async def open_pools(cell: Cell) -> AsyncIterator[Pools]:
    """The pools, and the connections of the consumers."""
    connections, channels = DOCUMENTED_POOL

    async def connect() -> AbstractRobustConnection:
        return await aio_pika.connect_robust(cell.url)

    async def open_channel() -> AbstractChannel:
        async with connection_pool.acquire() as connection:
            return await connection.channel()

    connection_pool: Pool[AbstractRobustConnection] = Pool(connect, max_size=connections)
    channel_pool: Pool[AbstractChannel] = Pool(open_channel, max_size=channels)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(connection_pool)
        await stack.enter_async_context(channel_pool)
        number = max(1, -(-cell.consumers // CLIENTS_PER_CONNECTION))
        consuming = [await stack.enter_async_context(await connect()) for _ in range(number)]
        yield Pools(cell, channel_pool, consuming)


class Pools:
    """Publishes through a pool of channels."""

    def __init__(self, cell: Cell, channels: Pool[AbstractChannel], consuming: list[AbstractRobustConnection]) -> None:
        self._cell = cell
        self._channels = channels
        self._consuming = consuming

    @asynccontextmanager
    async def publisher(self, number: int) -> AsyncIterator[Callable[[bytes], Awaitable[Outcome]]]:
        """What the client of that number publishes with."""
        queue = self._cell.queue_of(number)

        async def publish(body: bytes) -> Outcome:
            async with self._channels.acquire() as channel:
                message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                try:
                    await own_cancellation(channel.default_exchange.publish(message, queue, mandatory=False))
                except aio_pika.exceptions.DeliveryError:
                    return Outcome.NACKED
                except Exception:  # it doesn't tell whether the message had left
                    return Outcome.UNKNOWN
                return Outcome.CONFIRMED

        yield publish

    @asynccontextmanager
    async def consumer(self, number: int) -> AsyncIterator[Consumer]:
        """The subscription of the client of that number."""
        connection = self._consuming[number % len(self._consuming)]
        channel = await own_cancellation(connection.channel())
        yield await make_consumer(channel, self._cell.queue_of(number), self._cell.consuming)
