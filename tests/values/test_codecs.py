"""Codecs of RPC: the user's own, chosen by name or content type; what can't be decoded ends its call, and is told."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from time import process_time
from typing import Any

import anyio
import msgpack
import pytest

import rabbitry
from rabbitry import Codec
from rabbitry._channel.channel import life_of
from rabbitry._values import codecs
from rabbitry.protocol.wire.properties import Properties, encode_properties
from tests.support.helpers import exclusive_queue, has_counts


def reverse(body: bytes) -> Any:
    return json.loads(body[::-1])


BACKWARDS = Codec("backwards", "application/x-backwards", lambda value: json.dumps(value).encode()[::-1], reverse)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers goes with it."""
    monkeypatch.setattr(codecs, "_BY_NAME", dict(codecs._BY_NAME))
    monkeypatch.setattr(codecs, "_BY_CONTENT_TYPE", dict(codecs._BY_CONTENT_TYPE))


async def echo(payload: Any) -> Any:
    return payload


async def test_a_codec_of_the_users_own_works_unregistered_where_both_sides_name_it(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(partial(connection.serve, queue, echo, codec=BACKWARDS))
            async with connection.rpc(codec=BACKWARDS) as rpc:
                assert await rpc.call(queue, {"a": [1]}) == {"a": [1]}
            tg.cancel_scope.cancel()


@pytest.mark.parametrize("content_type", ["", "application/x-backwards; charset=utf-8", "Application/X-Backwards"])
def test_a_content_type_with_parameters_is_still_that_of_the_codec_in_use(content_type: str) -> None:
    assert codecs.decode_from(b"]1[", content_type, BACKWARDS) == [1]


MSGPACK, JSON = "application/msgpack", "application/json"


@pytest.mark.parametrize(
    ("content_type", "body", "told"),
    [
        (MSGPACK, b"\x91" * 100_000, "StackError"),  # nested; its exception has no text
        (MSGPACK, b"\xdd\xff\xff\xff\xff", "max_array_len"),  # four thousand million elements in five bytes
        (MSGPACK, b"\xdf\xff\xff\xff\xff", "max_map_len"),
        (MSGPACK, b"\xc6\xff\xff\xff\xff", "max_bin_len|incomplete"),
        (MSGPACK, b"\xdd\x00\x00\x40\x00" * 1000 + bytes(16384), "incomplete"),  # each a list of 16,384
        (MSGPACK, b"\x81\x90\x01", "msgpack-any-keys"),
        (MSGPACK, b"\x81\x01\x01", "no text: codec 'msgpack-any-keys'"),
        (MSGPACK, b"\x81\xcb" + bytes(8) + b"\x01", "msgpack-any-keys"),
        (MSGPACK, b"\x91\x81\xc0\x01", "msgpack-any-keys"),
        (MSGPACK, b"\x81\xd7\xff" + bytes(8) + b"\x01", "msgpack-any-keys"),
        (MSGPACK, b"\xd7\xff" + b"\xff" * 8, "nanoseconds"),
        (MSGPACK, b"\xc7\x0c\xff" + bytes(4) + b"\x7f" + b"\xff" * 7, "too large"),
        (MSGPACK, b"\xa1\xff", "utf-8"),
        (JSON, b"[" * 100_000, "recursion|Stack overflow"),  # the latter on Python 3.14
        (JSON, b"1" * 100_000, "4300 digits"),
        (JSON, b"", "Expecting value"),
        (JSON, b"\xff\xfe\x00", "truncated|utf-16"),
        ("text/plain; charset=us-ascii", b"\xe9", "us-ascii"),
    ],
)
def test_whatever_a_peer_sends_is_a_decode_error(content_type: str, body: bytes, told: str) -> None:
    with pytest.raises(rabbitry.DecodeError, match=told):
        codecs.decode_body(body, content_type, None)


def heads(count: int, length: int) -> bytes:
    """An array whose first element is an array, and so on, each announcing `length` elements."""
    return (b"\xdd" + length.to_bytes(4, "big")) * count


@pytest.mark.parametrize(
    "body",
    [
        heads(1020, 5_100)[:5_100],
        heads(500, 450_000) + bytes(450_000),  # 1.8 GB of places
        heads(500, 100) + bytes(200),
        (b"\xde\x03\xe8" * 500) + bytes(5_000),  # objects
    ],
)
@pytest.mark.parametrize("codec", ["msgpack", "msgpack-any-keys"])
def test_what_arrays_announce_is_not_reserved_before_it_is_there(body: bytes, codec: str) -> None:
    """A head in a head in a head: 5,100 bytes took 34 ms, 450,000 what memory there was."""
    tracemalloc.start()
    try:
        with pytest.raises(rabbitry.DecodeError, match=r"incomplete|StackError|any-keys"):
            codecs.decode_body(body, None, codec)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(body) + 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [10, 100, 255, 256, 257, 5_000])
