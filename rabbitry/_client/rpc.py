"""RPC through all lives: `ClientRPC` calls on the publishing connection, `ClientReplies` answers on it.

What must stay true: a call is made again only if its request was certainly not sent, or where it is marked idempotent;
what the broker closes a channel for ends calls to the same exchange alone; a request is acknowledged once its reply is
the broker's, or can't be delivered.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from rabbitry._channel.channel import Channel, life_of
from rabbitry._channel.delivery import Delivery
from rabbitry._client.publisher import OWN_CHANNELS, is_lost, open_channel
from rabbitry._client.registry import FLEETING_PAUSE, FLEETING_TRIES
from rabbitry._errors import (
    Closed,
    ConsumerCancelled,
    LocalProtocolError,
    NotConnected,
    NotFound,
    NotSent,
    OutcomeUnknown,
    PublishFailed,
)
from rabbitry._rpc.caller import RPC, ReplyTo, check_reply_to
from rabbitry._rpc.envelope import DIRECT
from rabbitry._rpc.interface import bound
from rabbitry._rpc.serving import RequestCounts
from rabbitry._values.codecs import Codec, codec_named
from rabbitry._values.message import Message
from rabbitry._values.topology import Exchange, name_of

if TYPE_CHECKING:
    from rabbitry._client.client import Client
    from rabbitry._client.link import Link, WhileDown

__all__ = ["ClientRPC", "ClientReplies"]

logger = logging.getLogger("rabbitry")

T = TypeVar("T")

SUSPECT_ATTEMPTS = 3
"""Times that an idempotent call is sent which may be what the broker closes the channel, or the connection, for."""


class ClientRPC:
    """Calls servers and gives their replies, through all lives of the connection; made by `client.rpc()`, any number of
    calls at once.

    A call in flight when the connection ends raises `OutcomeUnknown`: the server may have done its work. With
    `idempotent=True` it is sent again instead. Each exchange has a channel of its own (the first hundred of them): one
    that does not exist, say, for which the broker closes the channel, ends the calls to itself alone.
    """

    __slots__ = ("_codec", "_is_open", "_late", "_link", "_lock", "_reply_to", "_rpcs", "_waiting", "_while_down")

    def __init__(self, link: Link, codec: str | Codec, while_down: WhileDown, reply_to: ReplyTo = "direct") -> None:
        self._link = link
        self._codec = codec_named(codec)  # refuses an unknown one, at once
        self._reply_to: ReplyTo = check_reply_to(reply_to)
        self._while_down: WhileDown = while_down
        self._lock = anyio.Lock()
        self._rpcs: dict[str | None, RPC] = {}  # by exchange, of the present life or the former; None: of the others
        self._late = 0
        self._is_open = True
        self._waiting: set[anyio.CancelScope] = set()  # of those who wait for the next life

    def __repr__(self) -> str:
        in_flight = sum(len(rpc._waiters) for rpc in self._rpcs.values())
        return f"<ClientRPC {in_flight} calls in flight, {self.late_replies} late replies>"

    @property
    def late_replies(self) -> int:
        """Replies that came when nobody waited for them: late ones, duplicates, unknown correlation ids."""
        return self._late + sum(rpc.late_replies for rpc in self._rpcs.values())

    async def call(
        self,
        routing_key: str,
        payload: Any = None,
        *,
        exchange: str | Exchange = "",
        mandatory: bool = True,
        headers: Mapping[str, Any] | None = None,
        method: str | None = None,
        raw: bool = False,
        idempotent: bool = False,
    ) -> Any:
        """As `RPC.call`, cancelling included. While the connection is down it waits, or with `while_down="fail"` raises
        `NotConnected`.

        `idempotent`: a server may do it twice without harm. Then it is sent again, in this life or the next, when the
        connection was lost with the call in flight; `OutcomeUnknown` is left for what the broker itself closes the
        channel or connection for three times, and for `while_down="fail"`.
        """
        exchange = name_of(exchange)
        return await self._call_in_lives(
            exchange,
            lambda rpc: rpc.call(
                routing_key,
                payload,
                exchange=exchange,
                mandatory=mandatory,
                headers=headers,
                method=method,
                raw=raw,
            ),
            idempotent,
        )

    async def _call_in_lives(self, exchange: str, ask: Callable[[RPC], Awaitable[Any]], idempotent: bool) -> Any:
        unknown: OutcomeUnknown | None = None
        suspicions = 0
        while True:
            try:
                rpc = await self._live(exchange)
            except NotConnected as error:
                if unknown is not None:  # it may have been done in a former life
                    raise unknown from error
                raise
            try:
                return await ask(rpc)
            except (Closed, ConsumerCancelled):
                continue  # of the life that had ended before: nothing was sent
            except OutcomeUnknown as error:
                suspicions += not is_lost(error.__cause__)
                if not idempotent or suspicions == SUSPECT_ATTEMPTS or not self._is_open:
                    raise
                unknown = error

    def bind(
        self,
        interface: Callable[..., T],
        routing_key: str,
        *,
        exchange: str | Exchange = "",
        mandatory: bool = True,
        idempotent: bool = False,
    ) -> T:
        """As `RPC.bind`; with `idempotent` all its calls are. Bind twice where only some methods are."""
        options = {"exchange": exchange, "mandatory": mandatory, "idempotent": idempotent}
        return bound(interface, self.call, routing_key, options)

    def _key(self, exchange: str) -> str | None:
        return exchange if exchange in self._rpcs or len(self._rpcs) < OWN_CHANNELS else None

    async def _live(self, exchange: str) -> RPC:
        """The one of this life for an exchange."""
        while self._is_open:
            rpc = self._rpcs.get(self._key(exchange))
            if rpc is not None and rpc.is_open:
                return rpc
            with anyio.CancelScope() as scope:
                self._waiting.add(scope)
                try:
                    await self._open(exchange)
                finally:
                    self._waiting.discard(scope)
        raise LocalProtocolError("the RPC is not open: use it inside 'async with client.rpc() as rpc'")

    async def _open(self, exchange: str) -> None:
        async with self._lock:
            if len(self._rpcs) >= OWN_CHANNELS:  # some may be of exchanges that do not exist
                for ended in [each for each, rpc in self._rpcs.items() if not rpc.is_open]:
                    await self._leave(ended)
            key = self._key(exchange)
            former = self._rpcs.get(key)
            if not self._is_open or (former is not None and former.is_open):
                return
            connection = await self._link.connection(self._while_down)
            await self._leave(key)
            tries = FLEETING_TRIES if isinstance(self._reply_to, Exchange) and self._reply_to.auto_delete else 0
            while True:
                rpc = connection.rpc(codec=self._codec, reply_to=self._reply_to)
                try:
                    await rpc.__aenter__()
                except NotFound:  # it went with the last queue of a former life just as it was declared again
                    if not tries:
                        raise
                    tries -= 1
                    await anyio.sleep(FLEETING_PAUSE)
                except Closed:
                    if connection.is_open:
                        raise
                    return
                else:
                    self._rpcs[key] = rpc
                    if not self._is_open:  # the block was left in this very turn
                        await self._leave(key)
                    return

    async def _leave(self, key: str | None) -> None:
        rpc = self._rpcs.pop(key, None)
        if rpc is not None:
            self._late += rpc.late_replies
            await rpc.__aexit__(None, None, None)

    async def _close(self) -> None:
        self._is_open = False
        for scope in self._waiting:
            scope.cancel()
        for key in list(self._rpcs):
            await self._leave(key)


class ClientReplies:
    """Publishes replies on the publishing connection, in this life or the next. To an exchange they go one by one on a
    channel of their own: callers name it, and the broker closes the channel over one that does not exist.
    """

    __slots__ = ("_client", "_counts", "_lock", "_one_by_one", "_queue")

    def __init__(self, client: Client, counts: RequestCounts, queue: str) -> None:
        self._client = client
        self._counts = counts
        self._queue = queue
        self._lock = anyio.Lock()
        self._one_by_one: Channel | None = None

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        if self._one_by_one is not None:
            await life_of(self._one_by_one).close()

    async def __call__(self, request: Delivery, reply: Message, exchange: str, routing_key: str) -> None:
        """Returns once the reply is confirmed, or lost."""
        # RabbitMQ returns every mandatory message to a direct reply-to address, though it delivers it.
        mandatory = not routing_key.startswith(DIRECT)
        try:
            if exchange:
                await self._publish_alone(reply, exchange, routing_key)
            else:
                await self._client.publish(
                    reply, routing_key=routing_key, mandatory=mandatory, while_down="wait", on_unknown="republish"
                )
        except PublishFailed as error:
            self._counts.undeliverable_replies += 1
            logger.warning("a reply to a request of queue %r could not be delivered: %s", self._queue, error)

    async def _publish_alone(self, reply: Message, exchange: str, routing_key: str) -> None:
        async with self._lock:
            while True:
                channel = self._one_by_one
                if channel is None or not channel.is_open:
                    channel = self._one_by_one = await open_channel(self._client._publishing, "wait")
                try:
                    return await channel.publish(reply, exchange=exchange, routing_key=routing_key, mandatory=True)
                except (NotSent, Closed):
                    continue  # it did not leave
                except OutcomeUnknown as error:
                    if not is_lost(error.__cause__):
                        raise
