"""`Client`: publishing and topology that span reconnects. What belongs to one connection life stays in it.

What must stay true: two connections, so that a blocked publisher never stops what is consumed; a message is sent again
only when it is certain that it was not sent; topology is declared on the consuming connection and put back there
before that life is handed out. The scope raises for what waiting does not mend, and then only.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from rabbitry._backoff import Backoff
from rabbitry._channel import Channel, QueueInfo
from rabbitry._connection import DEFAULT_MAX_MESSAGE_SIZE, Connection, default_name
from rabbitry._errors import Closed, LocalProtocolError, NotFound, NotSent, ResourceLocked
from rabbitry._link import Change, CredentialsSource, Link, State, WhileDown
from rabbitry._message import Message
from rabbitry._reactor import DEFAULT_URL, Reactor, connection_settings, open_reactor
from rabbitry._scopes import background
from rabbitry._topology import Entity, Queue, in_order, name_of
from rabbitry._waiting import checkpoint_if_cancelled

__all__ = ["Client", "open_client"]

CHANGES_KEPT = 100
"""Changes of state that a subscriber may be behind; further ones are dropped."""
SENDERS = 100
"""Exchanges that have a channel of their own for what is published to them."""
LOCKED_PAUSE = 0.5
LOCKED_BOUND = 30.0
"""Seconds between attempts, and in all, to declare a queue that the broker still holds for our former life."""


class Client:
    """Made by `open_client`, usable by any task inside its block."""

    __slots__ = ("_consuming", "_declared", "_lock", "_publishing", "_senders", "_subscribers", "_while_down")

    def __init__(self, publishing: Link, consuming: Link, while_down: WhileDown) -> None:
        self._publishing = publishing
        self._consuming = consuming
        self._while_down: WhileDown = while_down
        self._declared: dict[Entity, None] = {}  # in order, each once
        # By exchange: one that is missing ends the publishes to it alone. None: of those beyond the first hundred.
        self._senders: dict[str | None, Channel] = {}
        self._lock = anyio.Lock()
        self._subscribers: list[MemoryObjectSendStream[Change]] = []
        consuming.restore = self._restore
        for link in self._links:
            link.tell = self._tell

    def __repr__(self) -> str:
        return f"<Client publishing={self._publishing.state} consuming={self._consuming.state}>"

    # --- what it does ------------------------------------------------------------------------------------------------

    async def publish(
        self,
        message: Message | bytes,
        *,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        while_down: WhileDown | None = None,
    ) -> None:
        """Publish, and return once the broker confirmed.

        While the connection is down it waits, or with `while_down="fail"` raises `NotConnected`. A message that was
        certainly not sent is sent in the next life; for one that was under way it raises `OutcomeUnknown`. Otherwise
        raises as `Channel.publish`, and cancelling means the same.
        """
        while True:
            channel = await self._sender(exchange, while_down or self._while_down)
            try:
                return await channel.publish(message, exchange=exchange, routing_key=routing_key, mandatory=mandatory)
            except (NotSent, Closed):
                continue  # it did not leave: the channel, or its connection, had ended before

    async def declare(self, *entities: Entity) -> None:
        """Declare exchanges, queues and bindings, now and again in each life to come.

        Raises as `Channel.declare`, and then none of them is remembered. If the broker refuses one later, when it is
        declared again, the client's scope raises that. Cancelled, some may have been declared.
        """
        ordered = in_order(entities)
        await checkpoint_if_cancelled()
        while True:
            connection = await self._consuming.connection("wait")
            try:
                await _declare(connection, ordered)
            except Closed as error:
                if connection.is_open or not isinstance(error, OSError):
                    raise
            else:
                self._declared |= dict.fromkeys(ordered)
                return

    async def inspect(self, queue: str | Queue) -> QueueInfo | None:
        """What the broker says of a queue; None if there is no such queue. Cancelling it changes nothing."""
        async with self.channel(confirm=False) as channel:
            try:
                return await channel.declare_queue(name_of(queue), passive=True)
            except NotFound:
                return None

    @asynccontextmanager
    async def channel(self, *, confirm: bool = True, prefetch: int = 100) -> AsyncIterator[Channel]:
        """A raw channel of the publishing connection's present life: it raises when that ends."""
        connection = await self._publishing.connection(self._while_down)
        async with connection.channel(confirm=confirm, prefetch=prefetch) as channel:
            yield channel

    # --- what it tells -----------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The worse of its two connections' states; one that was never needed does not count."""
        states = {link.state for link in self._links}
        worst_first: Sequence[State] = ("closed", "recovering", "connecting", "connected")
        for state in worst_first:
            if state in states:
                return state
        return "idle"

    @property
    def is_ready(self) -> bool:
        """Whether each connection that is needed is open."""
        return self.state in ("connected", "idle")

    @property
    def last_error(self) -> Exception | None:
        """What last ended a connection, or kept one from being opened."""
        return next((link.last_error for link in self._links if link.last_error is not None), None)

    def statistics(self) -> Mapping[str, int]:
        """How many lives each connection has had, and how many entities are declared again in each."""
        return {
            "publishing_lives": self._publishing.lives,
            "consuming_lives": self._consuming.lives,
            "declared": len(self._declared),
        }

    @contextmanager
    def changes(self) -> Iterator[MemoryObjectReceiveStream[Change]]:
        """`with client.changes() as changes: async for change in changes`: each new state of either connection.

        Who falls behind by more than 100 misses what follows. The stream ends with the client.
        """
        sender, receiver = anyio.create_memory_object_stream[Change](CHANGES_KEPT)
        self._subscribers.append(sender)
        try:
            with receiver:
                yield receiver
        finally:
            sender.close()
            self._subscribers.remove(sender)

    # --- its parts ---------------------------------------------------------------------------------------------------

    @property
    def _links(self) -> tuple[Link, Link]:
        return self._publishing, self._consuming

    async def _sender(self, exchange: str, while_down: WhileDown) -> Channel:
        """The open channel that publishes to this exchange."""
        key = exchange if exchange in self._senders or len(self._senders) < SENDERS else None
        channel = self._senders.get(key)
        if channel is not None and channel.is_open:
            return channel
        while True:
            connection = await self._publishing.connection(while_down)
            async with self._lock:
                channel = self._senders.get(key)
                if channel is not None and channel.is_open:
                    return channel
                channel = connection.channel()
                try:
                    await channel.__aenter__()  # it ends with its connection
                except Closed:
                    continue
                self._senders[key] = channel
                return channel

    async def _restore(self, connection: Connection) -> None:
        """Declare everything again in a new life."""
        if self._declared:
            await _declare(connection, self._declared)

    def _tell(self, change: Change) -> None:
        for subscriber in self._subscribers:
            with suppress(anyio.WouldBlock, anyio.BrokenResourceError):
                subscriber.send_nowait(change)

    def _end(self) -> None:
        for link in self._links:
            link.close()
        for subscriber in self._subscribers:
            subscriber.close()