def test_large_bodies_decode_as_small_ones(size: int) -> None:
    """Which are read twice."""
    value = {"a": [[1, b"x", None]] * (size // 4), "b" * size: 2**63, "at": datetime(2020, 1, 1, tzinfo=UTC)}
    message = rabbitry.Message.msgpack(value)
    assert codecs.decode_body(message.body, MSGPACK, None) == value
    for end in range(0, len(message.body), 1 + size // 50):
        with pytest.raises(rabbitry.DecodeError):
            codecs.decode_body(message.body[:end], MSGPACK, None)
    with pytest.raises(rabbitry.DecodeError):
        codecs.decode_body(message.body + b"x", MSGPACK, None)


def colliding(count: int) -> bytes:
    """A map whose keys are numbers that a dict of this size has in one place."""
    return (
        b"\xdf"
        + count.to_bytes(4, "big")
        + b"".join(b"\xcf" + (number << 40).to_bytes(8, "big") + b"\x01" for number in range(1, count + 1))
    )


def test_keys_that_a_sender_could_have_collide_are_for_codecs_that_are_asked_for() -> None:
    body = colliding(45_000)
    began = process_time()
    for _ in range(10):
        with pytest.raises(rabbitry.DecodeError, match="any-keys"):
            codecs.decode_body(body, MSGPACK, None)
    assert process_time() - began < 0.2
    few = colliding(10)
    assert codecs.decode_body(few, MSGPACK, "msgpack-any-keys") == {number << 40: 1 for number in range(1, 11)}
    assert rabbitry.Message.encode({1: 2}, codec="msgpack-any-keys") == rabbitry.Message.msgpack({1: 2})


@pytest.mark.parametrize("codec", ["json", "msgpack", "text", BACKWARDS])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"1"),
        ("application/msgpack", b"\x01"),
        ("application/x-msgpack", b"\x01"),
        ("application/hal+json", b"1"),
        ("text/html", b"1"),
        ("application/x-backwards", b"1"),
        ("application/x-unknown", b"1"),
        ("\x1b[2J", b"1"),
        ("application/octet-stream", None),
        ("", None),
        (None, None),
    ],
)
def test_a_request_is_decoded_by_the_codec_that_is_served_and_no_other(
    registry: None, codec: str | Codec, content_type: str | None, body: bytes | None
) -> None:
    rabbitry.register_codec(BACKWARDS)
    expected = codecs.codec_named(codec)
    fits = (
        body is None
        or {
            "application/hal+json": "json",
            "text/html": "text",
            "application/x-msgpack": "msgpack",
        }.get(content_type or "")
        == expected.name
        or content_type == expected.content_type
    )
    if fits:
        value = codecs.decode_from(body or expected.encode("1"), content_type, expected, is_request=True)
        assert value in (1, "1")
        return
    assert body is not None
    with pytest.raises(rabbitry.DecodeError, match=f"are taken as {expected.content_type} here") as caught:
        codecs.decode_from(body, content_type, expected, is_request=True)
    assert str(caught.value).isprintable()


