"""Messages: every property and header type goes to the broker and back unchanged; codecs; refusals."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rabbitry
from rabbitry import Delivery
from rabbitry.protocol.wire.properties import Properties, encode_properties
from tests.support.helpers import exclusive_queue, open_channel

ROOT = Path(__file__).parents[2]

FULL = rabbitry.Message(
    b"body",
    content_type="text/plain",
    content_encoding="gzip",
    headers={"key": "value"},
    delivery_mode=1,
    priority=255,
    correlation_id="correlation",
    reply_to="reply",
    expiration=60.0,
    message_id="id",
    timestamp=datetime(2024, 2, 29, 12, 30, 15, tzinfo=UTC),
    type="type",
    user_id="guest",
    app_id="app",
    cluster_id="cluster",
)

HEADERS: dict[str, Any] = {
    "true": True,
    "false": False,
    "none": None,
    "zero": 0,
    "small": -128,
    "int": 2**31 - 1,
    "long": -(2**63),
    "big": 2**63 - 1,
    "float": 0.1,
    "decimal": Decimal("-12.345"),
    "text": "žluťoučký 🐇",
    "empty": "",
    "bytes": b"\x00\xff",
    "time": datetime(1970, 1, 1, tzinfo=UTC),
    "list": [1, "two", [3.0, None], {"four": b"4"}],
    "table": {"nested": {"deeply": [True]}},
    "": "a name may be empty",
    "ž" * 127: "or 254 bytes long",
}


async def back(url: str, *messages: rabbitry.Message) -> list[rabbitry.Delivery]:
    """The messages as they come out of a queue."""
    async with open_channel(url) as channel:
        queue = await exclusive_queue(channel)
        async with channel.publisher() as publisher:
            for message in messages:
                await publisher.submit(message, routing_key=queue)
        deliveries = []
        for _ in messages:
            delivery = await channel.get(queue, no_ack=True)
            assert delivery is not None
            deliveries.append(delivery)
        return deliveries


async def test_every_property(amqp_url: str) -> None:
    names = [field.name for field in dataclasses.fields(FULL) if field.name not in ("body", "_encoded")]
    assert len(names) == 14
    each = [
        rabbitry.Message(b"", delivery_mode=None, **{name: getattr(FULL, name)})
        for name in names
        if name != "delivery_mode"
    ]
    nothing = rabbitry.Message(b"", delivery_mode=None)
    sent = [FULL, rabbitry.Message(b"plain"), nothing, *each]
    assert [delivery.message for delivery in await back(amqp_url, *sent)] == sent


async def test_every_header_type(amqp_url: str) -> None:
    [delivery] = await back(amqp_url, rabbitry.Message(b"", headers=HEADERS))
    assert delivery.headers == HEADERS
    assert {name: type(value) for name, value in delivery.headers.items()} == {
        name: type(value) for name, value in HEADERS.items()
    }


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.binary(max_size=60)
    | st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)).map(lambda t: t.replace(microsecond=0, tzinfo=UTC)),  # noqa: DTZ001
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
short = st.none() | texts
messages = st.builds(
    rabbitry.Message,
    st.binary(max_size=200),
    content_type=short,
    content_encoding=short,
    headers=st.none() | st.dictionaries(texts.filter(lambda key: key not in ("CC", "BCC")), values, max_size=5),
    delivery_mode=st.sampled_from([None, 1, 2]),
    priority=st.none() | st.integers(0, 255),
    correlation_id=short,
    reply_to=short,
    expiration=st.none() | st.integers(60_000, 4294967295).map(lambda milliseconds: milliseconds / 1000),
    message_id=short,
    timestamp=st.none() | st.integers(0, 253402300799).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    type=short,
    app_id=short,
    cluster_id=short,
)


@settings(max_examples=15, deadline=None)
@given(st.lists(messages, min_size=1, max_size=20))
async def test_any_message_comes_back_as_it_was(amqp_url: str, sent: list[rabbitry.Message]) -> None:
    assert [delivery.message for delivery in await back(amqp_url, *sent)] == sent


async def test_durations_and_time_zones(amqp_url: str) -> None:
    noon = datetime(2024, 6, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    sent = [
        rabbitry.Message(b"", expiration=timedelta(minutes=1), timestamp=noon),
        rabbitry.Message(b"", expiration=60.0001),  # rounded up: never shorter than asked for
        rabbitry.Message(b"", expiration=4294967.295),
    ]
    first, second, third = await back(amqp_url, *sent)
    assert first.properties.expiration == "60000"
    assert first.properties.timestamp == noon
    assert second.properties.expiration == "60001"
    assert third.properties.expiration == "4294967295"


async def test_an_expired_message_is_gone(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        await channel.publish(rabbitry.Message(b"", expiration=0), routing_key=queue)
        assert await channel.get(queue) is None


@pytest.mark.parametrize(
    ("value", "codec", "content_type", "body"),
    [
        ({"ž": [1, None]}, "json", "application/json", '{"ž":[1,null]}'.encode()),
        ({"1": [b"bytes", True]}, "msgpack", "application/msgpack", b"\x81\xa11\x92\xc4\x05bytes\xc3"),
        ("ž", "text", "text/plain", "ž".encode()),
        (b"raw", "raw", "application/octet-stream", b"raw"),
    ],
)
async def test_codecs(amqp_url: str, value: Any, codec: str, content_type: str, body: bytes) -> None:
    message = rabbitry.Message.encode(value, codec=codec, priority=3)
    assert (message.body, message.content_type, message.priority) == (body, content_type, 3)
    [delivery] = await back(amqp_url, message)
    assert delivery.decode() == delivery.decode(codec) == value


def test_codec_shorthands_and_overrides() -> None:
    assert rabbitry.Message.json([1]) == rabbitry.Message(b"[1]", content_type="application/json")
    assert rabbitry.Message.msgpack([1]) == rabbitry.Message(b"\x91\x01", content_type="application/msgpack")
    assert (
        rabbitry.Message.json([1], content_type="application/vnd.mine+json").content_type == "application/vnd.mine+json"
    )
    with pytest.raises(ValueError, match="json, msgpack"):
        rabbitry.Message.encode(1, codec="yaml")


async def test_what_does_not_decode(amqp_url: str) -> None:
    unknown, wrong, patch, text = await back(
        amqp_url,
        rabbitry.Message(b"?"),
        rabbitry.Message(b"{", content_type="application/json; charset=utf-8"),
        rabbitry.Message(b"{}", content_type="application/json-patch+json"),
        rabbitry.Message(b"<p>", content_type="text/html"),
    )
    with pytest.raises(rabbitry.DecodeError, match="content type None"):
        unknown.decode()
    assert unknown.decode("text") == "?"
    with pytest.raises(rabbitry.DecodeError, match="not valid json"):
        wrong.decode()
    assert patch.decode() == {}
    assert text.decode() == "<p>"


def test_a_message_is_decoded_as_its_delivery_would_be() -> None:
    assert rabbitry.Message.json({"a": 1}).decode() == {"a": 1}
    assert rabbitry.Message.msgpack([1]).decode() == [1]
    assert rabbitry.Message(b"5").decode("json") == 5
    assert rabbitry.Message("ü".encode("latin-1"), content_type="text/plain; charset=latin-1").decode() == "ü"
    for message in (rabbitry.Message(b"x"), rabbitry.Message(b"{", content_type="application/json")):
        with pytest.raises(rabbitry.DecodeError):
            message.decode()


def test_frozen_and_replaceable() -> None:
    headers = {"a": 1}
    message = rabbitry.Message(b"body", headers=headers)
    headers["b"] = 2
    assert message.headers == {"a": 1}
    with pytest.raises(TypeError):
        message.headers["c"] = 3  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.body = b""  # type: ignore[misc]
    other = message.replace(body=b"other", priority=1)
    assert (other.body, other.priority, other.headers) == (b"other", 1, {"a": 1})
    assert message == rabbitry.Message(b"body", headers={"a": 1})


async def test_a_replaced_message_is_sent_as_replaced(amqp_url: str) -> None:
    """The encoded properties are kept with a message, also for those that differ in their body alone."""
    first = rabbitry.Message(b"1", type="a")
    await back(amqp_url, first)
    sent = [first, first.replace(body=b"2"), first.replace(type="b"), first.replace(body=b"3", type="c")]
    assert [delivery.message for delivery in await back(amqp_url, *sent)] == sent


@pytest.mark.parametrize("body", ["text", 1, None, [b"list"], {}])
def test_bodies_are_bytes(body: Any) -> None:
    with pytest.raises(TypeError, match=r"Message\.json"):
        rabbitry.Message(body)


@pytest.mark.parametrize(
    ("properties", "error", "words"),
    [
        ({"delivery_mode": 7}, ValueError, r"2 \(persistent\) or 1 \(transient\), not 7"),
        ({"delivery_mode": 0}, ValueError, "delivery_mode"),
        ({"delivery_mode": -1}, ValueError, "delivery_mode"),
        ({"delivery_mode": "2"}, TypeError, "delivery_mode"),
        ({"delivery_mode": 1.5}, TypeError, "delivery_mode"),
        ({"expiration": "5000"}, TypeError, "seconds or a timedelta, not '5000': .* is expiration=5 here"),
        ({"expiration": b"5000"}, TypeError, "expiration"),
        ({"headers": [("name", 1)]}, TypeError, "headers must be a mapping of names to values, not list"),
        ({"headers": "name=1"}, TypeError, "headers"),
        ({"headers": {"name"}}, TypeError, "headers"),
    ],
)
def test_refused_as_it_is_made(properties: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        rabbitry.Message(b"", **properties)
    with pytest.raises(error, match=words):
        rabbitry.Message.json({}, **properties)
    with pytest.raises(error, match=words):
        rabbitry.Message(b"").replace(**properties)


def test_a_delivery_mode_that_there_is_not_can_be_received() -> None:
    """RabbitMQ 4 lets any pass, and takes all but 2 for transient."""
    header = encode_properties(Properties(delivery_mode=7, expiration="soon"))
    delivery = Delivery(None, None, 1, False, b"\0\0", header, b"x")  # type: ignore[arg-type]
    assert delivery.properties.delivery_mode == 7
    assert delivery.message == rabbitry.Message(b"x", delivery_mode=1)
    assert delivery.message.replace(body=b"y").delivery_mode == 1


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"timestamp": datetime(2024, 1, 1)}, "timestamp"),  # noqa: DTZ001
        ({"expiration": float("nan")}, "finite"),
        ({"expiration": -0.1}, "expiration"),
        ({"expiration": 4294967.296}, "expiration"),
        ({"correlation_id": "x" * 256}, "correlation_id"),
        ({"priority": "high"}, "priority"),
        ({"headers": {"key": {1: 2}}}, "headers"),
        ({"headers": {"key": 2**63}}, "key"),
        ({"headers": {"key": float("inf")}}, "RabbitMQ"),
    ],
)
async def test_refused_before_anything_is_sent(amqp_url: str, properties: dict[str, Any], words: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        message = rabbitry.Message(b"", **properties)
        for mandatory in (False, True):
            with pytest.raises((TypeError, ValueError), match=words):
                await channel.publish(message, routing_key=queue, mandatory=mandatory)
        await channel.publish(b"the next one is confirmed as itself", routing_key=queue)
        assert await channel.purge_queue(queue) == 1


@pytest.mark.parametrize("copied", [lambda message: pickle.loads(pickle.dumps(message)), copy.deepcopy, copy.copy])
def test_messages_can_be_copied_and_pickled(copied: Callable[[rabbitry.Message], rabbitry.Message]) -> None:
    assert copied(FULL) == FULL
    failure = rabbitry.Nacked(FULL, "exchange", "key")
    assert pickle.loads(pickle.dumps(failure)).message == FULL


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_name_the_public_class_alone(protocol: int) -> None:
    """They are kept, and read by other versions: modules that are not public may move."""
    pickled = pickle.dumps(FULL, protocol)
    assert pickle.loads(pickled) == FULL
    named = {name for name, _ in globals_in(pickled) if name.startswith("rabbitry")}
    assert named == {"rabbitry"}


def globals_in(pickled: bytes) -> set[tuple[str, str]]:
    """Module and name of everything that loading it imports."""
    found = set()

    class Recording(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found.add((module, name))
            return super().find_class(module, name)

    Recording(io.BytesIO(pickled)).load()
    return found


FORMER = (
    b"crabbitry._message\n_rebuilt\np0\n((dp1\nVbody\np2\nc_codecs\nencode\np3\n(Vbody\np4\nVlatin1\np5\ntp6\nRp7\n"
    b"sVcontent_type\np8\nNsVcontent_encoding\np9\nNsVheaders\np10\n(dp11\nVkey\np12\nVvalue\np13\nssVdelivery_mode\n"
    b"p14\nI2\nsVpriority\np15\nI3\nsVcorrelation_id\np16\nNsVreply_to\np17\nNsVexpiration\np18\nNsVmessage_id\np19\n"
    b"NsVtimestamp\np20\nNsVtype\np21\nNsVuser_id\np22\nNsVapp_id\np23\nNsVcluster_id\np24\nNstp25\nRp26\n."
)
"""Pickled when a message named a function of a private module: `rabbitry._message` stands for it, for one release."""


def test_pickles_of_former_versions_load() -> None:
    """In a process of its own, where nothing of rabbitry is imported before."""
    script = (
        "import pickle, sys\n"
        "message = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "import rabbitry\n"
        "assert message == rabbitry.Message(b'body', headers={'key': 'value'}, priority=3)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, FORMER.hex()], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_headers_are_copied_with_what_they_hold() -> None:
    nested = {"list": [1, 2]}
    message = rabbitry.Message(b"", headers=nested)
    nested["list"].append(3)
    assert message.headers == {"list": [1, 2]}


def test_a_message_is_frozen_from_when_it_is_made() -> None:
    message = rabbitry.Message(b"body", priority=3)
    assert type(message) is rabbitry.Message
    for name in ("body", "priority"):
        with pytest.raises(FrozenInstanceError):
            setattr(message, name, b"")
        with pytest.raises(FrozenInstanceError):
            delattr(message, name)
    assert not hasattr(message, "__dict__")
    fields = {each.name for each in dataclasses.fields(message)}
    assert set(inspect.signature(rabbitry.Message).parameters) == fields - {"_encoded"}


class Plain(rabbitry.Message):
    """A program's own, with a dictionary."""


class Slotted(rabbitry.Message):
    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Derived(rabbitry.Message):
    tenant: str = "a"


@pytest.mark.parametrize("kind", [Plain, Slotted, Derived])
def test_classes_of_a_programs_own_are_messages_too(kind: type[rabbitry.Message]) -> None:
    message = kind(bytearray(b"body"), headers={"a": 1}, priority=3)  # type: ignore[arg-type]
    assert type(message) is kind
    assert message.replace(priority=4).priority == 4 and type(message.replace(body=b"")) is kind
    assert (message.body, message.headers, message.delivery_mode) == (b"body", {"a": 1}, 2)
    assert isinstance(message.headers, MappingProxyType)
    assert message.encoded_properties() == rabbitry.Message(b"", headers={"a": 1}, priority=3).encoded_properties()
    with pytest.raises(FrozenInstanceError):
        message.priority = 5  # type: ignore[misc]
    with pytest.raises(TypeError, match=r"Message\.json"):
        kind("text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="delivery_mode"):
        kind(b"", delivery_mode=3)
