"""The fourteen properties of a message, as the content header carries them.

What must stay true: one row per property, in wire order, is all that encoding and decoding know; a property that is
None takes no octets. Values are in the wire's units here. Encoding raises only `TypeError` and `ValueError`, decoding
only `RemoteProtocolError`. Knows nothing of frames and bodies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from struct import Struct
from struct import error as StructError
from typing import Any

from rabbitry._errors import RemoteProtocolError
from rabbitry.protocol.wire.constants import SYNTAX_ERROR
from rabbitry.protocol.wire.tables import (
    decode_shortstr,
    decode_table,
    decode_timestamp,
    encode_shortstr,
    encode_table,
    encode_timestamp,
    outside,
    reworded,
)

__all__ = [
    "PROPERTIES",
    "Properties",
    "decode_all_but_headers",
    "decode_properties",
    "encode_by_rows",
    "encode_properties",
]


@dataclass(slots=True, kw_only=True, repr=False)
class Properties:
    """The properties of class basic (specification 1.8), in wire order; None means absent.

    Strings have at most 255 bytes of UTF-8; `delivery_mode` (1 transient, 2 persistent) and `priority` are 0 to 255;
    `expiration` is a number of milliseconds in decimal digits. `timestamp` has whole seconds and a time zone; one that
    `datetime` can't express (milliseconds sent as seconds: the year 55,000) is decoded as None.
    """

    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: datetime | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None

    def __repr__(self) -> str:
        values = zip(PROPERTIES, _values_of(self), strict=True)
        return f"Properties({', '.join(f'{name}={value!r}' for name, value in values if value is not None)})"


def encode_properties(source: Any) -> bytes:
    """The flags and values of the properties of `source`: a `Properties`, or anything with the same attributes.

    hot: the rows written out, 0.4 us against 1.6 going over them for a message with one property; a test holds it equal
    to `encode_by_rows`.
    """
    flags, encoded = 0, b""
    try:
        if (value := source.content_type) is not None:
            flags |= 0x8000
            encoded += encode_shortstr(value)
        if (value := source.content_encoding) is not None:
            flags |= 0x4000
            encoded += encode_shortstr(value)
        if (value := source.headers) is not None:
            flags |= 0x2000
            encoded += encode_table(value)
        if (value := source.delivery_mode) is not None:
            flags |= 0x1000
            encoded += _pack_octet(value)
        if (value := source.priority) is not None:
            flags |= 0x0800
            encoded += _pack_octet(value)
        if (value := source.correlation_id) is not None:
            flags |= 0x0400
            encoded += encode_shortstr(value)
        if (value := source.reply_to) is not None:
            flags |= 0x0200
            encoded += encode_shortstr(value)
        if (value := source.expiration) is not None:
            flags |= 0x0100
            encoded += encode_shortstr(value)
        if (value := source.message_id) is not None:
            flags |= 0x0080
            encoded += encode_shortstr(value)
        if (value := source.timestamp) is not None:
            flags |= 0x0040
            encoded += encode_timestamp(value)
        if (value := source.type) is not None:
            flags |= 0x0020
            encoded += encode_shortstr(value)
        if (value := source.user_id) is not None:
            flags |= 0x0010
            encoded += encode_shortstr(value)
        if (value := source.app_id) is not None:
            flags |= 0x0008
            encoded += encode_shortstr(value)
        if (value := source.cluster_id) is not None:
            flags |= 0x0004
            encoded += encode_shortstr(value)
    except (TypeError, ValueError, StructError):
        return encode_by_rows(source)  # which says what is wrong
    return _pack_flags(flags) + encoded


def encode_by_rows(source: object) -> bytes:
    """The same, property by property, and telling which of them can't be encoded."""
    flags = 0
    parts: list[bytes] = []
    for value, row in zip(_values_of(source), _ROWS, strict=True):
        if value is not None:
            name, flag, encode, _ = row
            flags |= flag
            try:
                parts.append(encode(value))
            except (TypeError, ValueError) as exc:
                raise reworded(exc, f"property {name} {exc}") from None
    return _pack_flags(flags) + b"".join(parts)


def decode_properties(data: bytes, offset: int = 0) -> Properties:
    """The properties that fill `data` from `offset` to the end."""
    properties = Properties()
    try:
        (flags,) = _FLAGS.unpack_from(data, offset)
        offset += 2
        if flags & _UNKNOWN:
            offset = _read_more_flags(data, offset, flags)
        for name, decode in _present(flags):
            value, offset = decode(data, offset)
            setattr(properties, name, value)
    except (IndexError, StructError):
        raise RemoteProtocolError("the properties of a message are truncated", SYNTAX_ERROR) from None
    if offset != len(data):
        raise RemoteProtocolError(f"{len(data) - offset} octets follow the properties of a message", SYNTAX_ERROR)
    return properties


