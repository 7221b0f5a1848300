"""The properties of class basic: exact octets, pamqp as the oracle, round trips and hostile input."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands

from rabbitry._errors import RemoteProtocolError
from rabbitry.protocol.wire.properties import (
    PROPERTIES,
    Properties,
    decode_all_but_headers,
    decode_properties,
    encode_by_rows,
    encode_properties,
)

FULL = Properties(
    content_type="application/json",
    content_encoding="gzip",
    headers={"a": 70000, "b": {"c": [True, None]}},
    delivery_mode=2,
    priority=9,
    correlation_id="correlation",
    reply_to="replies",
    expiration="60000",
    message_id="message",
    timestamp=datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC),
    type="event",
    user_id="guest",
    app_id="tests",
    cluster_id="cluster",
)

short_text = st.text(max_size=60)
octets = st.integers(0, 255)
moments = st.datetimes(datetime(1970, 1, 1), datetime(2105, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0)
)
headers = st.dictionaries(
    st.text(max_size=20), st.none() | st.booleans() | st.integers(65536, 2**31 - 1) | st.text(), max_size=4
)
KINDS: dict[str, st.SearchStrategy[Any]] = {"headers": headers, "timestamp": moments} | dict.fromkeys(
    ["delivery_mode", "priority"], octets
)
some_properties = st.builds(Properties, **{name: st.none() | KINDS.get(name, short_text) for name in PROPERTIES})


def pamqp_properties(properties: Properties) -> commands.Basic.Properties:
    class Unchecked(commands.Basic.Properties):
        def validate(self) -> None:
            """pamqp forbids values that the broker takes."""

    values = {name: getattr(properties, name) for name in PROPERTIES}
    values["message_type"] = values.pop("type")
    return Unchecked(**values)


def test_names_in_wire_order_are_pamqps_and_the_slots() -> None:
    names = tuple(name.replace("message_type", "type") for name in commands.Basic.Properties.attributes())
    assert names == PROPERTIES == Properties.__slots__


def test_none_takes_no_octets() -> None:
    assert encode_properties(Properties()) == b"\x00\x00"
    assert decode_properties(b"\x00\x00") == Properties()


@pytest.mark.parametrize(
    ("properties", "data"),
    [
        (Properties(content_type=""), b"\x80\x00\x00"),
        (Properties(delivery_mode=2), b"\x10\x00\x02"),
        (Properties(delivery_mode=1, priority=255), b"\x18\x00\x01\xff"),
        (Properties(headers={}), b"\x20\x00\x00\x00\x00\x00"),
        (Properties(timestamp=datetime(1970, 1, 1, 0, 1, tzinfo=UTC)), b"\x00\x40" + bytes(7) + b"\x3c"),
        (Properties(correlation_id="\udcff"), b"\x04\x00\x01\xff"),
        (Properties(cluster_id="c"), b"\x00\x04\x01c"),
    ],
)
def test_octets(properties: Properties, data: bytes) -> None:
    assert encode_properties(properties) == data
    assert decode_properties(data) == properties


def test_any_object_with_the_attributes_can_be_encoded() -> None:
    @dataclass
    class Mine:
        pass

    mine = Mine()
    for name in PROPERTIES:
        setattr(mine, name, getattr(FULL, name))
    assert encode_properties(mine) == encode_properties(FULL)


@given(some_properties)
def test_round_trip(properties: Properties) -> None:
    data = encode_properties(properties)
    assert decode_properties(data) == properties
    assert decode_properties(b"ab" + data, 2) == properties


@given(some_properties)
def test_same_octets_as_pamqp(properties: Properties) -> None:
    # pamqp leaves out empty strings and sorts keys.
    for name in PROPERTIES:
        if getattr(properties, name) == "":
            setattr(properties, name, None)
    if properties.headers is not None:
        properties.headers = dict(sorted(properties.headers.items()))
    data = encode_properties(properties)
    assert pamqp_properties(properties).marshal() == data
    decoded = commands.Basic.Properties()
    decoded.unmarshal(struct.unpack(">H", data[:2])[0], data[2:])
    for name in PROPERTIES:
        theirs = getattr(decoded, "message_type" if name == "type" else name)
        assert (None if theirs == "" else theirs) == getattr(properties, name)


@pytest.mark.parametrize("count", [1, 2, 14])
def test_every_combination_of_flags(count: int) -> None:
    for names in itertools.combinations(PROPERTIES, count):
        properties = Properties(**{name: getattr(FULL, name) for name in names})
        assert decode_properties(encode_properties(properties)) == properties


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("content_type", "x" * 256, "content_type is 256 bytes long"),
        ("content_type", b"text/plain", "content_type must be a str, not bytes"),
        ("correlation_id", 5, "correlation_id must be a str, not int"),
        ("expiration", 60000, "expiration must be a str, not int"),
        ("headers", {"a": {1}}, r"headers \['a'\] is of type set"),
        ("headers", [("a", 1)], "headers must be a mapping, not list"),
        ("delivery_mode", 256, "delivery_mode must be an int of 0 to 255, not 256"),
        ("delivery_mode", -1, "delivery_mode must be an int of 0 to 255, not -1"),
        ("priority", "high", "priority must be an int of 0 to 255, not 'high'"),
        ("priority", 1.0, "priority must be an int of 0 to 255, not 1.0"),
        ("timestamp", datetime(2020, 1, 1), "timestamp is 2020-01-01T00:00:00 without a time zone"),  # noqa: DTZ001
        ("timestamp", 1700000000, "timestamp must be a datetime, not int"),
    ],
)
def test_refused_with_the_name_of_the_property(name: str, value: Any, reason: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^property {reason}"):
        encode_properties(Properties(**{name: value}))


def test_a_timestamp_in_milliseconds_does_not_hide_the_rest() -> None:
    data = b"\x10\x40\x02" + struct.pack(">Q", 1_700_000_000_000)
    assert decode_properties(data) == Properties(delivery_mode=2, timestamp=None)


def test_truncated_at_each_octet() -> None:
    data = encode_properties(FULL)
    assert decode_properties(data) == FULL
    for size in range(len(data)):
        with pytest.raises(RemoteProtocolError) as caught:
            decode_properties(data[:size])
        assert caught.value.code == 502


def test_trailing_octets_are_refused() -> None:
    for data in (encode_properties(FULL), b"\x00\x00", b"\x10\x00\x02"):
        with pytest.raises(RemoteProtocolError, match="2 octets follow"):
            decode_properties(data + b"\x00\x00")


def test_continued_flags() -> None:
    assert decode_properties(b"\x10\x01\x00\x00\x02") == Properties(delivery_mode=2)
    assert decode_properties(b"\x10\x01\x00\x01\x00\x00\x02") == Properties(delivery_mode=2)
    for data in (b"\x10\x01\x80\x00\x02", b"\x10\x01\x00\x01\x00\x02\x02", b"\x10\x02\x02", b"\x10\x03\x00\x00\x02"):
        with pytest.raises(RemoteProtocolError, match="does not know"):
            decode_properties(data)
    for data in (b"\x10\x01", b"\x10\x01\x00", b"\x10\x01\x00\x01"):
        with pytest.raises(RemoteProtocolError, match="truncated"):
            decode_properties(data)


@given(st.binary(max_size=100))
def test_random_octets(data: bytes) -> None:
    try:
        properties = decode_properties(data)
    except RemoteProtocolError:
        return
    encode_properties(properties)


@given(st.data())
def test_corrupted(data: st.DataObject) -> None:
    octets = bytearray(encode_properties(FULL))
    for _ in range(data.draw(st.integers(1, 3))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_properties(bytes(octets))
    except RemoteProtocolError:
        pass


def test_repr_shows_what_is_there() -> None:
    assert repr(Properties()) == "Properties()"
    assert repr(Properties(priority=0, type="t")) == "Properties(priority=0, type='t')"


@pytest.mark.parametrize(
    "properties",
    [
        Properties(content_type="text/plain", content_encoding="gzip", headers={"a": 1}, correlation_id="7"),
        Properties(content_encoding="gzip", headers={}, reply_to="q"),
        Properties(headers={"a": [1, {"b": None}]}),
        Properties(reply_to="q"),
        Properties(),
    ],
)
def test_headers_can_be_passed_over(properties: Properties) -> None:
    encoded = encode_properties(properties)
    assert decode_all_but_headers(encoded) == replace(properties, headers=None)
    if properties.headers:  # what they hold is not looked at
        place = encoded.index(b"\x01a")
        broken = encoded[:place] + b"\xff" + encoded[place + 1 :]
        assert decode_all_but_headers(broken) == replace(properties, headers=None)


def test_a_truncated_list_of_properties_is_refused_whatever_is_passed_over() -> None:
    encoded = encode_properties(Properties(content_type="text/plain", headers={"a": 1}, reply_to="q"))
    for length in range(len(encoded)):
        with pytest.raises(RemoteProtocolError):
            decode_all_but_headers(encoded[:length])


@given(some_properties)
def test_the_hot_way_and_the_rows_give_the_same_octets(properties: Properties) -> None:
    assert encode_properties(properties) == encode_by_rows(properties)
