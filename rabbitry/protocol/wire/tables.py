"""Field tables and strings: the values inside methods, headers and arguments, in every type RabbitMQ knows.

What must stay true: decoding raises `RemoteProtocolError` and nothing else, whatever the input; encoding refuses what
AMQP can't carry by `TypeError` or `ValueError`; what was decoded encodes again to an equal value, but for infinities
and NaN, which RabbitMQ closes the connection over. Knows nothing of methods, frames or sockets.

The types are those RabbitMQ reads and writes (errata, section 3), not those of the specification's grammar (4.2.1):

    t bool     b s I l signed of 8, 16, 32, 64 bits; L the same as l     B u i unsigned of 8, 16, 32 bits
    f d float of 32, 64 bits     D decimal     S string     x bytes     T timestamp     F table   A array   V nothing

Strings are UTF-8 by convention only: the broker passes on whatever a publisher wrote. So octets that are not UTF-8
become lone surrogates (PEP 383, as in file names), and those become the same octets again. One odd header must not make
a message unreadable, nor may a value's type depend on its octets. For the same reason a timestamp outside `datetime`'s
years 1 to 9999 (what milliseconds look like when sent as seconds) becomes an `int`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import isfinite
from struct import Struct
from struct import error as StructError
from typing import Any, TypeAlias, Union

from rabbitry._errors import RemoteProtocolError
from rabbitry.protocol.wire.constants import SYNTAX_ERROR

__all__ = [
    "MAX_DEPTH",
    "SIZED_INTS",
    "FieldValue",
    "decode_longstr",
    "decode_shortstr",
    "decode_table",
    "decode_timestamp",
    "encode_longstr",
    "encode_shortstr",
    "encode_table",
    "encode_timestamp",
    "outside",
    "reworded",
]

FieldValue: TypeAlias = Union[
    bool,
    int,
    float,
    Decimal,
    str,
    bytes,
    bytearray,
    memoryview,
    datetime,
    "Sequence[FieldValue]",
    "Mapping[str, FieldValue]",
    None,
]
"""What a table may hold. Decoding gives `bytes` for any octets, `list` for arrays and `dict` for tables."""

MAX_DEPTH = 64
"""How many tables and arrays may lie one in another, both ways. x-death, the deepest in use, needs three."""

MAX_VALUES = 4096
"""How many values a table that is decoded may have, those of all the tables and arrays in it together. One takes a
single octet, so the headers of a message could have 130,000, which take 20 ms; and each sender may send many.
"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)

_LENGTH = Struct(">I")
_SECONDS = Struct(">q")


# --- encoding ------------------------------------------------------------------------------------------------------


def encode_shortstr(value: str, errors: str = "surrogateescape") -> bytes:
    """A short string: one octet of length, then at most 255 octets of UTF-8. `errors` is that of `str.encode`."""
    try:
        data = value.encode("utf-8", errors)
    except (AttributeError, UnicodeEncodeError):
        raise _not_text(value) from None
    size = len(data)
    if size > 255:
        raise ValueError(f"is {size} bytes long in UTF-8; the limit is 255: {value[:20]!r}…")
    return _OCTETS[size] + data


def encode_longstr(value: bytes | bytearray | memoryview) -> bytes:
    """A long string: four octets of length, then the octets as given."""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"must be bytes, not {type(value).__name__}")
    data = bytes(value)
    return _LENGTH.pack(len(data)) + data


