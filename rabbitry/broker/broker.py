"""`Broker`: a world, and the ways in: streams in memory, or a port.

What must stay true: the broker's tasks end with its block, and with them every connection; nothing outside of the block
is touched: no file, no process, no port but the one asked for.
"""

from __future__ import annotations

import logging
import socket
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream, TaskGroup
from anyio.streams.stapled import MultiListener

from rabbitry import Client, Connection, LocalProtocolError, connect, open_client, start_client
from rabbitry._concurrency.clock import monotonic, wall_time
from rabbitry._concurrency.scopes import background
from rabbitry._concurrency.virtual import refuse_real_sockets
from rabbitry._transport import Poller, StreamTransport, make_poller
from rabbitry._transport.addresses import peer_name
from rabbitry.broker.compat import Version
from rabbitry.broker.memory import memory_streams
from rabbitry.broker.session import Session
from rabbitry.broker.users import Permissions
from rabbitry.broker.world import World

__all__ = ["Broker"]


logger = logging.getLogger("rabbitry")

ACCEPTED_AT_ONCE = 64
"""Connections that are accepted before others get their turn."""


class Broker:
    """A broker in this process, for tests and for learning. It is not RabbitMQ, nor a replacement for it.

        async with Broker() as broker, broker.connect() as connection:
            ...

    `compat` says which RabbitMQ it behaves like: "3.10", "4.0" or "4.3". Everything is in memory, and gone when the
    block is left: durable queues and persistent messages, too. Each broker is a world of its own. What it can't do is
    refused with 540 and "not implemented by the embedded broker".

    Leaving the block ends all connections at once. It raises nothing of its own.
    """

    def __init__(self, *, compat: Version = "3.10") -> None:
        self._world = World(compat)
        self._sessions: set[Session] = set()
        self._exit: AsyncExitStack | None = None
        self._tg: TaskGroup | None = None
        self._earlier: anyio.Event | None = None
        self._poller: Poller | None = None
        self._url = ""

    def __repr__(self) -> str:
        return f"<Broker like RabbitMQ {self._world.compat.version} with {len(self._sessions)} connections>"

    async def __aenter__(self) -> Self:
        if self._exit is not None:
            raise LocalProtocolError("a Broker is entered once; make another")
        async with AsyncExitStack() as stack:
            self._tg = await stack.enter_async_context(background())
            self._world.tell_time_of_day(wall_time() - monotonic())
            stack.callback(self._tg.cancel_scope.cancel)
            stack.callback(self._drop_all)
            self._world.timers.on_earlier = self._wake
            self._tg.start_soon(self._keep_time)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._exit is not None
        self._tg = None
        return await self._exit.__aexit__(kind, error, traceback)

    # --- who may do what ---------------------------------------------------------------------------------------------

    def add_vhost(self, name: str) -> None:
        """Another virtual host; the user guest may do everything in it."""
        self._world.add_vhost(name)
        self._world.users["guest"].permissions[name] = Permissions(".*", ".*", ".*")

    def add_user(self, name: str, password: str) -> None:
        """Another user, who may enter no virtual host yet: see `set_permissions`."""
        self._world.add_user(name, password)

    def set_permissions(
        self, user: str, vhost: str = "/", *, configure: str = ".*", write: str = ".*", read: str = ".*"
    ) -> None:
        """What the user may do there: regular expressions for names of queues and exchanges, as in RabbitMQ. Channels
        that are open may go on with what they have been permitted."""
        if user not in self._world.users or vhost not in self._world.vhosts:
            raise ValueError(f"there is no user {user!r} or no virtual host {vhost!r}: add them first")
        self._world.users[user].permissions[vhost] = Permissions(configure, write, read)

    # --- the ways in -------------------------------------------------------------------------------------------------

    async def dial(self, host: str, port: int) -> ByteStream:
        """A connection's stream in memory, for the `dial` of `rabbitry.connect`; host and port mean nothing.

        Cancelled, it leaves nothing behind.
        """
        theirs, ours = memory_streams()
        transport = self._adopt(ours)
        self._running().start_soon(transport.run)
        return theirs

    def connect(self, url: str = "amqp://guest:guest@embedded", **options: Any) -> Connection:
        """A connection in memory, to be entered; arguments are those of `rabbitry.connect`."""
        return connect(url, dial=self.dial, **options)

    def open_client(
        self, url: str = "amqp://guest:guest@embedded", **options: Any
    ) -> AbstractAsyncContextManager[Client]:
        """A client whose connections are in memory, to be entered; arguments are those of `rabbitry.open_client`."""
        return open_client(url, dial=self.dial, **options)

    async def start_client(self, url: str = "amqp://guest:guest@embedded", **options: Any) -> Client:
        """A client without a block, for fixtures of pytest-asyncio, which are set up and torn down in different tasks:
        end it with `await client.aclose()`. Arguments, and what cancelling means, are those of `rabbitry.start_client`.
        """
        return await start_client(url, dial=self.dial, **options)

    def drop_connections(self) -> None:
        """End all connections at once, without a word, as a network does that fails. Clients may connect again."""
        for session in list(self._sessions):
            if session.transport is not None:
                session.transport.abort()
                session.connection_lost(None)

    async def listen(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Accept connections on a port, one that is free by default; `url` is known, and answers, when this returns.

        `OSError` where the port can't be had, `LocalProtocolError` where time is virtual.
        """
        running = self._running()
        refuse_real_sockets("a broker on a port")
        if self._url:
            raise LocalProtocolError(f"the broker listens already, at {self._url}")
        listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
        address = listener.extra(SocketAttribute.local_address)
        self._url = f"amqp://guest:guest@{peer_name(address)}"
        poller = make_poller()
        if isinstance(poller, Poller):
            self._poller = poller
            running.start_soon(self._accept, listener, poller)
        else:
            running.start_soon(self._listen, listener)

    @property
    def url(self) -> str:
        """Where it listens, with guest's credentials: `amqp://guest:guest@127.0.0.1:40001`."""
        if not self._url:
            raise LocalProtocolError("the broker has no port: await broker.listen() first, or use broker.connect()")
        return self._url

    # --- within ------------------------------------------------------------------------------------------------------

    def _running(self) -> TaskGroup:
        if self._tg is None:
            raise LocalProtocolError("the broker runs within its 'async with' block only")
        return self._tg

    def _adopt(self, stream: ByteStream) -> StreamTransport:
        session = self._new_session()
        transport = StreamTransport(stream, session)
        session.start(transport, monotonic())
        return transport

    def _new_session(self) -> Session:
        self._running()
        session = Session(self._world, self._sessions.discard)
        self._sessions.add(session)
        return session

    async def _accept(self, listener: MultiListener[SocketStream], poller: Poller) -> None:
        """One task for all connections of the port, which the poller serves."""
        try:
            async with listener, anyio.create_task_group() as tg:
                await tg.start(poller.run)
                for each in listener.listeners:
                    tg.start_soon(self._accept_at, each.extra(SocketAttribute.raw_socket), poller)
        finally:
            poller.close()

    async def _accept_at(self, sock: socket.socket, poller: Poller) -> None:
        while True:
            await anyio.wait_readable(sock)
            for _ in range(ACCEPTED_AT_ONCE):
                try:
                    accepted, address = sock.accept()
                except BlockingIOError:
                    break
                except OSError as error:  # the client has left, or there are too many descriptors
                    logger.warning("the embedded broker could not accept a connection: %s", error)
                    await anyio.sleep(0.1)
                    break
                accepted.setblocking(False)
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                session = self._new_session()
                session.start(poller.adopt(accepted, session, peer_name(address)), monotonic())

    async def _listen(self, listener: MultiListener[SocketStream]) -> None:
        async with listener:
            await listener.serve(self._serve)

    async def _serve(self, stream: SocketStream) -> None:
        await self._adopt(stream).run()

    def _drop_all(self) -> None:
        for session in list(self._sessions):
            if session.transport is not None:
                session.transport.abort()
        self._sessions.clear()
        if self._poller is not None:
            self._poller.stop()

    def _wake(self) -> None:
        if self._earlier is not None:
            self._earlier.set()

    async def _keep_time(self) -> None:
        timers = self._world.timers
        while True:
            self._earlier = anyio.Event()
            deadline = timers.next_deadline
            with anyio.move_on_after(None if deadline is None else max(0.0, deadline - monotonic())):
                await self._earlier.wait()
            try:
                timers.run(monotonic())
            except Exception:  # a defect must not end everybody's connections
                logger.exception("the embedded broker failed at something that was due")
