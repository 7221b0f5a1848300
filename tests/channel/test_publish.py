"""Publishing: every publish ends exactly once and as itself; the window holds; bodies of any size arrive whole."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import rabbitry
from rabbitry._channel.channel import life_of
from tests.support.helpers import check_channel, counts, drain, exclusive_queue, open_channel, unique

FULL = {"x_max_length": 1, "x_overflow": "reject-publish"}
"""Arguments of a queue that takes one message and refuses the rest."""


# --- confirmed one by one --------------------------------------------------------------------------------------------


async def test_publish_returns_once_confirmed(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        for number in range(50):
            await channel.publish(b"%d" % number, routing_key=queue)
            assert (await counts(channel, queue))[0] == number + 1
        assert await drain(channel, queue) == [b"%d" % number for number in range(50)]


async def test_a_refused_publish(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, **FULL)
        await channel.publish(b"taken", routing_key=queue)
        message = rabbitry.Message(b"refused", message_id="7")
        with pytest.raises(rabbitry.Nacked, match=queue) as caught:
            await channel.publish(message, routing_key=queue)
        assert caught.value.message is message
        assert (caught.value.exchange, caught.value.routing_key) == ("", queue)
        assert await drain(channel, queue) == [b"taken"]


async def test_unroutable(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        key = unique()
        await channel.publish(b"dropped", routing_key=key)  # not mandatory: the broker confirms, and drops it
        with pytest.raises(rabbitry.Unroutable, match="312 NO_ROUTE") as caught:
            await channel.publish(b"returned", exchange="amq.topic", routing_key=key, mandatory=True)
        assert (caught.value.message, caught.value.exchange, caught.value.routing_key) == (
            b"returned",
            "amq.topic",
            key,
        )
        assert caught.value.reply == (312, "NO_ROUTE")


async def test_an_exchange_is_named_by_its_value_too(amqp_url: str) -> None:
    exchange = rabbitry.Exchange(unique(), auto_delete=True, durable=False)
    async with open_channel(amqp_url) as channel, rabbitry.connect(amqp_url) as connection:
        queue = await exclusive_queue(channel)
        await channel.declare(exchange, rabbitry.Binding(queue, exchange, "key"))
        await channel.publish(b"1", exchange=exchange, routing_key="key")
        confirmation = channel.publish_nowait(b"2", exchange=exchange, routing_key="key")
        assert confirmation is not None and confirmation.exchange == exchange.name
        async with channel.publisher(exchange=exchange) as publisher:
            await publisher.submit(b"3", routing_key="key")
            await publisher.publish(b"4", exchange=exchange, routing_key="key")
        async with connection.channel() as plain:
            plain.publish_nowait(b"5", exchange=exchange, routing_key="key")
            await plain.declare_queue(exchange.name, exclusive=True)  # (so that it has been dealt with)
        assert await drain(channel, queue) == [b"1", b"2", b"3", b"4", b"5"]
        with pytest.raises(TypeError, match="a name is text"):
            await channel.publish(b"", exchange=None)  # type: ignore[arg-type]


async def test_returns_find_their_own_publish(amqp_url: str) -> None:
    """Routable and unroutable, mandatory and not, refused, in any order and at once."""
    randomness = random.Random(3)
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue, full = await exclusive_queue(channel), await exclusive_queue(channel, [b"x"], **FULL)
        keys = {queue: "confirmed", unique("nowhere"): "unroutable", full: "nacked"}
        expected, confirmations = [], []
        for number in range(500):
            key, mandatory = randomness.choice(list(keys)), randomness.random() < 0.7
            expected.append("confirmed" if keys[key] == "unroutable" and not mandatory else keys[key])
            message = rabbitry.Message(b"%d" % number, headers={"number": number})
            confirmation = channel.publish_nowait(message, routing_key=key, mandatory=mandatory)
            assert confirmation is not None
            confirmations.append(confirmation)
        for confirmation in confirmations:
            with contextlib.suppress(rabbitry.PublishFailed):
                await confirmation.wait()
            failure = confirmation.failure()
            assert failure is None or failure.message is confirmation.message
        assert [confirmation.outcome for confirmation in confirmations] == expected
        assert connection.unmatched_returns == 0


async def test_a_mandatory_message_keeps_its_properties(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        messages = [
            rabbitry.Message(b"body", headers={"mine": 1}, correlation_id="c", expiration=60),
            rabbitry.Message(b"without headers", message_id="m"),
            rabbitry.Message(b"with none", headers={}),
        ]
        for message in messages:
            await channel.publish(message, routing_key=queue, mandatory=True)
        for message in messages:
            delivery = await channel.get(queue, no_ack=True)
            assert delivery is not None
            assert delivery.message == message.replace(headers=message.headers or None)
            assert delivery.headers == (message.headers or {})
        assert messages[0].headers == {"mine": 1}


async def test_a_mandatory_message_passed_on_is_matched_to_its_own_return(amqp_url: str) -> None:
    """What it carried to here is not carried on."""
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b"1", b"2"])
        await channel.publish(b"3", routing_key=queue, mandatory=True)
        async with channel.consume(queue) as deliveries:
            for _ in range(3):
                delivery = await anext(deliveries)
                with pytest.raises(rabbitry.Unroutable) as unroutable:
                    await channel.publish(delivery.message, routing_key=unique(), mandatory=True)
                assert unroutable.value.message.headers is None
                await channel.publish(delivery.message, routing_key=queue)
                delivery.ack()
        assert await drain(channel, queue) == [b"1", b"2", b"3"]


async def test_confirmations_may_be_awaited_by_many_and_late(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        confirmation = channel.publish_nowait(b"", routing_key=unique(), mandatory=True)
        assert confirmation is not None and confirmation.outcome == "pending"
        failed = []

        async def wait() -> None:
            with pytest.raises(rabbitry.Unroutable):
                await confirmation.wait()
            failed.append(confirmation.failure())

        async with anyio.create_task_group() as tg:
            for _ in range(3):
                tg.start_soon(wait)
        await wait()
        assert len(failed) == 4
        assert len(set(map(id, failed))) == 4  # each a fresh exception


async def test_without_confirms(amqp_url: str) -> None:
    async with open_channel(amqp_url, confirm=False) as channel:
        queue = await exclusive_queue(channel)
        for number in range(200):
            await channel.publish(b"%d" % number, routing_key=queue)
        assert channel.publish_nowait(b"last", routing_key=queue) is None
        assert await drain(channel, queue) == [*(b"%d" % number for number in range(200)), b"last"]


async def test_a_hundred_tasks_on_one_channel(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)

        async def publish(number: int) -> None:
            for _ in range(5):
                await channel.publish(b"%d" % number, routing_key=queue)

        async with anyio.create_task_group() as tg:
            for number in range(100):
                tg.start_soon(publish, number)
        assert sorted(await drain(channel, queue)) == sorted(b"%d" % (number // 5) for number in range(500))


@pytest.mark.rabbitmq("its time passes while there is always something to do")
async def test_publishing_lets_other_tasks_run_and_time_out(amqp_url: str) -> None:
    async with open_channel(amqp_url, confirm=False) as channel:
        queue = await exclusive_queue(channel)
        sent = 0
        with anyio.move_on_after(0.02) as scope:
            while sent < 1_000_000:
                await channel.publish(b"", routing_key=queue)
                sent += 1
        assert scope.cancelled_caught
        await channel.purge_queue(queue)


# --- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame_max", [4096, 8192, 131072])
async def test_bodies_of_every_size(amqp_url: str, broker_version: tuple[int, ...], frame_max: int) -> None:
    if frame_max < 8192 and broker_version >= (4, 1):
        pytest.skip("RabbitMQ 4.1 and newer refuse frames of less than 8,192 bytes")
    limit = frame_max - 8
    sizes = [0, 1, limit - 1, limit, limit + 1, 2 * limit - 1, 2 * limit, 2 * limit + 1, 10 * limit + 3]
    bodies = [random.Random(size).randbytes(size) for size in sizes]
    async with rabbitry.connect(amqp_url, frame_max=frame_max) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel, bodies)
        async with channel.publisher() as publisher:
            for body in bodies:
                await publisher.submit(body, routing_key=queue)
        assert await drain(channel, queue) == bodies * 2
        for body in bodies:
            await channel.publish(body, routing_key=queue)
        async with channel.consume(queue) as deliveries:
            for body in bodies:
                delivery = await anext(deliveries)
                assert delivery.body == body
                delivery.ack()


@pytest.mark.rabbitmq("it moves much, and wants a socket's buffers")
async def test_a_body_of_megabytes(amqp_url: str) -> None:
    body = random.Random(1).randbytes(16_000_000)  # RabbitMQ 4 takes 16 MiB
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [body])
        await channel.publish(b"behind it", routing_key=queue)
        assert await drain(channel, queue) == [body, b"behind it"]


async def test_a_body_larger_than_the_broker_takes(amqp_url: str, broker_version: tuple[int, ...]) -> None:
    if broker_version < (4,):
        pytest.skip("RabbitMQ 3 takes 128 MiB, which is too much to send here")
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        with pytest.raises(rabbitry.Refused, match="larger than configured max size 16777216"):
            await channel.publish(bytes(2**24 + 1), routing_key=queue)
        with pytest.raises(rabbitry.PreconditionFailed):
            await channel.publish(b"behind it", routing_key=queue)


async def test_mutable_bodies_are_copied(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        body = bytearray(b"as it was")
        for mutable in (body, memoryview(body)):
            channel.publish_nowait(mutable, routing_key=queue)  # type: ignore[arg-type]
        body[:2] = b"is"
        assert await drain(channel, queue) == [b"as it was"] * 2


# --- the publisher ---------------------------------------------------------------------------------------------------


@pytest.mark.rabbitmq("it moves much, and wants a socket's buffers")
async def test_pipelined(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        async with channel.publisher(window=100) as publisher:
            confirmations = []
            for number in range(2000):
                confirmations.append(await publisher.submit(b"%d" % number, routing_key=queue, tag=number))
                assert publisher.pending <= 100
        assert (publisher.sent, publisher.confirmed, publisher.failed, publisher.pending) == (2000, 2000, 0, 0)
        assert all(confirmation.outcome == "confirmed" for confirmation in confirmations)
        assert [confirmation.tag for confirmation in confirmations] == list(range(2000))
        assert await drain(channel, queue) == [b"%d" % number for number in range(2000)]


async def test_the_window_holds_for_many_tasks(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        most = 0
        async with channel.publisher(window=7) as publisher:

            async def publish(number: int) -> None:
                nonlocal most
                for _ in range(5):
                    if number % 2:
                        await publisher.publish(b"", routing_key=queue)
                    else:
                        await publisher.submit(b"", routing_key=queue)
                    most = max(most, publisher.pending)

            async with anyio.create_task_group() as tg:
                for number in range(40):
                    tg.start_soon(publish, number)
        assert 1 < most <= 7
        assert publisher.confirmed == 200


async def test_failures_are_raised_together(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        full = await exclusive_queue(channel, [b"x"], **FULL)
        nowhere = unique()
        with pytest.raises(rabbitry.PublishesFailed) as caught:
            async with channel.publisher(exchange="amq.direct") as publisher:
                for number in range(3):
                    await publisher.submit(b"%d" % number, exchange="", routing_key=full)
                    await publisher.submit(b"%d" % number, routing_key=nowhere, mandatory=True)
                    await publisher.submit(b"%d" % number, routing_key=nowhere)
                with pytest.raises(rabbitry.Unroutable):  # a publish raises its own, which is not listed again
                    await publisher.publish(b"own", routing_key=nowhere, mandatory=True)
        assert caught.value.count == 6
        kinds = sorted((type(failure).__name__, failure.message) for failure in caught.value.failures)
        assert kinds == sorted((kind, b"%d" % number) for kind in ("Nacked", "Unroutable") for number in range(3))
        assert "6 publishes failed" in str(caught.value)
        assert (publisher.sent, publisher.confirmed, publisher.failed) == (10, 3, 7)
        await check_channel(channel)


async def test_failures_kept_are_bounded(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        nowhere = unique()
        with pytest.raises(rabbitry.PublishesFailed) as caught:
            async with channel.publisher() as publisher:
                for _ in range(1100):
                    await publisher.submit(b"", routing_key=nowhere, mandatory=True)
        assert (len(caught.value.failures), caught.value.count) == (1000, 1100)


async def test_on_outcome_is_told_of_each(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue, nowhere = await exclusive_queue(channel), unique()
        outcomes: dict[Any, str] = {}
        async with channel.publisher(on_outcome=lambda c: outcomes.update({c.tag: c.outcome})) as publisher:
            for number in range(100):
                key = nowhere if number % 3 == 0 else queue
                await publisher.submit(b"", routing_key=key, mandatory=True, tag=number)
        assert outcomes == {number: "unroutable" if number % 3 == 0 else "confirmed" for number in range(100)}
        assert publisher.failed == 34


async def test_a_body_that_raises_leaves_at_once(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        with pytest.raises(ValueError, match="mine"):
            async with channel.publisher() as publisher:
                await publisher.submit(b"", routing_key=unique(), mandatory=True)
                raise ValueError("mine")
        await check_channel(channel)


async def test_flush(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        async with channel.publisher() as publisher:
            for _ in range(100):
                await publisher.submit(b"", routing_key=queue)
            await publisher.flush()
            assert (publisher.pending, publisher.confirmed) == (0, 100)


async def test_the_end_of_the_channel_ends_each_publish(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        with pytest.raises(rabbitry.PublishesFailed) as caught:
            async with channel.publisher(window=1000) as publisher:
                await publisher.submit(b"", exchange=unique())  # there is none: the broker closes the channel
                for _ in range(10):
                    await publisher.submit(b"", routing_key=queue)
        assert publisher.sent == 11
        assert publisher.pending == 0
        assert caught.value.count == publisher.failed >= 1
        first, *others = caught.value.failures
        assert isinstance(first, rabbitry.Refused)
        assert all(isinstance(failure, rabbitry.NotSent) for failure in others)
        with pytest.raises(rabbitry.NotFound):
            await publisher.submit(b"", routing_key=queue)
        assert publisher.sent == 11


async def test_wrong_windows(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        with pytest.raises(ValueError, match="window"):
            channel.publisher(window=0)


@pytest.mark.parametrize("confirm", [True, False])
async def test_a_publisher_works_inside_its_block_only(amqp_url: str, confirm: bool) -> None:
    async with open_channel(amqp_url, confirm=confirm) as channel:
        publisher = channel.publisher()
        for _ in range(2):
            for publish in (publisher.submit, publisher.publish):
                with pytest.raises(rabbitry.LocalProtocolError), anyio.fail_after(5):
                    await publish(b"", routing_key="nowhere")
            assert life_of(channel).endpoint.protocol.awaiting == 0
            if confirm:
                async with publisher:
                    await publisher.submit(b"", routing_key="nowhere")
        await check_channel(channel)


async def test_tasks_take_their_places_in_the_window_in_turn(amqp_url: str) -> None:
    order: list[int] = []
    async with open_channel(amqp_url) as channel:
        async with channel.publisher(window=3) as publisher, anyio.create_task_group() as tg:

            async def submit(number: int) -> None:
                await publisher.submit(b"", routing_key="nowhere", tag=number)
                order.append(number)
                assert publisher.pending <= 3

            for number in range(100):
                tg.start_soon(submit, number)
                await anyio.lowlevel.cancel_shielded_checkpoint()
            with anyio.move_on_after(0):  # one that gives up passes its place on
                await publisher.submit(b"", routing_key="nowhere")
        assert (publisher.sent, publisher.confirmed, publisher.pending) == (100, 100, 0)
    # (whoever the same chunk of confirms let in goes on in any order)
    assert all(abs(place - number) <= 3 for place, number in enumerate(order))


async def test_abandoned_waits_leave_nothing_behind(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        confirmation = channel.publish_nowait(b"", routing_key="nowhere")
        assert confirmation is not None
        for _ in range(10):
            with anyio.move_on_after(0):
                await confirmation.wait()
        assert len(confirmation._signals) == 0
        await confirmation.wait()
