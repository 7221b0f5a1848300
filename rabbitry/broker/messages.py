"""A message inside the broker: what was published, as octets, and what routing and queues must know of it.

What must stay true: a message is never changed, as queues share it; what must differ is a new message. Properties stay
the octets that the publisher sent wherever nothing in them has to change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from rabbitry._errors import RemoteProtocolError
from rabbitry.broker.fields import type_name
from rabbitry.protocol.server.refusals import Refusal
from rabbitry.protocol.wire.properties import Properties, decode_all_but_headers, decode_properties, encode_properties

__all__ = ["Counts", "Facts", "Message", "checked_expiration", "message_facts", "published_message", "with_headers"]

LONGEST_DELAY = 315_360_000_000
"""Milliseconds: ten years, the longest that RabbitMQ waits."""


class Facts(NamedTuple):
    """What the broker looks at in a message's properties."""

    headers: Mapping[str, Any]
    expiration: str | None
    user_id: str | None
    reply_to: str | None
    priority: int | None


class Counts(NamedTuple):
    """What a dead message brings along of how often it was handed out before, and failed: as its next quorum queue
    shows it while it has no count of its own, and where that queue's count begins."""

    acquired: int
    failed: int
    begin: int


class Message:
    """A message as its queues hold it. `routing_keys` begins with the publisher's, those of CC and BCC follow.

    Of one that has died, `deaths` are what its x-death says, `was_delivered` is whether somebody had it before, and
    `counts` how often, where that is told.
    """

    __slots__ = ("body", "counts", "deaths", "exchange", "facts", "properties", "routing_keys", "was_delivered")

    def __init__(
        self,
        exchange: str,
        routing_keys: tuple[str, ...],
        properties: bytes,
        body: bytes,
        facts: Facts,
        deaths: Sequence[Mapping[str, Any]] = (),
        was_delivered: bool = False,
        counts: Counts | None = None,
    ) -> None:
        self.exchange: str = exchange
        self.routing_keys: tuple[str, ...] = routing_keys
        self.properties: bytes = properties
        self.body: bytes = body
        self.facts: Facts = facts
        self.deaths: Sequence[Mapping[str, Any]] = deaths
        self.was_delivered: bool = was_delivered
        self.counts: Counts | None = counts

    @property
    def octets(self) -> int:
        """Of its content: properties and body. Limits of queues count the body alone."""
        return len(self.properties) + len(self.body)


@lru_cache(1024)
def _cached(properties: bytes) -> Facts:
    return _decoded(properties)


def _decoded(properties: bytes) -> Facts:
    try:
        decoded = decode_properties(properties)
    except RemoteProtocolError as error:
        if not _is_beyond(error):
            raise
        decoded = decode_all_but_headers(properties)
    return Facts(decoded.headers or {}, decoded.expiration, decoded.user_id, decoded.reply_to, decoded.priority)


def message_facts(properties: bytes) -> Facts:
    """Raises `RemoteProtocolError` for malformed properties.

    hot: a publisher's messages mostly have the same properties, and decoding takes 3 us.
    """
    return _cached(properties) if len(properties) <= 64 else _decoded(properties)


def _is_beyond(error: RemoteProtocolError) -> bool:
    """Whether the headers are only deeper or more than is decoded here: RabbitMQ passes such on, and so does this."""
    return "more than" in error.text


def published_message(exchange: str, routing_key: str, properties: bytes, body: bytes, facts: Facts) -> Message:
    """What queues are given of a publish: its CC and BCC become routing keys, and BCC goes."""
    headers = facts.headers
    if "CC" not in headers and "BCC" not in headers:
        return Message(exchange, (routing_key,), properties, body, facts)
    keys = [routing_key, *_keys_in(headers, "CC"), *_keys_in(headers, "BCC")]
    if "BCC" in headers:
        headers = {name: value for name, value in headers.items() if name != "BCC"}
        properties = with_headers(properties, headers)
        facts = Facts(headers, facts.expiration, facts.user_id, facts.reply_to, facts.priority)
    return Message(exchange, tuple(keys), properties, body, facts)


def _keys_in(headers: Mapping[str, Any], name: str) -> Sequence[str]:
    if name not in headers:
        return ()
    value = headers[name]
    if not isinstance(value, (list, tuple)):
        text = f'{{unacceptable_type_in_header,"{name}",{type_name(value)}}}'
        raise Refusal(406, f"invalid message: {text}")
    return [each for each in value if isinstance(each, str)]


def with_headers(
    properties: bytes,
    headers: Mapping[str, Any],
    *,
    drop_expiration: bool = False,
    default_delivery_mode: int | None = None,
    drop_undecoded: bool = False,
) -> bytes:
    """The properties with other headers. Where those they have are beyond what is decoded here, they stay as they are,
    or with `drop_undecoded` go.
    """
    try:
        decoded: Properties = decode_properties(properties)
    except RemoteProtocolError:
        if not drop_undecoded:
            return properties
        decoded = decode_all_but_headers(properties)
    decoded.headers = dict(headers) if headers or decoded.headers else None  # RabbitMQ keeps a table that is empty now
    if drop_expiration:
        decoded.expiration = None
    if decoded.delivery_mode is None:
        decoded.delivery_mode = default_delivery_mode
    return encode_properties(decoded)


def checked_expiration(text: str | None) -> int | None:
    """The milliseconds of an expiration property. Raises `Refusal` for what isn't a number of them."""
    if text is None:
        return None
    digits = len(text) - len(text.lstrip("+-"))
    end = digits if digits <= 1 else 0
    while end < len(text) and text[end] in "0123456789":
        end += 1
    number = text[:end]
    if not number.lstrip("+-"):
        raise Refusal(406, f"invalid expiration '{text}': no_integer")
    if end < len(text):
        raise Refusal(406, f"invalid expiration '{text}': {{leftover_string,\"{text[end:]}\"}}")
    milliseconds = int(number)
    if milliseconds < 0:
        raise Refusal(406, f"invalid expiration '{text}': {{value_negative,{milliseconds}}}")
    if milliseconds > LONGEST_DELAY:
        raise Refusal(406, f"invalid expiration '{text}': {{value_too_large,{milliseconds}}}")
    return milliseconds
