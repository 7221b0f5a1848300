"""`open_reactor` and `connect`: the only places of the raw layer that hold a task group across a `yield`.

The order of the end is the point of this file: close every connection under one shared deadline, stop the poller, let
its tasks end, then close the sockets and the selector. The poller runs shielded, so that a cancelled body still
closes well.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from functools import lru_cache
from itertools import groupby
from math import ceil
from typing import TYPE_CHECKING, Any, Unpack

import anyio
from anyio.abc import ByteStream, TaskGroup, TaskStatus
from anyio.streams.tls import TLSAttribute

from rabbitry._concurrency.scopes import background
from rabbitry._concurrency.waiting import checkpoint_if_cancelled, waits
from rabbitry._connection.connection import (
    DEFAULT_CHANNEL_MAX,
    DEFAULT_CONNECT_TIMEOUT,
    DEFAULT_FRAME_MAX,
    DEFAULT_HEARTBEAT,
    DEFAULT_MAX_MESSAGE_SIZE,
    Connection,
    Dial,
    Settings,
    default_name,
)
from rabbitry._connection.tls import connect_failed, make_context, server_name
from rabbitry._endpoint import Endpoint
from rabbitry._errors import ConnectFailed, LocalProtocolError, NotConnected
from rabbitry._instrumentation import Instrumentation, Instruments
from rabbitry._transport import Poller, StreamPoller, StreamTransport, TlsLayer, Transport, make_poller
from rabbitry._values.address import Address, parse_uri
from rabbitry._values.message import seconds
from rabbitry.protocol.wire.constants import FRAME_MIN_SIZE
from rabbitry.protocol.wire.tables import encode_table

if TYPE_CHECKING:
    from rabbitry._client.client import Client
    from rabbitry._open_client import ClientOptions

__all__ = ["Reactor", "connect", "connection_settings", "open_reactor"]

DEFAULT_URL = "amqp://guest:guest@localhost/"


class Reactor:
    """One poller shared by any number of connections; made by `open_reactor`."""

    __slots__ = ("_endpoints", "_is_closed", "_poller", "_tg", "_waits")

    def __init__(self, poller: Poller | StreamPoller, tg: TaskGroup) -> None:
        self._poller = poller
        self._tg = tg
        self._endpoints: set[Endpoint] = set()
        self._is_closed = False
        self._waits = waits()

    def __repr__(self) -> str:
        return f"<Reactor with {len(self._endpoints)} connections>"

    def connect(
        self,
        url: str = DEFAULT_URL,
        *,
        name: str | None = None,
        heartbeat: float | timedelta | None = None,
        connect_timeout: float | timedelta | None = None,
        frame_max: int | None = None,
        channel_max: int | None = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        client_properties: Mapping[str, Any] | None = None,
        dial: Dial | None = None,
        ssl_context: ssl.SSLContext | None = None,
        instrumentation: Instrumentation | None = None,
    ) -> Connection:
        """A connection on this reactor, to be entered; the arguments are those of `rabbitry.connect`."""
        if self._is_closed:
            raise NotConnected("the reactor is closed: connect inside its 'async with' block")
        settings = connection_settings(
            url,
            name=name,
            heartbeat=heartbeat,
            connect_timeout=connect_timeout,
            frame_max=frame_max,
            channel_max=channel_max,
            max_message_size=max_message_size,
            client_properties=client_properties,
            dial=dial,
            ssl_context=ssl_context,
            instrumentation=instrumentation,
        )
        return Connection(settings, self)

    def open_client(
        self, urls: str | Sequence[str] = DEFAULT_URL, **options: Unpack[ClientOptions]
    ) -> AbstractAsyncContextManager[Client]:
        """A client on this reactor, to be entered; the arguments are those of `rabbitry.open_client`."""
        from rabbitry._open_client import open_client

        return open_client(urls, reactor=self, **options)

    def _remember(self, endpoint: Endpoint) -> None:
        if self._is_closed:
            raise NotConnected("the reactor is closed: connect inside its 'async with' block")
        self._endpoints.add(endpoint)

    def _forget(self, endpoint: Endpoint) -> None:
        self._endpoints.discard(endpoint)

    async def _dial(self, settings: Settings, endpoint: Endpoint) -> Transport:
        """A connected transport."""
        address = settings.address
        if settings.dial is not None:
            stream = await _dialled(settings.dial, address)
            return await self._adopt(stream, endpoint)
        if address.unix_path:
            return await self._poller.connect_unix(address.unix_path, endpoint)
        if address.tls:
            return await self._dial_tls(address, settings.ssl_context or make_context(address), endpoint)
        return await self._poller.connect_tcp(address.host, address.port, endpoint)

    async def _dial_tls(self, address: Address, context: ssl.SSLContext, endpoint: Endpoint) -> Transport:
        name = server_name(address)
        layer = TlsLayer(endpoint, context, name)
        transport = await self._poller.connect_tcp(address.host, address.port, layer)
        try:
            await layer.shake_hands(transport)
        except OSError as error:
            raise connect_failed(error, transport.describe(), name) from error
        return transport

    async def _adopt(self, stream: ByteStream, endpoint: Endpoint) -> Transport:
        """A transport over a dialled stream, served by this reactor's tasks."""
        if self._is_closed:
            await anyio.aclose_forcefully(stream)
            raise NotConnected("the reactor was closed while this connection was being opened")
        endpoint.transport = transport = StreamTransport(stream, endpoint)
        with anyio.CancelScope(shield=True):  # as in open_reactor
            await self._tg.start(transport.run)
        return transport

    async def _close(self) -> None:
        """End what is still connected, all under one deadline."""
        self._is_closed = True
        endpoints = list(self._endpoints)
        self._endpoints.clear()
        began = anyio.current_time()
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
async def open_reactor() -> AsyncIterator[Reactor]:
    """One poller for many connections: `async with rabbitry.open_reactor() as reactor: reactor.connect(url)`.

    Leaving the block closes the connections still open, within 5 s altogether. What the body raises leaves unchanged.
    """
    poller = make_poller()
    try:
        async with background() as tg:
            await checkpoint_if_cancelled()
            await _start(poller, tg)
            reactor = Reactor(poller, tg)
            try:
                yield reactor
            finally:
                try:
                    await reactor._close()
                finally:
                    poller.stop()
    finally:
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


