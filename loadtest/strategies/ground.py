"""Where cells are performed: a private node, with a virtual host for each, or a broker that is there already, on the
virtual host of its URL, with queues for each that have names of their own and go afterwards.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

import anyio

import rabbitry
from loadtest.machine.resources import find_broker
from loadtest.urls import with_vhost
from rabbitry.testing import NodeError, PrivateNode

EXPIRY = 600.0
"""Seconds by which queues on another's broker outlive their cell at most, should this program be killed."""
DELETE_BOUND = 30.0
"""Seconds that it may take to delete a cell's queues."""


class Ground(Protocol):
    """A broker that cells have in turns."""

    @property
    def url(self) -> str:
        """Where it is."""
        ...

    @property
    def pid(self) -> int | None:
        """Its process on this machine; None if it isn't here, or isn't known."""
        ...

    def prefix_of(self, number: int) -> str:
        """What the names of the queues of the cell of that number begin with."""
        ...

    def lay(self, number: int, queues: Sequence[str], bound: float) -> AbstractContextManager[str]:
        """Declares the queues of the cell of that number, which ends within `bound` seconds; they are gone after the
        block. The URL under which they are.

        RabbitryError, OSError or NodeError if the broker doesn't do it.
        """
        ...


class PrivateGround:
    """A node of our own."""

    def __init__(self, node: PrivateNode) -> None:
        self._node = node
        self.url = node.url

    @property
    def pid(self) -> int | None:
        return self._node.pid or None

    def prefix_of(self, number: int) -> str:
        return "strategies"

    @contextmanager
    def lay(self, number: int, queues: Sequence[str], bound: float) -> Iterator[str]:
        vhost = f"strategies.{number}"
        self._node.rabbitmqctl("add_vhost", vhost)
        try:
            self._node.rabbitmqctl("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
            url = with_vhost(self._node.url, vhost)
            declare_queues(url, queues)
            yield url
        finally:
            with suppress(NodeError, subprocess.TimeoutExpired):
                self._node.rabbitmqctl("delete_vhost", vhost)


class GivenGround:
    """A broker that somebody named. What a killed program leaves there, `clean` knows by its name."""

    def __init__(self, url: str, run_id: str) -> None:
        self.url = url
        self._run_id = run_id
        process = find_broker((url,))
        self.pid = None if process is None else process.pid

    def prefix_of(self, number: int) -> str:
        return f"loadtest.{self._run_id}.{number}"

    @contextmanager
    def lay(self, number: int, queues: Sequence[str], bound: float) -> Iterator[str]:
        try:
            declare_queues(self.url, queues, expire_after=bound + EXPIRY)
            yield self.url
        finally:
            with suppress(rabbitry.RabbitryError, OSError):
                delete_queues(self.url, queues)


def declare_queues(url: str, queues: Sequence[str], *, expire_after: float | None = None) -> None:
    """Declares them, durable; they go after that many seconds without use."""
    arguments = {} if expire_after is None else {"x-expires": int(expire_after * 1000)}

    async def declare() -> None:
        async with rabbitry.connect(url) as connection, connection.channel() as channel:
            for queue in queues:
                await channel.declare_queue(queue, arguments=arguments)

    anyio.run(declare)


def delete_queues(url: str, queues: Sequence[str]) -> None:
    """Deletes them, whatever is in them."""

    async def delete() -> None:
        with anyio.fail_after(DELETE_BOUND):
            async with rabbitry.connect(url) as connection, connection.channel() as channel:
                for queue in queues:
                    await channel.delete_queue(queue)

    anyio.run(delete)


def count_messages(url: str, queues: Sequence[str]) -> int:
    """How many messages are ready in them."""

    async def count() -> int:
        async with rabbitry.connect(url) as connection, connection.channel() as channel:
            return sum([(await channel.declare_queue(queue, passive=True)).message_count for queue in queues])

    return anyio.run(count)
