"""The doors: `connect`, `open_reactor` and `Reactor`; `open_client` and `start_client`.

What must stay true: only here are arguments listed one by one, and only here is it decided whether anything tells of
what happens: below, connections and clients are given the kinds of classes to make.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from rabbitry._client.changes import Change
from rabbitry._client.client import Client
from rabbitry._client.link import CredentialsSource
from rabbitry._client.outcomes import check_policies
from rabbitry._client.running import Host, Running, run_client, start_hosted
from rabbitry._connection.connection import Connection
from rabbitry._connection.hub import Hub, open_hub
from rabbitry._connection.settings import ConnectionOptions, Dial, connection_settings, default_name
from rabbitry._instrumentation import Instrumentation, Instruments
from rabbitry._instrumented.client import InstrumentedClient, Reconnections
from rabbitry._instrumented.kinds import kinds_for
from rabbitry._later import Later
from rabbitry._secrets import Secret, hidden_if_given
from rabbitry._values.address import DEFAULT_URL
from rabbitry._values.backoff import Backoff
from rabbitry._values.durations import seconds
from rabbitry._values.options import DEFAULT_DRAIN, DEFAULT_MAX_MESSAGE_SIZE, WhileDown, check_options
from rabbitry._values.parts import AddressParts, address_url

if TYPE_CHECKING:
    import ssl
else:
    ssl = Later("ssl")

__all__ = ["ClientOptions", "Reactor", "connect", "open_client", "open_reactor", "start_client"]


# --- connections ------------------------------------------------------------------------------------------------------


def connect(
    url: str = DEFAULT_URL,
    *,
    host: str | None = None,
    port: int | None = None,
    user: str | None = None,
    password: str | None = None,
    virtual_host: str | None = None,
    tls: bool | None = None,
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

    `url` follows the RabbitMQ URI specification; an empty path is the virtual host "/". `host`, `port`, `user`,
    `password`, `virtual_host` and `tls` (True: TLS, port 5671) are its parts without escaping, instead of it or for
    what it leaves open: `ValueError` where both give one, and not the same. `name` is shown in the broker's
    list of connections. `heartbeat` in seconds (default 30, 0 none), rounded up to whole ones and lowered to the
    broker's. `connect_timeout` bounds dial and handshake (default 15 s). `frame_max` (4,096 bytes at least, default
    131,072; 0 leaves it to the broker) and `channel_max` (default 2,047) are lowered to the broker's. A message larger
    than `max_message_size` bytes (default 128 MiB), or with properties and headers over `frame_max` and 1 MiB (brokers
    send them whole), ends the consumer that it comes for (`MessageTooLarge`). `client_properties` are added to the ones
    the broker is told. `dial` opens the byte stream itself, given host and port: a tunnel. `instrumentation` is told of
    each message. Arguments given here win over the URL's.

    `amqps://` verifies the broker's certificate against the system's authorities, or against those in the URL's
    `cacertfile`; `certfile` and `keyfile` are this side's own. `ssl_context` is used instead, as it is.

    Entering it raises `AuthenticationFailed` (credentials, virtual host) or `ConnectFailed`, saying what answered.
    """
    options: ConnectionOptions = {
        "name": name,
        "heartbeat": heartbeat,
        "connect_timeout": connect_timeout,
        "frame_max": frame_max,
        "channel_max": channel_max,
        "max_message_size": max_message_size,
        "client_properties": client_properties,
        "dial": dial,
        "ssl_context": ssl_context,
    }
    hidden, secret = Secret(url), hidden_if_given(password)
    del url, password
    parts = AddressParts(host=host, port=port, user=user, password=secret, virtual_host=virtual_host, tls=tls)
    return _connection(None, address_url(hidden, parts), instrumentation, options)


def _connection(
    hub: Hub | None, url: Secret[str], instrumentation: Instrumentation | None, options: ConnectionOptions
) -> Connection:
    kinds = kinds_for(Instruments.of(instrumentation))
    return Connection(connection_settings(url, kinds, **options), hub)


