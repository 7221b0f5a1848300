"""Consuming again when a life begins, whoever iterates by then: all handlers may be busy, and nobody may iterate."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Delivery, Queue
from rabbitry._client.subscription import Subscription
from tests.support.clients import QUICK, refuse, some_queue, through_proxy
from tests.support.helpers import counts, has_counts, open_channel, unique, until


async def lose(client: rabbitry.Client, cut_it: Callable[[], object]) -> None:
    """Cut the connections and wait until that which consumes is there again, and all that consumed on it."""
    lives = client.statistics()["consuming_lives"]
    cut_it()
    await until(lambda: client.statistics()["consuming_lives"] > lives)
    lives = client.statistics()["consuming_lives"]
    await until(lambda: all(each.lives == lives for each in client._running.subscriptions._members))


class Busy:
    """A handler that is at work until it may finish; `log` says what it began and ended."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.begun, self.go_on = anyio.Event(), anyio.Event()

    async def __call__(self, delivery: Delivery) -> None:
        name = delivery.body.decode()[:10] + (" again" if delivery.redelivered else "")
        self.log.append(f"{name} begins")
        self.begun.set()
        await self.go_on.wait()
        self.log.append(f"{name} ends")


@asynccontextmanager
async def busy(
    client: rabbitry.Client, queue: str | Queue, bodies: list[bytes], **options: Any
) -> AsyncIterator[tuple[Busy, list[BaseException | None]]]:
    """`process` of these messages, its handlers at work; and how it ended."""
    handler, ends = Busy(), list[BaseException | None]()

    async def process() -> None:
        try:
            await client.process(queue, handler, **options)
        except rabbitry.RabbitryError as error:
            ends.append(error)
        else:
            ends.append(None)

    name = queue if isinstance(queue, str) else queue.name
    for body in bodies:
        await client.publish(body, routing_key=name)
    async with anyio.create_task_group() as tg:
        tg.start_soon(process)
        with anyio.fail_after(30):
            await handler.begun.wait()
        yield handler, ends
        handler.go_on.set()
        client.stop_consuming()


# --- while handlers are busy ------------------------------------------------------------------------------------------