def test_a_request_is_not_unpacked() -> None:
    """A thousandth of its size asks for it, and as often as somebody likes."""
    expected = codecs.codec_named("json")
    assert codecs.decode_from(b"[1]", JSON, expected, "utf-8", is_request=True) == [1]
    wide, kind = "[1]".encode("utf-16-le"), f"{JSON}; charset=utf-16le"
    assert codecs.decode_from(wide, kind, expected, "identity", is_request=True) == [1]
    with pytest.raises(rabbitry.DecodeError, match="no compressed requests"):
        codecs.decode_from(gzip.compress(b"[1]"), JSON, expected, "utf-8, gzip", is_request=True)
    with pytest.raises(rabbitry.DecodeError, match="content encoding 'br'"):
        codecs.decode_from(b"[1]", JSON, expected, "br", is_request=True)


@pytest.mark.parametrize(("codec", "value"), [("raw", 5), ("raw", [1]), ("raw", "x"), ("raw", None), ("text", 5)])
def test_raw_and_text_take_nothing_else(codec: str, value: Any) -> None:
    """`bytes(5)` is five zeros."""
    with pytest.raises(TypeError, match=f"codec '{codec}' takes"):
        rabbitry.Message.encode(value, codec=codec)


def test_raw_takes_whatever_holds_bytes() -> None:
    for value in (b"x", bytearray(b"x"), memoryview(b"x")):
        assert rabbitry.Message.encode(value, codec="raw").body == b"x"


@pytest.mark.usefixtures("registry")
async def test_a_registered_codec_is_chosen_by_content_type_by_callers_and_not_by_servers(amqp_url: str) -> None:
    async def backwards(request: rabbitry.Delivery) -> rabbitry.Message:
        return rabbitry.Message.encode([1, "x"], codec=BACKWARDS)

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue, other = await exclusive_queue(channel), await exclusive_queue(channel)
        async with anyio.create_task_group() as tg, connection.rpc(codec="json") as rpc:
            tg.start_soon(partial(connection.serve, queue, backwards, raw=True))
            tg.start_soon(partial(connection.serve, other, echo, codec="json"))
            with pytest.raises(rabbitry.DecodeError, match="no codec for content type"):
                await rpc.call(queue, 1)
            rabbitry.register_codec(BACKWARDS, "text/x-backwards; charset=utf-8")
            assert await rpc.call(queue, 1) == [1, "x"]
            async with connection.rpc(codec=BACKWARDS) as told:
                with pytest.raises(rabbitry.RemoteError, match="DecodeError: requests are taken as application/json"):
                    await told.call(other, 1)
            tg.cancel_scope.cancel()


@pytest.mark.usefixtures("registry")
def test_registering_refuses_clashes_and_then_registers_nothing() -> None:
    rabbitry.register_codec(BACKWARDS, "Text/X-Backwards; charset=utf-8")
    rabbitry.register_codec(BACKWARDS)
    message = rabbitry.Message.encode([1], codec="backwards")
    assert (message.body, message.content_type) == (b"]1[", "application/x-backwards")
    assert codecs.decode_body(b"]1[", "text/x-backwards", None) == [1]

    def other(name: str, content_type: str) -> Codec:
        return Codec(name, content_type, bytes, bytes)

    with pytest.raises(ValueError, match="another codec named 'json'"):
        rabbitry.register_codec(other("json", "application/x-new"))
    with pytest.raises(ValueError, match="'application/json' belongs to codec 'json'"):
        rabbitry.register_codec(other("new", "application/x-new"), "application/json")
    with pytest.raises(ValueError, match="not empty"):
        rabbitry.register_codec(other("new", ""))
    with pytest.raises(ValueError, match="no codec named 'new'"):
        rabbitry.Message.encode(b"", codec="new")
    with pytest.raises(rabbitry.DecodeError):
        codecs.decode_body(b"", "application/x-new", None)


