"""`open_client` and `start_client`: a client's links, their supervision, and what leaving it does, in order.

What must stay true: the scope raises for what waiting does not mend, and then only; leaving it ends consuming first,
then publishing, then the connections, in bounded time.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypedDict, Unpack

import anyio

from rabbitry._client.client import Client
from rabbitry._client.link import CredentialsSource, Fate, Link, WhileDown
from rabbitry._client.publisher import check_policies
from rabbitry._concurrency.scopes import background
from rabbitry._connection.connection import DEFAULT_MAX_MESSAGE_SIZE, default_name
from rabbitry._errors import LocalProtocolError, NotConnected, RabbitryError
from rabbitry._instrumentation import Instrumentation, Instruments
from rabbitry._instrumented.client import InstrumentedClient
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
    hosts = [urls] if isinstance(urls, str) else list(urls)
    if not hosts:
        raise LocalProtocolError("open_client needs at least one URL")
    check_policies(while_down)
    async with AsyncExitStack() as stack:
        if reactor is None:
            reactor = await stack.enter_async_context(open_reactor())

        fate, backoff, base = Fate(), reconnect or Backoff(), name or default_name()
        instruments = Instruments.of(instrumentation)
        settings = [
            connection_settings(
                url,
                name=base,
                heartbeat=heartbeat,
                connect_timeout=connect_timeout,
                max_message_size=max_message_size,
                client_properties=client_properties,
                ssl_context=ssl_context,
            )
            for url in hosts
        ]

        def link(role: str) -> Link:
            named = [replace(each, name=f"{base}-{role}", instruments=instruments) for each in settings]
            return Link(role, reactor, named, backoff, credentials, fate)

        client = (
            Client(link("publish"), link("consume"), fate, while_down)
            if instruments is None
            else InstrumentedClient(link("publish"), link("consume"), fate, while_down, instruments)
        )

        def has_lived() -> bool:
            return any(each.lives for each in client._links)

        for each in client._links:
            each.has_lived = has_lived
        bound = seconds(drain)
        try:
            async with background() as tg:
                client._start = tg.start_soon
                for each in client._links:
                    each.begin = lambda link: tg.start_soon(client._keep, link)
                try:
                    yield client
                finally:
                    try:
                        await client._drain(bound)
                    finally:
                        client._stop_links()
                        tg.cancel_scope.cancel()
        except NotConnected as error:
            if client._failure is not None and error.__cause__ is client._failure:
                raise client._failure from None  # the body met it before it was cancelled
            raise
        finally:
            client._end()


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
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise LocalProtocolError("start_client is for asyncio; under trio: 'async with open_client(...)'") from None
    started: asyncio.Future[Client] = loop.create_future()

    async def host() -> None:
        leave = anyio.Event()
        try:
            async with open_client(urls, **options) as client:
                client._leave, client._host = leave.set, asyncio.current_task()
                if not started.done():
                    started.set_result(client)
                await leave.wait()
        except Exception as error:
            if not started.done():
                started.set_exception(error)
            elif not isinstance(error, RabbitryError):
                raise

    task = loop.create_task(host(), name="rabbitry client")
    try:
        return await asyncio.shield(started)
    except BaseException:
        task.cancel()
        raise