async def _dialled(dial: Dial, address: Address) -> ByteStream:
    """The stream that the user's function opens. What it raises is its own, and so stays as it is in the cause."""
    try:
        stream = await dial(address.host, address.port)
    except (OSError, EOFError, anyio.EndOfStream, anyio.BrokenResourceError) as exc:
        raise ConnectFailed(f"dial failed: {str(exc) or type(exc).__name__}") from exc
    if not isinstance(stream, ByteStream):
        raise LocalProtocolError(f"dial must return an AnyIO ByteStream, not {stream!r}")
    if address.tls and stream.extra(TLSAttribute.tls_version, None) is None:
        await anyio.aclose_forcefully(stream)
        raise LocalProtocolError(
            "amqps:// needs a TLS stream, and dial returned another: use amqp:// where the tunnel itself encrypts"
        )
    return stream


def connect(
    url: str = DEFAULT_URL,
    *,
    name: str | None = None,
    heartbeat: float | timedelta | None = None,
    connect_timeout: float | timedelta | None = None,
    frame_max: int | None = None,
    channel_max: int | None = None,
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    client_properties: Mapping[str, Any] | None = None,
    dial: Dial | None = None,
    ssl_context: ssl.SSLContext | None = None,
    instrumentation: Instrumentation | None = None,
) -> Connection:
    """One connection, one TCP life: it raises when the connection ends, and does not reconnect. `open_client` does.

        async with rabbitry.connect("amqp://guest:guest@localhost") as connection:
            async with connection.channel() as channel: ...

    `url` follows the RabbitMQ URI specification; an empty path is the virtual host "/". `name` is shown in the broker's
    list of connections. `heartbeat` in seconds (default 30, 0 none), rounded up to whole ones and lowered to the
    broker's. `connect_timeout` bounds dial and handshake (default 15 s). `frame_max` (4,096 bytes at least, default
    131,072; 0 leaves it to the broker) and `channel_max` (default 2,047) are lowered to the broker's. A message larger
    than `max_message_size` bytes (default 128 MiB) ends the connection. `client_properties` are added to the ones the
    broker is told. `dial` opens the byte stream itself, given host and port: a tunnel. `instrumentation` is told of
    each message. Arguments given here win over the URL's.

    `amqps://` verifies the broker's certificate against the system's authorities, or against those in the URL's
    `cacertfile`; `certfile` and `keyfile` are this side's own. `ssl_context` is used instead, as it is.

    Entering it raises `AuthenticationFailed` (credentials, virtual host) or `ConnectFailed`, saying what answered.
    """
    settings = connection_settings(
        url,
        name=name,
        heartbeat=heartbeat,
        connect_timeout=connect_timeout,
        frame_max=frame_max,
        channel_max=channel_max,
        max_message_size=max_message_size,
        client_properties=client_properties,
        dial=dial,
        ssl_context=ssl_context,
        instrumentation=instrumentation,
    )
    return Connection(settings, None, open_reactor)


