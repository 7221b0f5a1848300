"""A message that is larger than this side takes: what it came for ends with the reason, and nothing else does."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Message, Queue
from rabbitry._channel.second import SecondConsumer
from rabbitry.testing import PrivateNode
from tests.support.clients import QUICK, some_queue
from tests.support.helpers import counts, exclusive_queue, has_counts, open_channel, unique, until

LIMIT = 1000
POISON = bytes(300_000)  # in three frames


async def test_a_consumer_that_meets_one_ends_alone(amqp_url: str) -> None:
    async with (
        some_queue(amqp_url) as poisoned,
        some_queue(amqp_url) as name,
        open_channel(amqp_url) as channel,
        rabbitry.open_client(amqp_url, max_message_size=LIMIT, reconnect=QUICK) as client,
    ):
        for body in (b"before", POISON, b"behind"):
            await channel.publish(body, routing_key=poisoned)
        async with client.consume(name) as others, client.consume(poisoned) as deliveries:
            delivery = await anext(deliveries)
            assert delivery.body == b"before"
            for _ in range(2):
                with pytest.raises(rabbitry.MessageTooLarge) as raised:
                    await anext(deliveries)
            error = raised.value
            assert (error.queue, error.size, error.limit, error.is_lost) == (poisoned, len(POISON), LIMIT, False)
            assert poisoned in str(error) and "larger max_message_size" in str(error)
            delivery.ack()  # what it has is still its own
            await client.publish(b"x", routing_key=name)
            with anyio.fail_after(5):
                (await anext(others)).ack()
        assert await has_counts(channel, poisoned, 2)
        assert client.statistics()["consuming_lives"] == 1


@pytest.mark.parametrize("broken", ["headers", "one frame"])
async def test_headers_and_frames_that_no_frame_max_bounds(broken: str) -> None:
    """RabbitMQ itself must be told to take so large ones."""
    with PrivateNode(settings={"frame_max": 0}) as node:
        url = f"{node.url}?frame_max=0"
        ours, limit = (url, LIMIT) if broken == "one frame" else (node.url, 10_000_000)
        async with (
            some_queue(url) as poisoned,
            some_queue(url) as name,
            open_channel(url) as channel,
            rabbitry.open_client(ours, max_message_size=limit, reconnect=QUICK) as client,
        ):
            large = POISON if broken == "one frame" else Message(b"", headers={"large": "x" * 2_000_000})
            await channel.publish(large, routing_key=poisoned)
            async with client.consume(name) as others, client.consume(poisoned) as deliveries:
                with pytest.raises(rabbitry.MessageTooLarge):
                    await anext(deliveries)
                await client.publish(b"x", routing_key=name)
                with anyio.fail_after(5):
                    (await anext(others)).ack()
            assert await has_counts(channel, poisoned, 1)
            assert client.statistics()["consuming_lives"] == 1


async def test_process_raises_it(amqp_url: str) -> None:
    async def handle(delivery: rabbitry.Delivery) -> None: ...

    async with (
        some_queue(amqp_url) as name,
        open_channel(amqp_url) as channel,
        rabbitry.open_client(amqp_url, max_message_size=LIMIT) as client,
    ):
        await channel.publish(POISON, routing_key=name)
        with anyio.fail_after(10):
            with pytest.raises(rabbitry.MessageTooLarge, match=name):
                await client.process(name, handle)
        assert await has_counts(channel, name, 1)


async def test_without_acknowledgements_it_is_lost_and_the_error_says_so(amqp_url: str) -> None:
    async with some_queue(amqp_url) as name, open_channel(amqp_url) as channel:
        await channel.publish(POISON, routing_key=name)
        async with rabbitry.connect(amqp_url, max_message_size=LIMIT) as connection, connection.channel() as small:
            async with small.consume(name, no_ack=True) as deliveries:
                with pytest.raises(rabbitry.MessageTooLarge, match="is lost") as raised:
                    await anext(deliveries)
                assert raised.value.is_lost
        assert await has_counts(channel, name, 0)


async def test_one_that_comes_to_the_consumer_beside(amqp_url: str) -> None:
    """As `process` has one, where its handlers are quick."""
    async with rabbitry.connect(amqp_url, max_message_size=LIMIT) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel, [b"first"])
        async with channel.consume(queue, prefetch=1) as deliveries:
            delivery = await anext(deliveries)
            await SecondConsumer(deliveries).set_prefetch(5)
            await channel.publish(POISON, routing_key=queue)
            with anyio.fail_after(10), pytest.raises(rabbitry.MessageTooLarge):
                await anext(deliveries)
            delivery.ack()
        assert await has_counts(channel, queue, 1, 0)


async def test_a_stream_keeps_it_and_takes_nothing_back(amqp_url: str) -> None:
    """RabbitMQ closes the connection over a nack to a stream."""
    async with open_channel(amqp_url) as channel:
        name = unique()
        await channel.declare(Queue(name, type="stream"))
        try:
            await channel.publish(POISON, routing_key=name)
            async with rabbitry.open_client(amqp_url, max_message_size=LIMIT) as client:
                async with client.consume(name, offset="first") as deliveries:
                    with anyio.fail_after(10), pytest.raises(rabbitry.MessageTooLarge):
                        await anext(deliveries)
                assert await client.inspect(name) is not None
                assert client.statistics()["consuming_lives"] == 1
        finally:
            await channel.delete_queue(name)


@pytest.mark.parametrize("no_ack", [False, True])
async def test_a_get_that_meets_one_fails_alone(amqp_url: str, no_ack: bool) -> None:
    async with rabbitry.connect(amqp_url, max_message_size=LIMIT) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel, [POISON])
        with pytest.raises(rabbitry.MessageTooLarge, match="is lost" if no_ack else "stays there") as raised:
            await channel.get(queue, no_ack=no_ack)
        assert (raised.value.queue, raised.value.size) == (queue, len(POISON))
        assert await has_counts(channel, queue, 0 if no_ack else 1)
        assert channel.is_open
        await channel.purge_queue(queue)
        await channel.publish(b"small", routing_key=queue)
        delivery = await channel.get(queue)
        assert delivery is not None and delivery.body == b"small"


async def test_a_get_that_was_cancelled_puts_it_back(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url, max_message_size=LIMIT) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel, [POISON])
        async with anyio.create_task_group() as tg:
            tg.start_soon(channel.get, queue)
            await anyio.lowlevel.checkpoint()
            tg.cancel_scope.cancel()
        assert await has_counts(channel, queue, 1)


async def test_a_consumer_that_was_left_puts_it_back(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url, max_message_size=LIMIT) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with channel.consume(queue):
            await channel.publish(POISON, routing_key=queue)
        assert await has_counts(channel, queue, 1)
        assert connection.is_open


async def test_a_message_of_ones_own_that_comes_back_is_returned_all_the_same(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url, max_message_size=LIMIT) as connection, connection.channel() as channel:
        with pytest.raises(rabbitry.Unroutable) as raised:
            await channel.publish(POISON, routing_key=unique(), mandatory=True)
        assert raised.value.message == POISON
        async with connection.rpc() as rpc:
            with pytest.raises(rabbitry.Unroutable):
                await rpc.call(unique(), POISON, raw=True)
        assert connection.is_open


@pytest.mark.parametrize("reply_to", ["direct", "exclusive"])
async def test_a_reply_that_is_too_large_fails_its_call_alone(amqp_url: str, reply_to: Any) -> None:
    waiting, may_answer = anyio.Event(), anyio.Event()

    async def answer(kind: str) -> bytes | str:
        if kind == "large":
            return POISON
        waiting.set()
        await may_answer.wait()
        return "small"

    replies: list[str] = []
    async with (
        some_queue(amqp_url) as name,
        rabbitry.open_client(amqp_url) as server,
        rabbitry.open_client(amqp_url, max_message_size=LIMIT) as client,
        client.rpc(reply_to=reply_to) as rpc,
        anyio.create_task_group() as tg,
    ):
        await tg.start(server.serve, name, answer)

        async def call() -> None:
            replies.append(await rpc.call(name, "other"))

        tg.start_soon(call)
        await waiting.wait()
        with anyio.fail_after(10), pytest.raises(rabbitry.MessageTooLarge, match="is lost"):
            await rpc.call(name, "large")
        may_answer.set()
        await until(lambda: replies == ["small"])
        assert rpc.late_replies == 0
        tg.cancel_scope.cancel()


async def test_one_that_is_as_large_as_may_be_comes_whole(amqp_url: str) -> None:
    async with some_queue(amqp_url) as name, open_channel(amqp_url) as channel:
        await channel.publish(Message(bytes(200_000), headers={"n": 1}), routing_key=name)
        async with rabbitry.connect(amqp_url, max_message_size=200_000) as connection, connection.channel() as other:
            async with other.consume(name) as deliveries:
                delivery = await anext(deliveries)
                assert len(delivery.body) == 200_000 and delivery.headers == {"n": 1}
                delivery.ack()
        assert (await counts(channel, name))[0] == 0
