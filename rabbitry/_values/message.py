"""`Message`: what is published, body and properties as one frozen value.

Durations are seconds here and milliseconds on the wire; the encoded properties are kept, so that publishing the same
message (or one that only differs in its body) again costs no encoding.
"""

from __future__ import annotations

import builtins
import dataclasses
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from types import MappingProxyType
from typing import Any

from rabbitry._values.codecs import Codec, codec_named, decode_body
from rabbitry._values.durations import LONGEST_MS, seconds
from rabbitry.protocol.wire.properties import Properties, encode_properties

__all__ = ["PERSISTENT_HEADER", "Body", "Message", "wire_properties"]

Body = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Message:
    """A message to publish. Frozen: use `replace` for a variant.

    `body` is copied if it is mutable, and so are the headers. The rest are AMQP's fourteen properties (specification
    1.8.2 and RabbitMQ's "publishers" guide): `delivery_mode` 2 is persistent (the default), 1 transient; `priority` 0
    to 255; `expiration` the time to live in the queue, seconds or `timedelta`, 0 to 4294967.295; `timestamp` an aware
    `datetime`, stored in whole seconds; `user_id` must be the connection's user, or the message is `Refused`. Strings
    are at most 255 bytes. Times before 1970 are sent, too, but a header with one ends the connection of some other
    clients (pika 1.4 reads them unsigned).

    Raises `TypeError` for a body that is no bytes, headers that are no mapping, an expiration that is text, and
    `ValueError` for a delivery mode other than these. What else can't be sent is refused by publishing.
    """

    body: bytes = field(kw_only=False)
    content_type: str | None = None
    content_encoding: str | None = None
    headers: Mapping[str, Any] | None = None
    delivery_mode: int | None = 2
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: float | timedelta | None = None
    message_id: str | None = None
    timestamp: datetime | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None
    _encoded: bytes | None = field(default=None, init=False, repr=False, compare=False)

    def __init__(
        self,
        body: bytes,
        *,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Mapping[str, Any] | None = None,
        delivery_mode: int | None = 2,
        priority: int | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        expiration: float | timedelta | None = None,
        message_id: str | None = None,
        timestamp: datetime | None = None,
        type: str | None = None,
        user_id: str | None = None,
        app_id: str | None = None,
        cluster_id: str | None = None,
    ) -> None:
        if builtins.type(body) is not bytes:
            body = _copied_body(body)
        if headers is not None:
            headers = MappingProxyType(_copied(headers))
        # hot: here, as a call costs a transient one 0.2 us; True, who means persistent by it, would be 1
        if delivery_mode != 2 and (delivery_mode is True or (delivery_mode != 1 and delivery_mode is not None)):
            raise _wrong_mode(delivery_mode)
        if expiration is not None and isinstance(expiration, str | bytes):
            raise TypeError(
                f"expiration must be a number of seconds or a timedelta, not {expiration!r:.60}: "
                'what AMQP carries as "5000", milliseconds in digits, is expiration=5 here'
            )
        # hot: what the `__init__` of a frozen dataclass does takes most of the time that a message does, 16 calls of
        # `object.__setattr__`. So its fields are set while it is an object like any other, and then it is sealed.
        unsealed: Any = self
        kind = builtins.type(self)
        if kind is Message:
            _set(self, "__class__", _Unsealed)
            unsealed.body = body
            unsealed.content_type = content_type
            unsealed.content_encoding = content_encoding
            unsealed.headers = headers
            unsealed.delivery_mode = delivery_mode
            unsealed.priority = priority
            unsealed.correlation_id = correlation_id
            unsealed.reply_to = reply_to
            unsealed.expiration = expiration
            unsealed.message_id = message_id
            unsealed.timestamp = timestamp
            unsealed.type = type
            unsealed.user_id = user_id
            unsealed.app_id = app_id
            unsealed.cluster_id = cluster_id
            unsealed._encoded = None
            unsealed.__class__ = kind
        else:  # a program's own: it may have fields of its own, and a dictionary
            values = (
                *(body, content_type, content_encoding, headers, delivery_mode, priority, correlation_id, reply_to),
                *(expiration, message_id, timestamp, type, user_id, app_id, cluster_id, None),
            )
            for name, value in zip(Message.__slots__, values, strict=True):
                _set(self, name, value)

    def __post_init__(self) -> None:
        """Called where a dataclass is derived from this one: its `__init__` sets these fields, too, and checks none."""
        Message.__init__(self, **self._values())

    def _values(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(Message) if each.init}

    def __reduce__(self) -> tuple[Any, ...]:
        """A message is pickled and copied by its fields, as the read-only view of its headers can't be. Pickles are
        kept, and so name nothing but the public class.
        """
        headers = None if self.headers is None else dict(self.headers)
        return Message._rebuilt, (self._values() | {"headers": headers},)

    @classmethod
    def _rebuilt(cls, values: dict[str, Any]) -> Message:
        """The message with these fields, which a pickle calls."""
        return cls(**values)

    @classmethod
    def json(cls, value: Any, **properties: Any) -> Message:
        """A message whose body is `value` as JSON, content type application/json. Dataclasses, enums, datetimes and the
        like are encoded, too, in the form that `rabbitry.convert` reads.
        """
        return cls.encode(value, codec="json", **properties)

    @classmethod
    def msgpack(cls, value: Any, **properties: Any) -> Message:
        """A message whose body is `value` as MessagePack, content type application/msgpack. What is encoded beside
        plain values is as for `json`.
        """
        return cls.encode(value, codec="msgpack", **properties)

    @classmethod
    def encode(cls, value: Any, *, codec: str | Codec, **properties: Any) -> Message:
        """A message whose body is `value` in that codec: "json", "msgpack", "text" or "raw"."""
        chosen = codec_named(codec)
        properties.setdefault("content_type", chosen.content_type)
        return cls(chosen.encode(value), **properties)

    def decode(self, codec: str | Codec | None = None) -> Any:
        """The body as an object, as `Delivery.decode` makes it: a reply of `rpc.request`, say. Raises `DecodeError`."""
        return decode_body(self.body, self.content_type, codec, self.content_encoding)

    def replace(self, **changes: Any) -> Message:
        """The same message with some fields changed."""
        fresh = dataclasses.replace(self, **changes)
        if changes.keys() <= {"body"}:
            object.__setattr__(fresh, "_encoded", self._encoded)
        return fresh

    def encoded_properties(self) -> bytes:
        """The properties as they go into the content header. `TypeError` or `ValueError` names what can't be."""
        encoded = self._encoded
        if encoded is None:
            # hot: what needs no conversion is encoded as it is; a reply's properties are never the same twice
            plain = self.headers is None and self.expiration is None
            source = self if plain else wire_properties(self)
            encoded = encode_properties(source)
            object.__setattr__(self, "_encoded", encoded)
        return encoded


