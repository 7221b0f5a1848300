"""`Hub`: one poller, its task group and the connections on it, which it has connected and closes.

What must stay true, and is the point of this file, is the order of the end: close every connection under one shared
deadline, stop the poller, let its tasks end, then close the sockets and the selector. The poller runs shielded, so that
a cancelled body still closes well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby

import anyio
from anyio.abc import ByteStream, TaskGroup, TaskStatus

from rabbitry._concurrency.clock import loop_time
from rabbitry._concurrency.scopes import background
from rabbitry._concurrency.waiting import Waits, checkpoint_if_cancelled, waits
from rabbitry._endpoint import Endpoint
from rabbitry._errors import LocalProtocolError, NotConnected
from rabbitry._transport import Endpoint as TransportEndpoint
from rabbitry._transport import Poller, StreamPoller, StreamTransport, Transport, make_poller
from rabbitry._transport.addresses import Address as TcpAddress

__all__ = ["Hub", "open_hub"]


class Hub:
    """What any number of connections share; made by `open_hub`. Internal, so its names have no underscore."""

    __slots__ = ("_endpoints", "_is_closed", "_poller", "_tg", "waits")

    def __init__(self, poller: Poller | StreamPoller, tg: TaskGroup) -> None:
        self._poller = poller
        self._tg = tg
        self._endpoints: set[Endpoint] = set()
        self._is_closed = False
        self.waits: Waits = waits()

    def __len__(self) -> int:
        """How many connections it has."""
        return len(self._endpoints)

    def is_here(self) -> bool:
        """Whether it lives on the running event loop."""
        try:
            self.waits.check_loop()
        except LocalProtocolError:
            return False
        return True

    def check_open(self) -> None:
        """Raise `NotConnected` once it is being left."""
        if self._is_closed:
            raise NotConnected("the reactor is closed: connect inside its 'async with' block")

    def remember(self, endpoint: Endpoint) -> None:
        """A connection that is being opened: it is closed with the hub."""
        self.waits.check_loop()
        self.check_open()
        self._endpoints.add(endpoint)

    def forget(self, endpoint: Endpoint) -> None:
        """This connection has ended, or was never opened."""
        self._endpoints.discard(endpoint)

    async def connect_tcp(self, address: TcpAddress, endpoint: TransportEndpoint) -> Transport:
        """A transport connected to this address."""
        return await self._poller.connect_tcp(address, endpoint)

    async def connect_unix(self, path: str, endpoint: TransportEndpoint) -> Transport:
        """A transport connected to a Unix socket."""
        return await self._poller.connect_unix(path, endpoint)

    async def adopt(self, stream: ByteStream, endpoint: Endpoint) -> Transport:
        """A transport over a stream that somebody else opened, served by this hub's tasks."""
        if self._is_closed:
            await anyio.aclose_forcefully(stream)
            raise NotConnected("the reactor was closed while this connection was being opened")
        endpoint.transport = transport = StreamTransport(stream, endpoint)
        with anyio.CancelScope(shield=True):  # as in open_hub
            await self._tg.start(transport.run)
        return transport

    async def close(self) -> None:
        """End what is still connected, all under one deadline."""
        self._is_closed = True
        endpoints = list(self._endpoints)
        self._endpoints.clear()
        began = loop_time()
        try:
            for endpoint in endpoints:
                endpoint.start_close()
            # Those that the broker does not read have the shorter bound, and come first.
            bounds = sorted((endpoint.close_bound, id(endpoint), endpoint) for endpoint in endpoints)
            for bound, group in groupby(bounds, lambda entry: entry[0]):
                with anyio.CancelScope(deadline=began + bound, shield=True):
                    for _, _, endpoint in group:
                        if endpoint.closed is not None:
                            await endpoint.wait_closed()
        finally:  # asyncio's own Task.cancel passes AnyIO's shields
            for endpoint in endpoints:
                endpoint.drop()


@asynccontextmanager
async def open_hub() -> AsyncIterator[Hub]:
    """A hub whose poller runs. Leaving the block closes the connections still open, within 5 s altogether. What the
    body raises leaves unchanged.
    """
    poller = make_poller()
    is_here = True
    try:
        async with background() as tg:
            await checkpoint_if_cancelled()
            await _start(poller, tg)
            hub = Hub(poller, tg)
            try:
                yield hub
            finally:
                is_here = hub.is_here()
                hub.waits.check_loop()
                try:
                    await hub.close()
                finally:
                    poller.stop()
    finally:
        if is_here:  # else it is still in use
            poller.close()


async def _start(poller: Poller | StreamPoller, tg: TaskGroup) -> None:
    """Return once the poller runs.

    Not by `tg.start`: cancelled, it waits for its task, which is shielded and would never end.
    """
    started = anyio.Event()

    async def run() -> None:
        try:
            await poller.run(task_status=_Started(started))
        finally:
            started.set()
            poller.close()  # asyncio's own Task.cancel may have ended it: who waits for a connection must learn of it

    tg.start_soon(run)
    try:
        with anyio.CancelScope(shield=True):
            await started.wait()
    except BaseException:  # asyncio's own Task.cancel passes AnyIO's shields
        poller.stop()
        raise


class _Started(TaskStatus[None]):
    """Sets an event when the task has started."""

    def __init__(self, event: anyio.Event) -> None:
        self._event = event

    def started(self, value: None = None) -> None:
        self._event.set()
