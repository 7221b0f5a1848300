"""The RPC of an instrumented connection: each call is an operation, whose headers go with the request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rabbitry._channel.channel import Channel
from rabbitry._instrumentation import CallOperation, Instruments
from rabbitry._rpc.caller import RPC, request_properties
from rabbitry._values.codecs import Codec
from rabbitry._values.message import Message
from rabbitry._values.options import ReplyTo
from rabbitry._values.topology import Exchange, name_of

__all__ = ["InstrumentedRPC"]


class InstrumentedRPC(RPC):
    """`call` begins an operation of its own; `call_within` is part of one that has begun: a client's may take several
    lives.
    """

    __slots__ = ("_instruments",)

    def __init__(self, channel: Channel, codec: str | Codec, reply_to: ReplyTo, instruments: Instruments) -> None:
        super().__init__(channel, codec, reply_to)
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
        operation = CallOperation(name_of(exchange, Exchange), routing_key, headers)
        self._locate(operation)
        with self._instruments.around(operation, "answered"):
            return await self.call_within(operation, payload, **options)

    async def request(
        self, message: Message, routing_key: str = "", *, exchange: str | Exchange = "", mandatory: bool = True
    ) -> Message:
        request_properties(message)
        operation = CallOperation(name_of(exchange, Exchange), routing_key, message.headers)
        self._locate(operation)
        with self._instruments.around(operation, "answered"):
            return await self.request_within(operation, message, mandatory)

    async def request_within(self, operation: CallOperation, message: Message, mandatory: bool) -> Message:
        """The request that this operation is."""
        self._locate(operation)
        carried = message.replace(headers=operation.carried)
        return await super().request(carried, operation.routing_key, exchange=operation.exchange, mandatory=mandatory)

    async def call_within(self, operation: CallOperation, payload: Any, **options: Any) -> Any:
        """The call that this operation is."""
        self._locate(operation)
        return await super().call(
            operation.routing_key, payload, exchange=operation.exchange, headers=operation.carried, **options
        )

    def _locate(self, operation: CallOperation) -> None:
        endpoint = self._life.endpoint
        operation.located(endpoint.host, endpoint.port)
