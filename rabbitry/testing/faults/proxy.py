"""A TCP proxy between client and broker that fails on command. It owns the listener and both sockets of every link.

What must stay true: bytes pass unchanged and in order; of a stalled flow none is read, so that the sender comes to feel
it; nothing fails unless somebody says so: one side's end is passed on to the other, and a link is over when both ended.
A link that is over is forgotten, so memory stays bounded over any number of them. It knows nothing of AMQP.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import anyio
import anyio.lowlevel

from rabbitry._concurrency.clock import loop_time
from rabbitry._concurrency.virtual import refuse_real_sockets

CHUNK = RECEIVE_BUFFER = 65536  # the second is what a stalled flow still swallows before its sender feels it
IN_FLIGHT = 1 << 20  # bytes that a delayed flow holds at most before it stops reading
THROTTLE_TICK = 0.02  # seconds: how far apart a throttled flow's pieces are where it carries enough

PORTS = {"amqp": 5672, "amqps": 5671}


class Conditions:
    """What every link of a proxy goes through. Plain attributes, which take effect at once.

    delay:    seconds from reading a chunk to passing it on, each way; throughput stays, as on a long line.
    split:    bytes passed on at a time, 1 is byte by byte; 0 is no limit. The receiver may still find several pieces.
    throttle: bytes per second, at most, for each direction of each link; 0 is no limit.
    """

    def __init__(self) -> None:
        self.delay: float = 0.0
        self.split = 0
        self.throttle: float = 0.0


class Flow:
    """One direction of a link: how many bytes have `passed`, the `last` 64 of them, and whether it has `ended`, because
    its source did or the link is over."""

    def __init__(self, conditions: Conditions) -> None:
        self.passed: int = 0
        self.last: bytes = b""
        self.ended: anyio.Event = anyio.Event()
        self._conditions = conditions
        self._source: socket.socket | None = None
        self._target: socket.socket | None = None
        self._half_closed = False
        self._running = anyio.Event()
        self._running.set()

    def stall(self) -> None:
        """Read nothing more from the source, and pass nothing on."""
        if self._running.is_set():
            self._running = anyio.Event()

    def resume(self) -> None:
        """End a stall."""
        self._running.set()

    def half_close(self) -> None:
        """The target sees the end, and nothing of what the source still sends; the other direction goes on."""
        self._half_closed = True
        if self._target is not None:
            with contextlib.suppress(OSError):  # the link is over, or reset
                self._target.shutdown(socket.SHUT_WR)

    async def _run(self, source: socket.socket, target: socket.socket, scope: anyio.CancelScope) -> None:
        """Pass on until the source ends; an error cancels `scope`."""
        self._source, self._target = source, target
        try:
            if self._half_closed:
                target.shutdown(socket.SHUT_WR)
            await self._pass_on()
            target.shutdown(socket.SHUT_WR)
        except OSError:
            scope.cancel()
        finally:
            self.ended.set()

    async def _pass_on(self) -> None:
        waiting: deque[tuple[float, bytes]] = deque()  # read, and when due
        held = 0
        while waiting or not self.ended.is_set():
            due = waiting[0][0] if waiting else math.inf
            if self.ended.is_set() or held >= IN_FLIGHT:
                await anyio.sleep_until(due)
            elif (data := await self._receive(due)) is not None:
                waiting.append((loop_time() + self._conditions.delay, data))
                held += len(data)
                if not data:
                    self.ended.set()
            while waiting and waiting[0][0] <= loop_time():
                data = waiting.popleft()[1]
                held -= len(data)
                await self._send(data)

    async def _receive(self, due: float) -> bytes | None:
        """What the source sends next; b"" at its end; None if it is `due` first."""
        assert self._source is not None
        while True:
            await self._running.wait()
            try:
                return self._source.recv(CHUNK)
            except BlockingIOError:
                if due == math.inf:
                    await anyio.wait_readable(self._source)
                    continue
            with anyio.CancelScope(deadline=due) as scope:
                await anyio.wait_readable(self._source)
            if scope.cancelled_caught:
                return None

    async def _send(self, data: bytes) -> None:
        assert self._target is not None
        rest = memoryview(data)
        while rest:
            if not self._running.is_set():
                await self._running.wait()
            if self._half_closed:
                return
            split, throttle = self._conditions.split, self._conditions.throttle
            size = split or CHUNK
            if throttle:
                size = min(size, max(1, int(throttle * THROTTLE_TICK)))
            try:
                sent = self._target.send(rest[:size])
            except BlockingIOError:
                await anyio.wait_writable(self._target)
                continue
            self.passed += sent
            self.last = (self.last + rest[:sent])[-64:]
            rest = rest[sent:]
            if throttle:
                await anyio.sleep(sent / throttle)
            elif rest:
                await anyio.lowlevel.checkpoint()


class Link:
    """One client's way to the broker, and back. `ended` is set once both sockets are closed."""

    def __init__(self, client: socket.socket, addresses: list[tuple[int, Any]], conditions: Conditions) -> None:
        self.to_broker: Flow = Flow(conditions)
        self.to_client: Flow = Flow(conditions)
        self.ended: anyio.Event = anyio.Event()
        self._addresses = addresses
        self._sockets = [client]
        self._scope = anyio.CancelScope()

    def cut(self) -> None:
        """Close both sockets: each side sees an end, or a reset if it had sent what was not read."""
        self._scope.cancel()

    def reset(self) -> None:
        """Both sides see a reset."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):  # closed already
                _reset_on_close(sock)
        self._scope.cancel()

    def stall(self) -> None:
        """Nothing is read or passed on, either way."""
        self.to_broker.stall()
        self.to_client.stall()

    def resume(self) -> None:
        """End a stall, of both directions."""
        self.to_broker.resume()
        self.to_client.resume()

    def half_close(self) -> None:
        """The client sees the end; what it sends still reaches the broker. `to_broker.half_close()` is the reverse."""
        self.to_client.half_close()

    async def _run(self) -> None:
        try:
            with self._scope:
                client, broker = self._sockets[0], await self._dial()
                async with anyio.create_task_group() as tg:
                    tg.start_soon(self.to_broker._run, client, broker, self._scope)
                    tg.start_soon(self.to_client._run, broker, client, self._scope)
        except OSError:
            self.reset()  # there is no way to the broker
        finally:
            for sock in self._sockets:
                sock.close()
            self.ended.set()

    async def _dial(self) -> socket.socket:
        """Connect to the first address that answers. Raises the last one's OSError if none does."""
        failure = OSError("the broker has no address")
        for family, address in self._addresses:
            broker = socket.socket(family, socket.SOCK_STREAM)
            self._sockets[1:] = [broker]
            _prepare(broker)
            try:
                await _connect(broker, address)
                return broker
            except OSError as error:
                broker.close()
                failure = error
        raise failure


