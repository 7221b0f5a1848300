"""rabbitry on the benchmark's work: `python -m tests.measuring.bench.ours JOB URL COUNT --backend trio` runs one job.

What must stay true: only public names of rabbitry are used, the way its documentation shows; each job begins and ends
its clocks where reference.c and peers.py do; a job whose work was not done in full raises instead of giving figures.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio

import rabbitry
from tests.measuring.bench import ours_blocking, ours_rpc
from tests.measuring.bench.measure import (
    BODY,
    OPENING,
    PREFETCH,
    PUBLISHES_EACH,
    QUEUE,
    TASKS,
    WINDOW,
    Clocks,
    Figures,
    arguments,
    connection_figures,
    percentiles,
    print_figures,
    raise_descriptor_limit,
    resident_bytes,
)
from tests.measuring.bench.rpc import Server

MESSAGE = rabbitry.Message(BODY, delivery_mode=1)

Job = Callable[[str, int], Coroutine[Any, Any, Figures]]
Handler = Callable[[rabbitry.Delivery], Coroutine[Any, Any, None]]


@asynccontextmanager
async def open_channel(url: str, *, confirm: bool) -> AsyncIterator[rabbitry.Channel]:
    """A channel on a connection of its own, and an empty queue."""
    async with rabbitry.connect(url) as connection, connection.channel(confirm=confirm) as channel:
        await channel.delete_queue(QUEUE)
        await channel.declare_queue(QUEUE)
        yield channel
        await channel.delete_queue(QUEUE)


async def declare_passively(channel: rabbitry.Channel) -> rabbitry.QueueInfo:
    """Its reply says that the broker has dealt with all that was sent before."""
    return await channel.declare_queue(QUEUE, passive=True)


# --- without confirms -------------------------------------------------------------------------------------------------


async def publish_all(channel: rabbitry.Channel, count: int) -> None:
    publish_nowait, message = channel.publish_nowait, MESSAGE
    for _ in range(count):
        try:
            publish_nowait(message, routing_key=QUEUE)
        except anyio.WouldBlock:
            await channel.publish(message, routing_key=QUEUE)
    await declare_passively(channel)


async def publish(url: str, count: int) -> Figures:
    async with open_channel(url, confirm=False) as channel:
        clocks = Clocks()
        await publish_all(channel, count)
        return clocks.figures(count)


async def publish_fresh(url: str, count: int) -> Figures:
    """As `publish`, with a Message made for each."""
    async with open_channel(url, confirm=False) as channel:
        publish_nowait, make = channel.publish_nowait, rabbitry.Message
        clocks = Clocks()
        for _ in range(count):
            message = make(BODY, delivery_mode=1)
            try:
                publish_nowait(message, routing_key=QUEUE)
            except anyio.WouldBlock:
                await channel.publish(message, routing_key=QUEUE)
        await declare_passively(channel)
        return clocks.figures(count)


async def publish_await(url: str, count: int) -> Figures:
    async with open_channel(url, confirm=False) as channel:
        clocks = Clocks()
        for _ in range(count):
            await channel.publish(MESSAGE, routing_key=QUEUE)
        await declare_passively(channel)
        return clocks.figures(count)


async def consume(url: str, count: int) -> Figures:
    async with open_channel(url, confirm=False) as channel:
        await publish_all(channel, count)
        clocks = Clocks()
        async with channel.consume(QUEUE, prefetch=PREFETCH) as deliveries:
            received = 0
            async for delivery in deliveries:
                delivery.ack()
                received += 1
                if received == count:
                    break
            await declare_passively(channel)
            return clocks.figures(count)


# --- with confirms ----------------------------------------------------------------------------------------------------


async def window(url: str, count: int) -> Figures:
    async with open_channel(url, confirm=True) as channel:
        clocks = Clocks()
        async with channel.publisher(window=WINDOW) as publisher:
            for _ in range(count):
                await publisher.submit(MESSAGE, routing_key=QUEUE)
        figures = clocks.figures(count)
        assert publisher.confirmed == count, publisher
        return figures


async def one(url: str, count: int) -> Figures:
    """One confirmed publish at a time."""
    async with open_channel(url, confirm=True) as channel:
        latencies: list[float] = []
        clocks = Clocks()
        for _ in range(count):
            before = time.perf_counter()
            await channel.publish(MESSAGE, routing_key=QUEUE)
            latencies.append(time.perf_counter() - before)
        return clocks.figures(count) | percentiles(latencies)


async def tasks(url: str, count: int) -> Figures:
    """100 tasks share a channel, each awaiting its confirmed publishes."""
    async with open_channel(url, confirm=True) as channel:

        async def publish_some() -> None:
            for _ in range(count // TASKS):
                await channel.publish(MESSAGE, routing_key=QUEUE)

        clocks = Clocks()
        async with anyio.create_task_group() as tg:
            for _ in range(TASKS):
                tg.start_soon(publish_some)
        return clocks.figures(count // TASKS * TASKS)


# --- the same through a client that spans reconnects ------------------------------------------------------------------


@asynccontextmanager
async def open_client(url: str) -> AsyncIterator[rabbitry.Client]:
    """A client that has its connection and channel, and an empty queue."""
    async with open_channel(url, confirm=True), rabbitry.open_client(url) as client:
        await client.publish(MESSAGE, routing_key="nowhere")
        yield client


async def client_window(url: str, count: int) -> Figures:
    async with open_client(url) as client:
        clocks = Clocks()
        async with client.publisher(window=WINDOW) as publisher:
            for _ in range(count):
                await publisher.submit(MESSAGE, routing_key=QUEUE)
        figures = clocks.figures(count)
        assert publisher.confirmed == count, publisher
        return figures


async def client_one(url: str, count: int) -> Figures:
    async with open_client(url) as client:
        latencies: list[float] = []
        clocks = Clocks()
        for _ in range(count):
            before = time.perf_counter()
            await client.publish(MESSAGE, routing_key=QUEUE)
            latencies.append(time.perf_counter() - before)
        return clocks.figures(count) | percentiles(latencies)


async def client_tasks(url: str, count: int) -> Figures:
    """100 tasks share a client, each awaiting its confirmed publishes."""
    async with open_client(url) as client:

        async def publish_some() -> None:
            for _ in range(count // TASKS):
                await client.publish(MESSAGE, routing_key=QUEUE)

        clocks = Clocks()
        async with anyio.create_task_group() as tg:
            for _ in range(TASKS):
                tg.start_soon(publish_some)
        return clocks.figures(count // TASKS * TASKS)


async def process(url: str, count: int, handle: Callable[[rabbitry.Client], Handler], **options: Any) -> Figures:
    """`client.process` until that many messages are handled; they are in the queue before."""
    async with open_channel(url, confirm=False) as channel, rabbitry.open_client(url) as client:
        await publish_all(channel, count)
        await client.publish(MESSAGE, routing_key="nowhere")
        handler, done = handle(client), anyio.Event()
        handled = 0

        async def counted(delivery: rabbitry.Delivery) -> None:
            nonlocal handled
            await handler(delivery)
            handled += 1
            if handled == count:
                done.set()

        clocks = Clocks()
        async with anyio.create_task_group() as tg:
            tg.start_soon(partial(client.process, QUEUE, counted, **options))
            await done.wait()
            client.stop_consuming()
        return clocks.figures(count)


async def client_process(url: str, count: int) -> Figures:
    """With a handler that does nothing."""

    async def handler(delivery: rabbitry.Delivery) -> None:
        pass

    return await process(url, count, lambda client: handler, prefetch=200)


async def client_process_publish(url: str, count: int) -> Figures:
    """With a handler that awaits a confirmed publish, ten at a time."""

    def handle(client: rabbitry.Client) -> Handler:
        async def handler(delivery: rabbitry.Delivery) -> None:
            await client.publish(MESSAGE, routing_key="nowhere")

        return handler

    return await process(url, count, handle, concurrency=10, prefetch=200)


# --- many connections -------------------------------------------------------------------------------------------------


async def publish_five(channel: rabbitry.Channel, latencies: list[float]) -> None:
    """To no queue at all: the broker confirms at once, and the clients' work is what is measured."""
    for _ in range(PUBLISHES_EACH):
        before = time.perf_counter()
        await channel.publish(MESSAGE, routing_key="nowhere")
        latencies.append(time.perf_counter() - before)


