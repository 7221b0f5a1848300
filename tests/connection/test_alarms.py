"""Back-pressure with a real broker: memory alarms, deliveries nobody iterates, a loop that consumes and publishes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

import rabbitry
from rabbitry import _endpoint
from rabbitry._channel import consumer
from rabbitry._channel.channel import life_of
from rabbitry.testing import PrivateNode
from tests.support.helpers import exclusive_queue, open_channel, unique


@pytest.fixture(scope="module")
def starved() -> Iterator[PrivateNode]:
    """A broker of its own: an alarm blocks every publisher on it."""
    with PrivateNode() as node:
        yield node


async def set_alarm(node: PrivateNode, on: bool) -> None:
    await anyio.to_thread.run_sync(node.rabbitmqctl, "set_vm_memory_high_watermark", "0.000001" if on else "0.6")


async def until(condition: Any) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.01)


async def test_a_memory_alarm_stops_publishing_and_nothing_else(
    starved: PrivateNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = unique("alarm")
    async with (
        rabbitry.connect(starved.url, name="publishes") as publishing,
        rabbitry.connect(starved.url, name="consumes") as consuming,
        publishing.channel() as publisher,
        consuming.channel(prefetch=5) as consumer,
    ):
        await publisher.declare_queue(queue)
        for number in range(20):
            await publisher.publish(str(number).encode(), routing_key=queue)
        in_hand = await publisher.get(queue)
        assert in_hand is not None
        async with consumer.consume(queue) as deliveries:
            (await deliveries.__anext__()).ack()
            await set_alarm(starved, True)
            try:
                # the broker tells a connection when it publishes, and confirms nothing
                publisher.publish_nowait(b"blocks", routing_key=queue)
                await until(lambda: publishing.is_blocked)
                assert not consuming.is_blocked

                # Publishing waits, and can be cancelled.
                with pytest.raises(anyio.WouldBlock):
                    publisher.publish_nowait(b"no", routing_key=queue)
                with anyio.move_on_after(0.1) as scope:
                    await publisher.publish(b"no", routing_key=queue)
                assert scope.cancelled_caught
                # On the blocked connection the broker reads nothing: acks and declares wait.
                in_hand.ack()
                with anyio.move_on_after(0.1) as scope:
                    await publisher.declare_queue(unique(), exclusive=True)
                assert scope.cancelled_caught
                # A connection that never published receives and acknowledges as ever: more than its prefetch of 5.
                with anyio.fail_after(30):
                    for _ in range(18):
                        (await deliveries.__anext__()).ack()
                # Closing a blocked connection has a bound of its own, far below the other, which is a minute here.
                monkeypatch.setattr(_endpoint, "CLOSE_BOUND", 60)
                with anyio.fail_after(30):
                    async with rabbitry.connect(starved.url) as third, third.channel() as channel:
                        channel.publish_nowait(b"blocks", routing_key="")
                        await until(lambda: third.is_blocked)

                async def end_alarm() -> None:
                    await anyio.sleep(0.3)
                    await set_alarm(starved, False)

                async with anyio.create_task_group() as tg:
                    tg.start_soon(end_alarm)
                    with anyio.fail_after(40):
                        await publisher.declare_queue(queue)  # waits, and completes when the alarm clears
                        await publisher.publish(b"after", routing_key=queue)
            finally:
                await set_alarm(starved, False)
            assert in_hand.is_settled and not in_hand.is_stale
        await until(lambda: not publishing.is_blocked)
        await publisher.delete_queue(queue)


@pytest.mark.parametrize("no_ack", [False, True])
async def test_consuming_without_prefetch_and_publishing_on_one_connection_does_not_deadlock(
    amqp_url: str, no_ack: bool
) -> None:
    async with open_channel(amqp_url) as channel:
        source, target = await exclusive_queue(channel), await exclusive_queue(channel)
        async with channel.publisher(window=1000) as publisher:
            for _ in range(20_000):  # 20 MB: well past the mark where reading pauses
                await publisher.submit(b"x" * 1000, routing_key=source)
        with anyio.fail_after(60):
            async with channel.consume(source, prefetch=0, no_ack=no_ack) as deliveries:
                for _ in range(1000):
                    delivery = await deliveries.__anext__()
                    await channel.publish(delivery.body, routing_key=target)
                    if not no_ack:
                        delivery.ack()


async def test_a_consumer_that_stops_iterating_stops_the_reading(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "SOFT_MARK", 1_000_000)
    async with open_channel(amqp_url) as filling, open_channel(amqp_url) as channel:
        queue = unique("slow")
        await filling.declare_queue(queue)
        async with filling.publisher(window=1000) as publisher:
            for _ in range(20_000):
                await publisher.submit(b"x" * 1000, routing_key=queue)
        async with channel.consume(queue, no_ack=True) as deliveries:
            transport = life_of(channel).endpoint.transport
            await until(lambda: transport.is_reading_paused)
            await anyio.sleep(0.2)
            held = deliveries._buffered
            assert 1_000_000 < held < 3_000_000, "what one read brings past the mark, and no more"
            with anyio.fail_after(30):
                for _ in range(20_000):
                    await deliveries.__anext__()
            assert not transport.is_reading_paused
        await filling.delete_queue(queue)


async def test_past_the_hard_mark_the_consumer_alone_ends(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "SOFT_MARK", 100_000)
    monkeypatch.setattr(consumer, "HARD_MARK", 200_000)
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        async with channel.publisher(window=1000) as publisher:
            for _ in range(1_000):
                await publisher.submit(b"x" * 1000, routing_key=queue)
        async with channel.consume(queue, prefetch=0) as deliveries:
            for _ in range(50):  # each confirm awaited keeps the connection reading
                await channel.publish(b"y", routing_key=queue)
            taken = 0
            with pytest.raises(rabbitry.ConsumerOverrun, match=queue):
                async for delivery in deliveries:
                    delivery.ack()
                    taken += 1
        assert 0 < taken < 1_000
        assert channel.is_open
        await channel.publish(b"still open", routing_key=queue)