def decode_all_but_headers(data: bytes) -> Properties:
    """The properties that fill `data`, but for the headers, which are passed over: they may hold the undecodable."""
    try:
        (flags,) = _FLAGS.unpack_from(data)
        at = 2
        for _ in range((flags & _BEFORE_HEADERS).bit_count()):
            at += 1 + data[at]
        if not flags & _HEADERS:
            return decode_properties(data)
        rest = at + 4 + int.from_bytes(data[at : at + 4], "big")
    except (IndexError, StructError):
        raise RemoteProtocolError("the properties of a message are truncated", SYNTAX_ERROR) from None
    return decode_properties(_FLAGS.pack(flags & ~_HEADERS) + data[2:at] + data[rest:])


# --- the rows ------------------------------------------------------------------------------------------------------


def _encode_octet(value: int) -> bytes:
    try:
        return _OCTET.pack(value)
    except StructError:
        raise outside(value, 255) from None


def _decode_octet(data: bytes, offset: int) -> tuple[int, int]:
    return data[offset], offset + 1


def _decode_datetime(data: bytes, offset: int) -> tuple[datetime | None, int]:
    value, offset = decode_timestamp(data, offset)
    return (None if isinstance(value, int) else value), offset


_FLAGS = Struct(">H")

MORE_FLAGS_AT_MOST = 16
"""Words of flags behind the first that are read. No client sends any."""

# The first three flags: of two short strings and of the headers (specification 4.2.6.1: from the high bit down, in
# the order of the properties).
_BEFORE_HEADERS = 1 << 15 | 1 << 14
_HEADERS = 1 << 13
_OCTET = Struct(">B")
_pack_flags, _pack_octet = _FLAGS.pack, _OCTET.pack

_Codec = tuple[Callable[[Any], bytes], Callable[[bytes, int], tuple[Any, int]]]
_STRING: _Codec = (encode_shortstr, decode_shortstr)
_OCTET_CODEC: _Codec = (_encode_octet, _decode_octet)
_TABLE: _Codec = (encode_table, decode_table)
_TIMESTAMP: _Codec = (encode_timestamp, _decode_datetime)

# The first property has the highest bit (specification 4.2.6.1).
_ROWS = tuple(
    (name, 1 << (15 - index), encode, decode)
    for index, (name, (encode, decode)) in enumerate(
        {
            "content_type": _STRING,
            "content_encoding": _STRING,
            "headers": _TABLE,
            "delivery_mode": _OCTET_CODEC,
            "priority": _OCTET_CODEC,
            "correlation_id": _STRING,
            "reply_to": _STRING,
            "expiration": _STRING,
            "message_id": _STRING,
            "timestamp": _TIMESTAMP,
            "type": _STRING,
            "user_id": _STRING,
            "app_id": _STRING,
            "cluster_id": _STRING,
        }.items()
    )
)

PROPERTIES = tuple(row[0] for row in _ROWS)
"""The names in wire order."""

_values_of = attrgetter(*PROPERTIES)

_MORE = 1  # the lowest bit: another word of flags follows
_UNKNOWN = 0xFFFF & ~sum(flag for _, flag, _, _ in _ROWS)


@lru_cache(256)
def _present(flags: int) -> tuple[tuple[str, Callable[[bytes, int], tuple[Any, int]]], ...]:
    """The rows whose properties are there. A stream of messages has few combinations, so this is looked up."""
    return tuple((name, decode) for name, flag, _, decode in _ROWS if flags & flag)


def _read_more_flags(data: bytes, offset: int, flags: int) -> int:
    """Skip further words of flags, which may announce nothing: class basic has no more properties. A few, or a header
    would be nothing else.
    """
    unknown = flags & _UNKNOWN & ~_MORE
    for _ in range(MORE_FLAGS_AT_MOST):
        if unknown or not flags & _MORE:
            break
        (flags,) = _FLAGS.unpack_from(data, offset)
        offset += 2
        unknown = flags & ~_MORE
    if unknown or flags & _MORE:
        raise RemoteProtocolError("a message has properties that class basic does not know", SYNTAX_ERROR)
    return offset
