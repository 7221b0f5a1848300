"""Where the broker listens: a port, plain or with TLS, or a Unix socket; each connection becomes a session's.

What must stay true: somebody who connects and says nothing, or is refused, keeps nobody else waiting.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import quote

import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.abc import ByteStream, SocketAttribute, SocketListener, TaskGroup, TaskStatus
from anyio.streams.tls import TLSAttribute, TLSStream

from rabbitry._concurrency.clock import monotonic
from rabbitry._transport import Poller, StreamTransport, make_poller
from rabbitry._transport.addresses import peer_name
from rabbitry.broker.certificates import name_in_certificate
from rabbitry.broker.session import Session

__all__ = ["Listening", "NewSession", "listen"]

logger: logging.Logger = logging.getLogger("rabbitry")

ACCEPTED_AT_ONCE = 64
"""Connections that are accepted before others get their turn."""
HANDSHAKE_SECONDS = 10.0
"""How long TLS may take to be agreed on."""
MOST_HANDSHAKES = 1000
"""Connections that may be at that; more are refused."""
PAUSE = 0.1
"""Seconds without another look where a connection can't be accepted: there are too many descriptors, say."""


class NewSession(Protocol):
    """Makes a session for somebody who has connected; None if there are too many, or by command."""

    def __call__(self, *, is_tls: bool = False, certificate: str | None = None) -> Session | None: ...


class Listening:
    """One place where connections are accepted. `run` it; `url` is where."""

    def __init__(
        self, listeners: list[Any], url: str, new_session: NewSession, tls: ssl.SSLContext | None, path: str | None
    ) -> None:
        self.url = url
        self._listeners = listeners
        self._new_session = new_session
        self._tls = tls
        self._path = path
        self._handshakes = 0  # that are under way

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Accept, until cancelled."""
        poller = make_poller() if self._tls is None else None
        try:
            async with anyio.create_task_group() as tg:
                if isinstance(poller, Poller):
                    with anyio.CancelScope(shield=True):  # it is shielded itself, and ends when it is told to
                        await tg.start(poller.run)
                    for each in self._listeners:
                        tg.start_soon(self._accept_at, each.extra(SocketAttribute.raw_socket), poller)
                else:
                    for each in self._listeners:
                        tg.start_soon(self._accept_streams, each, tg)
                task_status.started()
                try:
                    await anyio.sleep_forever()
                finally:
                    if isinstance(poller, Poller):
                        poller.stop()
        finally:
            with anyio.CancelScope(shield=True):
                for each in self._listeners:
                    await each.aclose()
            if isinstance(poller, Poller):
                poller.close()
            if self._path is not None:
                with suppress(OSError):
                    os.unlink(self._path)

    async def _accept_at(self, sock: socket.socket, poller: Poller) -> None:
        """One task for all connections of the socket, which the poller serves."""
        while True:
            await anyio.wait_readable(sock)
            for _ in range(ACCEPTED_AT_ONCE):
                try:
                    accepted, address = sock.accept()
                except BlockingIOError:
                    break
                except OSError as error:  # the client has left, or there are too many descriptors
                    await _wait_after(error)
                    break
                session = self._new_session()
                if session is None:
                    accepted.close()
                    continue
                accepted.setblocking(False)
                if self._path is None:
                    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                session.start(poller.adopt(accepted, session, self._path or peer_name(address)), monotonic())

    async def _accept_streams(self, listener: SocketListener, tg: TaskGroup) -> None:
        """A task for each connection: where TLS is agreed on, and where there is no poller."""
        while True:
            try:
                stream = await listener.accept()
            except (OSError, anyio.BrokenResourceError) as error:
                await _wait_after(error)
                continue
            if self._tls is None:
                tg.start_soon(self._serve, stream, None)
            elif self._handshakes < MOST_HANDSHAKES:
                self._handshakes += 1
                tg.start_soon(self._secure, stream, self._tls)
            else:
                await anyio.aclose_forcefully(stream)

    async def _secure(self, stream: ByteStream, tls: ssl.SSLContext) -> None:
        """Agree on TLS. A client that fails at it is told of in the log, and nothing else."""
        try:
            with anyio.fail_after(HANDSHAKE_SECONDS):
                secured = await TLSStream.wrap(stream, server_side=True, ssl_context=tls, standard_compatible=False)
        except BaseException as error:
            await anyio.aclose_forcefully(stream)
            if not isinstance(error, Exception):
                raise
            logger.info("a client of the embedded broker failed at TLS: %s", error)
            return
        finally:
            self._handshakes -= 1
        await self._serve(secured, name_in_certificate(secured.extra(TLSAttribute.peer_certificate, None)))

    async def _serve(self, stream: ByteStream, certificate: str | None) -> None:
        session = self._new_session(is_tls=self._tls is not None, certificate=certificate)
        if session is None:
            await anyio.aclose_forcefully(stream)
            return
        transport = StreamTransport(stream, session)
        session.start(transport, monotonic())
        await transport.run()


async def _wait_after(error: Exception) -> None:
    logger.warning("the embedded broker could not accept a connection: %s", error)
    await anyio.sleep(PAUSE)


async def listen(
    host: str, port: int, *, tls: ssl.SSLContext | None, path: str | None, new_session: NewSession
) -> Listening:
    """Have the port, or the Unix socket at `path`, which is absolute. Raises `OSError` where it can't be had."""
    if path is not None:
        listener = await anyio.create_unix_listener(path)
        return Listening([listener], f"amqp+unix://{quote(path)}", new_session, tls, path)
    several = await anyio.create_tcp_listener(local_host=host, local_port=port)
    scheme = "amqp" if tls is None else "amqps"
    address = peer_name(several.extra(SocketAttribute.local_address))
    return Listening(list(several.listeners), f"{scheme}://guest:guest@{address}", new_session, tls, None)
