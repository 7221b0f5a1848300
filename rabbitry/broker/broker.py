"""`Broker`: a world, and the ways in: streams in memory, or a port.

What must stay true: the broker's tasks end with its block, and with them every connection; nothing outside of the block
is touched: no file, no process, no port but the one asked for.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import ByteStream, TaskGroup

from rabbitry import Client, Connection, LocalProtocolError, connect, open_client, start_client
from rabbitry._concurrency.clock import monotonic, wall_time
from rabbitry._concurrency.scopes import background
from rabbitry._concurrency.virtual import refuse_real_sockets
from rabbitry._transport import StreamTransport
from rabbitry.broker.checks import check_int
from rabbitry.broker.compat import Version
from rabbitry.broker.controls import Controls
from rabbitry.broker.listening import listen
from rabbitry.broker.memory import memory_streams
from rabbitry.broker.session import Session
from rabbitry.broker.users import Permissions
from rabbitry.broker.world import World

__all__ = ["Broker"]


logger: logging.Logger = logging.getLogger("rabbitry")


class Broker(Controls):
    """A broker in this process, for tests and for learning. It is not RabbitMQ, nor a replacement for it.

        async with Broker() as broker, broker.connect() as connection:
            ...

    `compat` says which RabbitMQ it behaves like: "3.10", "4.0" or "4.3". Everything is in memory, and gone when the
    block is left: durable queues and persistent messages, too. Each broker is a world of its own. What it can't do is
    refused with 540 and "not implemented by the embedded broker".

    What it holds is bounded. Above `memory_limit` octets in its queues and in its clients' hands it raises an alarm, as
    RabbitMQ does: publishers wait until there is less. More than `max_connections` are refused. The last `history`
    publishes are kept for `published`. `consumer_timeout` is the number of seconds for which a delivery may be held
    (RabbitMQ's own; None for ever).

    Leaving the block ends all connections at once. It raises nothing of its own. `ValueError` for a limit below 1, or a
    version that it doesn't know.
    """

    def __init__(
        self,
        *,
        compat: Version = "3.10",
        consumer_timeout: float | None = 1800.0,
        history: int = 1000,
        max_connections: int = 20_000,
        memory_limit: int = 1024**3,
    ) -> None:
        for name, value in (("history", history), ("max_connections", max_connections), ("memory_limit", memory_limit)):
            check_int(name, value)
        if history < 0:
            raise ValueError(f"history must be 0 or more, not {history}")
        if consumer_timeout is not None and not consumer_timeout > 0:
            raise ValueError(f"consumer_timeout must be more than 0 seconds, or None, not {consumer_timeout}")
        for name, value in (("max_connections", max_connections), ("memory_limit", memory_limit)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
        world = World(
            compat,
            consumer_timeout=consumer_timeout,
            memory_limit=memory_limit,
            history=history,
        )
        super().__init__(world)
        self._max_connections = max_connections
        self._exit: AsyncExitStack | None = None
        self._tg: TaskGroup | None = None
        self._earlier: anyio.Event | None = None
        self._is_listening = False
        self._url = ""

    def __repr__(self) -> str:
        return f"<Broker like RabbitMQ {self._world.compat.version} with {len(self._sessions)} connections>"

    async def __aenter__(self) -> Self:
        if self._exit is not None:
            raise LocalProtocolError("a Broker is entered once; make another")
        async with AsyncExitStack() as stack:
            self._tg = await stack.enter_async_context(background())
            self._world.timers.wall_offset = wall_time() - monotonic()
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
        if not isinstance(name, str):
            raise TypeError(f"a virtual host's name must be a str, not {name!r}")
        self._world.add_vhost(name)
        self._world.users["guest"].permissions[name] = Permissions(".*", ".*", ".*")

    def add_user(self, name: str, password: str) -> None:
        """Another user, who may enter no virtual host yet: see `set_permissions`. `ValueError` for one who is there."""
        if not isinstance(name, str) or not isinstance(password, str):
            raise TypeError("a user's name and password must be str")
        if name in self._world.users:
            raise ValueError(f"there is a user {name!r} already")
        self._world.add_user(name, password)

    def set_permissions(
        self, user: str, vhost: str = "/", *, configure: str = ".*", write: str = ".*", read: str = ".*"
    ) -> None:
        """What the user may do there: regular expressions for names of queues and exchanges, as in RabbitMQ. Channels
        that are open may go on with what they have been permitted. `ValueError` for what is no regular expression, and
        for a user or a virtual host that is not there."""
        if user not in self._world.users or vhost not in self._world.vhosts:
            raise ValueError(f"there is no user {user!r} or no virtual host {vhost!r}: add them first")
        for name, pattern in (("configure", configure), ("write", write), ("read", read)):
            if not isinstance(pattern, str):
                raise TypeError(f"{name} must be a str, not {pattern!r}")
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name} must be a regular expression, and {pattern!r} is none: {error}") from None
        self._world.users[user].permissions[vhost] = Permissions(configure, write, read)

    # --- the ways in -------------------------------------------------------------------------------------------------

    async def dial(self, host: str, port: int) -> ByteStream:
        """A connection's stream in memory, for the `dial` of `rabbitry.connect`; host and port mean nothing.

        Cancelled, it leaves nothing behind. `ConnectionRefusedError` by command, or where there are too many.
        """
        running = self._running()
        session = self._new_session()
        if session is None:
            raise ConnectionRefusedError("the embedded broker refuses connections")
        theirs, ours = memory_streams()
        transport = StreamTransport(ours, session)
        session.start(transport, monotonic())
        running.start_soon(transport.run)
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
            session.drop()

    async def listen(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        tls: ssl.SSLContext | None = None,
        unix_path: str | os.PathLike[str] | None = None,
    ) -> None:
        """Accept connections on a port, one that is free by default; `url` is known, and answers, when this returns.

        `tls` is a server's context; clients whose certificate it verifies may log in by EXTERNAL, as the user of the
        certificate's distinguished name. `unix_path` is for a Unix socket instead of a port: the file goes with the
        broker. Cancelled, it listens nowhere, and may be called again. `OSError` where the port or the path can't be
        had, `ValueError` for both TLS and a path, a client's TLS context, or a port that is none, `TypeError` for
        arguments of other types, `LocalProtocolError` where time is virtual.
        """
        running = self._running()
        refuse_real_sockets("a broker on a port")
        if self._is_listening:
            raise LocalProtocolError(f"the broker listens already, at {self._url or 'what it is about to have'}")
        path = _checked_place(host, port, tls, unix_path)
        self._is_listening = True
        try:
            listening = await listen(host, port, tls=tls, path=path, new_session=self._new_session)
        except BaseException:
            self._is_listening = False
            raise
        with anyio.CancelScope(shield=True):  # it takes no time, and who has the port must close it
            await running.start(listening.run)
        self._url = listening.url

    @property
    def url(self) -> str:
        """Where it listens, with guest's credentials: `amqp://guest:guest@127.0.0.1:40001`, say."""
        if not self._url:
            raise LocalProtocolError("the broker has no port: await broker.listen() first, or use broker.connect()")
        return self._url

    # --- within ------------------------------------------------------------------------------------------------------

    def _running(self) -> TaskGroup:
        if self._tg is None:
            raise LocalProtocolError("the broker runs within its 'async with' block only")
        return self._tg

    def _new_session(self, *, is_tls: bool = False, certificate: str | None = None) -> Session | None:
        """For somebody who has connected; None if that is refused."""
        self._running()
        if self._world.faults.refuses_connections or len(self._sessions) >= self._max_connections:
            return None
        session = Session(self._world, self._forget, is_tls=is_tls, certificate=certificate)
        self._sessions[session] = None
        return session

    def _forget(self, session: Session) -> None:
        self._sessions.pop(session, None)

    def _drop_all(self) -> None:
        for session in list(self._sessions):
            session.drop()
        self._sessions.clear()

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


def _checked_place(
    host: str, port: int, tls: ssl.SSLContext | None, unix_path: str | os.PathLike[str] | None
) -> str | None:
    """The absolute path, if it is one. Raises `TypeError` and `ValueError` for what is no place to listen at."""
    if not isinstance(host, str):
        raise TypeError(f"host must be a str, not {host!r}")
    check_int("port", port)
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be 0 to 65535, not {port}")
    if tls is not None and not isinstance(tls, ssl.SSLContext):
        raise TypeError(f"tls must be an ssl.SSLContext, not {tls!r}")
    if tls is not None and unix_path is not None:
        raise ValueError("tls is for a port: a Unix socket needs none")
    if tls is not None and tls.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError("tls is a client's context: make one of ssl.PROTOCOL_TLS_SERVER")
    if unix_path is None:
        return None
    path = os.fspath(unix_path)
    if not isinstance(path, str):
        raise TypeError(f"unix_path must be a str or a path of str, not {unix_path!r}")
    return os.path.abspath(path)
