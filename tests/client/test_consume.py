"""Consuming that spans reconnects: iterators, batches, streams and `process`, through a proxy that cuts connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

import anyio
import pytest

import rabbitry
from rabbitry import Delivery, Queue
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.constants import FRAME_METHOD
from rabbitry.protocol.wire.methods import decode_method
from rabbitry.testing import Link, PrivateNode, open_proxy
from tests.support.clients import QUICK, ready_again, refuse, some_queue, through_proxy
from tests.support.helpers import counts, drain, has_counts, open_channel, unique, until


async def lose(client: rabbitry.Client, cut_it: Callable[[], object]) -> None:
    """Cut the connection and wait until the client is connected again."""
    before = client.statistics()
    cut_it()
    with anyio.fail_after(30):
        while client.statistics() == before or not client.is_ready:
            await anyio.sleep(0.002)


# --- iterating --------------------------------------------------------------------------------------------------------


async def test_after_a_reconnect_the_consumer_is_not_silent(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, open_channel(amqp_url) as channel:
        async with through_proxy(amqp_url) as (client, proxy), client.consume(queue) as deliveries:
            for number in range(5):
                await channel.publish(b"%d" % number, routing_key=queue)
                with anyio.fail_after(20):
                    delivery = await anext(deliveries)
                assert delivery.body == b"%d" % number
                delivery.ack()
                await client.inspect(queue)  # on the same connection: the ack has arrived
                proxy.link.cut()
            assert client.statistics()["consuming_lives"] >= 4
        assert await has_counts(channel, queue, 0)


async def test_a_task_that_waits_goes_on_waiting(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        got: list[bytes] = []

        async def take() -> None:
            delivery = await anext(deliveries)
            delivery.ack()
            got.append(delivery.body)

        async with client.consume(queue, prefetch=1) as deliveries, anyio.create_task_group() as tg:
            for _ in range(3):
                tg.start_soon(take)
            for _ in range(3):
                await lose(client, proxy.link.cut)
            for number in range(3):
                await client.publish(b"%d" % number, routing_key=queue)
        assert sorted(got) == [b"0", b"1", b"2"]
        assert deliveries.lives >= 2


async def test_a_delivery_of_a_former_life_is_stale(amqp_url: str) -> None:
    """Unknown delivery tag after recovery: others send the old tag on the new channel, where it may be another's."""
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        await client.publish(b"x", routing_key=queue)
        async with client.consume(queue) as deliveries:
            former = await anext(deliveries)
            link = proxy.link
            link.cut()
            again = await anext(deliveries)
            assert again.body == b"x" and again.redelivered
            assert former.is_stale and former.delivery_tag == again.delivery_tag == 1
            with pytest.raises(rabbitry.StaleDelivery):
                former.ack()
            assert not again.is_settled
            await anyio.sleep(0.05)
            async with open_channel(amqp_url) as channel:
                assert await counts(channel, queue) == (0, 1)
            again.ack()
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 0)