@pytest.mark.parametrize("content_type", ["application/msgpack", None, "application/x-unknown"])
async def test_a_reply_that_can_not_be_decoded_ends_its_call(amqp_url: str, content_type: str | None) -> None:
    async def handler(request: rabbitry.Delivery) -> rabbitry.Message:
        return rabbitry.Message(b"\xc1", content_type=content_type)  # never used in MessagePack

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(partial(connection.serve, queue, handler, raw=True))
            async with connection.rpc() as rpc:
                with pytest.raises(rabbitry.DecodeError), anyio.fail_after(5):
                    await rpc.call(queue)
                assert await rpc.call(queue, raw=True) == b"\xc1"
            tg.cancel_scope.cancel()


def with_broken_headers(**properties: Any) -> bytes:
    """Encoded properties whose headers are nested deeper than is decoded here, which RabbitMQ passes on."""
    table = b"\0\0\0\0"
    for _ in range(70):
        table = b"\x01aF" + table
        table = len(table).to_bytes(4, "big") + table
    encoded = encode_properties(Properties(headers={}, **properties))
    at = encoded.index(b"\0\0\0\0", 2)  # the empty table
    return encoded[:at] + table + encoded[at + 4 :]


@pytest.mark.parametrize("content_type", [None, "application/msgpack"])
async def test_a_reply_whose_headers_can_not_be_decoded_ends_its_call(amqp_url: str, content_type: str | None) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel(confirm=False) as channel:
        queue = await exclusive_queue(channel)
        async with connection.rpc() as rpc, channel.consume(queue) as requests, anyio.create_task_group() as tg:

            async def call() -> None:
                with pytest.raises(rabbitry.DecodeError, match="properties are malformed"), anyio.fail_after(5):
                    await rpc.call(queue, 1)

            tg.start_soon(call)
            request = await anext(requests)
            properties = with_broken_headers(
                content_type=content_type, correlation_id=request.properties.correlation_id, delivery_mode=1
            )
            life_of(channel).live.publish(properties, b"\x01", "", request.properties.reply_to or "", False)
            request.ack()


