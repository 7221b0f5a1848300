"""`open_client` and `start_client`: the doors to a client, which check what they are given and say how it is run."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, TypedDict, Unpack

from rabbitry._client.changes import Change
from rabbitry._client.client import Client
from rabbitry._client.link import CredentialsSource, WhileDown
from rabbitry._client.outcomes import check_policies
from rabbitry._client.running import Host, Running, run_client, start_hosted
from rabbitry._connection.connection import DEFAULT_MAX_MESSAGE_SIZE, default_name
from rabbitry._errors import LocalProtocolError
from rabbitry._instrumentation import Instrumentation, Instruments
from rabbitry._instrumented.client import InstrumentedClient, Reconnections
from rabbitry._reactor import DEFAULT_URL, Reactor, connection_settings, open_reactor
from rabbitry._values.backoff import Backoff
from rabbitry._values.message import seconds

__all__ = ["ClientOptions", "open_client", "start_client"]

DEFAULT_DRAIN = 5.0


@asynccontextmanager
async def open_client(
    urls: str | Sequence[str] = DEFAULT_URL,
    *,
    name: str | None = None,
    reconnect: Backoff | None = None,
    while_down: WhileDown = "wait",
    credentials: CredentialsSource | None = None,
    heartbeat: float | timedelta | None = None,
    connect_timeout: float | timedelta | None = None,
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    client_properties: Mapping[str, Any] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    drain: float | timedelta = DEFAULT_DRAIN,
    instrumentation: Instrumentation | None = None,
    reactor: Reactor | None = None,
) -> AsyncIterator[Client]:
    """A client that spans reconnects: `async with rabbitry.open_client("amqp://host") as client: ...`

    It keeps two connections, `{name}-publish` and `{name}-consume`, each opened when first needed, to any of `urls`
    (tried in random order). `reconnect` says how long to wait between attempts and when to give up (default: 0.5 to
    30 s, for ever). `while_down` is what publishing does meanwhile: "wait", or "fail" with `NotConnected`.
    `credentials` is asked before each attempt, and with `expires_in` again when 80 % of that has passed. The others are
    those of `connect`, `instrumentation` included. On `reactor`, or on one of its own.

    The block raises what waiting does not mend, and cancels its body for it: `AuthenticationFailed` from the first
    connection, `ConnectFailed` when `reconnect` gives up, a declared entity that the broker refuses to have again.

    Leaving the block stops consuming, gives the handlers and publishers of other tasks up to `drain` seconds (5) to
    finish, and closes both connections, within 5 s.
    """
    async with _client(
        urls,
        reactor=reactor,
        name=name,
        reconnect=reconnect,
        while_down=while_down,
        credentials=credentials,
        heartbeat=heartbeat,
        connect_timeout=connect_timeout,
        max_message_size=max_message_size,
        client_properties=client_properties,
        ssl_context=ssl_context,
        drain=drain,
        instrumentation=instrumentation,
    ) as client:
        yield client


class ClientOptions(TypedDict, total=False):
    """The arguments of `open_client` beside the URLs and the reactor."""

    name: str | None
    reconnect: Backoff | None
    while_down: WhileDown
    credentials: CredentialsSource | None
    heartbeat: float | timedelta | None
    connect_timeout: float | timedelta | None
    max_message_size: int
    client_properties: Mapping[str, Any] | None
    ssl_context: ssl.SSLContext | None
    drain: float | timedelta
    instrumentation: Instrumentation | None


async def start_client(urls: str | Sequence[str] = DEFAULT_URL, **options: Unpack[ClientOptions]) -> Client:
    """A client without a block, for asyncio programs whose start and stop hooks run in different tasks: end it with
    `await client.aclose()`.

    The arguments are those of `open_client`. What would have ended that block ends the client; its operations then
    raise `NotConnected`, and `wait_closed` the cause. Cancelling it leaves nothing behind. asyncio only: trio has
    nurseries for this, and anyone whose start and stop are one function has `open_client`.
    """
    return await start_hosted(lambda host: _client(urls, host=host, **options))


@asynccontextmanager
async def _client(
    urls: str | Sequence[str],
    *,
    reactor: Reactor | None = None,
    host: Host | None = None,
    name: str | None = None,
    reconnect: Backoff | None = None,
    while_down: WhileDown = "wait",
    credentials: CredentialsSource | None = None,
    drain: float | timedelta = DEFAULT_DRAIN,
    instrumentation: Instrumentation | None = None,
    **options: Any,
) -> AsyncIterator[Client]:
    hosts = [urls] if isinstance(urls, str) else list(urls)
    if not hosts:
        raise LocalProtocolError("open_client needs at least one URL")
    check_policies(while_down)
    async with AsyncExitStack() as stack:
        if reactor is None:
            reactor = await stack.enter_async_context(open_reactor())
        instruments = Instruments.of(instrumentation)
        base = name or default_name()
        settings = [replace(connection_settings(url, name=base, **options), instruments=instruments) for url in hosts]
        make: Callable[[Running], Client] = partial(Client, while_down=while_down)
        on_change: Callable[[Change], None] | None = None
        if instruments is not None:
            make = partial(InstrumentedClient, while_down=while_down, instruments=instruments)
            on_change = Reconnections(instruments).count
        client = run_client(
            make,
            reactor,
            settings,
            backoff=reconnect or Backoff(),
            credentials=credentials,
            drain=seconds(drain),
            on_change=on_change,
            host=host,
        )
        yield await stack.enter_async_context(client)