class Reactor:
    """One poller shared by any number of connections; made by `open_reactor`."""

    __slots__ = ("_hub",)

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def __repr__(self) -> str:
        return f"<Reactor with {len(self._hub)} connections>"

    def connect(
        self,
        url: str = DEFAULT_URL,
        *,
        host: str | None = None,
        port: int | None = None,
        user: str | None = None,
        password: str | None = None,
        virtual_host: str | None = None,
        tls: bool | None = None,
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
        options: ConnectionOptions = {
            "name": name,
            "heartbeat": heartbeat,
            "connect_timeout": connect_timeout,
            "frame_max": frame_max,
            "channel_max": channel_max,
            "max_message_size": max_message_size,
            "client_properties": client_properties,
            "dial": dial,
            "ssl_context": ssl_context,
        }
        hidden, secret = Secret(url), hidden_if_given(password)
        del url, password
        parts = AddressParts(host=host, port=port, user=user, password=secret, virtual_host=virtual_host, tls=tls)
        self._hub.check_open()
        return _connection(self._hub, address_url(hidden, parts), instrumentation, options)

    def open_client(
        self, urls: str | Sequence[str] = DEFAULT_URL, **options: Unpack[ClientOptions]
    ) -> AbstractAsyncContextManager[Client]:
        """A client on this reactor, to be entered; the arguments are those of `rabbitry.open_client`."""
        return open_client(urls, reactor=self, **options)


@asynccontextmanager
async def open_reactor() -> AsyncIterator[Reactor]:
    """One poller for many connections: `async with rabbitry.open_reactor() as reactor: reactor.connect(url)`.

    Leaving the block closes the connections still open, within 5 s altogether. What the body raises leaves unchanged.
    """
    async with open_hub() as hub:
        yield Reactor(hub)


# --- clients ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_client(
    urls: str | Sequence[str] = DEFAULT_URL,
    *,
    host: str | None = None,
    port: int | None = None,
    user: str | None = None,
    password: str | None = None,
    virtual_host: str | None = None,
    tls: bool | None = None,
    name: str | None = None,
    reconnect: Backoff | None = None,
    while_down: WhileDown = "wait",
    credentials: CredentialsSource | None = None,
    heartbeat: float | timedelta | None = None,
    connect_timeout: float | timedelta | None = None,
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    client_properties: Mapping[str, Any] | None = None,
    dial: Dial | None = None,
    ssl_context: ssl.SSLContext | None = None,
    drain: float | timedelta = DEFAULT_DRAIN,
    instrumentation: Instrumentation | None = None,
    reactor: Reactor | None = None,
) -> AsyncIterator[Client]:
    """A client that spans reconnects: `async with rabbitry.open_client("amqp://host") as client: ...`

    It keeps two connections, `{name}-publish` and `{name}-consume`, each opened when first needed, to any of `urls`
    (tried in random order, the one that failed last at the end). `reconnect` says how long to wait between attempts and
    when to give up (default: 0.5 to 30 s, for ever). `while_down` is what publishing does meanwhile: "wait", or "fail"
    with `NotConnected`. `credentials` is asked before each attempt, and with `expires_in` again when 80 % of that has
    passed. The others are those of `connect`, `instrumentation` included. On `reactor`, or on one of its own.

    The block raises what waiting does not mend, and cancels its body for it: `AuthenticationFailed` from the first
    connection, `ConnectFailed` when `reconnect` gives up, a declared entity that the broker refuses to have again.

    Leaving the block stops consuming, gives the handlers and publishers of other tasks up to `drain` seconds (5) to
    finish, and closes both connections, within 5 s.
    """
    hidden, secret = _hidden(urls), hidden_if_given(password)
    del urls, password  # whoever reports an error of the block sees this frame's variables
    parts = AddressParts(host=host, port=port, user=user, password=secret, virtual_host=virtual_host, tls=tls)
    options: ClientOptions = {
        "name": name,
        "reconnect": reconnect,
        "while_down": while_down,
        "credentials": credentials,
        "heartbeat": heartbeat,
        "connect_timeout": connect_timeout,
        "max_message_size": max_message_size,
        "client_properties": client_properties,
        "dial": dial,
        "ssl_context": ssl_context,
        "drain": drain,
        "instrumentation": instrumentation,
    }
    client = _client(hidden, parts, options, hub=None if reactor is None else reactor._hub)
    del options, parts  # there may be ten thousand clients
    async with client as opened:
        yield opened


