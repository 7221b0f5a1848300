"""The table of methods: every method and field of pamqp, equal octets, exact errors, hostile input."""

from __future__ import annotations

import inspect
import re
import struct
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pamqp import base, commands

from rabbitry._errors import RemoteProtocolError
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.codec import FieldType, Method, method
from rabbitry.protocol.wire.methods import METHODS, decode_method, encode_method_frame, method_name
from rabbitry.protocol.wire.tables import encode_table

ROWS = list(METHODS.values())
ids = [row.name for row in ROWS]


def pamqp_classes() -> Iterator[type[base.Frame]]:
    for group in vars(commands).values():
        if inspect.isclass(group):
            for command in vars(group).values():
                if inspect.isclass(command) and issubclass(command, base.Frame):
                    yield command


PAMQP = {struct.pack(">I", command.index): command for command in pamqp_classes()}
RENAMED = {"exchange_type": "type"}
FAILING = {"class_id": "failing_class_id", "method_id": "failing_method_id"}

# --- values --------------------------------------------------------------------------------------------------------

flat_tables = st.dictionaries(
    st.text(max_size=20),
    st.none() | st.booleans() | st.integers(65536, 2**31 - 1) | st.text(max_size=20),
    max_size=4,
).map(lambda table: dict(sorted(table.items())))  # as pamqp does

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bit": st.booleans(),
    "octet": st.integers(0, 2**8 - 1),
    "short": st.integers(0, 2**16 - 1),
    "long": st.integers(0, 2**32 - 1),
    "longlong": st.integers(0, 2**63 - 1),  # pamqp takes it for signed
    "shortstr": st.text(max_size=63),
    "longstr": st.text(max_size=100).map(str.encode),  # pamqp takes it for text
    "table": flat_tables,
}


def methods_of(row: type[Method]) -> st.SearchStrategy[Method]:
    return st.builds(row, **{field.name: VALUES[field.type.name] for field in row.fields})


def filled(row: type[Method]) -> Method:
    """A method with something in each field."""
    samples = {
        "bit": True,
        "octet": 1,
        "short": 258,
        "long": 66051,
        "longlong": 2**40,
        "shortstr": "héllo",
        "longstr": b"\xff\0",
        "table": {"a": [1, {"b": None}]},
    }
    return row(**{field.name: samples[field.type.name] for field in row.fields})


any_method = st.sampled_from(ROWS).flatmap(methods_of)

# --- the rows ------------------------------------------------------------------------------------------------------


def test_every_method_of_pamqp_has_its_row_and_access_besides() -> None:
    assert len(PAMQP) == 64
    assert METHODS.keys() - PAMQP.keys() == {b"\x00\x1e\x00\x0a", b"\x00\x1e\x00\x0b"}
    assert not PAMQP.keys() - METHODS.keys()


@pytest.mark.parametrize("key", sorted(PAMQP), ids=lambda key: METHODS[key].name)
def test_each_row_is_pamqps(key: bytes) -> None:
    row, command = METHODS[key], PAMQP[key]
    renamed = RENAMED | (FAILING if row.name.endswith(".close") else {})
    assert [(field.name, field.type.name) for field in row.fields] == [
        (renamed.get(name, name), command.amqp_type(name)) for name in command.attributes()
    ]
    assert row.__name__ == command.name.replace(".", "")
    assert row.is_synchronous == command.synchronous
    assert list(row.replies) == [reply.replace(".", "") for reply in command.valid_responses]


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_each_row_is_consistent(row: type[Method]) -> None:
    assert METHODS[row.key] is row is getattr(methods, row.__name__)
    assert struct.unpack(">HH", row.key) == (row.class_id, row.method_id)
    assert row.name.replace(".", "").replace("-", "") == row.__name__.lower()
    assert row.__slots__ == tuple(field.name for field in row.fields)
    assert row.__doc__
    assert row.__module__ == "rabbitry.protocol.wire.methods"
    assert row.has_content == (row.__name__ in {"BasicPublish", "BasicReturn", "BasicDeliver", "BasicGetOk"})
    for reply in row.replies:
        assert issubclass(getattr(methods, reply), Method)
        assert getattr(methods, reply).class_id == row.class_id
    instance = filled(row)
    assert not hasattr(instance, "__dict__")
    with pytest.raises(AttributeError):
        instance.surprise = 1  # type: ignore[attr-defined]


def test_names() -> None:
    assert methods.ConnectionUpdateSecretOk.name == "connection.update-secret-ok"
    assert methods.BasicGetEmpty.name == "basic.get-empty"
    assert methods.BasicRecoverAsync.name == "basic.recover-async"
    assert method_name(50, 10) == "queue.declare"
    assert method_name(0, 0) == ""
    assert method_name(60, 0) == "method 60.0"


# --- objects -------------------------------------------------------------------------------------------------------