def encode_timestamp(value: datetime) -> bytes:
    """Eight octets: whole seconds since 1970, a fraction cut off. A naive datetime is refused.

    The specification's grammar has them unsigned, its prose says POSIX time. Signed, as in the Java and Go clients,
    they are equal until far beyond `datetime`'s years, and times before 1970 survive.
    """
    if not isinstance(value, datetime):
        raise TypeError(f"must be a datetime, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise ValueError(f"is {value.isoformat()} without a time zone: which instant is meant?")
    return _SECONDS.pack((value - _EPOCH) // _SECOND)


def encode_table(table: Mapping[str, FieldValue]) -> bytes:
    """A field table, its four octets of length in front, keys in the mapping's order.

    `int` becomes I if 32 bits hold it, else l; `float` becomes d and must be finite (Erlang has no other floats: the
    broker would end the connection); `Decimal` becomes D, exactly or not at all; `str` S, `bytes` x, `datetime` T,
    None V, sequences A, mappings F. The text of an error leads to the value: "['a'][0] is of type set …".
    """
    return _encode_table(table, 1) if table else _encode_empty_table(table)


def _encode_empty_table(table: object) -> bytes:
    if not isinstance(table, Mapping):
        raise TypeError(f"must be a mapping, not {type(table).__name__}")
    return b"\x00\x00\x00\x00"


def _encode_table(table: Mapping[str, Any], depth: int) -> bytes:
    _check_depth(depth)
    if not isinstance(table, Mapping):
        raise TypeError(f"must be a mapping, not {type(table).__name__}")
    parts: list[bytes] = []
    for key, value in table.items():
        try:
            name = encode_shortstr(key)
        except (TypeError, ValueError) as exc:
            raise reworded(exc, f"has a key that {exc}") from None
        try:
            parts += name, _ENCODERS.get(type(value), _encode_other)(value, depth)
        except (TypeError, ValueError) as exc:
            raise _inside(key, exc) from None
    data = b"".join(parts)
    return _LENGTH.pack(len(data)) + data


def _encode_array(values: Sequence[Any], depth: int) -> bytes:
    _check_depth(depth)
    parts: list[bytes] = []
    for index, value in enumerate(values):
        try:
            parts.append(_ENCODERS.get(type(value), _encode_other)(value, depth))
        except (TypeError, ValueError) as exc:
            raise _inside(index, exc) from None
    data = b"".join(parts)
    return _LENGTH.pack(len(data)) + data


def _encode_int(value: int, depth: int) -> bytes:
    if -0x80000000 <= value <= 0x7FFFFFFF:
        return _PACK_INT32(b"I", value)
    if -0x8000000000000000 <= value <= 0x7FFFFFFFFFFFFFFF:
        return _PACK_INT64(b"l", value)
    raise ValueError(f"is an int of {value.bit_length()} bits; a table holds signed 64 bits at most")


def _encode_float(value: float, depth: int) -> bytes:
    if not isfinite(value):
        raise ValueError(f"is {value}, which RabbitMQ can't represent")
    return _PACK_DOUBLE(b"d", value)


def _encode_decimal(value: Decimal, depth: int) -> bytes:
    """A scale and an unscaled integer. Unsigned by the grammar, signed in the Java and Go clients, and so here."""
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"is {value}, which AMQP can't represent")
    # int() and str() of Decimals with huge exponents take forever: judge by the digits first.
    if exponent < -255 or exponent > 9 or len(digits) > 10:
        raise ValueError(_inexact(value))
    unscaled = int("".join(map(str, digits))) * (-1 if sign else 1) * 10 ** max(exponent, 0)
    if not -0x80000000 <= unscaled <= 0x7FFFFFFF:
        raise ValueError(_inexact(value))
    return _PACK_DECIMAL(b"D", max(-exponent, 0), unscaled)


def _encode_str(value: str, depth: int) -> bytes:
    try:
        data = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise _not_text(value) from None
    return _PACK_LENGTH(b"S", len(data)) + data


_OCTETS = tuple(bytes([number]) for number in range(256))
_PACK_INT32 = Struct(">ci").pack
_PACK_INT64 = Struct(">cq").pack
_PACK_DOUBLE = Struct(">cd").pack
_PACK_DECIMAL = Struct(">cBi").pack
_PACK_LENGTH = Struct(">cI").pack

_ENCODERS: dict[type, Callable[[Any, int], bytes]] = {
    bool: lambda value, depth: b"t\x01" if value else b"t\x00",
    str: _encode_str,
    int: _encode_int,
    float: _encode_float,
    datetime: lambda value, depth: b"T" + encode_timestamp(value),
    Decimal: _encode_decimal,
    dict: lambda value, depth: b"F" + _encode_table(value, depth + 1),
    list: lambda value, depth: b"A" + _encode_array(value, depth + 1),
    tuple: lambda value, depth: b"A" + _encode_array(value, depth + 1),
    bytes: lambda value, depth: b"x" + encode_longstr(value),
    bytearray: lambda value, depth: b"x" + encode_longstr(value),
    memoryview: lambda value, depth: b"x" + encode_longstr(value),
    type(None): lambda value, depth: b"V",
}
"""What becomes of a value of exactly this type."""


def _sized_int(code: str, format: str) -> type[int]:
    """A kind of int that is always encoded in this type."""
    kind = type(f"Int_{code}", (int,), {"__slots__": ()})
    pack, octet = Struct(format).pack, code.encode()
    _ENCODERS[kind] = lambda value, depth: pack(octet, value)
    return kind


SIZED_INTS = {
    code: _sized_int(code, format)
    for code, format in {"b": ">cb", "s": ">ch", "u": ">cH", "i": ">cI", "l": ">cq"}.items()
}
"""Ints in types that `encode_table` gives no plain one, or not one so small: what another client has written."""


def _encode_other(value: Any, depth: int) -> bytes:
    """Subclasses (enums, named tuples) as their base; mappings and sequences of any kind as tables and arrays."""
    if isinstance(value, Mapping):
        return b"F" + _encode_table(value, depth + 1)
    for base in type(value).__mro__:
        encoder = _ENCODERS.get(base)
        if encoder is not None:
            return encoder(value, depth)
    if isinstance(value, Sequence):
        return b"A" + _encode_array(value, depth + 1)
    raise TypeError(f"is of type {type(value).__name__}, which AMQP can't represent: {value!r:.60}")


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"lies more than {MAX_DEPTH} tables and arrays deep; does one contain itself?")