async def test_a_request_whose_headers_can_not_be_decoded_is_answered(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel(confirm=False) as channel:
        queue, replies = await exclusive_queue(channel), await exclusive_queue(channel)
        async with anyio.create_task_group() as tg, channel.consume(replies) as received:
            tg.start_soon(connection.serve, queue, echo)
            properties = with_broken_headers(correlation_id="7", reply_to=replies)
            life_of(channel).live.publish(properties, b"\x01", "", queue, False)
            with anyio.fail_after(5):
                reply = await anext(received)
            assert (reply.properties.correlation_id, reply.headers["x-rabbitry-error"]) == ("7", "DecodeError")
            tg.cancel_scope.cancel()
        assert await has_counts(channel, queue, 0)
        assert connection.requests.failed == 1


# --- taking the place of one that came with the library ---------------------------------------------------------------

OWN_JSON = Codec(
    "json", "application/json", lambda value: b" " + json.dumps(value).encode(), lambda body: ["own", json.loads(body)]
)


@pytest.mark.usefixtures("registry")
def test_another_codec_takes_the_place_of_one_that_came_with_the_library() -> None:
    before = codecs.codec_named("json")
    with pytest.raises(ValueError, match="replace=True"):
        rabbitry.register_codec(OWN_JSON)
    assert codecs.codec_named("json") is before
    rabbitry.register_codec(OWN_JSON, replace=True)
    rabbitry.register_codec(OWN_JSON, replace=True)
    rabbitry.register_codec(OWN_JSON)
    assert rabbitry.Message.json(1).body == b" 1"
    assert rabbitry.Message.encode(1, codec="json").content_type == JSON
    for content_type in (JSON, "application/hal+json", "Application/JSON; charset=utf-8"):
        assert codecs.decode_body(b"1", content_type, None) == ["own", 1]
    wide = '"\u00e4"'.encode("utf-16")
    assert codecs.decode_body(wide, f"{JSON}; charset=utf-16", None) == ["own", "\u00e4"]
    assert codecs.decode_from(b"1", "application/hal+json", codecs.codec_named("json"), is_request=True) == ["own", 1]
    # what was looked up before goes on as it was
    assert codecs.decode_from(b"1", JSON, before) == 1
    assert codecs.decode_from(wide, f"{JSON}; charset=utf-16", before, is_request=True) == "\u00e4"


@pytest.mark.usefixtures("registry")
def test_it_is_replaced_once() -> None:
    rabbitry.register_codec(OWN_JSON, replace=True)
    for codec in (
        Codec("json", JSON, str.encode, bytes.decode),
        Codec("third", JSON, str.encode, bytes.decode),
        Codec("json", "application/x-third", str.encode, bytes.decode),
    ):
        with pytest.raises(ValueError, match=r"belongs to codec 'json'|another codec named 'json'"):
            rabbitry.register_codec(codec, replace=True)
    assert codecs.codec_named("json") is OWN_JSON
    with pytest.raises(ValueError, match="no codec named 'third'"):
        codecs.codec_named("third")
    rabbitry.register_codec(BACKWARDS)
    with pytest.raises(ValueError, match="another codec named 'backwards'"):
        rabbitry.register_codec(Codec("backwards", "application/x-other", str.encode, bytes.decode), replace=True)


@pytest.mark.usefixtures("registry")
def test_all_content_types_of_the_former_go_to_the_new_one() -> None:
    own = Codec("msgpack", "application/msgpack", lambda value: b"", lambda body: "own")
    rabbitry.register_codec(own, replace=True)
    for content_type in ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack"):
        assert codecs.decode_body(b"\xc0", content_type, None) == "own"
    assert codecs.decode_body(b"\xc0", "application/msgpack", "msgpack-any-keys") is None
    text = Codec("text", "text/plain", str.encode, lambda body: ("own", body))
    rabbitry.register_codec(text, replace=True)
    assert codecs.decode_body("\u00e4".encode("latin-1"), "text/html; charset=latin-1", None) == (
        "own",
        "\u00e4".encode(),
    )


@pytest.mark.usefixtures("registry")
async def test_a_server_and_a_caller_that_have_begun_keep_their_codec(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg, connection.rpc(codec="json") as before:
            tg.start_soon(partial(connection.serve, queue, echo, codec="json"))
            assert await before.call(queue, 1) == 1
            rabbitry.register_codec(OWN_JSON, replace=True)
            assert await before.call(queue, 1) == 1
            async with connection.rpc(codec="json") as after:
                assert await after.call(queue, 1) == ["own", 1]
            tg.cancel_scope.cancel()


def test_packing_again_is_as_packing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """After what could not be packed, what was large, and what packed another value amid its own packing."""
    packers: list[msgpack.Packer] = []
    monkeypatch.setattr(codecs, "_packers", packers)
    encode = codecs.codec_named("msgpack").encode

    class Nesting(Enum):
        @property
        def value(self) -> Any:  # asked for amid the packing
            return encode([1, 2])

        ONE = 1

    assert encode({"a": [1, "b"]}) == msgpack.packb({"a": [1, "b"]})
    assert encode([Nesting.ONE, 3]) == msgpack.packb([msgpack.packb([1, 2]), 3])
    with pytest.raises(TypeError):
        encode([1, object()])
    assert encode([1]) == msgpack.packb([1])
    kept = list(packers)
    large = b"x" * codecs.PACKER_KEPT
    assert encode(large) == msgpack.packb(large)
    assert encode([2]) == msgpack.packb([2])
    assert 0 < len(packers) <= len(kept) <= 2
