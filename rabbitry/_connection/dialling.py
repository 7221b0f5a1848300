"""From settings to an open connection: a name's addresses, TLS, the AMQP handshake, and what is said of failures.

What must stay true: an address is good once its whole handshake is complete, and not before: what accepts and says
nothing, or is another service, must not hide the one that answers. So a later address of the same name is begun when
the one before has failed, or has not got any further for `ATTEMPT_DELAY` (RFC 8305, section 5, which starts later
attempts early); those begun earlier go on meanwhile, and the first to complete its handshake wins. Refused credentials
are an answer and end it: a cluster's other nodes know the same users, and may lock one out. A single address costs no
task and no timer for all this.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteStream

from rabbitry._concurrency.clock import loop_time, monotonic
from rabbitry._concurrency.scopes import background
from rabbitry._concurrency.virtual import refuse_real_sockets
from rabbitry._connection.hub import Hub
from rabbitry._connection.introduction import mechanisms, own_properties
from rabbitry._connection.settings import Dial, Settings
from rabbitry._connection.tls import connect_failed, make_context, server_name
from rabbitry._endpoint import Endpoint
from rabbitry._errors import (
    AuthenticationFailed,
    ConnectFailed,
    ConnectionClosed,
    NotConnected,
    RabbitryError,
)
from rabbitry._transport import TlsLayer, Transport
from rabbitry._transport.addresses import Address as TcpAddress
from rabbitry._transport.addresses import peer_name, resolve
from rabbitry._values.address import Address
from rabbitry.protocol.client.connection import ProtocolConnection
from rabbitry.protocol.client.states import ConnectionState

if TYPE_CHECKING:
    import ssl

__all__ = ["open_endpoint"]

ATTEMPT_DELAY = 0.25
"""Seconds without progress after which the next address is begun: RFC 8305 recommends so many between attempts."""
FORGIVEN_AFTER = 60.0
"""Seconds for which an address that failed comes after the others of its name."""
FAILURES_KEPT = 256

_failed: dict[TcpAddress, float] = {}
"""When each address last failed while its name had others, oldest first: the next attempt begins elsewhere."""


async def open_endpoint(hub: Hub, settings: Settings) -> Endpoint:
    """An endpoint whose connection is open, remembered by the hub. Raises `ConnectFailed` and leaves nothing behind, as
    it does when cancelled.
    """
    address = settings.address
    dialling = _Dialling(hub, settings)
    try:
        with anyio.move_on_after(settings.connect_timeout):
            return await dialling.run()
    except Exception as exc:
        translated = _translated(exc, address)
        if translated is exc:
            raise
        raise translated from (exc.__cause__ if isinstance(exc, RabbitryError) else exc)
    raise ConnectFailed(
        f"no connection to {_where(address)} within {settings.connect_timeout:g} s, {dialling.describe_waiting()}"
    )


class _Attempt:
    """One address, from the first system call to connection.open-ok. `target` None: the way leads to no TCP address
    (a Unix socket), or to one that we don't learn (`dial`).
    """

    __slots__ = ("_hub", "_settings", "_state", "endpoint", "error", "reached", "since", "target")

    def __init__(self, hub: Hub, settings: Settings, target: TcpAddress | None) -> None:
        address = settings.address
        self._hub = hub
        self._settings = settings
        self.target = target
        self.endpoint = Endpoint(
            _protocol(settings), settings.name, hub.waits, address.unix_path or address.host, address.port
        )
        self.error: Exception | None = None
        self.since = loop_time()
        self.reached = self._state = self.endpoint.protocol.state

    @property
    def peer(self) -> str:
        return "" if self.target is None else peer_name(self.target)

    async def run(self, context: ssl.SSLContext | None) -> None:
        """Return once the connection is open. Otherwise nothing of it is left."""
        endpoint = self.endpoint
        self._hub.remember(endpoint)
        try:
            endpoint.transport = await self._dial(context)
            self.since = loop_time()
            endpoint.transport.send_now()
            await endpoint.opened.wait()
        except BaseException:
            self.reached = endpoint.protocol.state
            self.drop()
            raise

    async def _dial(self, context: ssl.SSLContext | None) -> Transport:
        """A connected transport, TLS included."""
        settings, hub, target = self._settings, self._hub, self.target
        address = settings.address
        if settings.dial is not None:
            return await hub.adopt(await _dialled(settings.dial, address), self.endpoint)
        if target is None:
            assert address.unix_path is not None
            return await hub.connect_unix(address.unix_path, self.endpoint)
        if context is None:
            return await hub.connect_tcp(target, self.endpoint)
        name = server_name(address)
        layer = TlsLayer(self.endpoint, context, name)
        transport = await hub.connect_tcp(target, layer)
        try:
            await layer.shake_hands(transport)
        except OSError as error:
            raise connect_failed(error, transport.describe(), name) from error
        return transport

    def has_moved(self) -> bool:
        """Whether the handshake has got any further since this was last asked."""
        before, self._state = self._state, self.endpoint.protocol.state
        if self._state is before:
            return False
        self.since = loop_time()
        return True

    def leave(self) -> None:
        """Close what nobody needs: the broker is told, its answer not waited for."""
        self.endpoint.start_close()
        self.drop()

    def drop(self) -> None:
        self.endpoint.drop()
        self._hub.forget(self.endpoint)

    def describe(self) -> str:
        """What the address said, or that it said nothing."""
        if self.error is None:
            return f"{self.peer}: silent, waiting for {self.reached.value}"
        if isinstance(self.error, ConnectionRefusedError):
            return f"{self.peer}: connection refused"
        text = str(self.error if isinstance(self.error, RabbitryError) else _strerror(self.error))
        return text if self.peer in text else f"{self.peer}: {text}"


class _Dialling:
    """One attempt to connect, at all the addresses that there are."""

    __slots__ = ("_attempts", "_context", "_delay", "_final", "_hub", "_news", "_settings", "_winner")

    def __init__(self, hub: Hub, settings: Settings) -> None:
        self._hub = hub
        self._settings = settings
        self._context: ssl.SSLContext | None = None
        self._attempts: list[_Attempt] = []
        self._winner: _Attempt | None = None
        self._final: Exception | None = None  # what no other address would mend

    async def run(self) -> Endpoint:
        settings, address = self._settings, self._settings.address
        targets: Sequence[TcpAddress | None] = (None,)
        if settings.dial is None:
            refuse_real_sockets(f"a connection to {_where(address)}")
        if settings.dial is None and address.unix_path is None:
            if address.tls:  # files that can't be used are no address's fault
                self._context = settings.ssl_context or make_context(address)
            targets = await resolve(address.host, address.port)
        if len(targets) == 1:
            attempt = self._begin(targets[0])
            await attempt.run(self._context)
            return attempt.endpoint
        return await self._race(sorted(targets, key=_failed_at))

    def _begin(self, target: TcpAddress | None) -> _Attempt:
        attempt = _Attempt(self._hub, self._settings, target)
        self._attempts.append(attempt)
        return attempt

    async def _race(self, targets: Sequence[TcpAddress | None]) -> Endpoint:
        self._delay = min(ATTEMPT_DELAY, self._settings.connect_timeout / (2 * len(targets)))
        self._news = anyio.Event()
        try:
            async with background() as tg:
                try:
                    for target in targets:
                        attempt = self._begin(target)
                        tg.start_soon(self._try, attempt)
                        await self._give_time(attempt)
                        if self._is_decided:
                            break
                    while not self._is_decided and any(attempt.error is None for attempt in self._attempts):
                        await self._wait_news()
                finally:
                    tg.cancel_scope.cancel()
        except BaseException:
            if self._winner is not None:
                self._winner.drop()
            raise
        if self._winner is not None:
            return self._winner.endpoint
        raise self._final or self._failure()

    async def _try(self, attempt: _Attempt) -> None:
        try:
            await attempt.run(self._context)
        except Exception as error:
            attempt.error = error
            _note_failure(attempt.target)
            if self._final is None and not _is_addresses_own(error):
                self._final = error
                if isinstance(error, AuthenticationFailed):
                    self._final = type(error)(attempt.describe())
                    self._final.__cause__ = error.__cause__
        except BaseException:
            if attempt.reached is ConnectionState.START:  # it said nothing until another was chosen
                _note_failure(attempt.target)
            raise
        else:
            if self._is_decided:
                attempt.leave()
            else:
                self._winner = attempt
                _failed.pop(attempt.target or ("", 0), None)
        self._news.set()

    @property
    def _is_decided(self) -> bool:
        return self._winner is not None or self._final is not None

    async def _give_time(self, attempt: _Attempt) -> None:
        """Return when the next address is to be begun, or all is decided."""
        while not self._is_decided and attempt.error is None:
            rest = attempt.since + self._delay - loop_time()
            if rest > 0:
                with anyio.move_on_after(rest):
                    await self._wait_news()
            elif not attempt.has_moved():
                return

    async def _wait_news(self) -> None:
        self._news = anyio.Event()
        await self._news.wait()

    def _failure(self) -> ConnectFailed:
        """What all of them together come to."""
        where = _where(self._settings.address)
        errors = [attempt.error for attempt in self._attempts]
        if all(isinstance(error, ConnectionRefusedError) for error in errors):
            peers = ", ".join(attempt.peer for attempt in self._attempts)
            failed = ConnectFailed(f"nothing listens at {where} (connection refused): {peers}")
        else:
            failed = ConnectFailed(f"no broker at {where}: {self._describe_attempts()}")
        failed.__cause__ = errors[-1]
        return failed

    def _describe_attempts(self) -> str:
        return "; ".join(attempt.describe() for attempt in self._attempts)

    def describe_waiting(self) -> str:
        """What there was to wait for when the time was over."""
        if not self._attempts:
            return "waiting for the look-up of its name"
        if len(self._attempts) == 1:
            return f"waiting for {self._attempts[0].reached.value}"
        return f"waiting at {len(self._attempts)} addresses: {self._describe_attempts()}"


def _is_addresses_own(error: Exception) -> bool:
    """Whether another address may do better."""
    if isinstance(error, AuthenticationFailed | NotConnected | ConnectionClosed):  # the last two: the hub is being left
        return False
    return isinstance(error, ConnectFailed | OSError)


def _failed_at(target: TcpAddress | None) -> float:
    """For the order of addresses: those that failed lately come last, the latest at the end."""
    when = _failed.get(target or ("", 0), -inf)
    return when if monotonic() - when < FORGIVEN_AFTER else -inf


def _note_failure(target: TcpAddress | None) -> None:
    assert target is not None
    _failed.pop(target, None)
    _failed[target] = monotonic()
    if len(_failed) > FAILURES_KEPT:
        with suppress(KeyError, RuntimeError):  # another event loop, in another thread
            del _failed[next(iter(_failed))]


async def _dialled(dial: Dial, address: Address) -> ByteStream:
    """The stream that the user's function opens. What it raises is its own, and so stays as it is in the cause."""
    try:
        stream = await dial(address.host, address.port)
    except (OSError, EOFError, anyio.EndOfStream, anyio.BrokenResourceError) as exc:
        raise ConnectFailed(f"dial failed: {str(exc) or type(exc).__name__}") from exc
    if not isinstance(stream, ByteStream):
        raise TypeError(f"dial must return an AnyIO ByteStream, not {stream!r}")
    if address.tls and not _is_tls(stream):
        await anyio.aclose_forcefully(stream)
        raise ValueError(
            "amqps:// needs a TLS stream, and dial returned another: use amqp:// where the tunnel itself encrypts"
        )
    return stream


