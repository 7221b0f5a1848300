"""How many messages queues have at this moment, by asking each: a passive declare.

What must stay true: it changes nothing, asks a bounded number of queues, and is silent where AMQP can't be had: the
management may be open to those for whom the broker itself is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import anyio

import rabbitry
from rabbitry import ChannelClosed, Connection, RabbitryError
from rabbitry._cli.values import with_vhost

MOST = 200
"""Queues that are asked."""
PAUSE = 2.0
"""Seconds between both looks."""

Name = tuple[str, str]
"""A virtual host, and a queue in it."""


def look_twice(url: str, names: Sequence[Name], backend: str) -> dict[Name, tuple[int, int]]:
    """The messages ready in those queues that have no consumer, now and after `PAUSE`."""
    return anyio.run(_look_twice, url, list(names)[:MOST], backend=backend)


async def _look_twice(url: str, names: Sequence[Name]) -> dict[Name, tuple[int, int]]:
    before = await _look(url, names)
    if not any(before.values()):
        return {}
    await anyio.sleep(PAUSE)
    after = await _look(url, [name for name, count in before.items() if count])
    return {name: (before[name], count) for name, count in after.items()}


async def _look(url: str, names: Sequence[Name]) -> dict[Name, int]:
    found: dict[Name, int] = {}
    for vhost in {vhost for vhost, _ in names}:
        with suppress(RabbitryError, ValueError):
            async with rabbitry.connect(with_vhost(url, vhost), name="rabbitry queues") as connection:
                queues = [queue for each, queue in names if each == vhost]
                found |= {(vhost, queue): count for queue, count in (await _counts(connection, queues)).items()}
    return found


async def _counts(connection: Connection, queues: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    waiting = deque(queues)
    while waiting:
        with suppress(ChannelClosed):  # the queue is gone, or another connection's
            async with connection.channel(confirm=False) as channel:
                while waiting:
                    queue = waiting.popleft()
                    info = await channel.declare_queue(queue, passive=True)
                    if not info.consumer_count:
                        found[queue] = info.message_count
    return found
