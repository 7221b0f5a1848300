"""What the behavioural tests share: a channel to work on, queues of their own, a proof that a channel is right."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.from_thread import start_blocking_portal

import rabbitry


def unique(prefix: str = "test") -> str:
    """A name nobody else uses: the tests share one broker."""
    return f"{prefix}-{secrets.token_hex(6)}"


def version_of(url: str) -> tuple[int, ...]:
    """A broker's version, such as (4, 0, 5)."""

    async def ask() -> str:
        async with rabbitry.connect(url) as connection:
            return str(connection.server_properties["version"])

    with start_blocking_portal() as portal:
        version = portal.call(ask)
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("-")[0]))


@asynccontextmanager
async def open_channel(url: str, **options: Any) -> AsyncIterator[rabbitry.Channel]:
    """A channel on a connection of its own."""
    async with rabbitry.connect(url) as connection, connection.channel(**options) as channel:
        yield channel


async def exclusive_queue(channel: rabbitry.Channel, bodies: Iterable[bytes] = (), **arguments: Any) -> str:
    """A queue that goes with the connection, filled with `bodies`; `arguments` are RabbitMQ's, `_` for `-`."""
    table = {name.replace("_", "-"): value for name, value in arguments.items()}
    queue = (await channel.declare_queue(exclusive=True, arguments=table)).name
    for body in bodies:
        await channel.publish(body, routing_key=queue)
    return queue


async def counts(channel: rabbitry.Channel, queue: str) -> tuple[int, int]:
    """Messages ready and consumers, now. RabbitMQ's queues answer this ahead of messages and settlements just sent."""
    info = await channel.declare_queue(queue, passive=True)
    return info.message_count, info.consumer_count


async def has_counts(channel: rabbitry.Channel, queue: str, ready: int, consumers: int = 0) -> bool:
    """Whether the queue comes to have as many within half a minute; prints what it had, if not."""
    deadline = anyio.current_time() + 30
    while (found := await counts(channel, queue)) != (ready, consumers):
        if anyio.current_time() > deadline:
            print(f"{queue}: (ready, consumers) are {found}, not {(ready, consumers)}")
            return False
        await anyio.sleep(0.002)
    return True


async def drain(channel: rabbitry.Channel, queue: str) -> list[bytes]:
    """Take everything that is ready."""
    bodies = []
    while (delivery := await channel.get(queue, no_ack=True)) is not None:
        bodies.append(delivery.body)
    return bodies


async def until(condition: Any, seconds: float = 30) -> None:
    """Return when `condition()` is true."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.002)


@asynccontextmanager
async def stopwatch() -> AsyncIterator[Callable[[], float]]:
    """The seconds since entering in which this event loop could run. A turn counts as 50 ms at most: what is more the
    machine took, which may be busy."""
    elapsed, last = 0.0, anyio.current_time()

    async def tick() -> None:
        nonlocal elapsed, last
        while True:
            await anyio.sleep(0.01)
            now = anyio.current_time()
            elapsed, last = elapsed + min(now - last, 0.05), now

    async with anyio.create_task_group() as tg:
        tg.start_soon(tick)
        yield lambda: elapsed
        tg.cancel_scope.cancel()


async def check_channel(channel: rabbitry.Channel) -> None:
    """Requests still get their own replies and publishes their own confirms, and nothing strays in."""
    queue = await channel.declare_queue(exclusive=True)
    assert queue.name.startswith("amq.gen-")
    assert (queue.message_count, queue.consumer_count) == (0, 0)
    bodies = [b"first", b"second", b"third"]
    for body in bodies:
        await channel.publish(body, routing_key=queue.name)
    deliveries = [await channel.get(queue.name) for _ in bodies]
    assert [delivery and delivery.body for delivery in deliveries] == bodies
    assert await channel.get(queue.name) is None
    for delivery in deliveries:
        assert delivery is not None
        delivery.ack()
    assert await channel.delete_queue(queue.name) == 0