def _is_tls(stream: ByteStream) -> bool:
    from anyio.streams.tls import TLSAttribute  # which imports ssl, and few need it

    return stream.extra(TLSAttribute.tls_version, None) is not None


def _protocol(settings: Settings) -> ProtocolConnection:
    address = settings.address
    return ProtocolConnection(
        mechanisms=mechanisms(address),
        virtual_host=address.virtual_host,
        client_properties={
            **own_properties(),
            "connection_name": settings.name,
            **dict(settings.client_properties),
        },
        heartbeat=settings.heartbeat,
        frame_max=settings.frame_max,
        channel_max=settings.channel_max,
        max_message_size=settings.max_message_size,
        delivery_type=settings.kinds.delivery,
    )


def _where(address: Address) -> str:
    return address.unix_path or peer_name((address.host, address.port))


def _strerror(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _translated(exc: Exception, address: Address) -> Exception:
    """The one seam for the operating system's errors in connecting."""
    where = _where(address)
    if isinstance(exc, ConnectionClosed):  # by the reactor that is being left
        return ConnectFailed(f"{where}: {exc}")
    if isinstance(exc, RabbitryError):
        if isinstance(exc, ConnectFailed) and where not in str(exc):
            return type(exc)(f"{where}: {exc}")
        return exc
    if isinstance(exc, ConnectionRefusedError):
        return ConnectFailed(f"nothing listens at {where} (connection refused)")
    if isinstance(exc, FileNotFoundError):
        return ConnectFailed(f"there is no socket at {where}")
    if isinstance(exc, OSError):
        return ConnectFailed(f"cannot connect to {where}: {exc}")
    return exc