def test_construction_is_by_keyword_with_defaults() -> None:
    declare = methods.QueueDeclare(queue="q", durable=True)
    assert (declare.ticket, declare.queue, declare.durable, declare.passive) == (0, "q", True, False)
    assert dict(declare.arguments) == {}
    with pytest.raises(TypeError):
        methods.QueueDeclare("q")  # type: ignore[arg-type, call-arg]
    with pytest.raises(TypeError):
        methods.QueueDeclare(name="q")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        methods.BasicAck()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        methods.TxSelect(x=1)  # type: ignore[call-arg]


def test_equality_is_by_class_and_value() -> None:
    assert methods.BasicAck(delivery_tag=1) == methods.BasicAck(delivery_tag=1, multiple=False)
    assert methods.BasicAck(delivery_tag=1) != methods.BasicAck(delivery_tag=2)
    assert methods.TxSelect() != methods.TxCommit()
    assert methods.TxSelect() != "tx.select"
    with pytest.raises(TypeError):
        hash(methods.TxSelect())


def test_repr_shows_what_differs_from_the_defaults() -> None:
    assert repr(methods.QueueDeclare(queue="q", durable=True)) == "QueueDeclare(queue='q', durable=True)"
    assert repr(methods.TxSelect()) == "TxSelect()"
    assert repr(methods.BasicAck(delivery_tag=0)) == "BasicAck(delivery_tag=0)"


@pytest.mark.parametrize(
    "secretive",
    [
        methods.ConnectionStartOk(response=b"\0guest\0hunter2"),
        methods.ConnectionSecureOk(response=b"hunter2"),
        methods.ConnectionUpdateSecret(new_secret=b"hunter2"),
    ],
)
def test_secrets_are_not_shown(secretive: Method) -> None:
    assert "hunter2" not in repr(secretive)
    assert "hunter2" not in str(secretive)
    assert secretive == decode_method(secretive.encode())


# --- octets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instance", "payload"),
    [
        (methods.ConnectionTuneOk(channel_max=1, frame_max=2, heartbeat=3), "000a001f 0001 00000002 0003"),
        (methods.ConnectionOpen(virtual_host="/"), "000a0028 012f 00 00"),
        (methods.QueueDeclare(queue="q", durable=True, nowait=True), "0032000a 0000 0171 12 00000000"),
        (methods.ExchangeDeclare(exchange="e", internal=True), "0028000a 0000 0165 06646972656374 08 00000000"),
        (methods.BasicQos(prefetch_count=100, global_=True), "003c000a 00000000 0064 01"),
        (methods.BasicNack(delivery_tag=2**64 - 1, multiple=True), "003c0078 ffffffffffffffff 03"),
        (methods.AccessRequest(), "001e000a 052f64617461 1e"),
        (methods.TxSelect(), "005a000a"),
    ],
    ids=lambda value: value.name if isinstance(value, Method) else "",
)
def test_payloads(instance: Method, payload: str) -> None:
    assert instance.encode() == bytes.fromhex(payload)
    assert decode_method(bytes.fromhex(payload)) == instance


def test_frames() -> None:
    assert encode_method_frame(5, methods.TxSelect()) == b"\x01\x00\x05\x00\x00\x00\x04\x00\x5a\x00\x0a\xce"
    for channel in (-1, 65536, "1", None):
        with pytest.raises(ValueError, match="channel's number"):
            encode_method_frame(channel, methods.TxSelect())  # type: ignore[arg-type]


def test_more_than_eight_bits_take_more_octets() -> None:
    names = [f"bit{number}" for number in range(18)]
    row = type("TestBits", (Method,), {"__annotations__": dict.fromkeys(names, "Bit") | {"text": "ShortStr"}})
    bits: Any = method(999, 1)(row)
    assert bits(**dict.fromkeys(names, True), text="x").encode()[4:] == b"\xff\xff\x03\x01x"
    for number, name in enumerate(names):
        values = dict.fromkeys(names, False) | {name: True}
        payload = bits(**values, text="").encode()
        assert payload[4:7] == struct.pack("<I", 1 << number)[:3]
        assert bits.decode(payload) == bits(**values, text="")


@given(any_method)
def test_round_trip(instance: Method) -> None:
    payload = instance.encode()
    assert payload[:4] == instance.key
    decoded = decode_method(payload)
    assert decoded == instance
    assert decoded.encode() == payload
    for field in instance.fields:
        assert isinstance(getattr(decoded, field.name), type(getattr(instance, field.name)) | MappingProxyType)


@given(st.sampled_from([row for row in ROWS if row.key in PAMQP]).flatmap(methods_of))
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_same_octets_as_pamqp(instance: Method) -> None:
    command = PAMQP[instance.key]
    # pamqp forbids many values that the broker takes (names, reserved fields): without its checks.
    unchecked: Any = type(command.__name__, (command,), {"validate": lambda self: None, "__slots__": command.__slots__})
    theirs = unchecked.__new__(unchecked)
    for name, field in zip(command.attributes(), instance.fields, strict=True):
        value = getattr(instance, field.name)
        setattr(theirs, name, value.decode() if isinstance(value, bytes) else value)
    payload = instance.encode()
    assert payload == instance.key + theirs.marshal()
    again = unchecked.__new__(unchecked)
    again.unmarshal(payload[4:])
    for name, field in zip(command.attributes(), instance.fields, strict=True):
        value = getattr(instance, field.name)
        assert getattr(again, name) == (value.decode() if isinstance(value, bytes) else value)


