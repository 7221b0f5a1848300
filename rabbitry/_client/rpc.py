"""`ClientRPC`: calls through all lives of the publishing connection.

What must stay true: a call is made again only where `outcomes` says so; what the broker closes a channel for ends calls
to the same exchange alone; a reply that nobody waits for is counted, in whichever life it came.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import anyio

from rabbitry._client.link import Link
from rabbitry._client.outcomes import Attempts, in_a_life
from rabbitry._client.registry import FLEETING_PAUSE, FLEETING_TRIES
from rabbitry._client.senders import OWN_CHANNELS
from rabbitry._connection.connection import Connection
from rabbitry._errors import (
    Closed,
    ConnectionBlocked,
    ConsumerCancelled,
    LocalProtocolError,
    NotConnected,
    NotFound,
    NotSent,
    OutcomeUnknown,
    RabbitryError,
)
from rabbitry._rpc.caller import RPC, calls_in_flight, check_reply_to, request_properties
from rabbitry._rpc.interface import bound
from rabbitry._values import converting
from rabbitry._values.codecs import Codec, codec_named
from rabbitry._values.converting import Convert
from rabbitry._values.message import Message
from rabbitry._values.options import ReplyTo, WhileDown
from rabbitry._values.topology import Exchange, name_of

__all__ = ["ClientRPC", "opened"]

T = TypeVar("T")

Ask: TypeAlias = Callable[[RPC], Awaitable[Any]]
"""Makes a call by an `RPC`, and returns its reply."""

SUSPECT_ATTEMPTS = 3
"""Times that an idempotent call is sent which may be what the broker closes the channel, or the connection, for."""


_ENDED = (OutcomeUnknown, NotSent, Closed, ConsumerCancelled)
"""How a call fails whose channel, connection or reply consumer ended."""


class ClientRPC:
    """Calls servers and gives their replies, through all lives of the connection; made by `client.rpc()`, any number of
    calls at once.

    A call in flight when the connection ends raises `OutcomeUnknown`: the server may have done its work. With
    `idempotent=True` it is sent again instead. A request that the broker closes the channel over raises `Refused`, and
    those behind it are sent again. Each exchange has a channel of its own (the first hundred of them): one that does
    not exist, say, for which the broker closes the channel, ends the calls to itself alone.
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
        in_flight = sum(map(calls_in_flight, self._rpcs.values()))
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
        `NotConnected`; `ConnectionBlocked` where the broker has blocked it, before there was a call to this exchange.

        `idempotent`: a server may do it twice without harm. Then it is sent again, in this life or the next, when the
        connection was lost with the call in flight; `OutcomeUnknown` is left for what the broker itself closes the
        channel or connection for three times, and for `while_down="fail"`.
        """
        if type(exchange) is not str:
            exchange = name_of(exchange, Exchange)
        attempts = None
        rpc = self._ready(exchange)
        if rpc is not None:  # hot: the first attempt, with which nearly all are done
            try:
                return await rpc.call(
                    routing_key,
                    payload,
                    exchange=exchange,
                    mandatory=mandatory,
                    headers=headers,
                    method=method,
                    raw=raw,
                )
            except _ENDED as error:
                attempts = Attempts(may_repeat=idempotent, suspicions=SUSPECT_ATTEMPTS)
                if not self._may_go_on(attempts, error):
                    raise
        ask = _asking(
            routing_key, payload, exchange=exchange, mandatory=mandatory, headers=headers, method=method, raw=raw
        )
        return await self._call_in_lives(exchange, ask, idempotent, attempts)

    async def request(
        self,
        message: Message,
        routing_key: str = "",
        *,
        exchange: str | Exchange = "",
        mandatory: bool = True,
        idempotent: bool = False,
    ) -> Message:
        """As `RPC.request`, cancelling included: a request and a reply with properties of their own; what `idempotent`
        means, and while there is no connection, is as for `call`.
        """
        request_properties(message)  # refuses what can't be sent, whether or not there is a connection
        exchange = name_of(exchange, Exchange)

        async def ask(rpc: RPC) -> Message:
            return await rpc.request(message, routing_key, exchange=exchange, mandatory=mandatory)

        reply: Message = await self._call_in_lives(exchange, ask, idempotent)
        return reply

    async def _call_in_lives(self, exchange: str, ask: Ask, idempotent: bool, attempts: Attempts | None = None) -> Any:
        """What `call` does, by `ask`: an instrumented client's is part of an operation."""
        attempts = attempts or Attempts(may_repeat=idempotent, suspicions=SUSPECT_ATTEMPTS)
        while True:
            try:
                rpc = self._ready(exchange) or await self._opened_for(exchange)
            except (NotConnected, ConnectionBlocked) as error:
                if attempts.unknown is not None:  # it may have been done in a former life
                    raise attempts.unknown from error
                raise
            try:
                return await ask(rpc)
            except _ENDED as error:
                if not self._may_go_on(attempts, error):
                    raise

    def _may_go_on(self, attempts: Attempts, error: RabbitryError) -> bool:
        """Whether to make a call again that has failed so. Suspect, it need not be made alone: what ends its channel
        ends calls to the same exchange at most.
        """
        return attempts.next_step(error) != "never" and (self._is_open or not isinstance(error, OutcomeUnknown))

    def bind(
        self,
        interface: Callable[..., T],
        routing_key: str,
        *,
        exchange: str | Exchange = "",
        mandatory: bool = True,
        idempotent: bool = False,
        convert: Convert | None = converting.convert,
    ) -> T:
        """As `RPC.bind`; with `idempotent` all its calls are. Bind twice where only some methods are."""
        options = {"exchange": exchange, "mandatory": mandatory, "idempotent": idempotent}
        return bound(interface, self.call, routing_key, options, convert)

    def _key(self, exchange: str) -> str | None:
        return exchange if exchange in self._rpcs or len(self._rpcs) < OWN_CHANNELS else None

    def _ready(self, exchange: str) -> RPC | None:
        """The `RPC` of the present life that calls through this exchange, if it is open."""
        rpc = self._rpcs.get(exchange) or self._rpcs.get(self._key(exchange))
        return rpc if rpc is not None and rpc.is_open and self._is_open else None

    async def _opened_for(self, exchange: str) -> RPC:
        """The `RPC` that calls through this exchange, opened if need be, and in a life to come if need be."""
        self._link.check_loop()
        while self._is_open:
            rpc = self._ready(exchange)
            if rpc is not None:
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
            await self._leave(key)
            self._rpcs[key] = await in_a_life(self._link, self._while_down, self._entered, trial=self._try)
            if not self._is_open:  # the block was left in this very turn
                await self._leave(key)

    async def _entered(self, connection: Connection) -> RPC:
        tries = FLEETING_TRIES if isinstance(self._reply_to, Exchange) and self._reply_to.auto_delete else 0
        while True:
            rpc = connection.rpc(codec=self._codec, reply_to=self._reply_to)
            try:
                return await rpc.__aenter__()
            except NotFound:  # it went with the last queue of a former life just as it was declared again
                if not tries:
                    raise
                tries -= 1
                await anyio.sleep(FLEETING_PAUSE)

    async def _try(self, connection: Connection) -> None:
        await (await self._entered(connection)).__aexit__(None, None, None)

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


@asynccontextmanager
async def opened(rpc: ClientRPC) -> AsyncIterator[ClientRPC]:
    """The RPC inside its block."""
    try:
        yield rpc
    finally:
        await rpc._close()


def _asking(routing_key: str, payload: Any, **options: Any) -> Ask:
    # hot: `call` itself must not have a closure, or each argument would be a cell, made anew for each call
    return lambda rpc: rpc.call(routing_key, payload, **options)
