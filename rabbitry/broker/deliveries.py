"""What a delivery looks like on the wire: its method, its properties with what RabbitMQ counts in them."""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

from rabbitry.broker.compat import Compat
from rabbitry.broker.entries import Entry
from rabbitry.broker.messages import Message, with_headers
from rabbitry.broker.queues import Queue
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.tables import SIZED_INTS, encode_shortstr

__all__ = ["deliver_head", "deliver_method", "delivered_properties"]

_pack_tag = Struct(">QB").pack
_long = SIZED_INTS["l"]


def deliver_head(consumer_tag: str) -> bytes:
    """How each basic.deliver to this consumer begins."""
    return methods.BasicDeliver.key + encode_shortstr(consumer_tag)


def deliver_method(head: bytes, tag: int, redelivered: bool, message: Message) -> bytes:
    """A basic.deliver, of octets. hot: once for each delivery."""
    return head + _pack_tag(tag, redelivered) + _route_octets(message.exchange, message.routing_keys[0])


@lru_cache(4096)
def _route_octets(exchange: str, routing_key: str) -> bytes:
    """hot: the end of every basic.deliver of one route."""
    return encode_shortstr(exchange) + encode_shortstr(routing_key)


def delivered_properties(queue: Queue, entry: Entry, compat: Compat, *, is_got: bool = False) -> bytes:
    """The properties of a message as it is delivered: a quorum queue tells how often it came back."""
    message = entry.message
    counting = compat.delivery_count
    is_counted = is_got and counting == "got"
    if not queue.is_quorum or not (entry.acquired or is_counted or message.counts):
        return message.properties
    acquired, count = entry.acquired, entry.count
    if message.counts is not None:
        acquired, count = acquired or message.counts.acquired, count or message.counts.failed
    headers = dict(message.facts.headers)
    if counting == "acquired":
        headers["x-acquired-count"] = _long(acquired)
    if count or is_counted:
        headers["x-delivery-count"] = _long(count)
    return with_headers(message.properties, headers)
