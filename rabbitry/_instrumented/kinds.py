"""The kinds of an instrumented connection: what it makes in the place of the plain channel, delivery and RPC.

What must stay true: a connection without instrumentation makes none of these, so its code is as if they did not exist.
"""

from __future__ import annotations

from rabbitry._channel.channel import Channel
from rabbitry._connection.settings import PLAIN, Kinds
from rabbitry._endpoint import Endpoint
from rabbitry._instrumentation import Instruments
from rabbitry._instrumented.channel import InstrumentedChannel
from rabbitry._instrumented.delivery import InstrumentedDelivery, observed
from rabbitry._instrumented.life import InstrumentedLife
from rabbitry._instrumented.rpc import InstrumentedRPC
from rabbitry._rpc.caller import RPC
from rabbitry._values.codecs import Codec
from rabbitry._values.options import ReplyTo

__all__ = ["kinds_for"]


def kinds_for(instruments: Instruments | None) -> Kinds:
    """The plain ones without an instrumentation."""
    if instruments is None:
        return PLAIN

    def channel(endpoint: Endpoint, confirm: bool, prefetch: int) -> Channel:
        return InstrumentedChannel(InstrumentedLife(endpoint, confirm, prefetch, instruments))

    def rpc(channel: Channel, codec: str | Codec, reply_to: ReplyTo) -> RPC:
        return InstrumentedRPC(channel, codec, reply_to, instruments)

    return Kinds(channel, InstrumentedDelivery, rpc, observed)