class ClientOptions(TypedDict, total=False):
    """The arguments of `open_client` beside the URLs and the reactor."""

    host: str | None
    port: int | None
    user: str | None
    password: str | None
    virtual_host: str | None
    tls: bool | None
    name: str | None
    reconnect: Backoff | None
    while_down: WhileDown
    credentials: CredentialsSource | None
    heartbeat: float | timedelta | None
    connect_timeout: float | timedelta | None
    max_message_size: int
    client_properties: Mapping[str, Any] | None
    dial: Dial | None
    ssl_context: ssl.SSLContext | None
    drain: float | timedelta
    instrumentation: Instrumentation | None


async def start_client(
    urls: str | Sequence[str] = DEFAULT_URL, *, reactor: Reactor | None = None, **options: Unpack[ClientOptions]
) -> Client:
    """A client without a block, for asyncio programs whose start and stop hooks run in different tasks: end it with
    `await client.aclose()`.

    The arguments are those of `open_client`. What would have ended that block ends the client; its operations then
    raise `NotConnected`, and `wait_closed` the cause. Cancelling it leaves nothing behind. asyncio only: trio has
    nurseries for this, and anyone whose start and stop are one function has `open_client`.
    """
    hidden, secret = _hidden(urls), hidden_if_given(options.pop("password", None))
    del urls
    check_options(options, ClientOptions, "start_client")
    parts: AddressParts = {
        "host": options.get("host"),
        "port": options.get("port"),
        "user": options.get("user"),
        "password": secret,
        "virtual_host": options.get("virtual_host"),
        "tls": options.get("tls"),
    }
    hub = None if reactor is None else reactor._hub
    return await start_hosted(lambda host: _client(hidden, parts, options, hub=hub, host=host))


def _hidden(urls: str | Sequence[str]) -> list[Secret[str]]:
    if isinstance(urls, bytes) or not hasattr(urls, "__iter__"):
        raise TypeError(f"urls is a URL, or a sequence of URLs, not a {type(urls).__name__}")
    return [Secret(url) for url in ([urls] if isinstance(urls, str) else urls)]


def _client(
    hosts: Sequence[Secret[str]],
    parts: AddressParts,
    options: ClientOptions,
    *,
    hub: Hub | None = None,
    host: Host | None = None,
) -> AbstractAsyncContextManager[Client]:
    """The client, to be entered; refuses what its arguments can't be."""
    if not hosts:
        raise ValueError("open_client needs at least one URL")
    backoff, credentials = options.get("reconnect") or Backoff(), options.get("credentials")
    if not isinstance(backoff, Backoff):
        raise TypeError(f"reconnect must be a Backoff, not {backoff!r}")
    if credentials is not None and not callable(credentials):
        raise TypeError("credentials must be a coroutine function that returns Credentials")
    if credentials is not None and (parts.get("user"), parts.get("password")) != (None, None):
        raise ValueError("credentials= is asked for user and password: leave out user= and password=")
    drain = seconds(options.get("drain", DEFAULT_DRAIN))
    if drain < 0:
        raise ValueError(f"drain must not be negative: {options.get('drain')}")
    while_down = options.get("while_down", "wait")
    check_policies(while_down)
    instruments = Instruments.of(options.get("instrumentation"))
    connecting: ConnectionOptions = {
        "name": options.get("name") or default_name(),
        "heartbeat": options.get("heartbeat"),
        "connect_timeout": options.get("connect_timeout"),
        "max_message_size": options.get("max_message_size", DEFAULT_MAX_MESSAGE_SIZE),
        "client_properties": options.get("client_properties"),
        "dial": options.get("dial"),
        "ssl_context": options.get("ssl_context"),
    }
    kinds = kinds_for(instruments)
    make: Callable[[Running], Client] = partial(Client, while_down=while_down)
    on_change: Callable[[Change], None] | None = None
    if instruments is not None:
        make = partial(InstrumentedClient, while_down=while_down, instruments=instruments)
        on_change = Reconnections(instruments).count
    return run_client(
        make,
        hub,
        [connection_settings(address_url(url, parts), kinds, **connecting) for url in hosts],
        backoff=backoff,
        credentials=credentials,
        drain=drain,
        on_change=on_change,
        host=host,
    )
