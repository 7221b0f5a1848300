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
from anyio.abc import ByteStream, SocketAttribute, TaskStatus
from anyio.streams.tls import TLSAttribute, TLSListener

from rabbitry._concurrency.clock import monotonic
from rabbitry._transport import Poller, StreamTransport, make_poller
from rabbitry._transport.addresses import peer_name
from rabbitry.broker.certificates import name_in_certificate
from rabbitry.broker.session import Session

__all__ = ["Listening", "NewSession", "listen"]

logger = logging.getLogger("rabbitry")

ACCEPTED_AT_ONCE = 64
"""Connections that are accepted before others get their turn."""
HANDSHAKE_SECONDS = 10.0
"""How long TLS may take to be agreed on."""


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

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Accept, until cancelled."""
        poller = make_poller() if self._tls is None else None
        try:
            async with anyio.create_task_group() as tg:
                if isinstance(poller, Poller):
                    await tg.start(poller.run)
                    for each in self._listeners:
                        tg.start_soon(self._accept_at, each.extra(SocketAttribute.raw_socket), poller)
                else:
                    for each in self._listeners:
                        tg.start_soon(self._secured(each).serve, self._serve)
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

    def _secured(self, listener: Any) -> Any:
        if self._tls is None:
            return listener
        return _QuietListener(listener, self._tls, standard_compatible=False, handshake_timeout=HANDSHAKE_SECONDS)

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
                    logger.warning("the embedded broker could not accept a connection: %s", error)
                    await anyio.sleep(0.1)
                    break
                session = self._new_session()
                if session is None:
                    accepted.close()
                    continue
                accepted.setblocking(False)
                if self._path is None:
                    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                session.start(poller.adopt(accepted, session, self._path or peer_name(address)), monotonic())

    async def _serve(self, stream: ByteStream) -> None:
        certificate = name_in_certificate(stream.extra(TLSAttribute.peer_certificate, None)) if self._tls else None
        session = self._new_session(is_tls=self._tls is not None, certificate=certificate)
        if session is None:
            await anyio.aclose_forcefully(stream)
            return
        transport = StreamTransport(stream, session)
        session.start(transport, monotonic())
        await transport.run()


class _QuietListener(TLSListener):
    """A client that fails at TLS is told of in the log, and nothing else."""

    @staticmethod
    async def handle_handshake_error(exc: BaseException, stream: Any) -> None:
        await anyio.aclose_forcefully(stream)
        if not isinstance(exc, Exception):
            raise exc
        logger.info("a client of the embedded broker failed at TLS: %s", exc)


async def listen(
    host: str, port: int, *, tls: ssl.SSLContext | None, path: str | None, new_session: NewSession
) -> Listening:
    """Have the port, or the Unix socket at `path`. Raises `OSError` where it can't be had."""
    if path is not None:
        listener = await anyio.create_unix_listener(path)
        return Listening([listener], f"amqp+unix://{quote(path)}", new_session, tls, path)
    several = await anyio.create_tcp_listener(local_host=host, local_port=port)
    scheme = "amqp" if tls is None else "amqps"
    address = peer_name(several.extra(SocketAttribute.local_address))
    return Listening(list(several.listeners), f"{scheme}://guest:guest@{address}", new_session, tls, None)