def reworded(error: Exception, text: str) -> TypeError | ValueError:
    """An error of the same kind, `TypeError` or `ValueError`, with another text."""
    return TypeError(text) if isinstance(error, TypeError) else ValueError(text)


def outside(value: object, most: int) -> TypeError | ValueError:
    """Why a value is not packed as an unsigned integer of up to `most`."""
    kind = ValueError if isinstance(value, int) else TypeError
    return kind(f"must be an int of 0 to {most}, not {value!r:.60}")


def _inside(step: str | int, error: Exception) -> TypeError | ValueError:
    text = str(error)
    return reworded(error, f"[{step!r}]{text}" if text.startswith("[") else f"[{step!r}] {text}")


def _not_text(value: object) -> TypeError | ValueError:
    if isinstance(value, str):
        return ValueError(f"contains a character that UTF-8 can't represent: {value[:20]!r}")
    return TypeError(f"must be a str, not {type(value).__name__}")


def _inexact(value: Decimal) -> str:
    return f"is Decimal {value!s:.40}; a table holds 32 bits and at most 255 decimal places"


# --- decoding ------------------------------------------------------------------------------------------------------


def decode_shortstr(data: bytes, offset: int) -> tuple[str, int]:
    """The short string at `offset`, and the offset behind it."""
    try:
        start = offset + 1
        end = start + data[offset]
    except IndexError:
        raise _truncated("a short string") from None
    if end > len(data):
        raise _truncated("a short string")
    return data[start:end].decode("utf-8", "surrogateescape"), end


def decode_longstr(data: bytes, offset: int) -> tuple[bytes, int]:
    """The long string at `offset` as octets, and the offset behind it."""
    start, end = _extent(data, offset, len(data), "a long string")
    return data[start:end], end


def decode_timestamp(data: bytes, offset: int) -> tuple[datetime | int, int]:
    """The time at `offset` (UTC), and the offset behind it. An `int` of seconds if `datetime` has no such year."""
    try:
        (seconds,) = _SECONDS.unpack_from(data, offset)
    except StructError:
        raise _truncated("a timestamp") from None
    try:
        return _EPOCH + timedelta(seconds=seconds), offset + 8
    except OverflowError:
        return seconds, offset + 8


def decode_table(data: bytes, offset: int = 0, limit: int | None = None) -> tuple[dict[str, Any], int]:
    """The table at `offset`, and the offset behind it. It must end at or before the offset `limit`, by default the end.

    Integers become `int`, floats of either size `float`; of a key that occurs twice the last value counts. More than
    `MAX_VALUES` values are refused.
    """
    end = len(data) if limit is None else min(limit, len(data))
    try:
        if end - offset > MAX_VALUES:  # hot: others can't have so many, and are not counted
            return _decode_counted(data, offset, end)
        return _decode_table(data, offset, end, 1)
    except (StructError, IndexError):
        raise _truncated("a table") from None


# The functions below may let IndexError and struct.error out: they mean that the data end too soon. They get `end`,
# the offset behind the innermost enclosing table; a value that reaches past it is caught when the enclosing loop ends.


def _decode_table(
    data: bytes, offset: int, end: int, depth: int, decoders: Sequence[_Decoder] | None = None
) -> tuple[dict[str, Any], int]:
    decoders = decoders or _DECODERS
    offset, end = _extent(data, offset, end, "a table")
    if depth > MAX_DEPTH:
        raise RemoteProtocolError(f"tables and arrays lie more than {MAX_DEPTH} deep", SYNTAX_ERROR)
    table: dict[str, Any] = {}
    while offset < end:
        start = offset + 1
        offset = start + data[offset]
        key = data[start:offset].decode("utf-8", "surrogateescape")
        table[key], offset = decoders[data[offset]](data, offset + 1, end, depth)
    if offset > end:
        raise _truncated("a table")
    return table, end