# --- tables in methods ---------------------------------------------------------------------------------------------


def test_equal_tables_are_decoded_once_and_read_only() -> None:
    properties: dict[str, Any] = {"product": "RabbitMQ", "capabilities": {"basic.nack": True}, "list": [{"a": 1}]}
    payload = methods.ConnectionStart(server_properties=properties).encode()
    first, second = decode_method(payload), decode_method(payload)
    assert isinstance(first, methods.ConnectionStart) and isinstance(second, methods.ConnectionStart)
    assert first.server_properties is second.server_properties
    shared = first.server_properties
    assert shared["capabilities"]["basic.nack"] is True
    assert shared["list"][0]["a"] == 1
    for table in (shared, shared["capabilities"], shared["list"][0]):
        assert isinstance(table, Mapping)
        with pytest.raises(TypeError):
            table["x"] = 1  # type: ignore[index]
    assert isinstance(shared["list"], tuple)
    assert encode_table(shared) == encode_table(properties)


# --- what can't be encoded -----------------------------------------------------------------------------------------

BAD: dict[str, list[tuple[Any, str]]] = {
    "bit": [],
    "octet": [(-1, "must be an int of 0 to 255, not -1"), (256, "not 256"), ("1", "not '1'"), (None, "not None")],
    "short": [(-1, "must be an int of 0 to 65535, not -1"), (65536, "not 65536"), (1.0, "not 1.0")],
    "long": [(-1, "must be an int of 0 to 4294967295, not -1"), (2**32, "not 4294967296"), (b"1", "not b'1'")],
    "longlong": [(-1, "must be an int of 0 to 18446744073709551615, not -1"), (2**64, "not 18446744073709551616")],
    "shortstr": [
        ("x" * 256, "is 256 bytes long in UTF-8; the limit is 255"),
        ("é" * 128, "is 256 bytes long"),
        (b"x", "must be a str, not bytes"),
        (None, "must be a str, not NoneType"),
        ("\ud800", "contains a character that UTF-8 can't represent"),
    ],
    "longstr": [("x", "must be bytes, not str"), (None, "must be bytes, not NoneType")],
    "table": [
        ({"a": object()}, "['a'] is of type object"),
        ({1: 1}, "has a key that must be a str, not int"),
        ([1], "must be a mapping, not list"),
        (None, "must be a mapping, not NoneType"),
    ],
}


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_each_bad_field_is_named(row: type[Method]) -> None:
    for field in row.fields:
        for value, reason in BAD[field.type.name]:
            instance = filled(row)
            setattr(instance, field.name, value)
            with pytest.raises((TypeError, ValueError), match=re.escape(reason)) as caught:
                instance.encode()
            assert str(caught.value).startswith(f"{row.name}: {field.name} ")


def test_names_must_be_utf8_but_routes_need_not() -> None:
    with pytest.raises(ValueError, match="queue contains a character"):
        methods.QueueDeclare(queue="\udcff").encode()
    publish = methods.BasicPublish(exchange="", routing_key="\udcff")
    assert publish.encode() == b"\x00\x3c\x00\x28\x00\x00\x00\x01\xff\x00"
    assert decode_method(publish.encode()) == publish


# --- what can't be decoded -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_truncated_at_each_octet(row: type[Method]) -> None:
    payload = filled(row).encode()
    assert decode_method(payload).encode() == payload
    for size in range(len(payload)):
        with pytest.raises(RemoteProtocolError) as caught:
            decode_method(payload[:size])
        assert caught.value.code == (540 if size < 4 else 502)
        if size >= 4:
            assert str(caught.value).startswith(f"{row.name}: ")


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_trailing_octets_are_refused(row: type[Method]) -> None:
    with pytest.raises(RemoteProtocolError, match=f"{re.escape(row.name)}: 1 octets? follow") as caught:
        decode_method(filled(row).encode() + b"\x00")
    assert caught.value.code == 502


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x00\x0a\x00\x0c", b"\x00\x3c\x00\x00rest", b"\xff" * 40])
def test_unknown_methods_are_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="unknown method") as caught:
        decode_method(payload)
    assert caught.value.code == 540


@given(st.sampled_from(ROWS), st.binary(max_size=80))
def test_random_arguments(row: type[Method], data: bytes) -> None:
    try:
        decode_method(row.key + data)
    except RemoteProtocolError:
        pass


@given(any_method, st.data())
def test_corrupted_methods(instance: Method, data: st.DataObject) -> None:
    octets = bytearray(instance.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_method(bytes(octets))
    except RemoteProtocolError:
        pass


def test_field_types_explain_themselves() -> None:
    assert FieldType("octet", "B").fault(255) is None
    for value, kind in ((256, ValueError), ("1", TypeError)):
        fault = FieldType("octet", "B").fault(value)
        assert type(fault) is kind and str(fault) == f"must be an int of 0 to 255, not {value!r}"
    assert FieldType("bit").fault("anything") is None
