"""Tables and strings: exact octets, pamqp as the oracle, round trips of every type, and hostile input."""

from __future__ import annotations

import enum
import math
import struct
import time
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pamqp import decode as pamqp_decode
from pamqp import encode as pamqp_encode

from rabbitry._errors import RemoteProtocolError
from rabbitry.protocol.wire.tables import (
    MAX_DEPTH,
    MAX_VALUES,
    decode_longstr,
    decode_shortstr,
    decode_table,
    decode_timestamp,
    encode_longstr,
    encode_shortstr,
    encode_table,
    encode_timestamp,
)


def table_of(*fields: bytes) -> bytes:
    """A table of fields already encoded, each with its key."""
    data = b"".join(fields)
    return struct.pack(">I", len(data)) + data


def nested(depth: int, kind: str) -> bytes:
    """`depth` tables or arrays one in another, the outermost a table."""
    data = b""
    for level in range(depth - 1):
        data = kind.encode() + struct.pack(">I", len(data)) + data
        if kind == "F" or level == depth - 2:
            data = b"\x01k" + data
    return table_of(data)


# --- values --------------------------------------------------------------------------------------------------------

keys = st.text(max_size=63)
any_text = st.text(st.characters(exclude_categories=[]), max_size=40).filter(
    lambda text: all(not 0xD800 <= ord(char) <= 0xDFFF for char in text)
)
int64 = st.integers(-(2**63), 2**63 - 1)
moments = st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(microsecond=0))
decimals = st.builds(
    lambda unscaled, scale: Decimal(unscaled).scaleb(-scale), st.integers(-(2**31), 2**31 - 1), st.integers(0, 255)
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    int64,
    st.floats(allow_nan=False, allow_infinity=False),
    decimals,
    any_text,
    st.binary(max_size=40),
    moments,
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=20
)
tables = st.dictionaries(keys, values, max_size=6)


def types_of(value: Any) -> Any:
    """The shape with the types: `==` alone takes True for 1 and 1.0."""
    if isinstance(value, dict):
        return {key: types_of(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [types_of(inner) for inner in value]
    return type(value)


# --- what goes out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "octets"),
    [
        (True, b"t\x01"),
        (False, b"t\x00"),
        (0, b"I\x00\x00\x00\x00"),
        (-1, b"I\xff\xff\xff\xff"),
        (2**31 - 1, b"I\x7f\xff\xff\xff"),
        (-(2**31), b"I\x80\x00\x00\x00"),
        (2**31, b"l\x00\x00\x00\x00\x80\x00\x00\x00"),
        (-(2**31) - 1, b"l\xff\xff\xff\xff\x7f\xff\xff\xff"),
        (2**63 - 1, b"l\x7f\xff\xff\xff\xff\xff\xff\xff"),
        (-(2**63), b"l\x80\x00\x00\x00\x00\x00\x00\x00"),
        (1.5, b"d\x3f\xf8\x00\x00\x00\x00\x00\x00"),
        (0.1, b"d" + struct.pack(">d", 0.1)),
        (Decimal("3.14"), b"D\x02\x00\x00\x01\x3a"),
        (Decimal("-1"), b"D\x00\xff\xff\xff\xff"),
        (Decimal("1E+3"), b"D\x00\x00\x00\x03\xe8"),
        (Decimal("1E-255"), b"D\xff\x00\x00\x00\x01"),
        ("", b"S\x00\x00\x00\x00"),
        ("é", b"S\x00\x00\x00\x02\xc3\xa9"),
        (b"\x00\xff", b"x\x00\x00\x00\x02\x00\xff"),
        (bytearray(b"ab"), b"x\x00\x00\x00\x02ab"),
        (memoryview(b"abcd")[::2], b"x\x00\x00\x00\x02ac"),
        (datetime(1970, 1, 1, 0, 0, 1, 999999, tzinfo=UTC), b"T\x00\x00\x00\x00\x00\x00\x00\x01"),
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), b"T\x00\x00\x00\x00\x00\x00\x00\x00"),
        (datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), b"T\xff\xff\xff\xff\xff\xff\xff\xff"),
        (None, b"V"),
        ([], b"A\x00\x00\x00\x00"),
        ((1, None), b"A\x00\x00\x00\x06I\x00\x00\x00\x01V"),
        (deque([0]), b"A\x00\x00\x00\x05I\x00\x00\x00\x00"),
        (range(1), b"A\x00\x00\x00\x05I\x00\x00\x00\x00"),
        ({}, b"F\x00\x00\x00\x00"),
        ({"k": {}}, b"F\x00\x00\x00\x07\x01kF\x00\x00\x00\x00"),
    ],
)
def test_octets(value: Any, octets: bytes) -> None:
    assert encode_table({"a": value}) == table_of(b"\x01a" + octets)