def _decode_array(
    data: bytes, offset: int, end: int, depth: int, decoders: Sequence[_Decoder] | None = None
) -> tuple[list[Any], int]:
    decoders = decoders or _DECODERS
    offset, end = _extent(data, offset, end, "an array")
    if depth > MAX_DEPTH:
        raise RemoteProtocolError(f"tables and arrays lie more than {MAX_DEPTH} deep", SYNTAX_ERROR)
    array: list[Any] = []
    while offset < end:
        value, offset = decoders[data[offset]](data, offset + 1, end, depth)
        array.append(value)
    if offset > end:
        raise _truncated("an array")
    return array, end


def _decode_counted(data: bytes, offset: int, end: int) -> tuple[dict[str, Any], int]:
    """What `_decode_table` gives for a large table, with its values counted."""
    left = MAX_VALUES

    def counted(decode: _Decoder) -> _Decoder:
        def count_and_decode(data: bytes, offset: int, end: int, depth: int) -> tuple[Any, int]:
            nonlocal left
            left -= 1
            if left < 0:
                raise RemoteProtocolError(f"a table has more than {MAX_VALUES} values", SYNTAX_ERROR)
            return decode(data, offset, end, depth)

        return count_and_decode

    decoders = {decode: counted(decode) for decode in _BY_TYPE.values()}
    decoders |= {
        _BY_TYPE[b"F"]: counted(
            lambda data, offset, end, depth: _decode_table(data, offset, end, depth + 1, all_of_them)
        ),
        _BY_TYPE[b"A"]: counted(
            lambda data, offset, end, depth: _decode_array(data, offset, end, depth + 1, all_of_them)
        ),
    }
    all_of_them = tuple(decoders.get(decode, decode) for decode in _DECODERS)
    return _decode_table(data, offset, end, 1, all_of_them)


def _extent(data: bytes, offset: int, limit: int, what: str) -> tuple[int, int]:
    """Where the contents of something with four octets of length begin and end."""
    start = offset + 4
    if start > limit:
        raise _truncated(what)
    end = start + _UNPACK_LENGTH(data, offset)[0]
    if end > limit:
        raise _truncated(what)
    return start, end


_Decoder: TypeAlias = Callable[[bytes, int, int, int], tuple[Any, int]]


def _fixed(format: str) -> _Decoder:
    """The decoder of a number of fixed size."""
    struct = Struct(format)
    unpack, size = struct.unpack_from, struct.size

    def decode(data: bytes, offset: int, end: int, depth: int) -> tuple[Any, int]:
        return unpack(data, offset)[0], offset + size

    return decode


def _decode_decimal(data: bytes, offset: int, end: int, depth: int) -> tuple[Decimal, int]:
    scale, unscaled = _UNPACK_DECIMAL(data, offset)
    return Decimal(f"{unscaled}E-{scale}"), offset + 5  # exact, whatever the decimal context


def _decode_str(data: bytes, offset: int, end: int, depth: int) -> tuple[str, int]:
    start, end = _extent(data, offset, end, "a string")
    return data[start:end].decode("utf-8", "surrogateescape"), end


def _decode_bytes(data: bytes, offset: int, end: int, depth: int) -> tuple[bytes, int]:
    start, end = _extent(data, offset, end, "a byte array")
    return data[start:end], end


def _refuse(data: bytes, offset: int, end: int, depth: int) -> tuple[Any, int]:
    raise RemoteProtocolError(f"a table holds a value of unknown type {data[offset - 1 : offset]!r}", SYNTAX_ERROR)


_UNPACK_LENGTH = _LENGTH.unpack_from
_UNPACK_DECIMAL = Struct(">Bi").unpack_from

_BY_TYPE: dict[bytes, _Decoder] = {
    b"t": lambda data, offset, end, depth: (data[offset] != 0, offset + 1),
    b"b": _fixed(">b"),
    b"B": _fixed(">B"),
    b"s": _fixed(">h"),
    b"u": _fixed(">H"),
    b"I": _fixed(">i"),
    b"i": _fixed(">I"),
    b"l": _fixed(">q"),
    b"L": _fixed(">q"),
    b"f": _fixed(">f"),
    b"d": _fixed(">d"),
    b"D": _decode_decimal,
    b"S": _decode_str,
    b"x": _decode_bytes,
    b"T": lambda data, offset, end, depth: decode_timestamp(data, offset),
    b"F": lambda data, offset, end, depth: _decode_table(data, offset, end, depth + 1),
    b"A": lambda data, offset, end, depth: _decode_array(data, offset, end, depth + 1),
    b"V": lambda data, offset, end, depth: (None, offset),
}
_DECODERS = tuple(_BY_TYPE.get(bytes([code]), _refuse) for code in range(256))
"""The decoder of each type octet: gets the offset behind it and gives the value and the offset behind the value."""


def _truncated(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"{what} is longer than what contains it", SYNTAX_ERROR)
