"""What newer RabbitMQ has and older ones ignore or refuse: delayed retries, priorities, filters of streams."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Message, Queue
from tests.support.helpers import open_channel, unique

Version = tuple[int, ...]


@pytest.mark.parametrize(("kind", "is_delayed"), [("failed", "reject"), ("returned", "nack"), ("all", "both")])
async def test_delayed_retry(amqp_url: str, broker_version: Version, kind: Any, is_delayed: str) -> None:
    queue = Queue(unique(), type="quorum", delayed_retry=kind, delayed_retry_min=0.6, delayed_retry_max=1)
    async with open_channel(amqp_url) as channel:
        await channel.declare(queue)
        await channel.declare(queue)
        for settled in ("reject", "nack"):
            await channel.publish(b"x", routing_key=queue.name)
            with anyio.fail_after(20):
                while (delivery := await channel.get(queue)) is None:
                    await anyio.sleep(0.01)
            began = anyio.current_time()
            getattr(delivery, settled)(requeue=True)
            with anyio.fail_after(20):
                while (delivery := await channel.get(queue)) is None:
                    await anyio.sleep(0.01)
            lasted = anyio.current_time() - began
            delivery.ack()
            if broker_version >= (4, 3) and is_delayed in (settled, "both"):
                assert lasted >= 0.55
            else:
                assert lasted < 0.55 or broker_version < (4, 3)
        await channel.delete_queue(queue)


async def test_what_4_3_compares(amqp_url: str, broker_version: Version) -> None:
    name = unique()
    queue = Queue(name, type="quorum", delayed_retry="all", delayed_retry_min=1, consumer_timeout=3600)
    others = [Queue(name, type="quorum"), Queue(name, type="quorum", consumer_timeout=3600)]
    async with rabbitry.open_client(amqp_url) as client:
        await client.declare(queue)
        for other in others:
            if broker_version >= (4, 3):
                with pytest.raises(rabbitry.PreconditionFailed, match="inequivalent arg 'x-"):
                    await client.declare(other)
            else:
                await client.declare(other)
        await client.delete(queue)


async def test_priorities_of_a_quorum_queue(amqp_url: str, broker_version: Version) -> None:
    queue = Queue(unique(), type="quorum")
    async with open_channel(amqp_url) as channel:
        await channel.declare(queue)
        given = [0, 31, None, 5, 3]
        for priority in given:
            await channel.publish(Message(str(priority).encode(), priority=priority), routing_key=queue.name)
        found = []
        with anyio.fail_after(20):
            while len(found) < len(given):
                if (delivery := await channel.get(queue, no_ack=True)) is not None:
                    found.append(delivery.body.decode())
        if broker_version >= (4, 3):
            assert found == ["31", "5", "None", "3", "0"]
        elif broker_version < (4,):
            assert found == [str(each) for each in given]
        await channel.delete_queue(queue)


async def filtered(client: rabbitry.Client, queue: Queue, **options: Any) -> list[str]:
    """What comes within the half second after the last one."""
    found: list[str] = []
    async with client.consume(queue, offset="first", **options) as deliveries:
        while True:
            with anyio.move_on_after(0.5 if found else 5) as scope:
                delivery = await anext(deliveries)
                delivery.ack()
                found.append(delivery.body.decode())
            if scope.cancelled_caught:
                return found


async def test_filters_of_a_stream(amqp_url: str, broker_version: Version) -> None:
    stream = Queue(unique(), type="stream")
    everything = ["a", "b", "None"]
    async with rabbitry.open_client(amqp_url) as client:
        await client.declare(stream)
        for value in ("a", "b", None):  # each in a chunk of its own
            headers = {} if value is None else {"x-stream-filter-value": value}
            await client.publish(Message(str(value).encode(), headers=headers), routing_key=stream.name)
            await anyio.sleep(0.2)
        assert await filtered(client, stream) == everything
        for options, expected in (
            ({"filter": "a"}, ["a"]),
            ({"filter": ["a", "b"]}, ["a", "b"]),
            ({"filter": {"b"}, "match_unfiltered": True}, ["b", "None"]),
        ):
            found = await filtered(client, stream, **options)
            assert found == (expected if broker_version >= (3, 13) else everything)
        await client.delete(stream)


async def test_a_filter_outlives_a_loss(amqp_url: str, broker_version: Version) -> None:
    if broker_version < (3, 13):
        pytest.skip("3.13 brought filters")
    from tests.support.clients import noticed, through_proxy

    stream = Queue(unique(), type="stream")
    async with open_channel(amqp_url) as channel, through_proxy(amqp_url) as (client, proxy):
        await channel.declare(stream)
        async with client.consume(stream.name, filter="a") as deliveries:
            for value in "ab":
                await channel.publish(
                    Message(value.encode(), headers={"x-stream-filter-value": value}), routing_key=stream.name
                )
                await anyio.sleep(0.2)
            with anyio.fail_after(20):
                first = await anext(deliveries)
                first.ack()
                await noticed(client, proxy.cut)
                for value in "bab":
                    await channel.publish(
                        Message(value.encode() * 2, headers={"x-stream-filter-value": value}), routing_key=stream.name
                    )
                    await anyio.sleep(0.2)
                second = await anext(deliveries)
        assert (first.body, second.body) == (b"a", b"aa")
        await channel.delete_queue(stream)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"filter": []}, ValueError),
        ({"filter": 5}, TypeError),
        ({"filter": b"a"}, TypeError),
        ({"filter": ["a", 5]}, TypeError),
        ({"filter": ["x" * 256]}, ValueError),
        ({"match_unfiltered": True}, ValueError),
        ({"filter": "a", "match_unfiltered": "no"}, TypeError),
        ({"filter": "a", "arguments": {"x-stream-filter": "b"}}, ValueError),
    ],
)
async def test_wrong_filters(amqp_url: str, options: dict[str, Any], error: type[Exception]) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        with pytest.raises(error):
            client.consume("stream", **options)
        with pytest.raises(ValueError, match="for streams"):
            client.consume(Queue("classic"), filter="a")


async def test_asking_for_a_queue_without_any_permission(node: Any, broker_version: Version) -> None:
    """4.3 wants some permission on what is asked for; older ones tell everybody."""
    user, queue = unique("user"), Queue(unique())
    node.rabbitmqctl("add_user", user, "secret")
    try:
        async with open_channel(node.url) as channel:
            await channel.declare(queue)
            for permissions in (("^$", "^$", "^$"), ("^$", "^$", ".*")):
                node.rabbitmqctl("set_permissions", user, *permissions)
                url = node.url.replace("guest:guest", f"{user}:secret")
                async with rabbitry.open_client(url) as client:
                    if broker_version >= (4, 3) and permissions[2] == "^$":
                        with pytest.raises(rabbitry.AccessRefused):
                            await client.inspect(queue)
                    else:
                        assert await client.inspect(queue) is not None
            await channel.delete_queue(queue)
    finally:
        node.rabbitmqctl("delete_user", user)
