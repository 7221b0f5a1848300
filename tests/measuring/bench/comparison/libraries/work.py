"""A job as every library gets it, and how its time and memory are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.measuring.bench.measure import Clocks, Figures, raise_descriptor_limit, resident_bytes

QUEUE = "rabbitry.bench"
TRANSIENT = 1
"""The delivery mode of all messages: so the clients are compared, and not the broker's disk."""


@dataclass(frozen=True)
class Work:
    """What is to be done. `ahead`: messages without a confirm, or without an acknowledgement, at a time."""

    url: str
    count: int
    size: int
    ahead: int
    backend: str = "asyncio"

    @property
    def body(self) -> bytes:
        return b"x" * self.size


def shares(work: Work) -> list[int]:
    """How many messages each of `ahead` tasks publishes: all of them together `count`."""
    each, rest = divmod(work.count, work.ahead)
    return [each + (number < rest) for number in range(work.ahead)]


class Opening:
    """Takes memory and time of opening connections, from when it is made."""

    def __init__(self) -> None:
        raise_descriptor_limit()
        self._before = resident_bytes()
        self._clocks = Clocks()

    def figures(self, count: int) -> Figures:
        used = self._clocks.figures(count)
        return {
            "connections": count,
            "connect_seconds": used["seconds"],
            "connect_cpu_seconds": used["cpu_seconds"],
            "bytes_per_connection": (resident_bytes() - self._before) / count,
        }


def open_in_turn(open_one: Callable[[], object], count: int) -> Figures:
    """The figures of opening connections one after the other, all of which are held."""
    opening = Opening()
    held = [open_one() for _ in range(count)]
    return opening.figures(len(held))


async def open_together(open_one: Callable[[], Awaitable[object]], work: Work) -> Figures:
    """The figures of opening connections on asyncio, `ahead` at a time, all of which are held."""
    held: list[object] = []
    numbers = iter(range(work.count))

    async def open_some() -> None:
        for _ in numbers:
            held.append(await open_one())

    opening = Opening()
    await asyncio.gather(*[open_some() for _ in range(work.ahead)])
    return opening.figures(len(held))