class Proxy(Conditions):
    """`url` is the broker's by way of this proxy. What is called on the proxy meets all its links at once.

    links:    those alive, the oldest first; `link` is the latest that there was.
    accepted: how many there have been.
    on_link:  called with each link as it begins, before anything has passed.
    """

    def __init__(self, listener: socket.socket, broker_url: str, addresses: list[tuple[int, Any]]) -> None:
        super().__init__()
        self.links: list[Link] = []
        self.accepted: int = 0
        self.on_link: Callable[[Link], object] = lambda link: None
        self._listener = listener
        self._addresses = addresses
        self._latest: Link | None = None
        self._stalled = self._refusing = False

        parts = urlsplit(broker_url)
        credentials = parts.netloc.rpartition("@")[0] or "guest:guest"
        address = listener.getsockname()
        if listener.family == socket.AF_UNIX:
            self.url: str = f"amqp+unix://{credentials}@{address}?vhost={parts.path[1:] or '%2F'}"
        else:
            host = f"[{address[0]}]" if listener.family == socket.AF_INET6 else address[0]
            netloc = f"{credentials}@{host}:{address[1]}"
            self.url = urlunsplit((parts.scheme, netloc, parts.path, parts.query, parts.fragment))

    @property
    def link(self) -> Link:
        """The latest link, also when it is over. Raises RuntimeError before the first."""
        if self._latest is None:
            raise RuntimeError("nobody has connected to this proxy yet")
        return self._latest

    def cut(self) -> None:
        """Close every link's sockets: each side sees an end, or a reset if it had sent what was not read."""
        for link in self.links:
            link.cut()

    def reset(self) -> None:
        """Both sides of every link see a reset."""
        for link in self.links:
            link.reset()

    def stall(self) -> None:
        """Nothing passes any more, nor is it read, on the links there are and those to come: until `resume`."""
        self._stalled = True
        for link in self.links:
            link.stall()

    def resume(self) -> None:
        """End every stall: the proxy's, a link's and a flow's."""
        self._stalled = False
        for link in self.links:
            link.resume()

    def half_close(self) -> None:
        """Every client sees the end of what the broker sends; what it sends itself still reaches the broker."""
        for link in self.links:
            link.half_close()

    def refuse(self) -> None:
        """Reset every new connection as soon as it is accepted, as where nothing is left behind a load balancer. The
        port stays open, so that nobody else can take it; the links there are go on."""
        self._refusing = True

    def accept(self) -> None:
        """Let new connections in again."""
        self._refusing = False

    async def _run(self) -> None:
        async with anyio.create_task_group() as tg:
            while True:
                await anyio.wait_readable(self._listener)
                try:
                    client, _ = self._listener.accept()
                except (BlockingIOError, ConnectionAbortedError):  # it has gone again
                    continue
                if self._refusing:
                    _reset_on_close(client)
                    client.close()
                    continue
                _prepare(client)
                link = self._latest = Link(client, self._addresses, self)
                self.links.append(link)
                self.accepted += 1
                if self._stalled:
                    link.stall()
                self.on_link(link)
                tg.start_soon(self._run_link, link)

    async def _run_link(self, link: Link) -> None:
        try:
            await link._run()
        finally:
            self.links.remove(link)


