"""The client with an instrumentation: it publishes and calls as one operation, through all lives, and counts those.

What must stay true: as in `_instrumented`; `open_client` makes one of these only where it was given an instrumentation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from rabbitry._channel.channel import Channel, life_of
from rabbitry._channel.confirmation import Confirmation
from rabbitry._channel.delivery import DeliveryHandler
from rabbitry._channel.life import ChannelLife
from rabbitry._client.changes import Change
from rabbitry._client.client import Client
from rabbitry._client.link import Link
from rabbitry._client.outcomes import check_policies
from rabbitry._client.publisher import ClientPublisher, LastingConfirmation
from rabbitry._client.rpc import ClientRPC, opened
from rabbitry._client.running import Running
from rabbitry._concurrency.waiting import checkpoint_if_cancelled
from rabbitry._instrumentation import CallOperation, Instruments, PublishOperation
from rabbitry._instrumented.channel import InstrumentedChannel
from rabbitry._instrumented.delivery import observed
from rabbitry._instrumented.life import InstrumentedLife, Observer
from rabbitry._instrumented.rpc import InstrumentedRPC
from rabbitry._rpc.caller import RPC, request_properties
from rabbitry._values.codecs import Codec
from rabbitry._values.message import Message
from rabbitry._values.options import OnUnknown, ReplyTo, WhileDown
from rabbitry._values.topology import Exchange, name_of

__all__ = ["InstrumentedClient", "Reconnections"]


class InstrumentedClientPublisher(ClientPublisher):
    """Its `publish` is one operation, however often the message is sent, and so is each `submit` by itself."""

    __slots__ = ()

    async def publish(
        self,
        message: Message | bytes,
        *,
        routing_key: str = "",
        exchange: str | Exchange | None = None,
        mandatory: bool = False,
    ) -> None:
        life = _instrumented(self._life)
        exchange = self._exchange if exchange is None else name_of(exchange, Exchange)
        operation = life.operation(message, exchange, routing_key)
        with life.instruments.around(operation, "confirmed"):
            await checkpoint_if_cancelled()
            observer = life.awaited(operation, self._settled)
            confirmation = LastingConfirmation(self, message, exchange, routing_key, mandatory, None, observer)
            await self._queue(confirmation, mandatory)
            await confirmation.wait()

    def _once(self, confirmation: LastingConfirmation) -> Confirmation:
        """The attempt belongs to the operation of the publish that it is for."""
        once = super()._once(confirmation)
        assert isinstance(confirmation._on_settled, Observer)
        once._on_settled = _instrumented(self._life).awaited(confirmation._on_settled.operation)
        return once


class InstrumentedClientRPC(ClientRPC):
    """Of an instrumented client: a call is one operation, however often its request is sent."""

    __slots__ = ("_instruments",)

    def __init__(
        self, link: Link, codec: str | Codec, while_down: WhileDown, reply_to: ReplyTo, instruments: Instruments
    ) -> None:
        super().__init__(link, codec, while_down, reply_to)
        self._instruments = instruments

    async def call(
        self,
        routing_key: str,
        payload: Any = None,
        *,
        exchange: str | Exchange = "",
        headers: Mapping[str, Any] | None = None,
        idempotent: bool = False,
        **options: Any,
    ) -> Any:
        operation = CallOperation(name_of(exchange, Exchange), routing_key, headers)

        async def ask(rpc: RPC) -> Any:
            assert isinstance(rpc, InstrumentedRPC)
            return await rpc.call_within(operation, payload, **options)

        with self._instruments.around(operation, "answered"):
            return await self._call_in_lives(operation.exchange, ask, idempotent)

    async def request(
        self,
        message: Message,
        routing_key: str = "",
        *,
        exchange: str | Exchange = "",
        mandatory: bool = True,
        idempotent: bool = False,
    ) -> Message:
        request_properties(message)
        operation = CallOperation(name_of(exchange, Exchange), routing_key, message.headers)

        async def ask(rpc: RPC) -> Message:
            assert isinstance(rpc, InstrumentedRPC)
            return await rpc.request_within(operation, message, mandatory)

        with self._instruments.around(operation, "answered"):
            reply: Message = await self._call_in_lives(operation.exchange, ask, idempotent)
            return reply


class InstrumentedClient(Client):
    """Made by `open_client(…, instrumentation=…)`."""

    __slots__ = ("_instruments",)

    _publisher_type = InstrumentedClientPublisher

    def __init__(self, running: Running, while_down: WhileDown, instruments: Instruments) -> None:
        self._instruments = instruments
        super().__init__(running, while_down)

    async def publish(
        self,
        message: Message | bytes,
        *,
        exchange: str | Exchange = "",
        routing_key: str = "",
        mandatory: bool = False,
        delay: float | timedelta | None = None,
        while_down: WhileDown | None = None,
        on_unknown: OnUnknown = "raise",
    ) -> None:
        if delay is not None:  # the operation is the publish to the delay
            return await self._publish_later(
                message, exchange, routing_key, mandatory, delay, while_down or self._while_down, on_unknown
            )
        policy = while_down or self._while_down
        await self._publish_after(
            None, message, name_of(exchange, Exchange), routing_key, mandatory, policy, on_unknown
        )

    async def _publish_after(
        self,
        before: Callable[[], Awaitable[None]] | None,
        message: Message | bytes,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        while_down: WhileDown,
        on_unknown: OnUnknown,
    ) -> None:
        operation = PublishOperation(message, exchange, routing_key)
        channel = self._senders.ready(operation.exchange)
        if channel is not None:  # else it is known by the end
            endpoint = life_of(channel).endpoint
            operation.located(endpoint.host, endpoint.port)

        async def send(channel: Channel) -> None:
            assert isinstance(channel, InstrumentedChannel)
            await channel.publish_within(operation, mandatory)

        with self._instruments.around(operation, "confirmed"):
            check_policies(while_down, on_unknown)
            await self._senders.publish(send, exchange, while_down, self._senders.attempts(on_unknown), before)

    @asynccontextmanager
    async def rpc(
        self, *, codec: str | Codec = "msgpack", reply_to: ReplyTo = "direct", while_down: WhileDown | None = None
    ) -> AsyncIterator[ClientRPC]:
        policy = while_down or self._while_down
        rpc = InstrumentedClientRPC(self._publishing, codec, policy, reply_to, self._instruments)
        async with opened(rpc):
            yield rpc

    def _observed(self, handler: DeliveryHandler) -> DeliveryHandler:
        return observed(handler)


class Reconnections:
    """Counts the lives of a client's connections after their first ones."""

    __slots__ = ("_instruments", "_seen")

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._seen: set[str] = set()  # connections that have lived

    def count(self, change: Change) -> None:
        """Tell of a reconnection, if the change is one."""
        if change.state == "connected" and not change.is_alarm:
            if change.connection in self._seen:
                self._instruments.count("reconnected", {"connection": change.connection})
            self._seen.add(change.connection)


def _instrumented(life: ChannelLife) -> InstrumentedLife:
    """The life by the type that all channels of an instrumented client have."""
    assert isinstance(life, InstrumentedLife)
    return life
