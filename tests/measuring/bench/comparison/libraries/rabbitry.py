"""rabbitry on asyncio, uvloop or trio: `channel.publish`, awaited by as many tasks as may be ahead; `async for` with
`delivery.ack()`; connections of `open_reactor` (docs/guides/connections.md, "One connection", and many_connections.md).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio

import rabbitry
from tests.measuring.bench.comparison.libraries.work import QUEUE, TRANSIENT, Opening, Work, shares
from tests.measuring.bench.measure import Clocks, Figures, percentiles

Job = Callable[[Work], Coroutine[Any, Any, Figures]]


def on_backend(job: Job) -> Callable[[Work], Figures]:
    def run(work: Work) -> Figures:
        uvloop = work.backend == "uvloop"
        backend = "asyncio" if uvloop else work.backend
        return anyio.run(partial(job, work), backend=backend, backend_options={"use_uvloop": True} if uvloop else None)

    return run


@asynccontextmanager
async def open_channel(work: Work, *, confirm: bool) -> AsyncIterator[rabbitry.Channel]:
    """A channel on a connection of its own, and an empty queue."""
    async with rabbitry.connect(work.url) as connection, connection.channel(confirm=confirm) as channel:
        await channel.delete_queue(QUEUE)
        await channel.declare_queue(QUEUE)
        yield channel
        await channel.delete_queue(QUEUE)


@on_backend
async def publish(work: Work) -> Figures:
    async with open_channel(work, confirm=True) as channel:
        message = rabbitry.Message(work.body, delivery_mode=TRANSIENT)

        async def publish_some(count: int) -> None:
            for _ in range(count):
                await channel.publish(message, routing_key=QUEUE)

        clocks = Clocks()
        async with anyio.create_task_group() as tg:
            for count in shares(work):
                tg.start_soon(publish_some, count)
        return clocks.figures(work.count)


@on_backend
async def publish_one(work: Work) -> Figures:
    async with open_channel(work, confirm=True) as channel:
        message = rabbitry.Message(work.body, delivery_mode=TRANSIENT)
        latencies: list[float] = []
        clocks = Clocks()
        for _ in range(work.count):
            before = time.perf_counter()
            await channel.publish(message, routing_key=QUEUE)
            latencies.append(time.perf_counter() - before)
        return clocks.figures(work.count) | percentiles(latencies)


@on_backend
async def consume(work: Work) -> Figures:
    async with open_channel(work, confirm=False) as channel:
        message = rabbitry.Message(work.body, delivery_mode=TRANSIENT)
        for _ in range(work.count):
            await channel.publish(message, routing_key=QUEUE)
        await channel.declare_queue(QUEUE, passive=True)  # they are there
        received = 0
        clocks = Clocks()
        async with channel.consume(QUEUE, prefetch=work.ahead) as deliveries:
            async for delivery in deliveries:
                delivery.ack()
                received += 1
                if received == work.count:
                    break
        await channel.declare_queue(QUEUE, passive=True)  # the acknowledgements are there
        return clocks.figures(work.count)


@on_backend
async def connections(work: Work) -> Figures:
    channels: list[rabbitry.Channel] = []
    async with rabbitry.open_reactor() as reactor:
        numbers = iter(range(work.count))

        async def open_some() -> None:
            for _ in numbers:
                connection = await reactor.connect(work.url).__aenter__()
                channels.append(await connection.channel().__aenter__())

        opening = Opening()
        async with anyio.create_task_group() as tg:
            for _ in range(work.ahead):
                tg.start_soon(open_some)
        return opening.figures(len(channels))
