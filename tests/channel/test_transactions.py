"""Transactions: what is published and settled takes effect at the commit, or never."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

import rabbitry
from tests.support.cancelling import Driven
from tests.support.helpers import drain, exclusive_queue, has_counts, open_channel, unique, until


async def test_commit_and_rollback_of_publishes(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as watcher:
        queue = await exclusive_queue(watcher)
        async with connection.channel(confirm=False) as channel:
            await channel.select_tx()
            await channel.publish(b"rolled back", routing_key=queue)
            await channel.rollback_tx()
            await channel.publish(b"committed", routing_key=queue)
            await channel.declare_queue(queue, passive=True)
            assert await watcher.get(queue) is None
            await channel.commit_tx()
            assert await drain(watcher, queue) == [b"committed"]
            await channel.publish(b"never committed", routing_key=queue)
        assert await watcher.get(queue) is None


async def test_commit_and_rollback_of_settlements(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as watcher:
        queue = await exclusive_queue(watcher, [b"1", b"2", b"3", b"4"])
        async with connection.channel(confirm=False) as channel:
            await channel.select_tx()
            deliveries = [await channel.get(queue) for _ in range(4)]
            one, two, three, four = (delivery for delivery in deliveries if delivery is not None)
            one.ack()
            two.nack()
            three.reject()
            assert one.is_settled and two.is_settled and three.is_settled
            with pytest.raises(rabbitry.AlreadySettled):
                one.ack()
            await channel.rollback_tx()
            assert not any(delivery.is_settled for delivery in (one, two, three, four))
            three.ack()
            one.ack()  # in any order: a transaction sees each by itself
            two.nack()
            await channel.commit_tx()
            assert await has_counts(watcher, queue, 1)
            four.ack()  # not committed
        assert await has_counts(watcher, queue, 2)
        assert sorted(await drain(watcher, queue)) == [b"2", b"4"]


async def test_settled_while_a_rollback_is_on_its_way(amqp_url: str) -> None:
    """What is settled after the request belongs to the next transaction, although its reply has not come yet."""
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as watcher:
        queue = await exclusive_queue(watcher, [b"1", b"2"])
        async with connection.channel(confirm=False) as channel:
            await channel.select_tx()
            first, second = await channel.get(queue), await channel.get(queue)
            assert first is not None and second is not None
            first.ack()
            rollback = Driven(channel.rollback_tx(), on_suspension=lambda: second.is_settled or second.ack())
            await rollback
            assert not first.is_settled and second.is_settled
            await channel.commit_tx()
        assert await has_counts(watcher, queue, 1)
        assert await drain(watcher, queue) == [b"1"]


async def test_a_commit_the_broker_refuses(amqp_url: str) -> None:
    async with open_channel(amqp_url, confirm=False) as channel:
        await channel.select_tx()
        with pytest.raises(rabbitry.NotFound):
            await channel.publish(b"", exchange=unique())
            await channel.commit_tx()
        assert not channel.is_open


@pytest.mark.rabbitmq("the embedded broker answers a commit at once, and minds nothing behind it")
async def test_what_follows_a_commit_waits_for_its_answer(amqp_url: str) -> None:
    """RabbitMQ closes the connection (504) over anything but channel.close behind a commit it still works on."""
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as watcher:
        queue = unique()
        await watcher.declare_queue(queue)  # durable: its messages go to disk first, which takes a while
        try:
            async with connection.channel(confirm=False) as channel:
                await channel.select_tx()
                for _ in range(50):
                    await channel.publish(bytes(10_000), routing_key=queue)
                    async with anyio.create_task_group() as tg:
                        tg.start_soon(channel.commit_tx)
                        tg.start_soon(channel.declare_exchange, "amq.topic", "topic")
                        tg.start_soon(partial(channel.publish, b"next", routing_key=queue))
                        tg.start_soon(channel.commit_tx)
                await channel.commit_tx()
            assert await has_counts(watcher, queue, 100)
        finally:
            async with open_channel(amqp_url) as other:
                await other.delete_queue(queue)


@pytest.mark.rabbitmq("the embedded broker answers a commit at once, and minds nothing behind it")
async def test_a_slow_commit_cancelled(amqp_url: str) -> None:
    """Nothing but channel.close may follow a commit that is not answered yet, and that is what follows."""
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as watcher:
        queue = unique()
        await watcher.declare_queue(queue)
        cancelled = 0
        for _ in range(10):
            async with connection.channel(confirm=False) as channel:
                await channel.select_tx()
                await channel.publish(bytes(100_000), routing_key=queue)
                with anyio.CancelScope() as scope:
                    await Driven(channel.commit_tx(), on_suspension=scope.cancel)
                if not scope.cancelled_caught:  # its answer came before the cancellation did
                    continue
                cancelled += 1
                with pytest.raises(rabbitry.ChannelClosed, match="closed by this program"):
                    await channel.publish(b"", routing_key=queue)
        assert cancelled
        await watcher.delete_queue(queue)


@pytest.mark.parametrize("rolls_back", [False, True])
async def test_what_a_consumer_did_not_hand_out_goes_back_at_the_commit(amqp_url: str, rolls_back: bool) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as watcher:
        queue = await exclusive_queue(watcher, [b"1", b"2", b"3"])
        async with connection.channel(confirm=False) as channel:
            await channel.select_tx()
            async with channel.consume(queue) as deliveries:
                (await anext(deliveries)).ack()
                await until(lambda: len(deliveries._buffer) == 2)
            if rolls_back:
                await channel.rollback_tx()
            await channel.commit_tx()
            assert await has_counts(watcher, queue, 2)
        assert await has_counts(watcher, queue, 3 if rolls_back else 2)


async def test_what_a_stopped_consumer_did_not_hand_out_goes_back_at_the_next_commit(amqp_url: str) -> None:
    """And not at the one after that, which may never come."""
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as watcher:
        queue = await exclusive_queue(watcher, [b"1", b"2", b"3"])
        async with connection.channel(confirm=False) as channel:
            await channel.select_tx()
            async with channel.consume(queue) as deliveries:
                delivery = await anext(deliveries)
                await until(lambda: len(deliveries._buffer) == 2)
                deliveries.stop()
                delivery.ack()
                await channel.commit_tx()
                assert await has_counts(watcher, queue, 2)
