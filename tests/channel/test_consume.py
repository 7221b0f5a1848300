"""Consuming: nothing is lost, whoever iterates, however it ends; what was not iterated goes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import rabbitry
from rabbitry._channel import consumer
from rabbitry._channel.channel import life_of
from rabbitry._channel.consumer import ended_by
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.methods import Method
from rabbitry.testing import open_proxy
from tests.support.cancelling import Driven
from tests.support.helpers import check_channel, drain, exclusive_queue, has_counts, open_channel, unique, until
from tests.support.peer import scripted
from tests.support.protocol_broker import method_frame

NUMBERS = [b"%d" % number for number in range(200)]


async def test_in_order_and_settled(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, NUMBERS)
        bodies = []
        async with channel.consume(queue, prefetch=7) as deliveries:
            async for delivery in deliveries:
                bodies.append(delivery.body)
                delivery.ack()
                if len(bodies) == 200:
                    break
        assert bodies == NUMBERS
        assert await has_counts(channel, queue, 0)
        await check_channel(channel)


async def test_leaving_puts_back_what_was_not_iterated(amqp_url: str) -> None:
    async with open_channel(amqp_url, prefetch=0) as channel:
        queue = await exclusive_queue(channel, NUMBERS)
        async with channel.consume(queue) as deliveries:
            assert await has_counts(channel, queue, 0, 1)
            taken = [await anext(deliveries) for _ in range(3)]
        # the channel is still open, and what was taken still settleable
        assert await has_counts(channel, queue, 197)
        for delivery in taken:
            assert not delivery.is_stale
            delivery.ack()
        assert sorted(await drain(channel, queue)) == sorted(NUMBERS[3:])


async def test_stopping_puts_back_though_nobody_leaves(amqp_url: str) -> None:
    """A moment later: what is handled meanwhile is settled first."""
    async with open_channel(amqp_url, prefetch=0) as channel:
        queue = await exclusive_queue(channel, NUMBERS)
        async with channel.consume(queue) as deliveries:
            assert await has_counts(channel, queue, 0, 1)
            taken = [await anext(deliveries) for _ in range(3)]
            began = anyio.current_time()
            deliveries.stop()
            deliveries.stop()
            assert (await channel.declare_queue(queue, passive=True)).message_count == 0
            assert await has_counts(channel, queue, 197)
            assert anyio.current_time() - began > 0.9 * consumer.PUT_BACK_AFTER
            for delivery in taken:
                delivery.ack()
            with pytest.raises(StopAsyncIteration):
                await anext(deliveries)
        assert sorted(await drain(channel, queue)) == sorted(NUMBERS[3:])


async def test_what_is_stopped_is_held_once_and_no_longer_than_its_connection(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue, endpoint = await exclusive_queue(channel, NUMBERS[:20]), life_of(channel).endpoint
        async with channel.consume(queue) as deliveries:
            await until(lambda: len(deliveries._buffer) == 20)
            for _ in range(3):
                deliveries.stop()
            assert len(endpoint._later) == 1
            endpoint.drop()
            assert endpoint._later == ()


async def test_what_needs_no_ack_is_not_held_when_it_is_stopped(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, NUMBERS[:20])
        async with channel.consume(queue, no_ack=True) as deliveries:
            await until(lambda: len(deliveries._buffer) == 20)
            deliveries.stop()
            assert not deliveries._rest and not life_of(channel).endpoint._later


async def test_a_channel_that_ends_before_puts_back_itself(amqp_url: str) -> None:
    async with open_channel(amqp_url) as other:
        queue = unique("q")
        await other.declare_queue(queue)
        for number in NUMBERS[:20]:
            await other.publish(number, routing_key=queue)
        async with rabbitry.connect(amqp_url) as connection:
            async with connection.channel() as channel:
                async with channel.consume(queue) as deliveries:
                    (await anext(deliveries)).ack()
                    deliveries.stop()
                    with pytest.raises(rabbitry.NotFound):
                        await channel.declare_queue(unique("nowhere"), passive=True)
            assert await has_counts(other, queue, 19)
            await anyio.sleep(2 * consumer.PUT_BACK_AFTER)
            await check_channel(other)
            async with connection.channel() as channel:
                await check_channel(channel)
        await other.delete_queue(queue)


@pytest.mark.rabbitmq("it moves much, and wants a socket's buffers")
async def test_leaving_while_more_arrives(amqp_url: str) -> None:
    """What is on its way when the consumer is cancelled goes back as well."""
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as other:
        queue = await exclusive_queue(other)
        sent = 0
        async with connection.channel(prefetch=0) as channel, anyio.create_task_group() as tg:

            async def publish() -> None:
                nonlocal sent
                async with other.publisher(window=50) as publisher:
                    while True:
                        await publisher.submit(b"%d" % sent, routing_key=queue)
                        sent += 1

            tg.start_soon(publish)
            seen = 0
            for _ in range(20):
                async with channel.consume(queue) as deliveries:
                    (await anext(deliveries)).ack()
                    seen += 1
            tg.cancel_scope.cancel()
        await other.declare_queue(queue, passive=True)
        async with connection.channel() as last:
            await other.publish(b"end", routing_key=queue)
            total = (await last.declare_queue(queue, passive=True)).message_count
            assert total in (sent - seen + 1, sent - seen + 2)  # the cancelled submit may have been the last one


async def test_an_error_in_the_body_puts_back_too(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, NUMBERS[:5])
        with pytest.raises(ValueError, match="mine"):
            async with channel.consume(queue) as deliveries:
                async for _ in deliveries:
                    raise ValueError("mine")
        assert await has_counts(channel, queue, 4)


async def test_stop_ends_the_iteration(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, NUMBERS[:5])
        async with channel.consume(queue) as deliveries:
            async for delivery in deliveries:
                delivery.ack()
                if delivery.body == b"1":
                    deliveries.stop()
                    deliveries.stop()
            assert await has_counts(channel, queue, 3)
            assert [delivery async for delivery in deliveries] == []
            assert "ended" in repr(deliveries)


async def test_stop_wakes_those_who_wait(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        ended = []

        async def iterate() -> None:
            ended.append([delivery async for delivery in deliveries])

        async with channel.consume(queue) as deliveries, anyio.create_task_group() as tg:
            for _ in range(3):
                tg.start_soon(iterate)
            await anyio.wait_all_tasks_blocked()
            deliveries.stop()
        assert ended == [[], [], []]


async def test_several_tasks_iterate_one_consumer(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, NUMBERS)
        bodies: list[bytes] = []
        workers: set[int] = set()

        async def work(number: int) -> None:
            async for delivery in deliveries:
                workers.add(number)
                bodies.append(delivery.body)
                await anyio.sleep(0.0005)
                delivery.ack()
                if len(bodies) == 200:
                    deliveries.stop()

        async with channel.consume(queue, prefetch=20) as deliveries, anyio.create_task_group() as tg:
            for number in range(5):
                tg.start_soon(work, number)
        assert sorted(bodies) == sorted(NUMBERS)
        assert len(workers) == 5
        assert await has_counts(channel, queue, 0)


async def test_cancelled_iterations_lose_nothing(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, NUMBERS)
        bodies = []
        async with channel.consume(queue, prefetch=3) as deliveries:
            with anyio.fail_after(20):
                while len(bodies) < 200:
                    with anyio.move_on_after(0.0003):
                        async for delivery in deliveries:
                            delivery.ack()
                            bodies.append(delivery.body)
        assert bodies == NUMBERS


async def test_iterating_lets_other_tasks_run_and_time_out(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        async with channel.publisher(window=2000) as publisher:
            for _ in range(2000):
                await publisher.submit(b"", routing_key=queue)
        async with channel.consume(queue, prefetch=0) as deliveries:
            assert await has_counts(channel, queue, 0, 1)
            turns = count = 0

            async def other() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tg:
                tg.start_soon(other)
                async for _ in deliveries:
                    count += 1
                    if count == 2000:
                        break
                tg.cancel_scope.cancel()
            assert turns > 50  # it gives way every 32nd time


# --- how it ends -----------------------------------------------------------------------------------------------------


async def test_the_broker_cancels(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as other:
        queue = await exclusive_queue(other, [b"1", b"2"])
        async with connection.channel() as channel, channel.consume(queue) as deliveries:
            (await anext(deliveries)).ack()
            await other.delete_queue(queue)
            with pytest.raises(rabbitry.ConsumerCancelled, match="deleted") as caught:
                while True:
                    await anext(deliveries)
            assert (caught.value.queue, caught.value.consumer_tag) == (queue, deliveries.consumer_tag)
            with pytest.raises(rabbitry.ConsumerCancelled):
                await anext(deliveries)
            await check_channel(channel)


async def test_the_channel_ends(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b"1", b"2"])
        async with channel.consume(queue) as deliveries:
            assert await has_counts(channel, queue, 0, 1)
            with pytest.raises(rabbitry.NotFound):
                await channel.get(unique())
            # the broker has put both back: they must not be handed out here too
            with pytest.raises(rabbitry.NotFound):
                await anext(deliveries)


async def test_before_and_after_its_block(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        deliveries = channel.consume(queue)
        assert "not entered" in repr(deliveries)
        with pytest.raises(rabbitry.LocalProtocolError, match="async with"):
            await anext(deliveries)
        async with deliveries:
            with pytest.raises(rabbitry.LocalProtocolError, match="entered before"):
                await deliveries.__aenter__()
        assert [delivery async for delivery in deliveries] == []


# --- options ---------------------------------------------------------------------------------------------------------


async def test_consumer_tags(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        async with channel.consume(queue) as one, channel.consume(queue) as two:
            assert one.consumer_tag != two.consumer_tag
            async with channel.consume(queue, consumer_tag="mine") as mine:
                assert mine.consumer_tag == "mine"
                with pytest.raises(rabbitry.LocalProtocolError, match="'mine' is already in use"):
                    await channel.consume(queue, consumer_tag="mine").__aenter__()
            async with channel.consume(queue, consumer_tag="mine"):
                assert await has_counts(channel, queue, 0, 3)


async def test_exclusive_consumers(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with channel.consume(queue, exclusive=True), connection.channel() as other:
            with pytest.raises(rabbitry.AccessRefused, match="exclusive"):
                await other.consume(queue).__aenter__()


async def test_priority(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        async with channel.consume(queue, priority=1) as low, channel.consume(queue, priority=10, prefetch=3) as high:
            for number in range(5):
                await channel.publish(b"%d" % number, routing_key=queue)
            assert [(await anext(high)).body for _ in range(3)] == [b"0", b"1", b"2"]
            assert [(await anext(low)).body for _ in range(2)] == [b"3", b"4"]


async def test_without_ack(amqp_url: str) -> None:
    async with open_channel(amqp_url, prefetch=2) as channel:
        queue = await exclusive_queue(channel, NUMBERS)
        async with channel.consume(queue, no_ack=True) as deliveries:
            assert [(await anext(deliveries)).body for _ in NUMBERS] == NUMBERS
        assert await has_counts(channel, queue, 0)
        await check_channel(channel)


async def test_consumers_and_gets_share_one_table_of_tags(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        one, two, three = [await exclusive_queue(channel, NUMBERS[:30]) for _ in range(3)]
        async with (
            channel.consume(one, prefetch=3) as first,
            channel.consume(two, no_ack=True) as second,
        ):
            for number in range(30):
                taken = await anext(first)
                await anext(second)
                got = await channel.get(three)
                assert got is not None
                if number % 3:
                    got.ack()
                    taken.ack()
                else:
                    taken.ack()
                    got.nack(requeue=False)
        for queue in (one, two, three):
            assert await has_counts(channel, queue, 0)
        await check_channel(channel)


async def test_a_stream(amqp_url: str) -> None:
    async with open_channel(amqp_url, prefetch=10) as channel:
        queue = unique("stream")
        await channel.declare_queue(queue, arguments={"x-queue-type": "stream"})
        try:
            for number in range(5):
                await channel.publish(b"%d" % number, routing_key=queue)
            async with channel.consume(queue, arguments={"x-stream-offset": 2}) as deliveries:
                with anyio.fail_after(5):
                    deliveries_seen = [await anext(deliveries) for _ in range(3)]
                assert [delivery.stream_offset for delivery in deliveries_seen] == [2, 3, 4]
                for delivery in deliveries_seen:
                    delivery.ack()
        finally:
            await channel.delete_queue(queue)


async def test_a_quorum_queue_counts_deliveries(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = unique("quorum")
        await channel.declare_queue(queue, arguments={"x-queue-type": "quorum"})
        try:
            await channel.publish(b"message", routing_key=queue)
            async with channel.consume(queue) as deliveries:
                with anyio.fail_after(5):
                    for count in range(3):
                        delivery = await anext(deliveries)
                        assert (delivery.delivery_count, delivery.redelivered) == (count, count > 0)
                        delivery.reject(requeue=True)
                    (await anext(deliveries)).ack()
        finally:
            await channel.delete_queue(queue)


# --- batches ---------------------------------------------------------------------------------------------------------


async def test_full_batches_and_a_last_one(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, NUMBERS)
        sizes, bodies = [], []
        async with channel.consume(queue, prefetch=60) as deliveries:
            for within in (20, 20, 20, 0.1):
                if within < 1:
                    await until(lambda: len(deliveries._buffer) == 20)
                batch = await anext(deliveries.batches(60, within=within))
                sizes.append(len(batch))
                bodies += [delivery.body for delivery in batch]
                assert batch[0].body == bodies[-len(batch)]
                batch.ack()
                batch.ack()  # what is settled is left alone
        assert sizes == [60, 60, 60, 20]
        assert bodies == NUMBERS
        assert await has_counts(channel, queue, 0)


async def test_batches_settled_otherwise(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, NUMBERS[:9])
        async with channel.consume(queue) as deliveries:
            batches = deliveries.batches(3, within=20)
            (await anext(batches)).reject()
            batch = await anext(batches)
            batch[1].ack()
            batch.nack(requeue=False)
            (await anext(batches)).reject(requeue=True)
        assert sorted(await drain(channel, queue)) == [b"6", b"7", b"8"]


async def test_a_cancelled_batch_loses_nothing(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, NUMBERS[:5])
        async with channel.consume(queue) as deliveries:
            await until(lambda: len(deliveries._buffer) == 5)
            for _ in range(3):
                with anyio.move_on_after(0.01) as scope:
                    await anext(deliveries.batches(100, within=5))
                assert scope.cancelled_caught
            batch = await anext(deliveries.batches(100, within=0.01))
            assert [delivery.body for delivery in batch] == NUMBERS[:5]
            with anyio.move_on_after(0.01):
                await anext(deliveries.batches(100, within=5))
        batch.nack()
        assert await has_counts(channel, queue, 5)


async def test_the_last_batch_before_an_end_is_handed_out(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as other:
        queue = await exclusive_queue(other, NUMBERS[:5])
        async with connection.channel() as channel, channel.consume(queue) as deliveries:
            assert await has_counts(other, queue, 0, 1)
            await other.delete_queue(queue)
            batches = deliveries.batches(100, within=5)
            assert len(await anext(batches)) == 5
            with pytest.raises(rabbitry.ConsumerCancelled):
                await anext(batches)


async def test_batches_after_stop_end(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, NUMBERS[:5])
        async with channel.consume(queue) as deliveries:
            async for batch in deliveries.batches(2, within=20):
                batch.ack()
                deliveries.stop()
        assert await has_counts(channel, queue, 3)


@pytest.mark.parametrize(("size", "within", "words"), [(0, 1, "65,535"), (65536, 1, "65,535"), (1, -1, "within")])
async def test_wrong_batches(amqp_url: str, size: int, within: float, words: str) -> None:
    async with open_channel(amqp_url) as channel, channel.consume(await exclusive_queue(channel)) as deliveries:
        with pytest.raises(ValueError, match=words):
            deliveries.batches(size, within=within)


# --- one connection for both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"prefetch": 0}, {"no_ack": True}, {"prefetch": 1}])
@pytest.mark.rabbitmq("it moves much, and wants a socket's buffers")
async def test_consuming_and_publishing_with_confirms_in_one_loop(amqp_url: str, options: dict[str, int]) -> None:
    async with open_channel(amqp_url) as channel:
        source = await exclusive_queue(channel, [bytes(10_000)] * 500)
        target = await exclusive_queue(channel)
        with anyio.fail_after(20):
            async with channel.consume(source, **options) as deliveries:  # type: ignore[arg-type]
                for _ in range(500):
                    delivery = await anext(deliveries)
                    await channel.publish(delivery.body, routing_key=target)
                    if not delivery.is_settled:
                        delivery.ack()
        assert await has_counts(channel, target, 500)
        assert await has_counts(channel, source, 0)


async def test_a_prefetch_counts_from_when_it_was_asked_for(amqp_url: str) -> None:
    """A cancelled `qos` may have taken effect: a consumer with another prefetch of its own still gets that."""
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b""] * 10)
        async with channel.consume(queue, prefetch=5):
            pass
        with anyio.CancelScope() as scope:
            await Driven(channel.qos(1), on_suspension=scope.cancel)
        async with channel.consume(queue, prefetch=5) as deliveries:
            with anyio.fail_after(5):
                for _ in range(5):
                    await anext(deliveries)


async def test_the_end_of_an_overfull_consumer_lets_others_read_on(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "SOFT_MARK", 100_000)
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        full, other = await exclusive_queue(channel, [bytes(50_000)] * 4), await exclusive_queue(channel)
        async with (
            connection.channel(prefetch=0) as doomed,
            doomed.consume(full),
            channel.consume(other) as deliveries,
        ):
            await until(lambda: connection._endpoint.transport.is_reading_paused)
            with pytest.raises(rabbitry.NotFound):
                await doomed.declare_queue("no such queue", passive=True)
            assert not connection._endpoint.transport.is_reading_paused
            async with open_channel(amqp_url) as elsewhere:
                await elsewhere.publish(b"1", routing_key=other)
            with anyio.fail_after(5):
                assert (await anext(deliveries)).body == b"1"


async def test_batches_without_waiting_take_what_is_there(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b"1", b"2", b"3"])
        async with channel.consume(queue) as deliveries:
            await until(lambda: len(deliveries._buffer) == 3)
            batch = await anext(deliveries.batches(10, within=0))
            assert [delivery.body for delivery in batch] == [b"1", b"2", b"3"]


async def test_a_batch_of_a_channel_that_has_ended_is_not_handed_out(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b"1", b"2"])

        async def end_channel() -> None:
            await until(lambda: life_of(channel).live.tags.last == 2)
            with pytest.raises(rabbitry.NotFound):
                await channel.declare_queue("no such queue", passive=True)

        async with channel.consume(queue) as deliveries, anyio.create_task_group() as tg:
            tg.start_soon(end_channel)
            with pytest.raises(rabbitry.NotFound):
                await anext(deliveries.batches(10, within=60))


async def test_many_tasks_that_iterate_one_consumer_each_get_their_own(amqp_url: str) -> None:
    taken: list[bytes] = []
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        async with channel.consume(queue) as deliveries, anyio.create_task_group() as tg:

            async def take() -> None:
                taken.append((await anext(deliveries)).body)

            for _ in range(20):
                tg.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            with anyio.move_on_after(0):  # one that gives up passes its place on
                await anext(deliveries)
            for number in range(20):
                await channel.publish(str(number).encode(), routing_key=queue)
    assert sorted(taken, key=int) == [str(number).encode() for number in range(20)]


async def test_what_a_cancelled_batch_held_wakes_those_who_wait(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b"1", b"2"])
        async with channel.consume(queue, prefetch=2) as deliveries, anyio.create_task_group() as tg:
            scope = anyio.CancelScope()

            async def collect() -> None:
                with scope:
                    await anext(deliveries.batches(10, within=60))

            taken: list[bytes] = []

            async def take() -> None:
                taken.append((await anext(deliveries)).body)

            tg.start_soon(collect)
            await until(lambda: life_of(channel).live.tags.last == 2 and not deliveries._buffer)
            tg.start_soon(take)
            tg.start_soon(take)
            await until(lambda: len(deliveries._waiting) == 3)
            scope.cancel()
            with anyio.fail_after(5):
                await until(lambda: len(taken) == 2)
        assert sorted(taken) == [b"1", b"2"]


async def test_each_task_gets_an_error_of_its_own(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        async with channel.consume(queue) as deliveries:
            await channel.delete_queue(queue)
            errors = []
            for _ in range(2):
                with pytest.raises(rabbitry.ConsumerCancelled) as raised, anyio.fail_after(5):
                    await anext(deliveries)
                errors.append(raised.value)
            assert errors[0] is not errors[1]


@pytest.mark.parametrize(("tag", "error"), [("\ud800", ValueError), ("t" * 256, ValueError), (5, TypeError)])
async def test_a_consumer_tag_that_is_none(amqp_url: str, tag: Any, error: type[Exception]) -> None:
    async with open_channel(amqp_url) as channel:
        with pytest.raises(error, match="a consumer tag"):
            channel.consume(await exclusive_queue(channel), consumer_tag=tag)
        await check_channel(channel)


@pytest.mark.parametrize("end", ["stopped", "stopped by another task", "overrun"])
async def test_leaving_waits_for_the_cancel_whoever_asked_for_it(
    amqp_url: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker's answer frees the tag, and the queue where the consumer had it for itself."""
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, NUMBERS[:5])
        if end == "overrun":
            monkeypatch.setattr(consumer, "SOFT_MARK", 1)
            monkeypatch.setattr(consumer, "HARD_MARK", 2)
        for _ in range(20):
            options = {"prefetch": 0 if end == "overrun" else 3}
            async with channel.consume(queue, consumer_tag="mine", exclusive=True, **options) as deliveries:
                if end == "stopped":
                    deliveries.stop()
                elif end == "stopped by another task":
                    async with anyio.create_task_group() as tg:
                        tg.start_soon(anyio.to_thread.run_sync, int)
                        tg.start_soon(_called, deliveries.stop)
                else:
                    await until(lambda: ended_by(deliveries) is not None)
        assert await has_counts(channel, queue, 5)
        await check_channel(channel)


