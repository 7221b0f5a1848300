"""Channels: entities, refusals of the broker as classes and refusals before sending, prefetch, many tasks at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest

import rabbitry
from tests.support.helpers import check_channel, counts, drain, exclusive_queue, has_counts, open_channel, unique, until

Act = Callable[[rabbitry.Channel], Awaitable[object]]


# --- entities --------------------------------------------------------------------------------------------------------


async def test_a_queue_from_declaration_to_deletion(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        name = unique()
        assert await channel.declare_queue(name, durable=False) == rabbitry.QueueInfo(name, 0, 0)
        for body in (b"1", b"2", b"3"):
            await channel.publish(body, routing_key=name)
        assert await channel.declare_queue(name, durable=False) == rabbitry.QueueInfo(name, 3, 0)
        assert await channel.purge_queue(name) == 3
        await channel.publish(b"4", routing_key=name)
        assert await channel.delete_queue(name) == 1
        assert await channel.delete_queue(name) == 0  # one that does not exist is fine


async def test_server_named_queues(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        names = {(await channel.declare_queue(exclusive=True)).name for _ in range(3)}
        assert len(names) == 3
        assert all(name.startswith("amq.gen-") for name in names)


async def test_an_exclusive_queue_belongs_to_its_connection_and_goes_with_it(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        async with open_channel(amqp_url) as stranger:
            with pytest.raises(rabbitry.ResourceLocked) as caught:
                await stranger.declare_queue(queue, passive=True)
            assert caught.value.code == 405
    async with open_channel(amqp_url) as stranger:
        with pytest.raises(rabbitry.NotFound):
            await stranger.declare_queue(queue, passive=True)


async def test_conditional_deletion(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as keeper:
        queue = await exclusive_queue(keeper, [b"message"])
        async with connection.channel() as channel:
            with pytest.raises(rabbitry.PreconditionFailed, match="not empty"):
                await channel.delete_queue(queue, if_empty=True)
        async with keeper.consume(queue), connection.channel() as channel:
            with pytest.raises(rabbitry.PreconditionFailed, match="in use"):
                await channel.delete_queue(queue, if_unused=True)
        assert await keeper.delete_queue(queue, if_unused=True) == 1


async def test_exchanges_and_bindings_route(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        topic, fanout = unique("topic"), unique("fanout")
        await channel.declare_exchange(topic, "topic", durable=False)
        await channel.declare_exchange(fanout, "fanout", durable=False, auto_delete=True)
        one, two = await exclusive_queue(channel), await exclusive_queue(channel)
        await channel.bind_queue(one, topic, "job.#")
        await channel.bind_exchange(fanout, topic, "*.new")
        await channel.bind_queue(two, fanout)
        for key in ("job.new", "job.old", "cat.new"):
            await channel.publish(key.encode(), exchange=topic, routing_key=key)
        assert await drain(channel, one) == [b"job.new", b"job.old"]
        assert await drain(channel, two) == [b"job.new", b"cat.new"]
        await channel.unbind_queue(one, topic, "job.#")
        await channel.unbind_exchange(fanout, topic, "*.new")
        with pytest.raises(rabbitry.Unroutable):
            await channel.publish(b"", exchange=topic, routing_key="job.new", mandatory=True)
        await channel.delete_exchange(topic)
        await channel.delete_exchange(topic)


async def test_headers_exchange_binds_by_arguments(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        await channel.bind_queue(queue, "amq.headers", arguments={"x-match": "all", "colour": queue, "size": 3})
        for headers in ({"colour": queue, "size": 3}, {"colour": queue, "size": 4}):
            await channel.publish(rabbitry.Message(b"x", headers=headers), exchange="amq.headers")
        assert (await counts(channel, queue))[0] == 1


# --- the broker refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "error", "code", "method"),
    [
        (lambda channel: channel.declare_queue("amq.forbidden"), rabbitry.AccessRefused, 403, "queue.declare"),
        (lambda channel: channel.declare_queue(unique(), passive=True), rabbitry.NotFound, 404, "queue.declare"),
        (lambda channel: channel.get(unique()), rabbitry.NotFound, 404, "basic.get"),
        (lambda channel: channel.bind_queue(unique(), "amq.topic"), rabbitry.NotFound, 404, "queue.bind"),
        (lambda channel: channel.purge_queue(unique()), rabbitry.NotFound, 404, "queue.purge"),
        (
            lambda channel: channel.declare_exchange("amq.topic", "fanout"),
            rabbitry.PreconditionFailed,
            406,
            "exchange.declare",
        ),
        (lambda channel: channel.consume(unique()).__aenter__(), rabbitry.NotFound, 404, "basic.consume"),
    ],
)
async def test_the_broker_refuses(amqp_url: str, act: Act, error: type, code: int, method: str) -> None:
    async with rabbitry.connect(amqp_url) as connection:
        async with connection.channel() as channel:
            with pytest.raises(error) as caught:
                await act(channel)
            assert isinstance(caught.value, rabbitry.ChannelClosed)
            assert (caught.value.code, caught.value.method) == (code, method)
            assert str(code) in str(caught.value) and method in str(caught.value)
            # the channel has ended, and says why ever after: each time in a fresh exception
            assert not channel.is_open
            with pytest.raises(error) as again:
                await channel.publish(b"")
            assert again.value is not caught.value
            assert str(again.value) == str(caught.value)
        async with connection.channel() as channel:
            await check_channel(channel)


async def test_a_refusal_ends_all_that_waits_on_the_channel(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        ended = []

        async def iterate() -> None:
            with pytest.raises(rabbitry.NotFound):
                await anext(deliveries)
            ended.append("iteration")

        async with channel.consume(queue) as deliveries:
            async with anyio.create_task_group() as tg:
                tg.start_soon(iterate)
                await anyio.wait_all_tasks_blocked()
                confirmation = channel.publish_nowait(b"", exchange=unique())
                assert confirmation is not None
                with pytest.raises(rabbitry.Refused) as caught:
                    await confirmation.wait()
                assert isinstance(caught.value.__cause__, rabbitry.NotFound)
        assert ended == ["iteration"]
        assert connection.is_open


# --- what RabbitMQ refuses, or AMQP does not allow, is refused here ---------------------------------------------------


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda channel: channel.flow(False), ValueError, "prefetch"),
        (lambda channel: channel.recover(requeue=False), ValueError, "requeue=True"),
        (lambda channel: channel.select_tx(), rabbitry.LocalProtocolError, "confirm=False"),
        (lambda channel: channel.commit_tx(), rabbitry.LocalProtocolError, "select_tx"),
        (lambda channel: channel.rollback_tx(), rabbitry.LocalProtocolError, "select_tx"),
        (lambda channel: channel.qos(65536), ValueError, "65,535"),
        (lambda channel: channel.qos(-1), ValueError, "prefetch"),
        (lambda channel: channel.declare_queue("x" * 256), ValueError, "queue"),
        (lambda channel: channel.declare_queue(arguments={"x": object()}), TypeError, "object"),
        (lambda channel: channel.declare_queue(arguments={"x": 2**63}), ValueError, "x"),
        (lambda channel: channel.publish(b"", routing_key="x" * 256), ValueError, "routing_key"),
        (lambda channel: channel.publish("text"), TypeError, "Message.json"),
        (lambda channel: channel.publish(rabbitry.Message(b"", priority=256)), ValueError, "priority"),
        (lambda channel: channel.publish(rabbitry.Message(b"", expiration=-1)), ValueError, "expiration"),
        (lambda channel: channel.publish(rabbitry.Message(b"", expiration=2**32)), ValueError, "expiration"),
        (lambda channel: channel.publish(rabbitry.Message(b"", headers={"x" * 256: 1})), ValueError, "headers"),
    ],
)
async def test_refused_here(amqp_url: str, act: Act, kind: type[Exception], words: str) -> None:
    async with open_channel(amqp_url) as channel:
        with pytest.raises(kind, match=words):
            await act(channel)
        await check_channel(channel)


async def test_mandatory_needs_confirms(amqp_url: str) -> None:
    async with open_channel(amqp_url, confirm=False) as channel:
        with pytest.raises(rabbitry.LocalProtocolError, match="confirm=True"):
            await channel.publish(b"", mandatory=True)
        with pytest.raises(rabbitry.LocalProtocolError, match="confirm=True"):
            async with channel.publisher():
                pass
        await check_channel(channel)


async def test_before_and_after_its_block(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection:
        channel = connection.channel()
        with pytest.raises(rabbitry.NotConnected, match="async with"):
            await channel.publish(b"")
        with pytest.raises(rabbitry.NotConnected, match="async with"):
            await channel.declare_queue()
        async with channel:
            assert channel.is_open
            with pytest.raises(rabbitry.LocalProtocolError, match="entered before"):
                await channel.__aenter__()
        assert not channel.is_open
        for act in (channel.declare_queue(), channel.publish(b""), channel.get("x")):
            with pytest.raises(rabbitry.ChannelClosed, match="closed by this program"):
                await act


async def test_leaving_an_ended_channel_does_not_mask_the_error(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection:
        seen = None
        with anyio.CancelScope() as scope:
            try:
                async with connection.channel() as channel:
                    with pytest.raises(rabbitry.NotFound):
                        await channel.get(unique())
                    scope.cancel()
                    raise ValueError("mine")
            except ValueError as exc:
                seen = exc
        assert seen is not None


# --- channels on their connection ------------------------------------------------------------------------------------


async def test_channel_numbers_are_used_again(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url, channel_max=3) as connection:
        async with connection.channel() as one, connection.channel() as two, connection.channel() as three:
            assert {one.number, two.number, three.number} == {1, 2, 3}
            with pytest.raises(rabbitry.LocalProtocolError, match="channel_max"):
                await connection.channel().__aenter__()
        for _ in range(10):
            async with connection.channel() as channel:
                await check_channel(channel)


async def test_entered_and_left_in_different_tasks(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection:
        channel = connection.channel()
        async with anyio.create_task_group() as tg:
            tg.start_soon(channel.__aenter__)
        await check_channel(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(channel.__aexit__, None, None, None)
        assert not channel.is_open


@pytest.mark.rabbitmq("the embedded broker sends each reply in its turn")
async def test_many_tasks_on_one_channel(amqp_url: str) -> None:
    """Replies that RabbitMQ sends late (consume-ok, cancel-ok) are not taken for those of the requests behind them."""
    async with open_channel(amqp_url) as channel:

        async def work(number: int) -> None:
            body = str(number).encode()
            for _ in range(4):
                queue = await exclusive_queue(channel, [body])
                async with channel.consume(queue) as deliveries:
                    delivery = await anext(deliveries)
                    assert delivery.body == body
                    delivery.ack()
                assert await channel.get(queue) is None
                assert await channel.delete_queue(queue) == 0

        async with anyio.create_task_group() as tg:
            for number in range(20):
                tg.start_soon(work, number)
        await check_channel(channel)


@pytest.mark.rabbitmq("over a cancel that overtakes consume-ok the embedded broker does not crash")
async def test_requests_right_behind_a_stop(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b"message"])
        for _ in range(20):
            async with channel.consume(queue) as deliveries:
                deliveries.stop()
                await channel.declare_queue(queue, passive=True)
        assert await has_counts(channel, queue, 1)


@pytest.mark.rabbitmq("over a cancel that overtakes consume-ok the embedded broker does not crash")
async def test_a_consumer_stopped_while_it_starts(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b"message"])
        for _ in range(20):
            deliveries = channel.consume(queue)
            async with anyio.create_task_group() as tg:
                tg.start_soon(deliveries.__aenter__)
                while "consuming" not in repr(deliveries):
                    await anyio.lowlevel.checkpoint()
                deliveries.stop()
            assert [delivery async for delivery in deliveries] == []
            assert await has_counts(channel, queue, 1)


# --- prefetch --------------------------------------------------------------------------------------------------------


async def test_prefetch_bounds_what_is_unsettled(amqp_url: str) -> None:
    async with open_channel(amqp_url, prefetch=3) as channel:
        queue = await exclusive_queue(channel, [b"x"] * 10)
        async with channel.consume(queue) as deliveries:
            assert await has_counts(channel, queue, 7, 1)
            (await anext(deliveries)).ack()
            assert await has_counts(channel, queue, 6, 1)
        async with channel.consume(queue, prefetch=5):
            assert await has_counts(channel, queue, 4, 1)
            async with channel.consume(queue, prefetch=1):
                assert await has_counts(channel, queue, 3, 2)
        await channel.qos(2)
        async with channel.consume(queue):
            assert await has_counts(channel, queue, 7, 1)
        async with channel.consume(queue, prefetch=0):
            assert await has_counts(channel, queue, 0, 1)


async def test_shared_prefetch(amqp_url: str, broker_version: tuple[int, ...]) -> None:
    # RabbitMQ 4.3 logs that it ignores the flag, and gives each consumer the limit.
    ready = 6 if broker_version < (4, 3) else 2
    async with open_channel(amqp_url, prefetch=0) as channel:
        queue = await exclusive_queue(channel, [b"x"] * 10)
        await channel.qos(4, shared=True)
        async with channel.consume(queue), channel.consume(queue):
            assert await has_counts(channel, queue, ready, 2)


async def test_recover_delivers_again(amqp_url: str) -> None:
    async with open_channel(amqp_url, prefetch=2) as channel:
        queue = await exclusive_queue(channel, [b"1", b"2", b"3"])
        async with channel.consume(queue) as deliveries:
            first = await anext(deliveries)
            await channel.recover()
            assert first.is_stale and not first.is_settled
            with pytest.raises(rabbitry.StaleDelivery, match="recovered"):
                first.ack()
            bodies = []
            with anyio.fail_after(5):
                while len(bodies) < 3:
                    delivery = await anext(deliveries)
                    bodies.append(delivery.body)
                    delivery.ack()
            assert sorted(bodies) == [b"1", b"2", b"3"]
        assert await has_counts(channel, queue, 0)


async def test_flow_true_is_answered(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        await channel.flow(True)
        await check_channel(channel)


async def test_repr_says_where_it_stands(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url, name="somebody") as connection:
        channel = connection.channel()
        assert repr(channel) == "<Channel, not entered>"
        async with channel:
            assert repr(channel) == "<Channel 1 open of 'somebody'>"
        await until(lambda: "closed" in repr(channel))
