"""The client with an instrumentation: it publishes and calls as one operation, through all lives, and counts those.

What must stay true: as in `_instrumented`; `open_client` makes one of these only where it was given an instrumentation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from rabbitry._client.changes import Change
from rabbitry._client.client import Client
from rabbitry._client.handlers import DeliveryHandler
from rabbitry._client.link import Link, WhileDown
from rabbitry._client.publisher import ClientPublisher, LastingConfirmation
from rabbitry._client.rpc import ClientRPC, opened
from rabbitry._client.running import Running
from rabbitry._instrumentation import CallOperation, Instruments, PublishOperation, joined
from rabbitry._instrumented.kinds import Observer, PublishesObserved, observed
from rabbitry._rpc.caller import ReplyTo
from rabbitry._values.codecs import Codec
from rabbitry._values.message import Message
from rabbitry._values.topology import Exchange, name_of

__all__ = ["InstrumentedClient"]


class InstrumentedClientPublisher(PublishesObserved, ClientPublisher):
    """Of an instrumented client."""

    __slots__ = ()

    async def _send_alone(self, confirmation: LastingConfirmation) -> None:
        observer = confirmation._on_settled
        assert isinstance(observer, Observer)
        with joined(observer.operation):
            await super()._send_alone(confirmation)


class InstrumentedClientRPC(ClientRPC):
    """Of an instrumented client."""

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
        **options: Any,
    ) -> Any:
        operation = CallOperation(name_of(exchange), routing_key, headers)
        with self._instruments.around(operation, "answered"):
            return await super().call(routing_key, payload, exchange=exchange, headers=operation.carried, **options)


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
        **policies: Any,
    ) -> None:
        exchange = name_of(exchange)
        operation = PublishOperation(message, exchange, routing_key)
        channel = self._senders.ready(exchange)
        if channel is not None:  # else it is known by the end
            operation.located(channel._connection._settings.address)
        with self._instruments.publishing(operation):
            await super().publish(message, exchange=exchange, routing_key=routing_key, mandatory=mandatory, **policies)

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
        """It may be one more."""
        if change.state == "connected":
            if change.connection in self._seen:
                self._instruments.count("reconnected", {"connection": change.connection})
            self._seen.add(change.connection)