class _Unsealed:
    """A message while its fields are being set."""

    __slots__ = Message.__slots__


_set = object.__setattr__


def _copied_body(body: Any) -> bytes:
    if not isinstance(body, Body):
        raise TypeError(
            f"a message body must be bytes, not {type(body).__name__}: "
            "use Message.json(...), Message.msgpack(...) or Message.encode(..., codec='text')"
        )
    return bytes(body)


def _wrong_mode(delivery_mode: Any) -> Exception:
    kind = ValueError if isinstance(delivery_mode, int) and delivery_mode is not True else TypeError
    return kind(f"delivery_mode must be 2 (persistent) or 1 (transient), not {delivery_mode!r:.60}")


def _copied(headers: Mapping[str, Any]) -> dict[str, Any]:
    if type(headers) is not dict and not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping of names to values, not {type(headers).__name__}: {headers!r:.60}")
    return {
        name: deepcopy(value) if isinstance(value, (dict, list, bytearray)) else value
        for name, value in headers.items()
    }


def wire_properties(message: Message) -> Properties:
    """The message's properties in the wire's units."""
    properties = Properties(**{name: getattr(message, name) for name in Properties.__slots__ if name != "expiration"})
    if message.headers is not None:
        properties.headers = dict(message.headers)
    if message.expiration is not None:
        milliseconds = ceil(seconds(message.expiration) * 1000 - 1e-6)
        if not 0 <= milliseconds <= LONGEST_MS:
            raise ValueError(f"expiration must be 0 to {LONGEST_MS / 1000} seconds, not {message.expiration}")
        properties.expiration = str(milliseconds)
    return properties


PERSISTENT_HEADER = encode_properties(Properties(delivery_mode=2))
"""The properties of a plain `bytes` body."""
