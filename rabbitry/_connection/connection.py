"""`Connection`: one TCP life, from the dial to the close handshake, and what is asked of it as a whole.

What must stay true: entering either gives an open connection or raises `ConnectFailed` with nothing left behind;
leaving is bounded, closes with a handshake where the broker still answers, and never changes what the body raised.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, NoReturn, Self

from rabbitry._channel.channel import Channel
from rabbitry._concurrency.waiting import Waiter
from rabbitry._connection.dialling import open_endpoint
from rabbitry._connection.hub import Hub, open_hub
from rabbitry._connection.introduction import octets
from rabbitry._connection.settings import Settings
from rabbitry._endpoint import AlarmWatcher, Endpoint
from rabbitry._errors import LocalProtocolError, NotConnected
from rabbitry._rpc.answering import Answering, Handler
from rabbitry._rpc.caller import RPC
from rabbitry._rpc.destinations import Destinations
from rabbitry._rpc.requests import RequestCounts
from rabbitry._rpc.serving import RawReplies, serve
from rabbitry._secrets import Secret, unwatched
from rabbitry._values import converting
from rabbitry._values.codecs import Codec
from rabbitry._values.converting import Convert
from rabbitry._values.options import CLOCK_SKEW, ReplyTo, ReplyToAllowed, default_prefetch
from rabbitry._values.stopping import Stop
from rabbitry._values.topology import Exchange, Queue, name_of
from rabbitry.protocol.client.states import ConnectionState

__all__ = ["Connection", "channel_apart", "watch_alarms"]


class Connection:
    """A connection, made by `connect` or `reactor.connect` and open inside its `async with` block."""

    __slots__ = ("_endpoint_or_none", "_hub", "_is_entered", "_is_private", "_private", "_requests", "_settings")

    def __init__(self, settings: Settings, hub: Hub | None) -> None:
        """On `hub`, or on a private one, entered and left with the connection."""
        self._settings = settings
        self._hub = hub
        self._is_private = hub is None
        self._private: AbstractAsyncContextManager[Hub] | None = None
        self._is_entered = False
        self._endpoint_or_none: Endpoint | None = None
        self._requests = RequestCounts()

    def __repr__(self) -> str:
        endpoint = self._endpoint_or_none
        state = "not entered" if endpoint is None else endpoint.protocol.state.name.lower().replace("_", "-")
        return f"<Connection {self._settings.name!r} {state}>"

    def __await__(self) -> NoReturn:
        raise TypeError("connect() is not awaited but entered: 'async with rabbitry.connect(url) as connection:'")

    @property
    def _endpoint(self) -> Endpoint:
        if self._endpoint_or_none is None:
            raise NotConnected("not connected: enter it first, 'async with rabbitry.connect(url) as connection'")
        return self._endpoint_or_none

    # --- the block -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Dial and shake hands. Raises `ConnectFailed` or `AuthenticationFailed`; cancelling it leaves nothing
        behind. After a failure it may be entered again.
        """
        if self._is_entered:
            raise LocalProtocolError("this connection was entered before: call connect(...) again")
        self._is_entered = True
        try:
            if not self._is_private:
                assert self._hub is not None
                self._endpoint_or_none = await open_endpoint(self._hub, self._settings)
                return self
            async with AsyncExitStack() as stack:
                self._private = open_hub()
                self._hub = await stack.enter_async_context(self._private)
                self._endpoint_or_none = await open_endpoint(self._hub, self._settings)
                stack.pop_all()
            return self
        except BaseException:
            self._is_entered = False
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._hub is not None
        self._hub.waits.check_loop()
        if self._private is None:
            await self._leave()
            return None
        stack = AsyncExitStack()
        stack.push_async_exit(self._private)
        stack.push_async_callback(self._leave)
        return await stack.__aexit__(kind, error, traceback)

    async def _leave(self) -> None:
        assert self._hub is not None
        try:
            await self._endpoint.close()
        finally:
            self._hub.forget(self._endpoint)

    # --- what it offers --------------------------------------------------------------------------------------------

    def channel(self, *, confirm: bool = True, prefetch: int = 100) -> Channel:
        """A `Channel`, to be entered. `confirm`: publishes wait for the broker's confirm. `prefetch` (0 to 65,535; 0 is
        unlimited) is how many deliveries each consumer may have unsettled."""
        return self._settings.kinds.channel(self._endpoint, confirm, prefetch)

    def rpc(self, *, codec: str | Codec = "msgpack", reply_to: ReplyTo = "direct") -> RPC:
        """An `RPC` caller, to be entered; payloads in `codec`: "msgpack", "json", "text", "raw", or a `Codec`.

        `reply_to` is the way of the replies: "direct" (RabbitMQ's direct reply-to, which needs no queue), "exclusive"
        (a queue of this RPC's own), or an `Exchange`, which is declared, and to which such a queue is bound with a key
        unique to this RPC. The queue goes with the RPC.
        """
        return self._settings.kinds.rpc(self.channel(confirm=False), codec, reply_to)

    async def serve(
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
    ) -> None:
        """Answer the requests in `queue` with `await handler(payload)`, up to `concurrency` at once, until stopped or
        cancelled.

        Handlers, deadlines and the other arguments are as for `Client.serve`, which says what to think of where callers
        are not trusted; `requests` counts. A request is acknowledged once its reply is queued, with an exchange once it
        is confirmed, and rejected where no reply can be sent (its properties can't be decoded, say). After `stop.set()`
        the handlers at work finish, and it returns. When the queue is gone it raises `ConsumerCancelled` once the
        handlers at work have finished; when the channel or connection has ended it cancels them, as their replies can't
        be sent and the broker gives their requests to others, and raises that. Cancelling it cancels them and puts
        their requests back; it waits for handlers that run in threads.
        """
        queue = name_of(queue, Queue)
        channel = self.channel(confirm=False, prefetch=default_prefetch(concurrency) if prefetch is None else prefetch)
        replies = RawReplies(self.channel, channel, self._requests, lambda: channel_apart(self), queue)
        answering = Answering(
            queue,
            handler,
            replies,
            self._requests,
            concurrency=concurrency,
            codec=codec,
            raw=raw,
            convert=convert,
            send_traceback=send_traceback,
            clock_skew=clock_skew,
            destinations=Destinations(reply_to_allowed, reply_exchanges),
            expected_errors=expected_errors,
        )
        await serve(
            channel,
            queue,
            replies,
            answering,
            self._settings.kinds.observed,
            concurrency=concurrency,
            may_rise=prefetch is None,
            stop=stop,
        )

    @property
    def requests(self) -> RequestCounts:
        """What became of the requests that `serve` took on this connection; live counts."""
        return self._requests

    async def update_secret(self, secret: str | bytes, reason: str = "token refresh") -> None:
        """Give the broker a new token (OAuth 2). Cancelled, it may have been taken."""
        hidden = Secret(secret)
        del secret
        endpoint = self._endpoint
        await endpoint.begin()
        waiter = Waiter()
        encoded = unwatched(lambda: Secret(_encoded(hidden.reveal())))
        slot = endpoint.protocol.update_secret(encoded, reason, waiter)
        await endpoint.reply(slot, waiter)

    async def wait_closed(self) -> None:
        """Return when this program closed the connection; raise the cause when something else ended it.

        Cancelling it stops the waiting only.
        """
        endpoint = self._endpoint
        await endpoint.wait_closed()
        if not endpoint.protocol.ended_here:
            raise endpoint.protocol.end_error()

    @property
    def name(self) -> str:
        """The name shown in the broker's list of connections."""
        return self._settings.name

    @property
    def is_open(self) -> bool:
        """True inside the block until the connection ends."""
        endpoint = self._endpoint_or_none
        return endpoint is not None and endpoint.protocol.state is ConnectionState.OPEN

    @property
    def is_blocked(self) -> bool:
        """True while the broker refuses to read publishes (a memory or disk alarm): publishing waits."""
        return self._endpoint.blocked_reason is not None

    @property
    def blocked_reason(self) -> str | None:
        """Why the broker refuses to read publishes, in its words; None while it does not."""
        return self._endpoint.blocked_reason

    @property
    def server_properties(self) -> Mapping[str, Any]:
        """What the broker says of itself: product, version, capabilities."""
        return self._endpoint.protocol.server_properties

    @property
    def unmatched_returns(self) -> int:
        """Returned messages that belonged to no publish of this connection."""
        return self._endpoint.unmatched_returns


def watch_alarms(connection: Connection, watcher: AlarmWatcher) -> None:
    """Have one watcher told when the broker blocks the connection, and when it does no longer."""
    connection._endpoint.watcher = watcher


@asynccontextmanager
async def channel_apart(connection: Connection) -> AsyncIterator[Channel]:
    """A confirm channel on a connection of its own, which is like this one, for what may end it."""
    settings = replace(connection._settings, name=f"{connection._settings.name}-apart")
    async with Connection(settings, connection._hub) as apart, apart.channel() as channel:
        yield channel


def _encoded(token: str | bytes) -> bytes:
    return octets(token, "token") if isinstance(token, str) else token
