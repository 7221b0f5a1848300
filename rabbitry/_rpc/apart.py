"""`Apart`: sends replies to addresses that may end the connection they are published on, each on one of its own.

What must stay true: whatever an address does, it does to itself: to no other reply, no handler, and no worker, which
does not wait for it. So its request is acknowledged before; a server that ends in between has lost the reply.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup

from rabbitry._channel.channel import Channel
from rabbitry._channel.delivery import Delivery
from rabbitry._concurrency.scopes import background
from rabbitry._errors import OutcomeUnknown, PublishFailed, RabbitryError, Unroutable
from rabbitry._rpc.addresses import Addresses
from rabbitry._values.message import Message

__all__ = ["Apart", "OpenApart"]

WAITING_AT_MOST = 100
"""Replies that wait for their turn; more are lost, and counted."""
NO_ROUTE = 312
BOUND = 5.0
"""Seconds that one may take, and that those which wait are given when the server ends."""

OpenApart: TypeAlias = Callable[[], AbstractAsyncContextManager[Channel]]
"""Opens a confirm channel on a connection of its own."""


class Apart:
    """Its block lies within the server's. It has no task before the first reply comes."""

    __slots__ = ("_group", "_idle", "_lost", "_open", "_scope", "_tasks", "_waiting", "addresses")

    def __init__(self, open_apart: OpenApart, lost: Callable[[PublishFailed], None]) -> None:
        """`lost` is told of replies that were not confirmed."""
        self.addresses = Addresses()
        self._open = open_apart
        self._lost = lost
        self._waiting: deque[tuple[Message, str]] = deque()
        self._idle: anyio.Event | None = None  # while there is a task; set when it has ended
        self._group: AbstractAsyncContextManager[TaskGroup] | None = None
        self._tasks: TaskGroup | None = None
        self._scope: anyio.CancelScope | None = None  # of the task

    async def __aenter__(self) -> None:
        self._group = background()
        self._tasks = await self._group.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._group is not None and self._tasks is not None
        if self._idle is not None:
            with anyio.move_on_after(BOUND, shield=True):
                await self._idle.wait()
            if self._scope is not None:
                self._scope.cancel()
        self._tasks = None
        return await self._group.__aexit__(kind, error, traceback)

    def takes(self, request: Delivery, reply: Message, address: str) -> bool:
        """Whether this reply is seen to here, as its address is none of those known to be harmless."""
        addresses = self.addresses
        if addresses.are_known(address):
            return False
        if not request.is_settled and not request.is_stale:
            request.ack()
        if addresses.are_malformed(address):
            self._lost(Unroutable(reply, "", address, (NO_ROUTE, "it is no address of direct reply-to")))
        else:
            self._send(reply, address)
        return True

    def _send(self, reply: Message, address: str) -> None:
        if len(self._waiting) >= WAITING_AT_MOST or self._tasks is None:
            self._lost(OutcomeUnknown(reply, "", address, f"{len(self._waiting)} others wait to be sent apart"))
            return
        self._waiting.append((reply, address))
        if self._idle is None:
            self._idle = anyio.Event()
            self._tasks.start_soon(self._run, self._idle)

    async def _run(self, idle: anyio.Event) -> None:
        with anyio.CancelScope(shield=True) as self._scope:
            while self._waiting:
                await self._send_next()
        self._idle = None
        idle.set()

    async def _send_next(self) -> None:
        reply, address = self._waiting.popleft()
        try:
            with anyio.fail_after(BOUND):
                async with self._open() as channel:
                    await channel.publish(reply, routing_key=address)
                    self.addresses.prove(address)
        except PublishFailed as error:
            self._lost(error)
        except (RabbitryError, OSError) as error:  # TimeoutError is one
            why = str(error) or type(error).__name__
            self._lost(OutcomeUnknown(reply, "", address, f"no connection for it: {why}"))
