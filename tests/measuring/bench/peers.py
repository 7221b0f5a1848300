"""Other clients on the benchmark's work: `python -m tests.measuring.bench.peers aio_pika.tasks URL COUNT` runs one job.

They are used the way their documentation shows, and begin and end their clocks where ours.py does. The jobs of this
file exit without closing their connections: closing ten thousand takes them longer than opening them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.measuring.bench import peers_blocking, peers_rpc
from tests.measuring.bench.measure import (
    BODY,
    OPENING,
    PUBLISHES_EACH,
    QUEUE,
    TASKS,
    Clocks,
    Figures,
    arguments,
    connection_figures,
    print_figures,
    raise_descriptor_limit,
    resident_bytes,
)
from tests.measuring.bench.rpc import Server

Publish = Callable[[str], Awaitable[object]]
"""A confirmed publish with that routing key."""


@dataclass(frozen=True)
class Client:
    """A library as the jobs see it."""

    open: Callable[[str], Awaitable[Publish]]
    """Opens a connection and a channel with confirms on it."""
    renew_queue: Callable[[str], Awaitable[None]]
    """Makes the queue, empty."""


async def tasks(client: Client, url: str, count: int) -> Figures:
    """100 tasks share a channel, each awaiting its confirmed publishes."""
    await client.renew_queue(url)
    publish = await client.open(url)

    async def publish_some() -> None:
        for _ in range(count // TASKS):
            await publish(QUEUE)

    clocks = Clocks()
    await asyncio.gather(*[publish_some() for _ in range(TASKS)])
    figures = clocks.figures(count // TASKS * TASKS)
    await client.renew_queue(url)
    return figures


async def connections(client: Client, url: str, count: int) -> Figures:
    """Connections with a channel each, then confirmed publishes over all of them."""
    before = resident_bytes()
    publishes, opening = await _open_all(client, url, count)
    latencies: list[float] = []

    async def publish_five(publish: Publish) -> None:
        for _ in range(PUBLISHES_EACH):
            before = time.perf_counter()
            await publish("nowhere")
            latencies.append(time.perf_counter() - before)

    clocks = Clocks()
    await asyncio.gather(*[publish_five(publish) for publish in publishes])
    return connection_figures(opening, before, clocks.figures(len(latencies)), latencies)


async def opening(client: Client, url: str, count: int) -> Figures:
    """The first half of `connections`."""
    before = resident_bytes()
    _, opening = await _open_all(client, url, count)
    return connection_figures(opening, before)


async def _open_all(client: Client, url: str, count: int) -> tuple[list[Publish], Figures]:
    raise_descriptor_limit()
    publishes: list[Publish] = []
    numbers = iter(range(count))

    async def open_some() -> None:
        for _ in numbers:
            publishes.append(await client.open(url))

    clocks = Clocks()
    await asyncio.gather(*[open_some() for _ in range(OPENING)])
    assert len(publishes) == count
    return publishes, clocks.figures(count) | {"resident_bytes": resident_bytes()}


# --- the libraries ----------------------------------------------------------------------------------------------------


def aio_pika() -> Client:
    import aio_pika

    message = aio_pika.Message(BODY, delivery_mode=1)

    async def open(url: str) -> Publish:
        connection = await aio_pika.connect(url)
        channel = await connection.channel()
        exchange = channel.default_exchange
        return lambda routing_key: exchange.publish(message, routing_key=routing_key)

    async def renew_queue(url: str) -> None:
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            await channel.queue_delete(QUEUE)
            await channel.declare_queue(QUEUE, durable=True)

    return Client(open, renew_queue)


def aiormq() -> Client:
    import aiormq

    properties = aiormq.spec.Basic.Properties(delivery_mode=1)

    async def open(url: str) -> Publish:
        connection = await aiormq.connect(url)
        channel = await connection.channel()
        return lambda routing_key: channel.basic_publish(BODY, routing_key=routing_key, properties=properties)

    async def renew_queue(url: str) -> None:
        connection = await aiormq.connect(url)
        channel = await connection.channel()
        await channel.queue_delete(QUEUE)
        await channel.queue_declare(QUEUE, durable=True)
        await connection.close()

    return Client(open, renew_queue)


CLIENTS = {client.__name__: client for client in (aio_pika, aiormq)}
JOBS = {f"{client}.{job.__name__}": (job, client) for client in CLIENTS for job in (tasks, connections, opening)}
CALLERS = peers_rpc.CALLERS
BLOCKING = peers_blocking.JOBS


def main() -> None:
    options = arguments([*JOBS, *CALLERS, *peers_rpc.SERVERS, *BLOCKING])
    url, count = options.url, options.count
    if options.job in CALLERS:
        calling, serving = CALLERS[options.job]
        with Server("tests.measuring.bench.peers", serving, url, options.backend) as server:
            print_figures(asyncio.run(calling(url, count, server, peers_rpc.SERVERS[serving])))
    elif options.job in peers_rpc.SERVERS:
        print_figures(asyncio.run(peers_rpc.serve(url, count, peers_rpc.SERVERS[options.job])))
    elif options.job in BLOCKING:
        print_figures(BLOCKING[options.job](url, count))
    else:
        asyncio.run(run_and_exit(options.job, url, count))


async def run_and_exit(name: str, url: str, count: int) -> None:
    job, client = JOBS[name]
    print_figures(await job(CLIENTS[client](), url, count))
    os._exit(0)


if __name__ == "__main__":
    main()