class Colour(enum.IntEnum):
    RED = 7


class Word(enum.StrEnum):
    HI = "hi"


class Point(NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    ("value", "same_as"),
    [
        (Colour.RED, 7),
        (Word.HI, "hi"),
        (Point(1, 2), [1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        (UserDict(a=1), {"a": 1}),
    ],
)
def test_subclasses_are_encoded_as_their_base(value: Any, same_as: Any) -> None:
    assert encode_table({"a": value}) == encode_table({"a": same_as})


def test_keys_keep_their_order() -> None:
    assert list(decode_table(encode_table({"b": 1, "a": 2}))[0]) == ["b", "a"]


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"a": 2**63}, r"\['a'\] is an int of 64 bits"),
        ({"a": -(2**63) - 1}, r"\['a'\] is an int of 64 bits"),
        ({"a": math.nan}, r"\['a'\] is nan"),
        ({"a": -math.inf}, r"\['a'\] is -inf"),
        ({"a": Decimal("NaN")}, r"\['a'\] is NaN"),
        ({"a": Decimal("Infinity")}, "is Infinity"),
        ({"a": Decimal("2147483648")}, "32 bits"),
        ({"a": Decimal("1E-256")}, "255 decimal places"),
        ({"a": Decimal("1E+999999")}, "32 bits"),
        ({"a": Decimal(1).scaleb(-999999)}, "255 decimal places"),
        ({"a": Decimal("1." + "1" * 5000)}, "255 decimal places"),
        ({"a": datetime(2020, 1, 1)}, "without a time zone"),  # noqa: DTZ001
        ({"a": datetime(2020, 1, 1).date()}, "of type date"),  # noqa: DTZ001
        ({"a": timedelta(1)}, "of type timedelta"),
        ({"a": {1}}, "of type set"),
        ({"a": 1j}, "of type complex"),
        ({"a": "\ud800"}, "UTF-8 can't represent"),
        ({"a": [0, {"b": object()}]}, r"^\['a'\]\[1\]\['b'\] is of type object"),
        ({1: 1}, "key that must be a str, not int"),
        ({"a": {b"k": 1}}, r"^\['a'\] has a key that must be a str, not bytes"),
        ({"k" * 256: 1}, "key that is 256 bytes long"),
        ({"é" * 128: 1}, "key that is 256 bytes long"),
        ([], "must be a mapping, not list"),
        ([1], "must be a mapping, not list"),
        (None, "must be a mapping, not NoneType"),
        ("ab", "must be a mapping, not str"),
    ],
)
def test_refused_with_the_way_to_the_value(table: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        encode_table(table)


def test_a_table_that_contains_itself_is_refused() -> None:
    table: dict[str, Any] = {}
    table["self"] = table
    array: list[Any] = []
    array.append(array)
    for value in (table, {"a": array}):
        with pytest.raises(ValueError, match="does one contain itself"):
            encode_table(value)


@pytest.mark.parametrize("kind", ["F", "A"])
def test_nesting_is_limited_alike_both_ways(kind: str) -> None:
    deepest = nested(MAX_DEPTH, kind)
    table, _ = decode_table(deepest)
    assert encode_table(table) == deepest
    with pytest.raises(RemoteProtocolError, match=f"more than {MAX_DEPTH} deep"):
        decode_table(nested(MAX_DEPTH + 1, kind))
    with pytest.raises(ValueError, match=f"more than {MAX_DEPTH} tables"):
        encode_table({"k": table})


@given(st.one_of(scalars, st.builds(object), st.sets(st.integers(), max_size=2), st.complex_numbers(), st.integers()))
def test_encoding_raises_type_and_value_errors_only(value: Any) -> None:
    for table in ({"a": value}, {"a": [value]}, {value if value.__hash__ else "a": 1}, value):
        try:
            encode_table(table)
        except (TypeError, ValueError):
            pass


# --- round trips ---------------------------------------------------------------------------------------------------


@given(tables)
@example({"a": {"b": [{"c": [None, True, 1, 1.0, Decimal("1.0"), "x", b"x", datetime(1, 1, 1, tzinfo=UTC)]}]}})
def test_round_trip(table: dict[str, Any]) -> None:
    data = encode_table(table)
    decoded, end = decode_table(data)
    assert end == len(data)
    assert decoded == table
    assert types_of(decoded) == types_of(table)
    assert encode_table(decoded) == data


@given(decimals)
def test_decimals_are_exact_in_any_context(value: Decimal) -> None:
    with localcontext() as context:
        context.prec = 3
        decoded = decode_table(encode_table({"a": value}))[0]["a"]
    assert decoded == value
    assert decoded.as_tuple() == value.as_tuple() or value == 0


@given(st.binary(max_size=30))
def test_octets_that_are_not_utf8_survive(octets: bytes) -> None:
    field = bytes([len(octets)]) + octets + b"S" + struct.pack(">I", len(octets)) + octets
    table, _ = decode_table(table_of(field))
    ((key, value),) = table.items()
    assert isinstance(value, str)
    assert key.encode("utf-8", "surrogateescape") == octets
    assert encode_table(table) == table_of(field)


@given(st.integers(-(2**63), 2**63 - 1))
@example(1_700_000_000_000)  # milliseconds: the year 55,840
@example(253402300799)
@example(253402300800)
@example(-62135596800)
@example(-62135596801)
def test_any_timestamp_can_be_read(seconds: int) -> None:
    data = struct.pack(">q", seconds)
    value, end = decode_timestamp(data, 0)
    assert end == 8
    if -62135596800 <= seconds <= 253402300799:
        assert isinstance(value, datetime)
        assert encode_timestamp(value) == data
        assert value.utcoffset() == timedelta(0)
    else:
        assert value == seconds


# --- what comes in -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("octets", "value"),
    [
        (b"t\x02", True),
        (b"b\xff", -1),
        (b"B\xff", 255),
        (b"s\xff\xfe", -2),
        (b"u\xff\xfe", 65534),
        (b"I\xff\xff\xff\xfd", -3),
        (b"i\xff\xff\xff\xfd", 2**32 - 3),
        (b"l\xff\xff\xff\xff\xff\xff\xff\xfc", -4),
        (b"L\xff\xff\xff\xff\xff\xff\xff\xfc", -4),
        (b"f\x3f\xc0\x00\x00", 1.5),
        (b"d\x7f\xf0\x00\x00\x00\x00\x00\x00", math.inf),
        (b"D\x02\xff\xff\xff\xff", Decimal("-0.01")),
        (b"D\xff\x00\x00\x00\x00", Decimal("0")),
        (b"x\x00\x00\x00\x01\xff", b"\xff"),
        (b"S\x00\x00\x00\x01\xff", "\udcff"),
        (b"T\x00\x00\x00\x00\x00\x00\x00\x01", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        (b"T\x00\x00\x01\x8b\xcf\xe5\x68\x00", 1_700_000_000_000),
        (b"V", None),
        (b"A\x00\x00\x00\x03Vt\x01", [None, True]),
        (b"F\x00\x00\x00\x03\x01aV", {"a": None}),
    ],
)
def test_every_type_of_rabbitmq_is_read(octets: bytes, value: Any) -> None:
    decoded, _ = decode_table(table_of(b"\x01a" + octets))
    assert decoded == {"a": value}
    assert types_of(decoded["a"]) == types_of(value)


def test_the_last_of_two_values_of_a_key_counts() -> None:
    assert decode_table(table_of(b"\x01at\x00", b"\x01at\x01"))[0] == {"a": True}


def test_offset_and_limit() -> None:
    data = encode_table({"a": 1})
    padded = b"??" + data + b"!!"
    assert decode_table(padded, 2) == ({"a": 1}, 2 + len(data))
    assert decode_table(padded, 2, 2 + len(data)) == ({"a": 1}, 2 + len(data))
    with pytest.raises(RemoteProtocolError):
        decode_table(padded, 2, 1 + len(data))
    with pytest.raises(RemoteProtocolError):
        decode_table(padded, len(padded))


EVERY_TYPE = table_of(
    b"\x01at\x01",
    b"\x01bb\x01",
    b"\x01cB\x01",
    b"\x01ds\x00\x01",
    b"\x01eu\x00\x01",
    b"\x01fI\x00\x00\x00\x01",
    b"\x01gi\x00\x00\x00\x01",
    b"\x01hl\x00\x00\x00\x00\x00\x00\x00\x01",
    b"\x01iL\x00\x00\x00\x00\x00\x00\x00\x01",
    b"\x01jf\x00\x00\x00\x00",
    b"\x01kd\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\x01lD\x01\x00\x00\x00\x01",
    b"\x01mS\x00\x00\x00\x01x",
    b"\x01nx\x00\x00\x00\x01x",
    b"\x01oT\x00\x00\x00\x00\x00\x00\x00\x01",
    b"\x01pF\x00\x00\x00\x04\x01at\x01",
    b"\x01qA\x00\x00\x00\x04t\x01t\x01",
    b"\x01rV",
)


def test_truncated_at_each_octet() -> None:
    table, end = decode_table(EVERY_TYPE)
    assert (len(table), end) == (18, len(EVERY_TYPE))
    for size in range(len(EVERY_TYPE)):
        with pytest.raises(RemoteProtocolError):
            decode_table(EVERY_TYPE[:size])


def test_each_length_shortened_and_lengthened() -> None:
    """The table ends in the midst of its last value, or goes on beyond the data."""
    fields = list(decode_table(EVERY_TYPE)[0].items())
    for key, value in fields:
        body = encode_table({key: value})[4:]
        for size in range(len(body) + 8):
            data = struct.pack(">I", size) + body
            for tail in (b"", b"\x00" * 3):
                try:
                    decoded, end = decode_table(data + tail)
                except RemoteProtocolError:
                    continue
                assert end == 4 + size <= len(data + tail)
                assert size in (0, len(body)) or decoded != {key: value}


@pytest.mark.parametrize("inner", [b"S", b"x", b"F", b"A"])
def test_an_inner_length_may_not_leave_the_outer(inner: bytes) -> None:
    # The inner value takes three octets more than its table has; they are there, but belong to what follows.
    data = table_of(b"\x01a" + inner + b"\x00\x00\x00\x03") + b"abc"
    with pytest.raises(RemoteProtocolError):
        decode_table(data)


@pytest.mark.parametrize("count", [MAX_VALUES - 2, MAX_VALUES - 1, MAX_VALUES, 130_000])
@pytest.mark.parametrize("nested", [False, True])
def test_values_are_limited_in_all_of_a_table_together(count: int, nested: bool) -> None:
    """Without a limit a header of 130,000 octets takes 20 ms, and a program that looks at headers looks at each."""
    values = b"V" * count
    inner = b"".join(b"A" + table_of(values[at : at + 100]) for at in range(0, count, 100)) if nested else values
    total = 1 + count + (-(-count // 100) if nested else 0)
    data = table_of(b"\x01aA" + table_of(inner))
    if total <= MAX_VALUES:
        ((_, array),) = decode_table(data)[0].items()
        assert len(array) == (-(-count // 100) if nested else count)
        return
    began = time.process_time()
    with pytest.raises(RemoteProtocolError, match="more than 4096 values"):
        decode_table(data)
    assert time.process_time() - began < 0.05


def test_one_key_again_and_again_counts_each_time() -> None:
    assert decode_table(table_of(b"\0V" * MAX_VALUES))[0] == {"": None}
    with pytest.raises(RemoteProtocolError, match="more than 4096 values"):
        decode_table(table_of(b"\0V" * (MAX_VALUES + 1)))


def test_a_large_table_is_decoded_as_a_small_one() -> None:
    """Which are two ways: the values of a large one are counted."""
    table = {
        "a": [1, {"b": None, "c": [True, "x", b"y", 1.5]}],
        "d": Decimal("1.5"),
        "e": datetime(2020, 1, 1, tzinfo=UTC),
    }
    large = {**table, "large": "x" * MAX_VALUES}
    octets = encode_table(large)
    assert decode_table(octets) == (large, len(octets))
    deep = b"\x01aF"
    for _ in range(MAX_DEPTH):
        deep = b"\x01aF" + table_of(deep)
    with pytest.raises(RemoteProtocolError):
        decode_table(table_of(b"\x01bS" + table_of(b"x" * MAX_VALUES) + deep))


@pytest.mark.parametrize("code", sorted(set(range(256)) - set(b"tbBsuIilLfdDSxTFAV")))
def test_unknown_types_are_refused(code: int) -> None:
    for octets in (bytes([code]) + bytes(16), b"A\x00\x00\x00\x11" + bytes([code]) + bytes(16)):
        with pytest.raises(RemoteProtocolError, match="unknown type") as caught:
            decode_table(table_of(b"\x01a" + octets))
        assert caught.value.code == 502


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 1000, 20000])
@pytest.mark.parametrize("kind", ["F", "A"])
def test_hostile_nesting(depth: int, kind: str) -> None:
    with pytest.raises(RemoteProtocolError, match="deep"):
        decode_table(nested(depth, kind))


def raises_only_remote(decode: Callable[..., Any], *arguments: Any) -> None:
    try:
        decode(*arguments)
    except RemoteProtocolError:
        pass


@given(st.binary(max_size=200), st.integers(0, 10))
def test_random_octets(data: bytes, offset: int) -> None:
    for decode in (decode_table, decode_shortstr, decode_longstr, decode_timestamp):
        raises_only_remote(decode, data, offset)
    raises_only_remote(decode_table, struct.pack(">I", len(data)) + data)


@given(tables, st.data())
def test_corrupted_tables(table: dict[str, Any], data: st.DataObject) -> None:
    octets = bytearray(encode_table(table))
    for _ in range(data.draw(st.integers(1, 3))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    raises_only_remote(decode_table, bytes(octets))


# --- pamqp as the oracle -------------------------------------------------------------------------------------------

# What pamqp writes differently: small integers in one or two octets or unsigned, floats in 32 bits, bytes only as
# bytearray, keys sorted and at most 128 bytes; and it reads times after 2106 as milliseconds. Equal octets are asked
# for where it has no ideas of its own.
pamqp_ints = st.one_of(
    st.integers(65536, 2**31 - 1),
    st.integers(-(2**31), -32769),
    st.integers(2**32, 2**63 - 1),
    st.integers(-(2**63), -(2**31) - 1),
)
pamqp_scalars = st.one_of(
    st.none(),
    st.booleans(),
    pamqp_ints,
    any_text,
    st.binary(max_size=20).map(bytearray),
    st.datetimes(datetime(1970, 1, 1), datetime(2105, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.builds(lambda n, scale: Decimal(f"{n}E-{scale}"), st.integers(-(2**31), 2**31 - 1), st.integers(0, 20)),
)
pamqp_keys = st.text(max_size=30)
pamqp_values = st.recursive(
    pamqp_scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(pamqp_keys, inner, max_size=3),
    max_leaves=12,
)
pamqp_tables = st.dictionaries(pamqp_keys, pamqp_values, max_size=5)


def sorted_deeply(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_deeply(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [sorted_deeply(inner) for inner in value]
    return value


def plain(value: Any) -> Any:
    """Without pamqp's bytearrays, and times to the second."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, datetime):
        return value.replace(microsecond=0)
    return value


@given(pamqp_tables)
def test_same_octets_as_pamqp(table: dict[str, Any]) -> None:
    data = encode_table(sorted_deeply(table))
    assert data == pamqp_encode.field_table(table)
    consumed, decoded = pamqp_decode.field_table(data)
    assert consumed == len(data)
    assert plain(decoded) == plain(table)


@given(st.dictionaries(pamqp_keys, pamqp_values | int64 | st.floats(width=32, allow_nan=False), max_size=6))
def test_reads_what_pamqp_writes(table: dict[str, Any]) -> None:
    assert decode_table(pamqp_encode.field_table(table))[0] == plain(table)


@given(any_text)
def test_short_strings_like_pamqp(text: str) -> None:
    assert encode_shortstr(text) == pamqp_encode.short_string(text)
    assert decode_shortstr(encode_shortstr(text), 0) == (text, 1 + len(text.encode()))


# --- strings -------------------------------------------------------------------------------------------------------


def test_short_string_limits() -> None:
    assert encode_shortstr("x" * 255) == b"\xff" + b"x" * 255
    for text, reason in [("x" * 256, "256 bytes"), ("é" * 128, "256 bytes"), ("\ud800", "UTF-8"), (b"x", "not bytes")]:
        with pytest.raises((TypeError, ValueError), match=reason):
            encode_shortstr(text)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="UTF-8"):
        encode_shortstr("\udcff", "strict")
    assert encode_shortstr("\udcff") == b"\x01\xff"


def test_long_string_limits() -> None:
    assert encode_longstr(bytearray(b"abc")) == b"\x00\x00\x00\x03abc"
    assert decode_longstr(b"..\x00\x00\x00\x03abc..", 2) == (b"abc", 9)
    with pytest.raises(TypeError, match="must be bytes, not str"):
        encode_longstr("abc")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("decode", "data"),
    [(decode_shortstr, b"\x03abc"), (decode_longstr, b"\x00\x00\x00\x03abc"), (decode_timestamp, bytes(8))],
)
def test_strings_and_times_truncated_at_each_octet(decode: Callable[[bytes, int], Any], data: bytes) -> None:
    assert decode(data + b"more", 0)[1] == len(data)
    for size in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            decode(data[:size], 0)


def test_timestamps_need_a_time_zone_and_a_datetime() -> None:
    with pytest.raises(ValueError, match="without a time zone"):
        encode_timestamp(datetime(2020, 1, 1))  # noqa: DTZ001
    with pytest.raises(TypeError, match="must be a datetime, not int"):
        encode_timestamp(0)  # type: ignore[arg-type]
