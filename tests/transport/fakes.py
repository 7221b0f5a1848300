"""A recording endpoint, and peers on real local sockets whose every move the test makes itself."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from rabbitry._transport import Poller, SocketTransport

PATIENCE = 30.0


async def until(condition: Callable[[], object]) -> None:
    """Wait until the condition holds; a test that waits in vain fails here."""
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await anyio.lowlevel.checkpoint()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Recorder:
    """An endpoint that remembers what it was told; `on_data` and the `*_error` attributes make it misbehave."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.queue: list[bytes] = []
        self.chunks: list[bytes] = []
        self.lost: list[Exception | None] = []
        self.fired: list[float] = []
        self.following: list[float] = []
        self.on_data: Callable[[bytes], object] | None = None
        self.on_lost: Callable[[], object] | None = None
        self.outstanding = 0
        self.errors: dict[str, Exception] = {}

    def _check(self, name: str) -> None:
        assert not self.lost, f"{name} called after connection_lost"
        if name in self.errors:
            raise self.errors[name]

    @property
    def received(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def awaiting(self) -> int:
        self._check("awaiting")
        return self.outstanding

    def receive_data(self, data: bytes, now: float) -> None:
        assert type(data) is bytes and data
        self.chunks.append(data)
        self._check("receive_data")
        if self.on_data is not None:
            self.on_data(data)

    def data_to_send(self) -> bytes:
        self._check("data_to_send")
        data = b"".join(self.queue)
        self.queue.clear()
        return data

    def handle_timer(self, now: float) -> float | None:
        self.fired.append(now)
        self._check("handle_timer")
        return self.following.pop(0) if self.following else None

    def connection_lost(self, error: Exception | None) -> None:
        self._check("connection_lost")
        self.lost.append(error)
        if self.on_lost is not None:
            self.on_lost()

    def write(self, data: bytes) -> None:
        """As the hot path does it."""
        self.queue.append(data)
        if not self.transport.scheduled:
            self.transport.send_now()


class Peer:
    """The other end of a connection: a plain non-blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock

    async def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end."""
        data = bytearray()
        with anyio.fail_after(PATIENCE):
            while len(data) < size:
                try:
                    chunk = self.sock.recv(size - len(data))
                except BlockingIOError:
                    await anyio.wait_readable(self.sock)
                    continue
                if not chunk:
                    break
                data += chunk
        return bytes(data)

    def arrived(self) -> bytes:
        """What is there now."""
        try:
            return self.sock.recv(1 << 20)
        except BlockingIOError:
            return b""

    def send(self, data: bytes) -> None:
        assert self.sock.send(data) == len(data)

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


class Listener:
    """Loopback TCP, or a Unix socket if given a path."""

    def __init__(self, path: str | None = None, backlog: int = 128) -> None:
        if path is None:
            self.sock = socket.create_server(("127.0.0.1", 0), backlog=backlog)
            self.port: int = self.sock.getsockname()[1]
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.bind(path)
            self.sock.listen(backlog)
        self.path = path
        self.sock.setblocking(False)
        self.peers: list[Peer] = []

    async def accept(self) -> Peer:
        with anyio.fail_after(PATIENCE):
            await anyio.wait_readable(self.sock)
        return self.accept_now()

    def accept_now(self) -> Peer:
        peer = Peer(self.sock.accept()[0])
        self.peers.append(peer)
        return peer

    async def connect(self, poller: Poller, endpoint: Recorder | None = None) -> tuple[Recorder, Peer]:
        """A connected endpoint and its peer."""
        endpoint = endpoint or Recorder()
        if self.path is None:
            endpoint.transport = await poller.connect_tcp(("127.0.0.1", self.port), endpoint)
        else:
            endpoint.transport = await poller.connect_unix(self.path, endpoint)
        return endpoint, await self.accept()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self.peers:
            peer.close()
        self.sock.close()


@asynccontextmanager
async def running_poller(pump: Any = None) -> AsyncIterator[Poller]:
    poller = Poller(pump)
    try:
        async with anyio.create_task_group() as tg:
            await tg.start(poller.run)
            try:
                yield poller
            finally:
                poller.stop()
    finally:
        poller.close()


@asynccontextmanager
async def connected(pump: Any = None) -> AsyncIterator[tuple[Poller, Recorder, Peer]]:
    """A running poller with one connection."""
    with Listener() as listener:
        async with running_poller(pump) as poller:
            endpoint, peer = await listener.connect(poller)
            yield poller, endpoint, peer


class Spy:
    """Stands before a transport's socket and remembers what `send` took."""

    def __init__(self, transport: SocketTransport) -> None:
        self.sock: socket.socket = transport._socket
        self.sent: list[bytes] = []
        transport._socket = self  # type: ignore[assignment]

    def send(self, data: bytes) -> int:
        number = self.sock.send(data)
        self.sent.append(bytes(data[:number]))
        return number

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)
