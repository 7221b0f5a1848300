"""A proxy between client and broker that fails on command. It owns the listener and both sockets of every link.

What must stay true: bytes pass unchanged and in order; of a stalled flow none is read, so that the sender comes to feel
it; nothing fails unless the test says so: one side's end is passed on to the other, and a link is over when both ended.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio

CHUNK = RECEIVE_BUFFER = 65536  # the second is what a stalled flow still swallows before its sender feels it


class Flow:
    """One direction of a link: how many bytes have passed, the last of them, and whether the source has ended."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.passed, self.last = 0, b""
        self.ended = anyio.Event()
        self._source, self._target = source, target
        self._running = anyio.Event()
        self._running.set()

    def stall(self) -> None:
        """Read nothing more from the source."""
        if self._running.is_set():
            self._running = anyio.Event()

    def resume(self) -> None:
        self._running.set()

    def half_close(self) -> None:
        """The target sees the end; in the other direction everything goes on."""
        self.stall()
        self._target.shutdown(socket.SHUT_WR)

    async def run(self, scope: anyio.CancelScope) -> None:
        """Pass on until the source ends; an error cancels `scope`."""
        try:
            while data := await self._receive():
                await self._send(data)
            self.ended.set()
            self._target.shutdown(socket.SHUT_WR)
        except OSError:
            self.ended.set()
            scope.cancel()

    async def _receive(self) -> bytes:
        while True:
            await self._running.wait()
            try:
                return self._source.recv(CHUNK)
            except BlockingIOError:
                await anyio.wait_readable(self._source)

    async def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._target.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._target)
        self.passed += len(data)
        self.last = (self.last + data)[-64:]


class Link:
    """One client's way to the broker."""

    def __init__(self, client: socket.socket, broker: socket.socket) -> None:
        self.to_broker = Flow(client, broker)
        self.to_client = Flow(broker, client)
        self._sockets, self._scope = (client, broker), anyio.CancelScope()

    def cut(self) -> None:
        """Close both sockets: each side sees an end, or a reset if it had sent what was not read."""
        self._scope.cancel()

    def reset(self) -> None:
        """Both sides see a reset."""
        for sock in self._sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._scope.cancel()

    async def run(self) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as tg:
                    tg.start_soon(self.to_broker.run, self._scope)
                    tg.start_soon(self.to_client.run, self._scope)
        finally:
            for sock in self._sockets:
                sock.close()


class Proxy:
    """`url` is the broker's by way of this proxy; `links` are all there were, each passed to `on_link` as it begins."""

    def __init__(self, listener: socket.socket, broker_url: str) -> None:
        parts = urlsplit(broker_url)
        self._listener = listener
        self._broker = (parts.hostname or "localhost", parts.port or 5672)
        self.links: list[Link] = []
        self.on_link: Callable[[Link], object] = lambda link: None
        credentials = parts.netloc.rpartition("@")[0] or "guest:guest"
        address = listener.getsockname()
        if listener.family == socket.AF_UNIX:
            self.url = f"amqp+unix://{credentials}@{address}?vhost={parts.path[1:] or '%2F'}"
        else:
            host = f"[{address[0]}]" if listener.family == socket.AF_INET6 else address[0]
            self.url = parts._replace(netloc=f"{credentials}@{host}:{address[1]}").geturl()

    @property
    def link(self) -> Link:
        """The latest."""
        return self.links[-1]

    async def run(self) -> None:
        async with anyio.create_task_group() as tg:
            while True:
                await anyio.wait_readable(self._listener)
                client, _ = self._listener.accept()
                broker = socket.create_connection(self._broker)  # on this machine: at once
                for sock in client, broker:
                    sock.setblocking(False)
                self.links.append(Link(client, broker))
                self.on_link(self.link)
                tg.start_soon(self.link.run)


@asynccontextmanager
async def open_proxy(broker_url: str, listen: tuple[str, int] | str = ("127.0.0.1", 0)) -> AsyncIterator[Proxy]:
    """A proxy that listens at an IPv4 or IPv6 address, or at the path of a Unix socket."""
    family = socket.AF_UNIX if isinstance(listen, str) else socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        listener.bind(listen)
        listener.listen(1024)
        listener.setblocking(False)
        async with anyio.create_task_group() as tg:
            proxy = Proxy(listener, broker_url)
            tg.start_soon(proxy.run)
            yield proxy
            tg.cancel_scope.cancel()