@asynccontextmanager
async def open_proxy(broker_url: str, listen: tuple[str, int] | str = ("127.0.0.1", 0)) -> AsyncIterator[Proxy]:
    """`async with open_proxy(node.url) as proxy:` - a proxy to the broker at an `amqp://` or `amqps://` URL.

    listen: an IPv4 or IPv6 address and its port, 0 for any that is free; or the path of a Unix socket.
    Raises OSError if it can't listen there, or if the broker's name is unknown; whether the broker answers is seen only
    as a link begins, and one that it does not answer is reset. Leaving cuts all links; cancelling does as well.
    Where time is virtual it is refused.
    """
    refuse_real_sockets("a proxy")
    parts = urlsplit(broker_url)
    found = await anyio.getaddrinfo(
        parts.hostname or "localhost", parts.port or PORTS.get(parts.scheme, 5672), type=socket.SOCK_STREAM
    )
    addresses: list[tuple[int, Any]] = [(family, address) for family, _, _, _, address in found]
    family = socket.AF_UNIX if isinstance(listen, str) else socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        listener.bind(listen)
        listener.listen(1024)
        listener.setblocking(False)
        failure: BaseException | None = None
        async with anyio.create_task_group() as tg:
            proxy = Proxy(listener, broker_url, addresses)
            tg.start_soon(proxy._run)
            try:
                yield proxy
            except BaseException as error:  # so that it leaves as itself, and not in a group
                failure = error
            tg.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def _connect(sock: socket.socket, address: Any) -> None:
    try:
        sock.connect(address)
    except BlockingIOError:
        await anyio.wait_writable(sock)
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, "the broker can't be reached") from None


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a piece leaves as a piece


def _reset_on_close(sock: socket.socket) -> None:
    """Let its close, which is to follow, be a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