async def _declare(connection: Connection, entities: Iterable[Entity]) -> None:
    """Declare on a channel of its own, which a refusal ends. A queue that the broker holds for a former life of ours,
    whose end it has not noticed yet, is asked for again.
    """
    with anyio.move_on_after(LOCKED_BOUND) as scope:
        while True:
            try:
                async with connection.channel(confirm=False) as channel:
                    return await channel.declare(*entities)
            except ResourceLocked:
                if scope.cancel_called:
                    raise
            await anyio.sleep(LOCKED_PAUSE)
    async with connection.channel(confirm=False) as channel:
        await channel.declare(*entities)


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
    reactor: Reactor | None = None,
) -> AsyncIterator[Client]:
    """A client that spans reconnects: `async with rabbitry.open_client("amqp://host") as client: ...`

    It keeps two connections, `{name}-publish` and `{name}-consume`, each opened when first needed, to any of `urls`
    (tried in random order). `reconnect` says how long to wait between attempts and when to give up (default: 0.5 to
    30 s, for ever). `while_down` is what publishing does meanwhile: "wait", or "fail" with `NotConnected`.
    `credentials` is asked before each attempt, and with `expires_in` again when 80 % of that has passed. The others are
    those of `connect`. On `reactor`, or on one of its own.

    The block raises what waiting does not mend, and cancels its body for it: `AuthenticationFailed` from the first
    connection, `ConnectFailed` when `reconnect` gives up, a declared entity that the broker refuses to have again.
    Leaving the block closes both connections, within 5 s.
    """
    hosts = [urls] if isinstance(urls, str) else list(urls)
    if not hosts:
        raise LocalProtocolError("open_client needs at least one URL")
    if while_down not in ("wait", "fail"):
        raise LocalProtocolError(f"while_down is 'wait' or 'fail', not {while_down!r}")
    async with AsyncExitStack() as stack:
        if reactor is None:
            reactor = await stack.enter_async_context(open_reactor())

        def link(role: str) -> Link:
            settings = [
                connection_settings(
                    url,
                    name=f"{name or default_name()}-{role}",
                    heartbeat=heartbeat,
                    connect_timeout=connect_timeout,
                    max_message_size=max_message_size,
                    client_properties=client_properties,
                    ssl_context=ssl_context,
                )
                for url in hosts
            ]
            return Link(role, reactor, settings, reconnect or Backoff(), credentials)

        client = Client(link("publish"), link("consume"), while_down)
        try:
            async with background() as tg:
                for each in client._links:
                    tg.start_soon(each.run)
                try:
                    yield client
                finally:
                    tg.cancel_scope.cancel()
        finally:
            client._end()