async def test_process_without_acknowledgements(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """There is nothing to settle: what its handler fails on is gone, and said in the log."""
    async with rabbitry.open_client(amqp_url) as client, some_queue(amqp_url) as queue:
        done: list[bytes] = []

        async def handle(delivery: rabbitry.Delivery) -> None:
            done.append(delivery.body)
            if delivery.body == b"bad":
                raise ValueError("not this one")
            if delivery.body == b"last":
                client.stop_consuming()

        for body in (b"good", b"bad", b"last"):
            await client.publish(body, routing_key=queue)
        await client.process(queue, handle, no_ack=True)
        assert done == [b"good", b"bad", b"last"]
        assert "not this one" in caplog.text
        async with open_channel(amqp_url) as channel:
            assert await channel.get(queue) is None


async def test_on_the_wire_nothing_settles_a_delivery_of_a_former_life(amqp_url: str) -> None:
    """All that the client sent is recorded: the next life's connection carries the settlements of its own alone."""
    lives: list[bytearray] = []

    def record(link: Link) -> None:
        sent, pass_on = bytearray(), link.to_broker._send
        lives.append(sent)

        async def send(data: bytes) -> None:
            sent.extend(data)
            await pass_on(data)

        link.to_broker._send = send  # type: ignore[method-assign]

    async with some_queue(amqp_url) as queue, open_channel(amqp_url) as channel:
        for number in range(6):
            await channel.publish(b"%d" % number, routing_key=queue)
        async with open_proxy(amqp_url) as proxy:
            proxy.on_link = record
            async with rabbitry.open_client(proxy.url, reconnect=QUICK) as client, client.consume(queue) as deliveries:
                former = [await anext(deliveries) for _ in range(6)]
                former[0].ack()
                await client.inspect(queue)  # on the same connection: the ack has arrived
                proxy.cut()
                again = [await anext(deliveries) for _ in range(5)]
                for settle in (Delivery.ack, Delivery.nack, Delivery.reject):
                    for delivery in former[1:]:
                        with pytest.raises(rabbitry.StaleDelivery):
                            settle(delivery)
                for delivery in former[1:]:
                    with delivery.process():
                        pass
                again[1].ack()
                again[3].reject(requeue=True)
                await client.inspect(queue)
                assert [settlements(sent) for sent in lives] == [["ack 1"], ["ack 2", "reject 4"]]


def settlements(sent: bytes) -> list[str]:
    found, rest = [], bytes(sent[8:])  # behind the protocol header
    while rest:
        size = 8 + int.from_bytes(rest[3:7], "big")
        if rest[0] == FRAME_METHOD:
            method = decode_method(rest[7 : size - 1])
            if isinstance(method, methods.BasicAck | methods.BasicNack | methods.BasicReject):
                found.append(f"{method.name.removeprefix('basic.')} {method.delivery_tag}")
        rest = rest[size:]
    return found


async def test_a_deleted_queue_raises(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url, reconnect=QUICK) as client:
        async with client.consume(queue) as deliveries:
            async with open_channel(amqp_url) as channel:
                await channel.delete_queue(queue)
            for _ in range(2):
                with anyio.fail_after(20), pytest.raises(rabbitry.ConsumerCancelled) as raised:
                    await anext(deliveries)
            assert isinstance(raised.value, rabbitry.ConsumerCancelled)
        await client.publish(b"x", routing_key="nowhere")  # the client goes on


async def test_a_queue_deleted_while_away_raises(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        async with client.consume(queue) as deliveries:
            refuse(proxy)
            async with open_channel(amqp_url) as channel:
                await channel.delete_queue(queue)
            proxy.accept()
            with anyio.fail_after(20), pytest.raises(rabbitry.NotFound, match=queue):
                await anext(deliveries)
            with pytest.raises(rabbitry.NotFound):
                await anext(deliveries)


async def test_a_consumer_that_the_broker_cancelled_subscribes_again(amqp_url: str) -> None:
    """As a quorum queue's does when its leader moves, or newer brokers' when an acknowledgement takes too long."""
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url, reconnect=QUICK) as client:
        async with client.consume(queue) as deliveries:
            async with open_channel(amqp_url) as channel:
                await channel.delete_queue(queue)
                await channel.declare_queue(queue)  # there again before it subscribes
                await channel.publish(b"x", routing_key=queue)
            with anyio.fail_after(20):
                (await anext(deliveries)).ack()
            assert deliveries.lives == 2


async def test_an_unknown_queue_fails_at_once(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        with pytest.raises(rabbitry.NotFound):
            async with client.consume(unique()):
                pass
        assert client.statistics()["subscriptions"] == 0
        with pytest.raises(rabbitry.LocalProtocolError, match="enter it first"):
            await anext(client.consume("x"))


async def test_an_exclusive_consumer_comes_back_though_the_broker_sees_the_former(amqp_url: str) -> None:
    """The broker learns of the loss later than the client: its side of the connection is stalled, not cut."""
    async with some_queue(amqp_url) as queue, open_proxy(amqp_url) as proxy:
        async with rabbitry.open_client(proxy.url, reconnect=QUICK) as client:
            await client.publish(b"x", routing_key="nowhere")
            async with client.consume(queue, exclusive=True) as deliveries:
                former = proxy.link
                former.to_broker.stall()
                former.to_client.half_close()  # the client sees the end, the broker nothing
                async with anyio.create_task_group() as tg:
                    tg.start_soon(anext, deliveries)
                    await anyio.sleep(0.7)
                    former.cut()
                    async with open_channel(amqp_url) as channel:
                        await channel.publish(b"x", routing_key=queue)
                assert deliveries.lives == 2


async def test_leaving_puts_back_what_was_not_iterated(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        for number in range(5):
            await client.publish(b"%d" % number, routing_key=queue)
        async with client.consume(queue) as deliveries:
            (await anext(deliveries)).ack()
            await client.inspect(queue)  # on the same connection: the ack has arrived
            await lose(client, proxy.link.cut)
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 4)


async def test_leaving_while_down_does_not_wait_for_the_next_life(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        with anyio.fail_after(20):
            async with client.consume(queue) as deliveries:
                refuse(proxy)
                with anyio.move_on_after(0.1) as scope:
                    await anext(deliveries)
                assert scope.cancelled_caught


async def test_the_end_of_the_client_ends_iterators(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, anyio.create_task_group() as tg:
        ended: list[str] = []

        async def iterate(client: rabbitry.Client, name: str) -> None:
            async with client.consume(queue) as deliveries:
                entered.set()
                async for _ in deliveries:
                    pass
            ended.append(name)

        with anyio.fail_after(30):
            async with rabbitry.open_client(amqp_url) as client:
                entered = anyio.Event()
                tg.start_soon(iterate, client, "open")
                await entered.wait()
            async with through_proxy(amqp_url) as (client, proxy):
                entered = anyio.Event()
                tg.start_soon(iterate, client, "down")
                await entered.wait()
                refuse(proxy)
                await until(lambda: client.state == "recovering")
            await until(lambda: len(ended) == 2)


async def test_what_ends_the_client_for_good_ends_iterators_with_it(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, open_proxy(amqp_url) as proxy, anyio.create_task_group() as tg:

        async def iterate(client: rabbitry.Client) -> None:
            async with client.consume(queue) as deliveries:
                entered.set()
                with pytest.raises(rabbitry.NotConnected, match="given up after 3 attempts") as raised:
                    await anext(deliveries)
                assert isinstance(raised.value.__cause__, rabbitry.ConnectFailed)
            with pytest.raises(rabbitry.NotConnected, match="given up"):
                await client.process(queue, handle_nothing)
            with pytest.raises(rabbitry.NotConnected, match="given up"):
                await client.publish(b"x", routing_key=queue)
            ended.set()

        entered, ended = anyio.Event(), anyio.Event()
        with pytest.raises(rabbitry.ConnectFailed, match="given up after 3 attempts"):
            async with rabbitry.open_client(proxy.url, reconnect=rabbitry.Backoff(initial=0.01, attempts=3)) as client:
                tg.start_soon(iterate, client)
                await entered.wait()
                refuse(proxy)
                await anyio.sleep(30)
        with anyio.fail_after(20):
            await ended.wait()


# --- batches ----------------------------------------------------------------------------------------------------------


async def test_a_batch_is_of_one_life(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        async with client.consume(queue, prefetch=10) as deliveries:
            batches = deliveries.batches(10, within=0.2)
            for number in range(4):
                await client.publish(b"%d" % number, routing_key=queue)
            await until(lambda: len(deliveries._consumer._buffer) == 4)  # type: ignore[union-attr]
            await lose(client, proxy.link.cut)
            await until(lambda: deliveries._consumer and len(deliveries._consumer._buffer) == 4)
            batch = await anext(batches)
            assert [delivery.body for delivery in batch] == [b"0", b"1", b"2", b"3"]
            batch.ack()
            await client.publish(b"4", routing_key=queue)
            batch = await anext(batches)
            assert [delivery.body for delivery in batch] == [b"4"]
            batch.ack()
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 0)


async def test_a_batch_that_can_never_fill_is_refused(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        deliveries = client.consume("x", prefetch=10)
        with pytest.raises(ValueError, match="prefetch=500"):
            deliveries.batches(500, within=1)
        for size, within in ((0, 1.0), (70_000, 1.0), (5, -1.0)):
            with pytest.raises(ValueError, match=r"batch|within"):
                client.consume("x", prefetch=0).batches(size, within=within)


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_a_stream_goes_on_after_what_was_settled(amqp_url: str) -> None:
    stream = Queue(unique(), type="stream")
    async with through_proxy(amqp_url) as (client, proxy):
        await client.declare(stream)
        async with client.publisher() as publisher:
            for number in range(300):
                await publisher.submit(b"%d" % number, routing_key=stream.name)
        try:
            async with client.consume(stream, offset="first", prefetch=50) as deliveries:
                seen: list[int] = []
                held: list[Delivery] = []
                async for delivery in deliveries:
                    seen.append(int(delivery.body))
                    if seen[-1] == 150:
                        held.append(delivery)  # not settled: the next life begins here
                    else:
                        delivery.ack()
                    if len(seen) == 180:
                        break
                proxy.cut()
                async for delivery in deliveries:
                    seen.append(int(delivery.body))
                    delivery.ack()
                    if seen[-1] == 250:
                        break
                await anyio.sleep(0.01)
                proxy.cut()
                async for delivery in deliveries:
                    seen.append(int(delivery.body))
                    delivery.ack()
                    if seen[-1] == 299:
                        break
            again = len(seen) - 1 - seen[::-1].index(150)
            assert seen == [*range(again), *range(150, 300)] and again >= 180
            assert held[0].is_stale
        finally:
            await client.delete(stream)


async def test_a_stream_consumer_misses_nothing_before_its_first_delivery(amqp_url: str) -> None:
    stream = Queue(unique(), type="stream")
    async with through_proxy(amqp_url) as (client, proxy), open_channel(amqp_url) as channel:
        await client.declare(stream)
        try:
            await channel.publish(b"before", routing_key=stream.name)
            await anyio.sleep(2.1)  # offsets by time count whole seconds
            async with client.consume(stream) as deliveries:
                refuse(proxy)
                await channel.publish(b"while away", routing_key=stream.name)
                proxy.accept()
                with anyio.fail_after(20):
                    delivery = await anext(deliveries)
                assert delivery.body == b"while away"
                delivery.ack()
        finally:
            await client.delete(stream)


@pytest.mark.parametrize("on_error", ["reject", "raise"])
async def test_a_stream_that_others_declared_takes_nothing_back(
    amqp_url: str, on_error: Literal["reject", "raise"], caplog: pytest.LogCaptureFixture
) -> None:
    """RabbitMQ closes the connection (540) over a reject or nack of a stream's delivery: those look like it."""
    stream = Queue(unique(), type="stream")
    async with open_channel(amqp_url) as channel, rabbitry.open_client(amqp_url) as client:
        await channel.declare(stream)
        begun = anyio.Event()

        async def handle(delivery: Delivery) -> None:
            begun.set()
            if on_error == "reject":
                client.stop_consuming()
                raise ValueError("not this one")
            await anyio.sleep_forever()

        async with anyio.create_task_group() as tg:
            await tg.start(partial(client.process, stream.name, handle, on_error=on_error))
            await channel.publish(b"x", routing_key=stream.name)
            with anyio.fail_after(20):
                await begun.wait()
            if on_error == "raise":
                tg.cancel_scope.cancel()
        await client.inspect(stream.name)
        assert "540" not in caplog.text
        await channel.delete_queue(stream.name)


async def test_leaving_a_stream_leaves_the_connection_alone(amqp_url: str) -> None:
    """RabbitMQ closes the connection (540) over a nack of a stream's delivery."""
    stream = Queue(unique(), type="stream")
    async with rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as channel:
        await channel.declare(stream)
        try:
            for number in range(5):
                await channel.publish(b"%d" % number, routing_key=stream.name)
            async with channel.consume(stream, arguments={"x-stream-offset": "first"}) as raw:
                (await anext(raw)).ack()
            with anyio.move_on_after(0):
                await channel.consume(stream, arguments={"x-stream-offset": "first"}).__aenter__()
            async with client.consume(stream, offset="first") as deliveries:
                await anext(deliveries)
                await anext(deliveries)
            await channel.publish(b"x", routing_key=stream.name)
            assert await client.inspect(stream) is not None
            assert client.statistics()["consuming_lives"] == 1
        finally:
            await channel.delete_queue(stream)


async def test_handlers_of_a_stream(amqp_url: str) -> None:
    stream = Queue(unique(), type="stream")
    async with rabbitry.open_client(amqp_url) as client:
        await client.declare(stream)
        try:
            for number in range(5):
                await client.publish(b"%d" % number, routing_key=stream.name)
            seen: list[bytes] = []

            async def handle(delivery: Delivery) -> None:
                seen.append(delivery.body)
                if delivery.body == b"4":
                    client.stop_consuming()
                if delivery.body in b"24":
                    raise ValueError("mine")

            with pytest.raises(ValueError, match="takes nothing back"):
                await client.process(stream, handle, offset="first")
            with pytest.raises(ValueError, match="mine"):
                await client.process(stream, handle, offset="first", on_error="raise")
            with pytest.raises(ValueError, match="takes nothing back"):
                await client.process(stream, handle, offset=2, on_error=lambda delivery, error: "requeue")
            await client.process(stream.name, handle, offset=2, on_error="reject")
            assert seen == [b"0", b"1", b"2", b"2", b"2", b"3", b"4"]
            assert client.statistics()["consuming_lives"] == 1
        finally:
            await client.delete(stream)


async def test_where_to_begin_in_a_stream(amqp_url: str) -> None:
    stream = Queue(unique(), type="stream")
    async with rabbitry.open_client(amqp_url) as client:
        await client.declare(stream)
        try:
            for number in range(3):
                await client.publish(b"%d" % number, routing_key=stream.name)
            for offset, first in (
                ("first", b"0"),
                (1, b"1"),
                (datetime.now(UTC) - timedelta(hours=1), b"0"),
                (timedelta(hours=1), b"0"),
            ):
                async with client.consume(stream, offset=offset) as deliveries:  # type: ignore[arg-type]
                    with anyio.fail_after(20):
                        assert (await anext(deliveries)).body == first
        finally:
            await client.delete(stream)
        for options in ({"no_ack": True}, {"prefetch": 0}, {"arguments": {"x-stream-offset": 1}}):
            with pytest.raises(ValueError):
                client.consume(stream, **options)  # type: ignore[arg-type]


async def test_batches_of_several_tasks_skip_nothing_in_a_stream(amqp_url: str) -> None:
    """One task holds a batch that is not complete, while another settles what came after it."""
    stream = Queue(unique(), type="stream")
    async with through_proxy(amqp_url) as (client, proxy), open_channel(amqp_url) as channel:
        await client.declare(stream)
        got: set[bytes] = set()

        async def collect() -> None:
            async for batch in deliveries.batches(50, within=1):
                got.update(delivery.body for delivery in batch)
                batch.ack()

        async def take() -> None:
            async for delivery in deliveries:
                got.add(delivery.body)
                delivery.ack()

        try:
            async with client.consume(stream.name, offset="first") as deliveries, anyio.create_task_group() as tg:
                tg.start_soon(collect)
                tg.start_soon(take)
                for number in range(10):
                    await channel.publish(b"%d" % number, routing_key=stream.name)
                await anyio.sleep(0.1)
                proxy.cut()
                await anyio.sleep(0.1)
                await channel.publish(b"10", routing_key=stream.name)
                await until(lambda: len(got) == 11)
                tg.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await client.delete(stream)


@pytest.mark.parametrize("offset", [None, "last"])
async def test_a_stream_by_its_name_goes_on_where_it_was(amqp_url: str, offset: Any) -> None:
    stream = Queue(unique(), type="stream")
    async with through_proxy(amqp_url) as (client, proxy), open_channel(amqp_url) as channel:
        await client.declare(stream)
        try:
            await channel.publish(b"before", routing_key=stream.name)
            await anyio.sleep(2.1)  # offsets by time count whole seconds
            async with client.consume(stream.name, offset=offset) as deliveries:
                for number in range(3):
                    await channel.publish(b"%d" % number, routing_key=stream.name)
                seen = []
                while b"2" not in seen:
                    delivery = await anext(deliveries)
                    seen.append(delivery.body)
                refuse(proxy)  # nothing was settled
                await channel.publish(b"while away", routing_key=stream.name)
                proxy.accept()
                again = []
                with anyio.fail_after(20):
                    while b"while away" not in again:
                        delivery = await anext(deliveries)
                        again.append(delivery.body)
                        delivery.ack()
                assert again == [*seen, b"while away"]
        finally:
            await client.delete(stream)


async def test_a_stop_in_the_turn_of_the_reply_is_not_lost(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await client.publish(b"x", routing_key=queue)
        deliveries = client.consume(queue)
        new_consumer = deliveries._new_consumer

        def stop_with_the_reply(channel: rabbitry.Channel) -> rabbitry.Consumer:
            consumer = new_consumer(channel)
            enter = consumer.__class__.__aenter__

            class Stopping(consumer.__class__):  # type: ignore[misc, name-defined]
                __slots__ = ()

                async def __aenter__(self) -> rabbitry.Consumer:
                    entered: rabbitry.Consumer = await enter(self)
                    client.stop_consuming()
                    return entered

            consumer.__class__ = Stopping
            return consumer

        deliveries._new_consumer = stop_with_the_reply  # type: ignore[method-assign]
        async with deliveries:
            with anyio.fail_after(20):
                assert [delivery async for delivery in deliveries] == []
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 1)


# --- process ----------------------------------------------------------------------------------------------------------


async def test_handlers_run_side_by_side_and_across_lives(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        done: set[bytes] = set()
        most = working = 0

        async def handle(delivery: Delivery) -> None:
            nonlocal working, most
            working += 1
            most = max(most, working)
            await until(lambda: most >= 5)
            working -= 1
            done.add(delivery.body)

        async with anyio.create_task_group() as tg:
            await tg.start(lambda **status: client.process(queue, handle, concurrency=5, **status))
            async with client.publisher(on_unknown="republish") as publisher:
                for number in range(200):
                    await publisher.submit(b"%d" % number, routing_key=queue)
                    if number % 50 == 25:
                        proxy.cut()
                        await anyio.sleep(0.02)
            await until(lambda: len(done) == 200)
            client.stop_consuming()
        assert most == 5
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 0)


async def test_how_a_handler_ends_settles_its_delivery(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        tries: list[bytes] = []

        async def handle(delivery: Delivery) -> None:
            tries.append(delivery.body)
            if delivery.body == b"twice" and not delivery.redelivered:
                raise ValueError("once more")
            if delivery.body == b"never":
                raise RuntimeError("never")

        def verdict(delivery: Delivery, error: Exception) -> str:
            return "requeue" if isinstance(error, ValueError) else "reject"

        for body in (b"once", b"twice", b"never"):
            await client.publish(body, routing_key=queue)
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: client.process(queue, handle, on_error=verdict))  # type: ignore[arg-type]
            await until(lambda: len(tries) == 4)
            client.stop_consuming()
        assert sorted(tries) == [b"never", b"once", b"twice", b"twice"]
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 0)
    assert sum("the handler of a delivery failed" in record.message for record in caplog.records) == 2


@pytest.mark.parametrize("on_error", ["reject", "raise"])
async def test_a_handler_that_awaits_something_cancelled_has_failed(
    amqp_url: str, anyio_backend_name: str, on_error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Under asyncio it looks like a cancellation of its own, and must end neither `process` nor its caller's group."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio raises Cancelled only in what is cancelled")

    async def handle(delivery: Delivery) -> None:
        if delivery.body == b"bad":
            task = asyncio.ensure_future(asyncio.sleep(10))
            task.cancel()
            await task
        client.stop_consuming()

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        for body in (b"bad", b"good"):
            await client.publish(body, routing_key=queue)
        with anyio.fail_after(20):
            if on_error == "raise":
                with pytest.raises(rabbitry.RabbitryError, match="awaited something that was cancelled"):
                    await client.process(queue, handle, on_error=on_error)
            else:
                await client.process(queue, handle, on_error=on_error)
                assert "the handler of a delivery failed" in caplog.text


async def test_an_error_that_is_to_be_raised_ends_it_and_is_raised_as_it_is(amqp_url: str) -> None:
    error = ValueError("mine")

    async def handle(delivery: Delivery) -> None:
        if delivery.body == b"bad":
            raise error
        await anyio.sleep(10)

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        for body in (b"good", b"bad"):
            await client.publish(body, routing_key=queue)
        with anyio.fail_after(20), pytest.raises(ValueError) as raised:
            await client.process(queue, handle, concurrency=2, on_error="raise")
        assert raised.value is error
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 2)


async def test_a_group_that_a_handler_raised_leaves_as_it_is(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    errors = [ExceptionGroup("mine", [KeyError("a"), ValueError("b")]), ExceptionGroup("other", [KeyError("c")])]
    both = anyio.Event()

    async def handle(delivery: Delivery) -> None:
        if delivery.body == b"1":
            both.set()
        await both.wait()
        raise errors[int(delivery.body)]

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        for number in range(2):
            await client.publish(b"%d" % number, routing_key=queue)
        with anyio.fail_after(20), pytest.raises(ExceptionGroup) as raised:
            await client.process(queue, handle, concurrency=2, on_error="raise", drain=1)
        assert raised.value in errors
        assert "another handler failed, too" in caplog.text


async def test_a_deleted_queue_lets_handlers_finish(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url, reconnect=QUICK) as client:
        finished: list[bytes] = []
        begun = anyio.Event()

        async def handle(delivery: Delivery) -> None:
            begun.set()
            await anyio.sleep(0.3)
            finished.append(delivery.body)

        async def delete() -> None:
            await begun.wait()
            async with open_channel(amqp_url) as channel:
                await channel.delete_queue(queue)

        await client.publish(b"x", routing_key=queue)
        async with anyio.create_task_group() as tg:
            tg.start_soon(delete)
            with anyio.fail_after(20), pytest.raises(rabbitry.ConsumerCancelled):
                await client.process(queue, handle, concurrency=3)
        assert finished == [b"x"]


@pytest.mark.parametrize("drain_for", [0.0, 30.0])
async def test_shutting_down_does_not_drop_handlers_at_work(amqp_url: str, drain_for: float) -> None:
    """Cancelled, they have `drain` seconds to finish, and may publish meanwhile."""
    async with some_queue(amqp_url) as queue, some_queue(amqp_url) as results:
        begun: list[bytes] = []

        async def handle(delivery: Delivery) -> None:
            begun.append(delivery.body)
            await anyio.sleep(0.2 if drain_for else 60)
            await client.publish(b"done " + delivery.body, routing_key=results)

        with anyio.CancelScope() as scope:
            async with rabbitry.open_client(amqp_url) as client:
                for number in range(5):
                    await client.publish(b"%d" % number, routing_key=queue)
                async with anyio.create_task_group() as tg:
                    tg.start_soon(lambda: client.process(queue, handle, concurrency=2, drain=drain_for))
                    await until(lambda: len(begun) == 2)
                    scope.cancel()
        assert scope.cancelled_caught
        async with open_channel(amqp_url) as channel:
            finished = 2 if drain_for else 0
            assert await has_counts(channel, results, finished)
            assert await has_counts(channel, queue, 5 - finished)
            assert sorted(await drain(channel, results)) == [b"done 0", b"done 1"][:finished]


async def test_the_drain_has_an_end(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        begun = anyio.Event()

        async def handle(delivery: Delivery) -> None:
            begun.set()
            await anyio.sleep(60)

        await client.publish(b"x", routing_key=queue)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tg:
                tg.start_soon(lambda: client.process(queue, handle, drain=0.2))
                await begun.wait()
                began = anyio.current_time()
                tg.cancel_scope.cancel()
        assert 0.15 < anyio.current_time() - began < 20
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 1)


async def test_stop_consuming_puts_back_what_no_handler_took(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        begun, go_on = anyio.Event(), anyio.Event()
        finished: list[bytes] = []

        async def handle(delivery: Delivery) -> None:
            begun.set()
            await go_on.wait()
            await client.publish(b"x", routing_key="nowhere")  # publishing stays up
            finished.append(delivery.body)

        for number in range(5):
            await client.publish(b"%d" % number, routing_key=queue)
        async with open_channel(amqp_url) as channel, anyio.create_task_group() as tg:
            tg.start_soon(lambda: client.process(queue, handle, concurrency=1, prefetch=5))
            await begun.wait()
            client.stop_consuming()
            assert await has_counts(channel, queue, 4)
            go_on.set()
        assert finished == [b"0"]
        with pytest.raises(rabbitry.LocalProtocolError, match="is for good"):
            await client.process(queue, handle)


async def test_leaving_the_client_waits_for_handlers_of_other_tasks(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, anyio.create_task_group() as tg:
        begun = anyio.Event()
        finished: list[bytes] = []

        async def handle(delivery: Delivery) -> None:
            begun.set()
            await anyio.sleep(0.2)
            finished.append(delivery.body)

        async with rabbitry.open_client(amqp_url) as client:
            await client.publish(b"x", routing_key=queue)
            tg.start_soon(client.process, queue, handle)
            await begun.wait()
        assert finished == [b"x"]
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 0)


@pytest.mark.parametrize("on_stale", ["finish", "cancel"])
async def test_handlers_of_stale_deliveries(amqp_url: str, on_stale: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Those that are to finish run before what comes again of theirs, not beside it."""
    caplog.set_level(logging.WARNING)
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        log: list[str] = []
        begun, go_on, again = anyio.Event(), anyio.Event(), anyio.Event()

        async def handle(delivery: Delivery) -> None:
            if delivery.body != b"x":
                log.append("another")
                return
            begun.set()
            try:
                if delivery.redelivered:
                    log.append("second")
                    again.set()
                else:
                    await go_on.wait()
                    log.append("first")
            except anyio.get_cancelled_exc_class():
                log.append("cancelled")
                raise

        await client.publish(b"x", routing_key=queue)
        async with anyio.create_task_group() as tg, open_channel(amqp_url) as channel:
            tg.start_soon(partial(client.process, queue, handle, concurrency=2, on_stale=on_stale))
            await begun.wait()
            await lose(client, proxy.cut)
            assert await has_counts(channel, queue, 0, 1)  # delivered again
            if on_stale == "finish":
                await channel.publish(b"y", routing_key=queue)
                await until(lambda: log == ["another"])  # which need not wait
                go_on.set()
            await again.wait()
            await anyio.sleep(0.01)
            client.stop_consuming()
        assert log == (["another", "first", "second"] if on_stale == "finish" else ["cancelled", "second"])
        assert (on_stale == "finish") == any(
            "after its channel had ended" in record.message for record in caplog.records
        )


@pytest.mark.parametrize(
    "options", [{"concurrency": 0}, {"drain": -1}, {"on_stale": "drop"}, {"on_error": "drop"}, {"prefetch": 70_000}]
)
async def test_a_process_that_makes_no_sense(amqp_url: str, options: dict[str, object]) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        with anyio.fail_after(20), pytest.raises(ValueError):
            await client.process(queue, handle_nothing, **options)  # type: ignore[arg-type]


async def handle_nothing(delivery: Delivery) -> None: ...


async def test_process_with_a_lambda_around_a_coroutine_function(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await client.publish(b"x", routing_key=queue)

        async def handle(body: bytes) -> None:
            client.stop_consuming()

        with anyio.fail_after(20):
            await client.process(queue, lambda delivery: handle(delivery.body))
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 0)


async def test_a_client_on_a_reactor_that_was_left(amqp_url: str) -> None:
    ended = anyio.Event()

    async def publish(reactor: rabbitry.Reactor) -> None:
        with pytest.raises(rabbitry.NotConnected, match="reactor is closed"):
            async with reactor.open_client(amqp_url, reconnect=QUICK) as client:
                await client.publish(b"x", routing_key="nowhere")
                connected.set()
                await anyio.sleep_forever()
        ended.set()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tg:
            connected = anyio.Event()
            async with rabbitry.open_reactor() as reactor:
                tg.start_soon(publish, reactor)
                await connected.wait()
            await ended.wait()


async def test_an_auto_delete_queue_that_went_with_its_consumer_is_declared_again(amqp_url: str) -> None:
    queue = Queue(unique(), auto_delete=True)
    async with rabbitry.open_client(amqp_url, reconnect=QUICK) as client, open_channel(amqp_url) as channel:
        await client.declare(queue, rabbitry.Binding(queue, "amq.direct", queue.name))
        async with client.consume(queue) as deliveries:
            await channel.delete_queue(queue)  # as the broker does when it ends the only consumer
            async with anyio.create_task_group() as tg:
                tg.start_soon(anext, deliveries)
                await until(lambda: deliveries.lives == 2)
                await client.publish(b"x", exchange="amq.direct", routing_key=queue.name, mandatory=True)
        assert client.statistics()["declared"] == 0


# --- with a broker of its own -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def impatient() -> Iterator[PrivateNode]:
    with PrivateNode(settings={"consumer_timeout": 1000}) as node:
        node.rabbitmqctl("eval", "application:set_env(rabbit, channel_tick_interval, 500).")
        yield node


async def test_an_acknowledgement_timeout_subscribes_again(impatient: PrivateNode) -> None:
    """RabbitMQ closes the channel of a consumer that takes too long to acknowledge; 4.3 cancels the consumer, and has
    such a bound for quorum queues only.
    """
    async with rabbitry.open_client(impatient.url, reconnect=QUICK) as client:
        queue = Queue(unique(), type="quorum")
        await client.declare(queue)
        await client.publish(b"slow", routing_key=queue.name)
        async with client.consume(queue) as deliveries:
            former = await anext(deliveries)
            with anyio.fail_after(30):
                again = await anext(deliveries)
                while again.is_stale:  # this process took too long to look at it
                    again = await anext(deliveries)
            assert again.body == b"slow" and former.is_stale
            again.ack()
            assert deliveries.lives >= 2
            assert client.statistics()["consuming_lives"] == 1
            await ready_again(client)