async def test_a_queue_has_its_consumer_again_while_all_handlers_are_busy(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        async with open_channel(amqp_url) as channel, busy(client, queue, [b"1", b"2", b"3", b"4"]) as (handler, _):
            for _ in range(3):
                await lose(client, proxy.cut)
                assert await has_counts(channel, queue, 2, 1)  # its prefetch is 2: they came, and were not begun
            assert handler.log == ["1 begins"]
            handler.go_on.set()
            await until(lambda: len(handler.log) == 10)  # the first once more
            assert await has_counts(channel, queue, 0, 1)


async def test_a_queue_that_expires_outlives_a_reconnect_with_all_handlers_busy(amqp_url: str) -> None:
    queue = Queue(unique(), expires=1.5)
    async with through_proxy(amqp_url) as (client, proxy):
        await client.declare(queue)
        async with busy(client, queue, [b"1"]) as (handler, _):
            await lose(client, proxy.cut)
            await anyio.sleep(2.5)
            async with open_channel(amqp_url) as channel:
                assert await counts(channel, queue.name) == (0, 1)
            await client.publish(b"2", routing_key=queue.name, mandatory=True)
            handler.go_on.set()
            await until(lambda: "2 ends" in handler.log)


async def test_what_comes_again_waits_for_its_handler_and_nothing_else_does(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        async with open_channel(amqp_url) as channel, busy(client, queue, [b"1"], concurrency=3) as (handler, _):
            for _ in range(2):
                await lose(client, proxy.cut)
                assert await has_counts(channel, queue, 0, 1)
            for body in (b"2", b"1"):  # (of the same look, but new: nobody worked on it)
                await client.publish(body, routing_key=queue)
            await until(lambda: len(handler.log) == 3)
            assert handler.log == ["1 begins", "2 begins", "1 begins"]
            handler.go_on.set()
            await until(lambda: len(handler.log) == 8)
            assert handler.log.index("1 again begins") > handler.log.index("1 ends")
            assert await has_counts(channel, queue, 0, 1)


async def test_what_comes_again_as_its_acknowledgement_was_lost_waits_for_its_handler(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        log: list[str] = []
        acknowledged, go_on, again = anyio.Event(), anyio.Event(), anyio.Event()

        async def handle(delivery: Delivery) -> None:
            if delivery.redelivered:
                log.append("again")
                again.set()
                return
            for link in proxy.links:
                link.to_broker.stall()
            delivery.ack()
            acknowledged.set()
            await go_on.wait()
            log.append("ends")

        await client.publish(b"x", routing_key=queue)
        async with anyio.create_task_group() as tg, open_channel(amqp_url) as channel:
            tg.start_soon(partial(client.process, queue, handle, concurrency=2))
            await acknowledged.wait()
            await lose(client, proxy.cut)
            assert await has_counts(channel, queue, 0, 1)
            assert log == []
            go_on.set()
            with anyio.fail_after(20):
                await again.wait()
            client.stop_consuming()
        assert log == ["ends", "again"]


async def test_what_waits_for_its_handler_goes_back_when_it_is_not_to_begin(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        async with open_channel(amqp_url) as channel, busy(client, queue, [b"1"], concurrency=2) as (handler, ends):
            await lose(client, proxy.cut)
            assert await has_counts(channel, queue, 0, 1)
            client.stop_consuming()
            assert await has_counts(channel, queue, 1, 0)
            handler.go_on.set()
            await until(lambda: len(ends) == 1)
        assert ends == [None] and handler.log == ["1 begins", "1 ends"]


async def test_a_stream_goes_on_while_handlers_are_busy(amqp_url: str) -> None:
    """What they work on comes again, and waits, though a stream marks nothing as delivered before."""
    stream = Queue(unique(), type="stream")
    async with through_proxy(amqp_url) as (client, proxy):
        await client.declare(stream)
        try:
            options = {"concurrency": 3, "on_error": "reject", "offset": "first"}
            async with busy(client, stream, [b"0", b"1"], **options) as (handler, _):
                await until(lambda: len(handler.log) == 2)
                await lose(client, proxy.cut)
                await client.publish(b"2", routing_key=stream.name)
                await until(lambda: handler.log == ["0 begins", "1 begins", "2 begins"])
                handler.go_on.set()
                await until(lambda: len(handler.log) == 10)
                assert sorted(handler.log[3:]) == sorted(
                    ["0 begins", "1 begins", *(f"{n} ends" for n in (0, 0, 1, 1, 2))]
                )
        finally:
            with anyio.CancelScope(shield=True):
                await client.delete(stream)


async def test_requests_are_answered_once_though_their_server_was_busy(amqp_url: str) -> None:
    async with (
        some_queue(amqp_url) as queue,
        through_proxy(amqp_url) as (client, proxy),
        rabbitry.open_client(amqp_url) as caller,
        caller.rpc() as rpc,
    ):
        begun, go_on = anyio.Event(), anyio.Event()
        calls: list[int] = []

        async def double(number: int) -> int:
            calls.append(number)
            begun.set()
            if number == 21:
                await go_on.wait()
            return 2 * number

        async with anyio.create_task_group() as tg, open_channel(amqp_url) as channel:
            tg.start_soon(partial(client.serve, queue, double, concurrency=2))
            reply: list[int] = []

            async def call() -> None:
                reply.append(await rpc.call(queue, 21))

            tg.start_soon(call)
            await begun.wait()
            await lose(client, proxy.cut)
            assert await has_counts(channel, queue, 0, 1)
            assert await rpc.call(queue, 1) == 2
            go_on.set()
            await until(lambda: bool(reply))
            assert await has_counts(channel, queue, 0, 1)
            assert (reply, calls) == ([42], [21, 1])
            client.stop_consuming()


# --- while nobody iterates --------------------------------------------------------------------------------------------


async def test_a_subscription_that_nobody_iterates_receives_within_its_prefetch(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        for number in range(5):
            await client.publish(b"%d" % number, routing_key=queue)
        async with client.consume(queue, prefetch=3) as deliveries, open_channel(amqp_url) as channel:
            for life in (2, 3):
                await lose(client, proxy.cut)
                assert await has_counts(channel, queue, 2, 1)
                assert deliveries.lives == life
            bodies = []
            for _ in range(5):
                delivery = await anext(deliveries)
                delivery.ack()
                bodies.append(delivery.body)
            assert bodies == [b"0", b"1", b"2", b"3", b"4"]


async def test_what_came_without_acknowledgement_is_handed_out_in_the_next_life(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        for number in range(3):
            await client.publish(b"%d" % number, routing_key=queue)
        async with client.consume(queue, no_ack=True) as deliveries, open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 0, 1)
            await until(lambda: len(deliveries._consumer._buffer) == 3)  # type: ignore[union-attr]
            await lose(client, proxy.cut)
            await until(lambda: deliveries.lives == 2)
            await channel.publish(b"3", routing_key=queue)
            with anyio.fail_after(20):
                assert [(await anext(deliveries)).body for _ in range(4)] == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("consumer_tag", [None, "mine"])
async def test_a_channel_that_the_broker_closed_is_replaced_at_once(amqp_url: str, consumer_tag: str | None) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url, reconnect=QUICK) as client:
        await client.publish(b"x", routing_key=queue)
        async with client.consume(queue, consumer_tag=consumer_tag) as deliveries:
            former = await anext(deliveries)
            assert deliveries._channel is not None
            with pytest.raises(rabbitry.NotFound):
                await deliveries._channel.delete_exchange("x", if_unused=True)
                await deliveries._channel.declare_queue(unique(), passive=True)
            await until(lambda: deliveries.lives == 2)
            again = await anext(deliveries)
            assert former.is_stale and again.body == b"x"
            again.ack()


async def test_what_a_cancelled_consumer_left_can_still_be_settled(
    amqp_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker ended the consumer, not its channel: what handlers work on is not made stale by consuming again."""
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url, reconnect=QUICK) as client:
        async with busy(client, queue, [b"1", b"2"], prefetch=2) as (handler, ends):
            (subscription,) = client._running.subscriptions._members
            assert isinstance(subscription, Subscription)
            await until(lambda: len(subscription._consumer._buffer) == 1)  # type: ignore[union-attr]
            async with subscription._lock, open_channel(amqp_url) as channel:  # not before it is there again
                await channel.delete_queue(queue)
                await channel.declare_queue(queue)
            handler.go_on.set()
            await until(lambda: "2 ends" in handler.log)
            await client.publish(b"3", routing_key=queue)
            await until(lambda: "3 ends" in handler.log)
            assert subscription.lives == 2
        assert ends == [None] and len(handler.log) == 6
        assert "after its channel had ended" not in caplog.text


async def test_a_loss_while_it_had_no_consumer_is_one_to_its_handlers(amqp_url: str) -> None:
    """The broker ended the consumer, and the connection was lost before the next one was there."""
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        async with busy(client, queue, [b"1"], concurrency=2) as (handler, _), open_channel(amqp_url) as channel:
            (subscription,) = client._running.subscriptions._members
            assert isinstance(subscription, Subscription)
            async with subscription._lock:
                assert subscription._consumer is not None
                subscription._consumer.cancelled_by_broker()
                refuse(proxy)
                await until(lambda: client.state == "recovering")
            proxy.accept()
            await until(lambda: subscription.lives == 2)
            assert await has_counts(channel, queue, 0, 1)
            await client.publish(b"2", routing_key=queue)
            await until(lambda: len(handler.log) == 2)
            assert handler.log == ["1 begins", "2 begins"]
            handler.go_on.set()
            await until(lambda: "1 again ends" in handler.log)


# --- what keeps it from consuming -------------------------------------------------------------------------------------


async def test_a_queue_that_is_gone_is_said_at_once_and_raised_when_handlers_have_finished(
    amqp_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        async with busy(client, queue, [b"1"]) as (handler, ends), open_channel(amqp_url) as channel:
            refuse(proxy)
            await channel.delete_queue(queue)
            proxy.accept()
            await until(lambda: f"queue '{queue}' is consumed no more" in caplog.text)
            assert not ends
            handler.go_on.set()
            await until(lambda: len(ends) == 1)
            assert isinstance(ends[0], rabbitry.NotFound) and handler.log == ["1 begins", "1 ends"]


async def test_a_queue_that_is_there_again_when_somebody_iterates_is_consumed(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        async with client.consume(queue) as deliveries, open_channel(amqp_url) as channel:
            refuse(proxy)
            await channel.delete_queue(queue)
            proxy.accept()
            await until(lambda: client.is_ready)
            await client.inspect(queue)  # behind the attempt
            await channel.declare_queue(queue)
            await channel.publish(b"x", routing_key=queue)
            with anyio.fail_after(20):
                assert (await anext(deliveries)).body == b"x"


async def test_one_that_has_to_wait_holds_up_no_other(amqp_url: str) -> None:
    async with some_queue(amqp_url) as held, some_queue(amqp_url) as free, open_channel(amqp_url) as channel:
        async with through_proxy(amqp_url) as (client, proxy), client.consume(held, exclusive=True) as waiting:
            async with client.consume(free) as others:
                refuse(proxy)
                assert await has_counts(channel, held, 0, 0)
                async with channel.consume(held, exclusive=True):  # as the broker still sees a former life
                    proxy.accept()
                    assert await has_counts(channel, free, 0, 1)
                    await until(lambda: others.lives == 2)
                    assert waiting.lives == 1
                assert await has_counts(channel, held, 0, 1)
                await until(lambda: waiting.lives == 2)


@pytest.mark.parametrize("end", ["stop", "leave", "stop_consuming"])
async def test_an_end_while_it_waits_to_subscribe_again(amqp_url: str, end: str) -> None:
    async with some_queue(amqp_url) as queue, open_channel(amqp_url) as channel:
        async with through_proxy(amqp_url) as (client, proxy):
            with anyio.fail_after(20):
                async with client.consume(queue, exclusive=True) as deliveries:
                    refuse(proxy)
                    assert await has_counts(channel, queue, 0, 0)
                    async with channel.consume(queue, exclusive=True):
                        proxy.accept()
                        await until(lambda: deliveries._lock.locked() and client.is_ready)
                        if end == "stop":
                            deliveries.stop()
                        elif end == "stop_consuming":
                            client.stop_consuming()
                        if end != "leave":
                            assert [delivery async for delivery in deliveries] == []
                assert await has_counts(channel, queue, 0, 0)
                assert client.statistics()["subscriptions"] == 0
                if end != "stop_consuming":
                    async with client.consume(queue, exclusive=True):
                        assert await has_counts(channel, queue, 0, 1)


async def test_whoever_gives_up_iterating_does_not_keep_it_from_subscribing(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        async with client.consume(queue) as deliveries, open_channel(amqp_url) as channel:
            for life in (2, 3):
                with anyio.move_on_after(30) as scope:
                    async with anyio.create_task_group() as tg:
                        tg.start_soon(anext, deliveries)
                        await anyio.wait_all_tasks_blocked()
                        refuse(proxy)
                        await until(lambda: client.state == "recovering")
                        await anyio.wait_all_tasks_blocked()
                        tg.cancel_scope.cancel()
                assert not scope.cancelled_caught
                proxy.accept()
                await until(lambda life=life: deliveries.lives == life)  # type: ignore[misc]
                assert await has_counts(channel, queue, 0, 1)


async def test_many_subscriptions_are_there_again(amqp_url: str) -> None:
    async with through_proxy(amqp_url) as (client, proxy), open_channel(amqp_url) as channel:
        queues = [(await channel.declare_queue(unique(), auto_delete=False)).name for _ in range(100)]
        try:
            async with anyio.create_task_group() as tg:

                async def hold(queue: str, *, task_status: Any) -> None:
                    async with client.consume(queue) as deliveries:
                        task_status.started(deliveries)
                        await anyio.sleep_forever()

                subscriptions = [await tg.start(hold, queue) for queue in queues]
                await lose(client, proxy.cut)
                await until(lambda: all(each.lives == 2 for each in subscriptions))
                tg.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                for queue in queues:
                    await channel.delete_queue(queue)


# --- large messages ---------------------------------------------------------------------------------------------------


@pytest.mark.rabbitmq("it moves much, and wants a socket's buffers")
async def test_slow_handlers_of_large_messages_leave_the_others_alone(amqp_url: str) -> None:
    async with some_queue(amqp_url) as large, some_queue(amqp_url) as small, rabbitry.open_client(amqp_url) as client:
        async with busy(client, large, [bytes(1_000_000)] * 22, concurrency=10) as (handler, _):
            await until(lambda: len(handler.log) == 10)
            async with anyio.create_task_group() as tg, client.rpc() as rpc:
                await tg.start(partial(client.serve, small, _same))
                for number in range(10):
                    with anyio.fail_after(5):
                        assert await rpc.call(small, number) == number
                tg.cancel_scope.cancel()


async def _same(number: int) -> int:
    return number


# --- names ------------------------------------------------------------------------------------------------------------


async def test_a_consumer_tag_of_ones_own_lasts(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        async with client.consume(queue, consumer_tag="mine") as deliveries:
            for life in (1, 2):
                await until(lambda life=life: deliveries.lives == life)  # type: ignore[misc]
                assert deliveries._consumer is not None and deliveries._consumer.consumer_tag == "mine"
                with pytest.raises(rabbitry.LocalProtocolError, match="'mine' is already in use"):
                    await client.process(queue, Busy(), consumer_tag="mine")
                async with client.consume(queue, consumer_tag="another"):
                    pass
                await lose(client, proxy.cut)
        async with anyio.create_task_group() as tg:
            for run in (partial(client.process, queue, Busy()), partial(client.serve, queue, _same)):
                await tg.start(partial(run, consumer_tag="mine"))
                (subscription,) = client._running.subscriptions._members
                assert subscription.consumer_tag == "mine"
                stop = rabbitry.Stop()
                stop.set()
                await client.process(queue, Busy(), consumer_tag="yours", stop=stop)
                client._running.subscriptions._members.copy().pop().stop()
                await until(lambda: not client.statistics()["subscriptions"])
    with pytest.raises(rabbitry.NotConnected, match="closed"):
        await client.consume(queue, consumer_tag="mine").__aenter__()


@pytest.mark.parametrize(
    ("tag", "error"), [("", ValueError), ("t" * 256, ValueError), ("\udcff", ValueError), (b"mine", TypeError)]
)
async def test_a_consumer_tag_that_is_none(amqp_url: str, tag: Any, error: type[Exception]) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        for use in (partial(client.process, "q", Busy()), partial(client.serve, "q", _same)):
            with pytest.raises(error, match="a consumer tag"):
                await use(consumer_tag=tag)
        with pytest.raises(error, match="a consumer tag"):
            client.consume("q", consumer_tag=tag)
        assert client.state == "idle"
