"""`Connection`: one TCP life, for threads. It raises when the connection ends, and does not reconnect."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import rabbitry
from rabbitry import Codec, Exchange, Instrumentation, Queue, RequestCounts, Stop
from rabbitry._secrets import Secret, hidden_if_given
from rabbitry._values import converting
from rabbitry._values.address import DEFAULT_URL
from rabbitry._values.converting import Convert
from rabbitry._values.options import CLOCK_SKEW, DEFAULT_MAX_MESSAGE_SIZE, ReplyTo, ReplyToAllowed
from rabbitry.blocking.channel import Channel
from rabbitry.blocking.hosting import Hosted
from rabbitry.blocking.portal import Timeout
from rabbitry.blocking.rpc import RPC
from rabbitry.blocking.threads import Handler, Threads, on_the_loop

__all__ = ["Connection", "connect"]


class Connection(Hosted[rabbitry.Connection]):
    """A connection, made by `connect` and open inside its `with` block."""

    _what = "the connection"
    _how = "with rabbitry.blocking.connect(url) as connection"

    def __init__(self, connection: rabbitry.Connection) -> None:
        super().__init__()
        self._connection = connection

    def __repr__(self) -> str:
        return f"<blocking {self._connection!r}>"

    def _manager(self) -> AbstractAsyncContextManager[rabbitry.Connection]:
        return self._connection

    def channel(self, *, confirm: bool = True, prefetch: int = 100, timeout: Timeout = None) -> Channel:
        """A `Channel`, to be entered, which `timeout` bounds. `confirm`: publishes wait for the broker's confirm.
        `prefetch` (0 to 65,535; 0 is unlimited) is how many deliveries each consumer may have unsettled.
        """
        connection = self._async
        return Channel(
            self._portal, lambda: connection.channel(confirm=confirm, prefetch=prefetch), confirm, prefetch, timeout
        )

    def rpc(self, *, codec: str | Codec = "msgpack", reply_to: ReplyTo = "direct", timeout: Timeout = None) -> RPC:
        """An `RPC` caller, to be entered, which `timeout` bounds; the arguments are those of the async `rpc`."""
        connection = self._async
        return RPC(self._portal, lambda: connection.rpc(codec=codec, reply_to=reply_to), timeout)

    def serve(
        self,
        queue: str | Queue,
        handler: Handler,
        *,
        concurrency: int = 10,
        prefetch: int | None = None,
        codec: str | Codec = "msgpack",
        raw: bool = False,
        send_traceback: bool = False,
        clock_skew: float | None = CLOCK_SKEW,
        stop: Stop | None = None,
        reply_exchanges: Collection[str | Exchange] = (),
        reply_to_allowed: ReplyToAllowed = "any",
        expected_errors: tuple[type[Exception], ...] = (),
        convert: Convert | None = converting.convert,
        timeout: Timeout = None,
    ) -> None:
        """Answer the requests in `queue` with `handler(payload)`, in up to `concurrency` threads at once, until
        stopped, the connection ends or this is interrupted or timed out. The functions of a `Service`, or of a list,
        are called by name, in threads, too. The other arguments are those of the async `serve`; `requests` counts.

        After `stop.set()`, in any thread, the handlers at work finish. Else the requests being handled are put back,
        and their handlers left to themselves.
        """
        portal, connection = self._opened

        async def serve() -> None:
            threads = Threads(portal, concurrency)
            answer = threads.asynchronous(handler, convert)
            with on_the_loop(stop, portal) as stopped:
                await threads.run(
                    lambda: connection.serve(
                        queue,
                        answer,
                        concurrency=concurrency,
                        prefetch=prefetch,
                        codec=codec,
                        raw=raw,
                        send_traceback=send_traceback,
                        clock_skew=clock_skew,
                        reply_exchanges=reply_exchanges,
                        reply_to_allowed=reply_to_allowed,
                        expected_errors=expected_errors,
                        convert=convert,
                        stop=stopped,
                    )
                )

        portal.run(serve, timeout, is_patient=True)

    def update_secret(self, secret: str | bytes, reason: str = "token refresh", *, timeout: Timeout = None) -> None:
        """Give the broker a new token (OAuth 2)."""
        hidden = Secret(secret)
        del secret
        connection = self._async
        self._portal.run(lambda: connection.update_secret(hidden.reveal(), reason), timeout)

    def wait_closed(self, *, timeout: Timeout = None) -> None:
        """Return when this program closed the connection; raise the cause when something else ended it."""
        if not self._is_left:
            self._portal.run(self._async.wait_closed, timeout)

    @property
    def requests(self) -> RequestCounts:
        """What became of the requests that `serve` took on this connection; live counts."""
        return self._async.requests

    @property
    def name(self) -> str:
        """The name shown in the broker's list of connections."""
        return self._connection.name

    @property
    def is_open(self) -> bool:
        """True inside the block until the connection ends."""
        return self._connection.is_open and not (self._leased is not None and self._leased.is_forked)

    @property
    def is_blocked(self) -> bool:
        """True while the broker refuses to read publishes (a memory or disk alarm): publishing waits."""
        return self._async.is_blocked

    @property
    def blocked_reason(self) -> str | None:
        """Why the broker refuses to read publishes, in its words; None while it does not."""
        return self._async.blocked_reason

    @property
    def server_properties(self) -> Mapping[str, Any]:
        """What the broker says of itself: product, version, capabilities."""
        return self._async.server_properties

    @property
    def unmatched_returns(self) -> int:
        """Returned messages that belonged to no publish of this connection."""
        return self._async.unmatched_returns


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
    ssl_context: ssl.SSLContext | None = None,
    instrumentation: Instrumentation | None = None,
) -> Connection:
    """One connection, one TCP life: `with blocking.connect("amqp://host") as connection`. `open_client` gives one that
    spans reconnects.

    The arguments are those of `rabbitry.connect`. Entering raises `AuthenticationFailed` or `ConnectFailed`, within
    `connect_timeout` (15 s); leaving closes within 5 s.
    """
    hidden, secret = Secret(url), hidden_if_given(password)
    del url, password
    return Connection(
        rabbitry.connect(
            hidden.reveal(),
            host=host,
            port=port,
            user=user,
            password=None if secret is None else secret.reveal(),
            virtual_host=virtual_host,
            tls=tls,
            name=name,
            heartbeat=heartbeat,
            connect_timeout=connect_timeout,
            frame_max=frame_max,
            channel_max=channel_max,
            max_message_size=max_message_size,
            client_properties=client_properties,
            ssl_context=ssl_context,
            instrumentation=instrumentation,
        )
    )
