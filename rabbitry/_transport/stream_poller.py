"""The poller's part where the system has no epoll: every connection is a `StreamTransport` with tasks of its own.

It owns the task group they run in. Connections cost more here than under a `Poller`; everything else is the same to
their owners, so nothing above this layer needs to know which of the two it has.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import anyio
from anyio import TASK_STATUS_IGNORED

from rabbitry._transport.addresses import Address, os_error, peer_name
from rabbitry._transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from anyio.abc import ByteStream, TaskGroup, TaskStatus

    from rabbitry._transport.contracts import Endpoint


class StreamPoller:
    """As `Poller`, method by method; the connections left are lost by `stop` already."""

    def __init__(self) -> None:
        self._transports: set[StreamTransport] = set()
        self._tg: TaskGroup | None = None
        self._stopped = anyio.Event()

    def __len__(self) -> int:
        return len(self._transports)

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as self._tg:
                task_status.started()
                await self._stopped.wait()

    def stop(self) -> None:
        self._stopped.set()
        for transport in list(self._transports):
            transport.lose(OSError(errno.ECONNABORTED, f"{transport.describe()}: the poller was closed"))

    def close(self) -> None:
        """Nothing is left to close; `run` must have returned."""

    async def connect_tcp(self, address: Address, endpoint: Endpoint) -> StreamTransport:
        host, port, *scope = address
        if any(scope):  # a link-local IPv6 address, of the interface whose number stands last
            host = f"{host}%{scope[-1]}"
        return await self._adopt(await _plainly(anyio.connect_tcp(host, port), peer_name(address)), endpoint)

    async def connect_unix(self, path: str, endpoint: Endpoint) -> StreamTransport:
        return await self._adopt(await _plainly(anyio.connect_unix(path), path), endpoint)

    async def _adopt(self, stream: ByteStream, endpoint: Endpoint) -> StreamTransport:
        if self._stopped.is_set() or self._tg is None:
            await anyio.aclose_forcefully(stream)
            raise OSError(errno.ECONNABORTED, "the poller was closed")
        transport = StreamTransport(stream, endpoint)
        self._transports.add(transport)
        self._tg.start_soon(self._serve, transport)
        return transport

    async def _serve(self, transport: StreamTransport) -> None:
        try:
            await transport.run()
        finally:
            self._transports.discard(transport)


async def _plainly(connecting: Awaitable[ByteStream], peer: str) -> ByteStream:
    """AnyIO's "all connection attempts failed" has no number; its cause has."""
    try:
        return await connecting
    except OSError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise os_error(cause.errno or errno.ECONNREFUSED, peer) from error