async def _called(function: Callable[[], object]) -> None:
    function()


async def test_leaving_waits_for_the_cancel_of_who_was_stopped_while_it_was_entered(amqp_url: str) -> None:
    async with open_proxy(amqp_url) as proxy, open_channel(proxy.url) as channel:
        queue = await exclusive_queue(channel, NUMBERS[:5])
        proxy.delay = 0.02
        for _ in range(3):
            deliveries = channel.consume(queue, consumer_tag="mine", exclusive=True, prefetch=3)
            async with anyio.create_task_group() as tg:
                tg.start_soon(_stopped_once_asked_for, deliveries)
                async with deliveries:
                    assert [delivery async for delivery in deliveries] == []
        assert await has_counts(channel, queue, 5)
        await check_channel(channel)


async def _stopped_once_asked_for(deliveries: rabbitry.Consumer) -> None:
    while deliveries._registration is None:
        await anyio.lowlevel.checkpoint()
    deliveries.stop()


async def test_awaiting_a_stop_is_harmless(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        async with channel.consume(await exclusive_queue(channel, NUMBERS[:5])) as deliveries:
            await deliveries.stop()  # type: ignore[func-returns-value]
            assert [delivery async for delivery in deliveries] == []
        await check_channel(channel)


async def test_leaving_does_not_wait_where_there_is_nothing_to_cancel(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        deliveries = channel.consume(queue)
        async with deliveries:
            await channel.delete_queue(queue)
            with pytest.raises(rabbitry.ConsumerCancelled):
                await anext(deliveries)
            deliveries.stop()
        await deliveries.__aexit__(None, None, None)
        async with rabbitry.connect(amqp_url) as connection, connection.channel() as lost:
            async with lost.consume(await exclusive_queue(lost)) as deliveries:
                deliveries.stop()
                connection._endpoint.drop()
                with anyio.fail_after(1):
                    await deliveries.__aexit__(None, None, None)


@pytest.mark.parametrize("end", ["channel", "connection"])
async def test_an_end_between_two_consumers_of_one_iteration_is_told(end: str) -> None:
    """In the very turn of cancel-ok there is no consumer on the channel that could be told."""
    error = (
        methods.ChannelClose(reply_code=541, reply_text="oops", failing_class_id=0, failing_method_id=0)
        if end == "channel"
        else methods.ConnectionClose(reply_code=541, reply_text="oops", failing_class_id=0, failing_method_id=0)
    )

    def answer(method: Method, number: int) -> bytes | None:
        if isinstance(method, methods.BasicCancel):
            cancelled = method_frame(number, methods.BasicCancelOk(consumer_tag=method.consumer_tag))
            return cancelled + method_frame(number if end == "channel" else 0, error)
        return None

    with scripted(answer) as peer, anyio.fail_after(10), pytest.raises(rabbitry.Closed, match="oops"):
        async with rabbitry.connect(peer.url) as connection, connection.channel(confirm=False) as channel:
            async with channel.consume("q", prefetch=2) as deliveries:
                with pytest.raises(rabbitry.Closed, match="oops"):
                    await consumer.begin_again(deliveries, 8, dict)
                await anext(deliveries)


# --- large messages ---------------------------------------------------------------------------------------------------


async def limited_by_its_channel(channel: rabbitry.Channel) -> dict[str, Any]:
    await channel.qos(20, shared=True)
    return {"prefetch": 0}


async def limited_by_itself(channel: rabbitry.Channel) -> dict[str, Any]:
    return {"prefetch": 20}


async def limited_by_qos(channel: rabbitry.Channel) -> dict[str, Any]:
    await channel.qos(20)
    return {}


@pytest.mark.parametrize("limit", [limited_by_itself, limited_by_qos, limited_by_its_channel])
@pytest.mark.rabbitmq("it moves much, and wants a socket's buffers")
async def test_large_messages_leave_other_consumers_alone(
    amqp_url: str, limit: Callable[[rabbitry.Channel], Awaitable[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prefetch bounds what can come, so the connection is read on: 20 messages of a megabyte, which nobody takes."""
    monkeypatch.setattr(consumer, "HARD_MARK", 2 * consumer.SOFT_MARK)
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        large = await exclusive_queue(channel, [bytes(1_000_000)] * 21)
        small = await exclusive_queue(channel)
        async with connection.channel(prefetch=0) as own:
            options = await limit(own)
            async with own.consume(large, **options) as held, channel.consume(small) as others:
                await until(lambda: len(held._buffer) == 20)
                assert not connection._endpoint.transport.is_reading_paused
                async with open_channel(amqp_url) as elsewhere:
                    await elsewhere.publish(b"small", routing_key=small)
                with anyio.fail_after(5):
                    assert (await anext(others)).body == b"small"
                assert held._buffered == 0  # nor is it counted
                for _ in range(20):
                    (await anext(held)).ack()
                (await anext(held)).ack()
        assert await has_counts(channel, large, 0)


async def test_a_broker_that_sends_more_than_the_prefetch_is_bounded_by_the_marks(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "SOFT_MARK", 100_000)
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        async with channel.consume(queue, prefetch=10) as deliveries:
            deliveries._bound = 3
            transport = life_of(channel).endpoint.transport
            async with open_channel(amqp_url) as elsewhere:
                for _ in range(10):
                    await elsewhere.publish(bytes(30_000), routing_key=queue)
            await until(lambda: transport.is_reading_paused)
            assert deliveries._buffered == sum(
                len(each.body) + consumer.MESSAGE_OVERHEAD for each in deliveries._buffer
            )
            for _ in range(10):
                (await anext(deliveries)).ack()
            assert deliveries._buffered == 0 and not transport.is_reading_paused
        assert await has_counts(channel, queue, 0)
