"""Messages between rabbitry and each peer, both ways: every property, every type of header, bodies of all sizes.

What arrives differently is in values.py; anything else must be the same, type and all.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

import rabbitry
from rabbitry.protocol.wire.tables import _BY_TYPE
from tests.interop.notation import noted
from tests.interop.peers import PEERS, PeerError, PeerProcess
from tests.interop.queues import meeting
from tests.interop.values import ADDED, DIFFERENCES, LETTERS, PROPERTIES, SAME, VALUES, Difference, Fails


async def take(channel: rabbitry.Channel, queue: str) -> rabbitry.Delivery:
    """The message that the peer has published."""
    with anyio.fail_after(30):
        while (delivery := await channel.get(queue, no_ack=True)) is None:
            await anyio.sleep(0.002)
    return delivery


@pytest.fixture(scope="session")
def properties(amqp_url: str) -> dict[str, Any]:
    """All fourteen: the user must be the connection's."""
    return PROPERTIES | {"user_id": urlsplit(amqp_url).username or "guest"}


def message(**properties: Any) -> rabbitry.Message:
    """One with these properties and no others; the expiration is text, as on the wire."""
    if "expiration" in properties:
        properties["expiration"] = int(properties["expiration"]) / 1000
    return rabbitry.Message(b"body", **{"delivery_mode": None} | properties)


def properties_of(delivery: rabbitry.Delivery) -> dict[str, Any]:
    """Those that the message has."""
    found = {name: getattr(delivery.properties, name) for name in PROPERTIES}
    return {name: value for name, value in found.items() if value is not None}


def letter_of(delivery: rabbitry.Delivery) -> str:
    """The type that the header "value" has on the wire."""
    header = delivery._header
    assert type(header) is bytes
    return chr(header[header.index(b"\x05value") + 6])


PLAIN = Difference(why="it arrives as it was sent")


def expected(peer: str, end: str, sent: dict[str, Any]) -> dict[str, Any]:
    """What should arrive, by `DIFFERENCES`."""
    arrives = {}
    for name, value in sent.items():
        other = getattr(DIFFERENCES[peer].get(name, PLAIN), end)
        arrives[name] = other if isinstance(other, Fails) else noted(value if other is SAME else other)
    return arrives


async def outcome(peer: PeerProcess, command: str, expected: Any, **arguments: Any) -> Any:
    """What the peer gives, or how it fails."""
    try:
        return await peer.do(command, **arguments, patience=0.25 if expected == Fails(None) else 20)
    except PeerError as error:
        return Fails(error.type_name)


async def test_the_peer_reads_rabbitrys_headers(peer: PeerProcess, amqp_url: str) -> None:
    wanted, found = expected(peer.name, "reads", VALUES), {}
    async with meeting(amqp_url) as (_, channel, queue):
        for name, value in VALUES.items():
            await channel.publish(message(headers={"value": value}), routing_key=queue)
            received = await outcome(peer, "get", wanted[name], queue=queue)
            found[name] = received if isinstance(received, Fails) else noted(received["properties"]["headers"]["value"])
    assert found == wanted


async def test_rabbitry_reads_the_peers_headers(
    peer: PeerProcess, amqp_url: str, broker_version: tuple[int, ...]
) -> None:
    wanted, found = expected(peer.name, "writes", VALUES), {}
    letters = set()
    async with meeting(amqp_url) as (_, channel, queue):
        for name, value in VALUES.items():
            properties = {"headers": {"value": value}}
            done = await outcome(peer, "publish", wanted[name], queue=queue, body=b"", properties=properties)
            if isinstance(done, Fails):
                found[name] = done
                continue
            delivery = await take(channel, queue)
            letters.add(letter_of(delivery))
            found[name] = noted(delivery.headers["value"])
        if peer.name == "amqplib":
            letters |= await asked_for(peer, channel, queue)
    assert found == wanted
    written = set(LETTERS[peer.name])
    if broker_version >= (4,) and "L" in written:
        written = written - {"L"} | {"l"}  # RabbitMQ 4 writes headers anew, in types of its own choice
    assert letters == written


async def asked_for(peer: PeerProcess, channel: rabbitry.Channel, queue: str) -> set[str]:
    """The letters of the types that amqplib writes when they are named."""
    letters = set()
    for kind, value in {"uint8": 200, "uint16": 60_000, "uint32": 2**32 - 1, "int64": -5, "float": 0.5}.items():
        await peer.do("publish_typed", queue=queue, type=kind, value=value)
        delivery = await take(channel, queue)
        letters.add(letter_of(delivery))
        assert noted(delivery.headers["value"]) == noted(value)
    return letters


def test_the_peers_write_every_type_that_rabbitry_reads() -> None:
    assert {*"".join(LETTERS.values())} == {letter.decode() for letter in _BY_TYPE}


def test_the_table_has_no_line_for_nothing() -> None:
    assert DIFFERENCES.keys() == ADDED.keys() == LETTERS.keys() == {*PEERS}
    assert all(names.keys() <= VALUES.keys() | PROPERTIES.keys() for names in DIFFERENCES.values())