async def connections(url: str, count: int) -> Figures:
    """Connections with a channel each in one reactor, held in a list; the reactor closes them."""
    raise_descriptor_limit()
    latencies: list[float] = []
    channels: list[rabbitry.Channel] = []
    async with rabbitry.open_reactor() as reactor:
        numbers = iter(range(count))

        async def open_some() -> None:
            for _ in numbers:
                connection = await reactor.connect(url).__aenter__()
                channels.append(await connection.channel().__aenter__())

        before = resident_bytes()
        clocks = Clocks()
        async with anyio.create_task_group() as tg:
            for _ in range(OPENING):
                tg.start_soon(open_some)
        opening = clocks.figures(len(channels)) | {"resident_bytes": resident_bytes()}
        assert len(channels) == count

        clocks = Clocks()
        async with anyio.create_task_group() as tg:
            for channel in channels:
                tg.start_soon(publish_five, channel, latencies)
        figures = connection_figures(opening, before, clocks.figures(len(latencies)), latencies)
        closing = Clocks()
    return figures | {"close_seconds": closing.figures(0)["seconds"]}


async def clients(url: str, count: int) -> Figures:
    """The same with a task per client, which opens, waits, publishes, waits and closes."""
    raise_descriptor_limit()
    latencies: list[float] = []
    slots = anyio.Semaphore(OPENING)
    all_open, all_published = anyio.Event(), anyio.Event()
    published = anyio.Event()
    opened = finished = 0

    async def client(reactor: rabbitry.Reactor) -> None:
        nonlocal opened, finished
        async with reactor.connect(url) as connection, connection.channel() as channel:
            slots.release()
            opened += 1
            await all_open.wait()
            await publish_five(channel, latencies)
            finished += 1
            if finished == count:
                published.set()
            await all_published.wait()

    async with rabbitry.open_reactor() as reactor, anyio.create_task_group() as tg:
        before = resident_bytes()
        clocks = Clocks()
        for _ in range(count):
            await slots.acquire()
            tg.start_soon(client, reactor)
        for _ in range(OPENING):  # every slot is free again once the last client is open
            await slots.acquire()
        opening = clocks.figures(opened) | {"resident_bytes": resident_bytes()}
        assert opened == count

        clocks = Clocks()
        all_open.set()
        await published.wait()
        figures = connection_figures(opening, before, clocks.figures(len(latencies)), latencies)
        closing = Clocks()
        all_published.set()
    return figures | {"close_seconds": closing.figures(0)["seconds"]}


JOBS: dict[str, Job] = {
    job.__name__: job
    for job in (
        *(publish, publish_fresh, publish_await, consume, window, one, tasks),
        *(client_window, client_one, client_tasks, client_process, client_process_publish),
        *(connections, clients),
        *ours_rpc.SERVERS,
    )
}
CALLERS = ours_rpc.CALLERS
BLOCKING = ours_blocking.JOBS


def main() -> None:
    options = arguments([*JOBS, *CALLERS, *BLOCKING])
    is_uvloop = options.backend == "uvloop"
    run = partial(
        anyio.run,
        backend="asyncio" if is_uvloop else options.backend,
        backend_options={"use_uvloop": True} if is_uvloop else None,
    )
    if options.job in CALLERS:
        job, serving = CALLERS[options.job]
        with Server("tests.measuring.bench.ours", serving, options.url, options.backend) as server:
            figures = run(job, options.url, options.count, server)
    elif options.job in BLOCKING:
        figures = BLOCKING[options.job](options.url, options.count)
    else:
        figures = run(JOBS[options.job], options.url, options.count)
    print_figures(figures)


if __name__ == "__main__":
    main()