@lru_cache(maxsize=64)
def _parsed(url: str) -> Address:
    """Thousands of connections to one URL share what it says."""
    return parse_uri(url)


def connection_settings(
    url: str,
    *,
    name: str | None = None,
    heartbeat: float | timedelta | None = None,
    connect_timeout: float | timedelta | None = None,
    frame_max: int | None = None,
    channel_max: int | None = None,
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    client_properties: Mapping[str, Any] | None = None,
    dial: Dial | None = None,
    ssl_context: ssl.SSLContext | None = None,
    instrumentation: Instrumentation | None = None,
) -> Settings:
    """The arguments of `connect`, checked, over the URI's, over the defaults."""
    address = _parsed(url)
    settings = Settings(
        address=address,
        name=_first(name, address.name, default_name()),
        heartbeat=ceil(seconds(_first(heartbeat, address.heartbeat, DEFAULT_HEARTBEAT))),
        connect_timeout=seconds(_first(connect_timeout, address.connection_timeout, DEFAULT_CONNECT_TIMEOUT)),
        frame_max=_first(frame_max, address.frame_max, DEFAULT_FRAME_MAX),
        channel_max=_first(channel_max, address.channel_max, DEFAULT_CHANNEL_MAX),
        max_message_size=max_message_size,
        client_properties=tuple((client_properties or {}).items()),
        dial=dial,
        ssl_context=ssl_context,
        instruments=Instruments.of(instrumentation),
    )
    if ssl_context is not None and (not address.tls or dial is not None):
        raise LocalProtocolError("ssl_context is for amqps:// URLs, and where dial opens the stream it makes TLS, too")
    if not 0 <= settings.heartbeat <= 65535:
        raise LocalProtocolError(f"heartbeat must be 0 (none) to 65,535 seconds, not {heartbeat}")
    if settings.connect_timeout <= 0:
        raise LocalProtocolError(f"connect_timeout must be positive, not {connect_timeout}")
    if settings.frame_max and not FRAME_MIN_SIZE <= settings.frame_max <= 0xFFFFFFFF:
        raise LocalProtocolError(
            f"frame_max must be 0 (the broker's) or at least {FRAME_MIN_SIZE} bytes, not {frame_max}"
        )
    if not 0 <= settings.channel_max <= 65535:
        raise LocalProtocolError(f"channel_max must be 0 (the broker's) to 65,535, not {channel_max}")
    encode_table(client_properties or {})  # refuses what can't be sent, here rather than amid the handshake
    if max_message_size < 1:
        raise LocalProtocolError(f"max_message_size must be positive, not {max_message_size}")
    return settings


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