async def test_the_peer_reads_rabbitrys_properties(
    peer: PeerProcess, amqp_url: str, properties: dict[str, Any]
) -> None:
    async with meeting(amqp_url) as (_, channel, queue):
        await channel.publish(message(**properties), routing_key=queue)
        received = await peer.do("get", queue=queue)
        assert received["body"] == b"body"
        assert noted(received["properties"]) == {"table": expected(peer.name, "reads", properties)}

        await channel.publish(message(), routing_key=queue)
        assert (await peer.do("get", queue=queue))["properties"] == ADDED[peer.name].read


async def test_rabbitry_reads_the_peers_properties(
    peer: PeerProcess, amqp_url: str, properties: dict[str, Any]
) -> None:
    wanted, given = expected(peer.name, "writes", properties), dict(properties)
    async with meeting(amqp_url) as (_, channel, queue):
        for name, arrives in wanted.items():
            if isinstance(arrives, Fails):
                with pytest.raises(PeerError, match=f"^{arrives.error}: "):
                    await peer.do("publish", queue=queue, body=b"", properties={name: given.pop(name)})
        await peer.do("publish", queue=queue, body=b"body", properties=given)
        delivery = await take(channel, queue)
        assert delivery.body == b"body"
        arrived = {name: arrives for name, arrives in wanted.items() if name in given and arrives is not None}
        assert noted(properties_of(delivery)) == {"table": arrived}
        assert delivery.message.expiration == 60

        await peer.do("publish", queue=queue, body=b"", properties={})
        assert properties_of(await take(channel, queue)) == ADDED[peer.name].written


async def test_rabbitry_passes_on_what_it_got(peer: PeerProcess, amqp_url: str, properties: dict[str, Any]) -> None:
    """As it came: every property and header that the peer can write."""
    fails = DIFFERENCES[peer.name]
    given = {name: value for name, value in properties.items() if name not in fails}
    given["headers"] = {
        name: value for name, value in VALUES.items() if not isinstance(fails.get(name, PLAIN).writes, Fails)
    }
    async with meeting(amqp_url) as (_, channel, queue):
        await peer.do("publish", queue=queue, body=b"body", properties=given)
        first = await take(channel, queue)
        assert first.headers.keys() == given["headers"].keys()
        await channel.publish(first.message, routing_key=queue)
        second = await take(channel, queue)
    assert noted(properties_of(second)) == noted(properties_of(first))
    assert second.body == first.body


@pytest.mark.parametrize("size", [0, 1, 131_072, 1_000_000], ids="{} octets".format)
async def test_bodies(peer: PeerProcess, amqp_url: str, size: int) -> None:
    """Of no frame, one, and several."""
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with meeting(amqp_url) as (_, channel, queue):
        await channel.publish(body, routing_key=queue)
        assert (await peer.do("get", queue=queue))["body"] == body
        await peer.do("publish", queue=queue, body=body, properties={})
        assert (await take(channel, queue)).body == body


# --- bodies by their content type -------------------------------------------------------------------------------------

OBJECT = {"text": "ž", "numbers": [0, -1.5], "nothing": None, "true": True}


@pytest.mark.parametrize("peer", ["kombu", "rabbitmq_client"], indirect=True)
async def test_objects(peer: PeerProcess, amqp_url: str) -> None:
    """Both publish an object as JSON, and read JSON by its content type, as rabbitry does."""
    async with meeting(amqp_url) as (_, channel, queue):
        await peer.do("publish_object", queue=queue, value=OBJECT)
        delivery = await take(channel, queue)
        assert delivery.properties.content_type == "application/json"
        assert delivery.decode() == OBJECT

        for sent in rabbitry.Message.json(OBJECT), rabbitry.Message.encode("ž", codec="text"):
            await channel.publish(sent, routing_key=queue)
            assert await peer.do("get_object", queue=queue) == (OBJECT if sent.content_type != "text/plain" else "ž")


@pytest.mark.parametrize("peer", ["kombu"], indirect=True)
async def test_kombu_knows_messagepack_by_another_name(peer: PeerProcess, amqp_url: str) -> None:
    """By the one from before it was registered, which rabbitry reads, too."""
    async with meeting(amqp_url) as (_, channel, queue):
        registered = rabbitry.Message.msgpack(OBJECT)
        await channel.publish(registered, routing_key=queue)
        with pytest.raises(PeerError, match="ContentDisallowed"):
            await peer.do("get_object", queue=queue)
        await channel.publish(registered.replace(content_type="application/x-msgpack"), routing_key=queue)
        assert await peer.do("get_object", queue=queue) == OBJECT

        await peer.do("publish_object", queue=queue, value=OBJECT, serializer="msgpack")
        delivery = await take(channel, queue)
        assert delivery.properties.content_type == "application/x-msgpack"
        assert delivery.decode() == OBJECT
