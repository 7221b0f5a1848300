"""aiormq, as its README (https://github.com/mosquito/aiormq, "Simple publisher", "Simple consumer") shows it: channels
confirm, `basic_publish` returns with its confirm, a callback of `basic_consume` awaits `basic_ack`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiormq

from tests.measuring.bench.comparison.libraries.work import QUEUE, TRANSIENT, Work, open_together, shares
from tests.measuring.bench.measure import Clocks, Figures, percentiles

PROPERTIES = aiormq.spec.Basic.Properties(delivery_mode=TRANSIENT)


def in_loop(job: Callable[[Work], Coroutine[Any, Any, Figures]]) -> Callable[[Work], Figures]:
    return lambda work: asyncio.run(job(work))


@asynccontextmanager
async def open_channel(work: Work, *, confirm: bool = True) -> AsyncIterator[Any]:
    connection = await aiormq.connect(work.url)
    channel = await connection.channel(publisher_confirms=confirm)
    await channel.queue_delete(QUEUE)
    await channel.queue_declare(QUEUE, durable=True)
    yield channel
    await channel.queue_delete(QUEUE)
    await connection.close()


@in_loop
async def publish(work: Work) -> Figures:
    async with open_channel(work) as channel:
        body = work.body

        async def publish_some(count: int) -> None:
            for _ in range(count):
                await channel.basic_publish(body, routing_key=QUEUE, properties=PROPERTIES)

        clocks = Clocks()
        await asyncio.gather(*map(publish_some, shares(work)))
        return clocks.figures(work.count)


@in_loop
async def publish_one(work: Work) -> Figures:
    async with open_channel(work) as channel:
        body = work.body
        latencies: list[float] = []
        clocks = Clocks()
        for _ in range(work.count):
            before = time.perf_counter()
            await channel.basic_publish(body, routing_key=QUEUE, properties=PROPERTIES)
            latencies.append(time.perf_counter() - before)
        return clocks.figures(work.count) | percentiles(latencies)


@in_loop
async def consume(work: Work) -> Figures:
    async with open_channel(work, confirm=False) as channel:
        body = work.body
        for _ in range(work.count):
            await channel.basic_publish(body, routing_key=QUEUE, properties=PROPERTIES)
        await channel.basic_qos(prefetch_count=work.ahead)
        await channel.queue_declare(QUEUE, passive=True)  # they are there
        received, done = 0, asyncio.Event()

        async def on_message(message: Any) -> None:
            nonlocal received
            await message.channel.basic_ack(message.delivery.delivery_tag)
            received += 1
            if received == work.count:
                done.set()

        clocks = Clocks()
        await channel.basic_consume(QUEUE, on_message)
        await done.wait()
        await channel.queue_declare(QUEUE, passive=True)  # the acknowledgements are there
        return clocks.figures(work.count)


@in_loop
async def connections(work: Work) -> Figures:
    async def open_one() -> object:
        connection = await aiormq.connect(work.url)
        return connection, await connection.channel()

    return await open_together(open_one, work)
