"""aio-pika, as https://docs.aio-pika.com/quick-start.html shows it: channels confirm, `exchange.publish` returns with
its confirm, `queue.iterator()` with `message.ack()`; several publishes at a time as in
https://docs.aio-pika.com/rabbitmq-tutorial/7-publisher-confirms.html, where tasks await them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel

from tests.measuring.bench.comparison.libraries.work import QUEUE, TRANSIENT, Work, open_together, shares
from tests.measuring.bench.measure import Clocks, Figures, percentiles


def in_loop(job: Callable[[Work], Coroutine[Any, Any, Figures]]) -> Callable[[Work], Figures]:
    return lambda work: asyncio.run(job(work))


@asynccontextmanager
async def open_channel(work: Work, *, confirm: bool = True) -> AsyncIterator[AbstractChannel]:
    async with (
        await aio_pika.connect(work.url) as connection,
        connection.channel(publisher_confirms=confirm) as channel,
    ):
        await channel.queue_delete(QUEUE)
        await channel.declare_queue(QUEUE, durable=True)
        yield channel
        await channel.queue_delete(QUEUE)


@in_loop
async def publish(work: Work) -> Figures:
    async with open_channel(work) as channel:
        exchange, message = channel.default_exchange, aio_pika.Message(work.body, delivery_mode=TRANSIENT)

        async def publish_some(count: int) -> None:
            for _ in range(count):
                await exchange.publish(message, routing_key=QUEUE)

        clocks = Clocks()
        await asyncio.gather(*map(publish_some, shares(work)))
        return clocks.figures(work.count)


@in_loop
async def publish_one(work: Work) -> Figures:
    async with open_channel(work) as channel:
        exchange, message = channel.default_exchange, aio_pika.Message(work.body, delivery_mode=TRANSIENT)
        latencies: list[float] = []
        clocks = Clocks()
        for _ in range(work.count):
            before = time.perf_counter()
            await exchange.publish(message, routing_key=QUEUE)
            latencies.append(time.perf_counter() - before)
        return clocks.figures(work.count) | percentiles(latencies)


@in_loop
async def consume(work: Work) -> Figures:
    async with open_channel(work, confirm=False) as channel:
        message = aio_pika.Message(work.body, delivery_mode=TRANSIENT)
        for _ in range(work.count):
            await channel.default_exchange.publish(message, routing_key=QUEUE)
        await channel.set_qos(prefetch_count=work.ahead)
        queue = await channel.declare_queue(QUEUE, passive=True)  # they are there
        received = 0
        clocks = Clocks()
        async with queue.iterator() as deliveries:
            async for delivery in deliveries:
                await delivery.ack()
                received += 1
                if received == work.count:
                    break
        await channel.declare_queue(QUEUE, passive=True)  # the acknowledgements are there
        return clocks.figures(work.count)


@in_loop
async def connections(work: Work) -> Figures:
    async def open_one() -> object:
        connection = await aio_pika.connect(work.url)
        return connection, await connection.channel()

    return await open_together(open_one, work)
