"""Instrumentations as users write them: what one is told, that it can do no harm, that without one there is nothing."""

from __future__ import annotations

import gc
import logging
import sys
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from types import CodeType, FrameType
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import CallOperation, GetOperation, Operation, ProcessOperation, PublishOperation
from rabbitry._channel.channel import life_of
from rabbitry._channel.consumer import Consumer
from rabbitry._channel.life import ChannelLife
from tests.support.clients import ready_again, refuse, some_queue, through_proxy
from tests.support.helpers import check_channel, exclusive_queue, unique, until

PACKAGE = Path(rabbitry.__file__).parent
HOOKS = tuple(map(str, [PACKAGE / "_instrumentation.py", *(PACKAGE / "_instrumented").glob("*.py")]))


class Metrics:
    """Counters and durations, by hand."""

    def __init__(self) -> None:
        self.ended: list[Operation] = []
        self.under_way = 0
        self.counts: Counter[tuple[str, ...]] = Counter()

    def begin(self, operation: Operation) -> None:
        assert not operation.outcome
        self.under_way += 1

    def end(self, operation: Operation) -> None:
        assert operation.outcome and operation not in self.ended
        self.under_way -= 1
        self.ended.append(operation)

    def count(self, event: rabbitry.Event, labels: Mapping[str, str]) -> None:
        self.counts[event, *labels.values()] += 1

    def outcomes(self, kind: type[Operation] = PublishOperation) -> list[str]:
        return [operation.outcome for operation in self.ended if type(operation) is kind]


# --- what it is told --------------------------------------------------------------------------------------------------


async def test_publishes_end_once_whichever_way_they_leave(amqp_url: str) -> None:
    metrics = Metrics()
    outcomes: list[str] = []
    async with rabbitry.connect(amqp_url, instrumentation=metrics) as connection:
        async with connection.channel() as channel:
            queue = await exclusive_queue(channel)
            await channel.publish(b"1", routing_key=queue)
            confirmation = channel.publish_nowait(b"2", routing_key=queue)
            assert confirmation is not None and metrics.under_way == 1
            await confirmation.wait()
            tell: Callable[[rabbitry.Confirmation], None] = lambda each: outcomes.append(each.outcome)  # noqa: E731
            async with channel.publisher(window=2, on_outcome=tell) as publisher:
                for _ in range(5):
                    await publisher.submit(b"3", routing_key=queue)
                await publisher.publish(b"4", routing_key=queue)
                with pytest.raises(rabbitry.Unroutable):
                    await publisher.publish(b"5", routing_key=unique(), mandatory=True)
                lost = await publisher.submit(b"6", routing_key=unique(), mandatory=True)
                await publisher.flush()
            assert lost.outcome == "unroutable" and lost.message == b"6"
            assert (publisher.confirmed, publisher.failed) == (6, 2)
            with pytest.raises(TypeError):
                await channel.publish("text", routing_key=queue)  # type: ignore[arg-type]
            with pytest.raises(ValueError):
                channel.publish_nowait(rabbitry.Message(b"", priority=256), routing_key=queue)
            await check_channel(channel)
        async with connection.channel(confirm=False) as channel:
            await channel.publish(b"7", routing_key=queue)
            assert channel.publish_nowait(b"8", routing_key=queue) is None
            await channel.get(queue)
    assert outcomes == ["confirmed"] * 5 + ["confirmed", "unroutable", "unroutable"]
    expected = ["confirmed"] * 8 + ["unroutable"] * 2 + ["unsent"] * 2 + ["confirmed"] * 3 + ["queued"] * 2
    assert metrics.outcomes() == expected  # the last three confirmed are check_channel's
    assert metrics.under_way == 0
    assert all(0 < operation.seconds < 5 for operation in metrics.ended)
    assert all(operation.port == int(amqp_url.rsplit(":")[-1].split("/")[0]) for operation in metrics.ended)
    assert [type(each.error) for each in metrics.ended if each.outcome == "unsent"] == [TypeError, ValueError]


async def test_deliveries_are_counted_as_they_are_handed_out_and_settled(amqp_url: str) -> None:
    metrics = Metrics()
    async with rabbitry.connect(amqp_url, instrumentation=metrics) as connection:
        async with connection.channel() as channel:
            queue = await exclusive_queue(channel, [b"%d" % number for number in range(8)])
            got = await channel.get(queue)
            assert got is not None and metrics.counts == {("consumed", queue): 1}
            got.ack()
            with pytest.raises(rabbitry.AlreadySettled):
                got.ack()
            async with channel.consume(queue) as deliveries:
                await until(lambda: len(deliveries._buffer) == 7)
                assert metrics.counts["consumed", queue] == 1  # those that wait are not handed out
                (await anext(deliveries)).reject()
                (await anext(deliveries)).nack(requeue=False)
                with (await anext(deliveries)).process():
                    pass
                with pytest.raises(KeyError), (await anext(deliveries)).process(on_error="raise"):
                    raise KeyError
                await until(lambda: len(deliveries._buffer) == 4)  # with the one that comes twice
                async with anyio.create_task_group() as tg:
                    tg.start_soon(anext, deliveries.batches(8, within=60))
                    await until(lambda: not deliveries._buffer)
                    tg.cancel_scope.cancel()
                batch = await anext(deliveries.batches(3, within=60))
                batch.ack()
    assert metrics.counts == {
        ("consumed", queue): 9,  # one came twice
        ("settled", queue, "ack"): 5,
        ("settled", queue, "reject"): 1,
        ("settled", queue, "nack"): 2,
    }
    assert metrics.outcomes(ProcessOperation) == ["returned", "failed"]


async def test_after_a_recover_deliveries_are_counted_as_ever(amqp_url: str) -> None:
    """Those of a batch that was cancelled before come anew; those that need no settling stay, and are taken later."""
    metrics = Metrics()
    async with rabbitry.connect(amqp_url, instrumentation=metrics) as connection:
        async with connection.channel() as channel:
            queue = await exclusive_queue(channel, [b"1", b"2", b"3"])
            async with channel.consume(queue) as deliveries:
                await until(lambda: len(deliveries._buffer) == 3)
                with anyio.move_on_after(0.01):
                    await anext(deliveries.batches(8, within=60))
                assert metrics.counts["consumed", queue] == 3
                await channel.recover()
                for _ in range(3):
                    (await anext(deliveries)).ack()
            assert metrics.counts["consumed", queue] == 6
            queue = await exclusive_queue(channel, [b"1", b"2", b"3"])
            async with channel.consume(queue, no_ack=True) as deliveries:
                await until(lambda: len(deliveries._buffer) == 3)
                await channel.recover()
                for _ in range(3):
                    await anext(deliveries)
            assert metrics.counts["consumed", queue] == 3


async def test_a_clients_handlers_and_lives(amqp_url: str) -> None:
    metrics = Metrics()

    async def handle(delivery: rabbitry.Delivery) -> None:
        if delivery.body == b"bad":
            raise ValueError
        if delivery.body == b"long":
            await anyio.sleep_forever()

    async with some_queue(amqp_url) as queue:
        async with through_proxy(amqp_url, instrumentation=metrics) as (client, proxy):
            await client.publish(b"good", routing_key=queue)
            async with client.publisher() as publisher:
                await publisher.submit(b"bad", routing_key=queue)
                await publisher.publish(b"long", routing_key=queue)
            async with anyio.create_task_group() as tg:
                await tg.start(lambda task_status: client.process(
                    queue, handle, on_error="reject", task_status=task_status
                ))  # fmt: skip
                await until(lambda: metrics.under_way == 1 and len(metrics.outcomes(ProcessOperation)) == 2)
                tg.cancel_scope.cancel()
            assert metrics.outcomes(ProcessOperation) == ["returned", "failed", "cancelled"]
            assert [type(each.error) for each in metrics.ended[3:]] == [type(None), ValueError, type(None)]
            lives = client.statistics()["publishing_lives"]
            proxy.cut()
            await until(lambda: client.statistics()["publishing_lives"] > lives)
            await ready_again(client)
            assert metrics.counts["reconnected", "publish"] == 1
            metrics.ended.clear()
            refuse(proxy)
            await until(lambda: not client.is_ready)
            with anyio.move_on_after(0.05):
                await client.publish(b"never", routing_key=queue)
            with pytest.raises(rabbitry.NotConnected):
                await client.publish(b"never", routing_key=queue, while_down="fail")
            proxy.accept()
    assert metrics.outcomes() == ["unsent", "unsent"]
    assert [type(each.error) for each in metrics.ended] == [type(None), rabbitry.NotConnected]
    assert metrics.under_way == 0


@pytest.mark.usefixtures("nobody_is_named")
async def test_a_message_sent_again_alone_is_still_one(amqp_url: str) -> None:
    """The broker closes the channel over the second of three, so that each is sent again on one of its own."""
    metrics = Metrics()
    async with some_queue(amqp_url) as queue:
        async with rabbitry.open_client(amqp_url, instrumentation=metrics) as client:
            with pytest.raises(rabbitry.PublishesFailed):
                async with client.publisher(on_unknown="republish") as publisher:
                    await publisher.submit(b"good", routing_key=queue)
                    await publisher.submit(b"bad", exchange=unique(), routing_key=queue)
                    await publisher.submit(b"good", routing_key=queue)
            assert publisher.republished
    assert sorted(metrics.outcomes()) == ["confirmed", "confirmed", "unknown"]
    assert metrics.under_way == 0


@pytest.mark.usefixtures("nobody_is_named")
async def test_one_given_up_and_then_sent_again_alone_is_still_one(amqp_url: str) -> None:
    """Nobody waits for it any more when the broker closes the channel over the one behind it."""
    metrics = Metrics()
    async with some_queue(amqp_url) as queue:
        async with through_proxy(amqp_url, instrumentation=metrics) as (client, proxy):
            with pytest.raises(rabbitry.PublishesFailed):
                async with client.publisher(on_unknown="republish") as publisher:
                    proxy.stall()
                    async with anyio.create_task_group() as tg:
                        tg.start_soon(lambda: publisher.publish(b"good", routing_key=queue))
                        await until(lambda: publisher.pending)
                        await publisher.submit(b"bad", exchange=unique(), routing_key=queue)
                        tg.cancel_scope.cancel()
                    proxy.resume()
            assert publisher.republished == 2
    assert metrics.outcomes() == ["unknown", "unknown"]


async def test_the_parts_of_a_handler_that_process_its_delivery_are_one_operation(amqp_url: str) -> None:
    metrics = Metrics()

    async def handle(delivery: rabbitry.Delivery) -> None:
        with delivery.process(on_error="reject"):
            if delivery.body == b"bad":
                raise KeyError
        if delivery.body == b"last":
            client.stop_consuming()

    async with some_queue(amqp_url) as queue:
        async with rabbitry.open_client(amqp_url, instrumentation=metrics) as client:
            for body in (b"good", b"bad", b"last"):
                await client.publish(body, routing_key=queue)
            await client.process(queue, handle)
    assert metrics.outcomes(ProcessOperation) == ["returned", "failed", "returned"]
    assert metrics.counts["settled", queue, "reject"] == 1 and metrics.under_way == 0


async def test_a_server_inside_a_handler_fails_alone(amqp_url: str) -> None:
    metrics = Metrics()

    async def broken(payload: Any) -> None:
        raise KeyError

    async def handle(delivery: rabbitry.Delivery) -> None:
        async with rabbitry.connect(amqp_url) as inner, inner.channel() as channel, anyio.create_task_group() as tg:
            requests = await exclusive_queue(channel)
            tg.start_soon(inner.serve, requests, broken)
            async with inner.rpc() as rpc:
                with pytest.raises(rabbitry.RemoteError):
                    await rpc.call(requests)
            tg.cancel_scope.cancel()
        client.stop_consuming()

    async with some_queue(amqp_url) as queue:
        async with rabbitry.open_client(amqp_url, instrumentation=metrics) as client:
            await client.publish(b"x", routing_key=queue)
            await client.process(queue, handle)
    assert metrics.outcomes(ProcessOperation) == ["returned"]


async def test_a_stream_is_counted(amqp_url: str) -> None:
    metrics = Metrics()
    async with rabbitry.open_client(amqp_url, instrumentation=metrics) as client:
        stream = rabbitry.Queue(unique(), type="stream")
        await client.declare(stream)
        for body in (b"1", b"2"):
            await client.publish(body, routing_key=stream.name)
        async with client.consume(stream, offset="first") as deliveries:
            for _ in range(2):
                (await anext(deliveries)).ack()
        await client.delete(stream)
    assert metrics.counts == {("consumed", stream.name): 2, ("settled", stream.name, "ack"): 2}


async def test_gets_and_how_they_end(amqp_url: str) -> None:
    metrics = Metrics()
    async with rabbitry.connect(amqp_url, instrumentation=metrics) as connection:
        async with connection.channel() as channel:
            queue = await exclusive_queue(channel, [b"x"])
            delivery = await channel.get(queue)
            assert await channel.get(queue) is None
            with anyio.CancelScope() as scope:
                scope.cancel()
                await channel.get(queue)
            with pytest.raises(rabbitry.NotFound):
                await channel.get(unique())
    gets = [each for each in metrics.ended if isinstance(each, GetOperation)]
    assert [get.outcome for get in gets] == ["received", "empty", "cancelled", "failed"]
    assert [get.delivery for get in gets] == [delivery, None, None, None]
    assert [type(get.error) for get in gets] == [type(None)] * 3 + [rabbitry.NotFound]
    assert metrics.counts["consumed", queue] == 1


async def test_calls_and_how_they_end(amqp_url: str) -> None:
    metrics = Metrics()
    served = anyio.Event()

    async def handler(payload: Any) -> Any:
        if payload == "fail":
            raise ValueError
        if payload == "wait":
            served.set()
            await anyio.sleep_forever()
        return payload

    queue = rabbitry.Queue(unique(), expires=60)
    async with (
        rabbitry.open_client(amqp_url) as server,
        rabbitry.open_client(amqp_url, instrumentation=metrics) as client,
        anyio.create_task_group() as tg,
    ):
        await server.declare(queue)
        tg.start_soon(server.serve, queue, handler)
        async with client.rpc() as rpc:
            assert await rpc.call(queue.name, "echo") == "echo"
            with pytest.raises(rabbitry.RemoteError):
                await rpc.call(queue.name, "fail")
            with pytest.raises(rabbitry.Unroutable):
                await rpc.call(unique(), "nobody")
            async with anyio.create_task_group() as callers:
                callers.start_soon(rpc.call, queue.name, "wait")
                await served.wait()
                callers.cancel_scope.cancel()
        tg.cancel_scope.cancel()
    assert metrics.outcomes(CallOperation) == ["answered", "failed", "unroutable", "cancelled"]
    assert metrics.under_way == 0


async def test_a_clients_call_is_one_however_often_it_is_sent(amqp_url: str) -> None:
    metrics = Metrics()
    served, finish = anyio.Event(), anyio.Event()

    async def handler(payload: Any) -> Any:
        served.set()
        await finish.wait()
        return payload

    queue = rabbitry.Queue(unique(), expires=60)
    async with (
        rabbitry.open_client(amqp_url) as server,
        through_proxy(amqp_url, instrumentation=metrics) as (client, proxy),
        anyio.create_task_group() as tg,
    ):
        await server.declare(queue)
        tg.start_soon(server.serve, queue, handler)
        async with client.rpc() as rpc:
            async with anyio.create_task_group() as callers:
                callers.start_soon(lambda: rpc.call(queue.name, idempotent=True))
                await served.wait()
                assert metrics.under_way == 1
                proxy.cut()
                await until(lambda: client.statistics()["publishing_lives"] == 2)
                finish.set()
            (answered,) = metrics.ended
            assert (answered.outcome, answered.error) == ("answered", None)
            assert f"{answered.host}:{answered.port}" in proxy.url
            refuse(proxy)
            await until(lambda: not client.is_ready)
            with anyio.move_on_after(0.01):
                await rpc.call(queue.name)
            async with client.rpc(while_down="fail") as impatient:
                with pytest.raises(rabbitry.NotConnected):
                    await impatient.call(queue.name)
            proxy.accept()
        tg.cancel_scope.cancel()
    assert metrics.outcomes(CallOperation) == ["answered", "cancelled", "unsent"]
    assert metrics.under_way == 0


class Balance:
    """What has begun and not ended, and how often which kind has ended."""

    def __init__(self) -> None:
        self.under_way: set[Operation] = set()
        self.ended: Counter[str] = Counter()
        self.mistakes: list[Operation] = []

    def begin(self, operation: Operation) -> None:
        if operation in self.under_way or operation.outcome:
            self.mistakes.append(operation)
        self.under_way.add(operation)

    def end(self, operation: Operation) -> None:
        if operation not in self.under_way or not operation.outcome:
            self.mistakes.append(operation)
        self.under_way.discard(operation)
        self.ended[operation.name] += 1

    def count(self, event: rabbitry.Event, labels: Mapping[str, str]) -> None: ...


async def test_each_operation_ends_once_whatever_is_cut_or_cancelled(amqp_url: str) -> None:
    random, balance = Random(7), Balance()
    queue, requests = rabbitry.Queue(unique(), expires=60), rabbitry.Queue(unique(), expires=60)

    async def handle(_: object) -> None:
        await anyio.sleep(0.002 * random.random())

    async def submit() -> None:
        async with client.publisher(window=2, on_unknown="republish") as publisher:
            for _ in range(3):
                await publisher.submit(b"x", routing_key=queue.name)
            await publisher.publish(b"x", routing_key=queue.name)

    async def get() -> None:
        async with client.channel() as channel:
            delivery = await channel.get(queue)
            if delivery is not None:
                with delivery.process():
                    await handle(delivery)

    async def call() -> None:
        async with client.rpc() as rpc:
            await rpc.call(requests.name, idempotent=True)

    async def again_and_again(work: Callable[[], Awaitable[None]]) -> None:
        while True:
            with anyio.move_on_after(0.1 * random.random()), suppress(rabbitry.RabbitryError):
                await work()

    async with through_proxy(amqp_url, instrumentation=balance) as (client, proxy):
        await client.declare(queue, requests)
        async with anyio.create_task_group() as tg:
            tg.start_soon(again_and_again, lambda: client.publish(b"x", routing_key=queue.name, mandatory=True))
            tg.start_soon(again_and_again, lambda: client.process(queue, handle))
            tg.start_soon(again_and_again, lambda: client.serve(requests, handle))
            for work in (submit, get, call):
                tg.start_soon(again_and_again, work)
            for _ in range(8):
                await anyio.sleep(0.1)
                proxy.cut()
            await until(lambda: balance.ended.keys() == {"publish", "get", "process", "call"})
            tg.cancel_scope.cancel()
    assert not balance.under_way and not balance.mistakes


# --- that it can do no harm -------------------------------------------------------------------------------------------


class Broken:
    """Fails at everything."""

    def begin(self, operation: Operation) -> None:
        raise RuntimeError("begin is broken")

    def end(self, operation: Operation) -> None:
        raise RuntimeError("end is broken")

    def count(self, event: rabbitry.Event, labels: Mapping[str, str]) -> None:
        raise RuntimeError("count is broken")


async def test_what_it_raises_is_logged_once_and_goes_no_further(
    amqp_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    bodies: list[bytes] = []

    async def handle(delivery: rabbitry.Delivery) -> None:
        bodies.append(delivery.body)
        if len(bodies) == 3:
            client.stop_consuming()

    async with some_queue(amqp_url) as queue:
        with caplog.at_level(logging.ERROR, "rabbitry"):
            async with rabbitry.open_client(amqp_url, instrumentation=Broken()) as client:
                await client.publish(b"1", routing_key=queue)
                async with client.publisher() as publisher:
                    await publisher.submit(b"2", routing_key=queue)
                    await publisher.publish(b"3", routing_key=queue)
                await client.process(queue, handle)
                async with client.channel() as channel:
                    await check_channel(channel)
    assert bodies == [b"1", b"2", b"3"]
    (record,) = caplog.records
    assert record.exc_info is not None and "begin is broken" in str(record.exc_info[1])


@pytest.mark.parametrize("unfit", [Broken, object(), "otel"])
async def test_what_is_no_instrumentation_is_refused_at_once(unfit: Any) -> None:
    """The class instead of an object, above all."""
    with pytest.raises(TypeError, match="methods begin, end and count, not "):
        async with rabbitry.open_client(instrumentation=unfit):
            pass
    with pytest.raises(TypeError, match="methods begin, end and count, not "):
        async with rabbitry.connect(instrumentation=unfit):
            pass


async def test_headers_it_adds_leave_the_message_and_its_own_headers_alone(amqp_url: str) -> None:
    class Adding(Metrics):
        def begin(self, operation: Operation) -> None:
            if isinstance(operation, PublishOperation):
                operation.headers |= {"added": "yes", "mine": "overwritten"}

        def end(self, operation: Operation) -> None: ...

    message = rabbitry.Message(b"x", headers={"mine": "kept"}, type="kind")
    async with rabbitry.connect(amqp_url, instrumentation=Adding()) as connection:
        async with connection.channel() as channel:
            queue = await exclusive_queue(channel)
            confirmation = channel.publish_nowait(message, routing_key=queue)
            assert confirmation is not None and confirmation.message is message
            await confirmation.wait()
            await channel.publish(b"plain", routing_key=queue)
            first, second = await channel.get(queue), await channel.get(queue)
    assert first is not None and second is not None
    assert dict(message.headers or {}) == {"mine": "kept"}
    assert first.headers == {"mine": "kept", "added": "yes"} and first.properties.type == "kind"
    assert second.headers == {"added": "yes", "mine": "overwritten"} and second.properties.delivery_mode == 2


# --- that without one there is none -----------------------------------------------------------------------------------


async def _use_everything(client: rabbitry.Client, queue: str, rounds: int) -> None:
    """Six messages a round, on all the paths that a message can take."""
    left = 6 * rounds
    async with client.channel() as channel, client.publisher() as publisher, channel.publisher() as other:
        for _ in range(rounds):
            await client.publish(b"x", routing_key=queue)
            await channel.publish(b"x", routing_key=queue)
            channel.publish_nowait(b"x", routing_key=queue)
            await publisher.submit(b"x", routing_key=queue)
            await publisher.publish(b"x", routing_key=queue)
            await other.submit(b"x", routing_key=queue)
        async with channel.consume(queue) as deliveries:
            async for delivery in deliveries:
                with delivery.process():
                    left -= 1
                if left == 4 * rounds:
                    break
    async with client.consume(queue) as subscribed:
        async for delivery in subscribed:
            delivery.ack()
            left -= 1
            if left == 2 * rounds:
                break
    with anyio.CancelScope() as scope:

        async def last(delivery: rabbitry.Delivery) -> None:
            nonlocal left
            left -= 1
            if not left:
                delivery.ack()
                scope.cancel()

        await client.process(queue, last)


async def _calls_and_allocations(client: rabbitry.Client, queue: str, rounds: int) -> tuple[Counter[CodeType], int]:
    """How often each Python function is called meanwhile, and the bytes allocated in the modules of instrumentation."""
    called: Counter[CodeType] = Counter()

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called[frame.f_code] += 1

    tracemalloc.start()
    sys.setprofile(profile)
    try:
        await _use_everything(client, queue, rounds)
    finally:
        sys.setprofile(None)
        allocated = _allocated()
        tracemalloc.stop()
    return called, allocated


def _allocated() -> int:
    """Bytes that live now, of what was allocated in these modules."""
    gc.collect()
    traces = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, name) for name in HOOKS])
    return sum(trace.size for trace in traces.traces)


async def test_without_one_no_code_of_it_runs_and_nothing_is_allocated(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue:
        async with rabbitry.open_client(amqp_url) as client:
            await _use_everything(client, queue, 1)
            once, allocated = await _calls_and_allocations(client, queue, 1)
            often, allocated_often = await _calls_and_allocations(client, queue, 10)
        async with rabbitry.open_client(amqp_url, instrumentation=Metrics()) as client:
            with_one, allocated_with_one = await _calls_and_allocations(client, queue, 1)
    names = {code.co_qualname for code in often if code.co_filename.startswith(str(PACKAGE))}
    assert names >= {
        "ChannelLife.queue_confirmed",
        "Client.publish",
        "Consumer._take",
        "Delivery.ack",
        "Processing._settle",
    }
    for called in (once, often):
        assert not [code.co_qualname for code in called if code.co_filename in HOOKS]
    assert allocated == allocated_often == 0
    # and both would have been noticed
    assert [code for code in with_one if code.co_filename in HOOKS] and allocated_with_one
    # the functions that look whether there is one are called for each channel and handler, not for each message
    looking = [{code.co_qualname: called[code] for code in called if _looks(code)} for called in (once, often)]
    assert (
        looking[0]
        == looking[1]
        == {
            "Connection.channel": 4,
            "Client._observed": 1,
        }
    )


async def test_without_one_every_object_is_the_plain_one(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url) as client, some_queue(amqp_url) as queue:
        assert type(client) is rabbitry.Client
        async with client.channel() as channel, client.publisher() as publisher, client.rpc() as rpc:
            assert type(life_of(channel)) is ChannelLife
            assert type(channel) is rabbitry.Channel and type(channel.publisher()) is rabbitry.Publisher
            assert type(publisher) is rabbitry.ClientPublisher
            await client.publish(b"x", routing_key=queue)
            assert channel.consume(queue).__class__ is Consumer
            delivery = await channel.get(queue)
            assert type(delivery) is rabbitry.Delivery
            delivery.ack()
            assert type(rpc) is rabbitry.ClientRPC


def test_only_what_makes_channels_and_consumers_looks_whether_there_is_one() -> None:
    """No function that a message passes names it, so that is the code which it would be without."""
    kinds = (
        rabbitry.Channel, rabbitry.Client, rabbitry.ClientPublisher, rabbitry.Confirmation, rabbitry.Connection,
        rabbitry.Consumer, rabbitry.Delivery, rabbitry.Publisher, rabbitry.Subscription, ChannelLife,
    )  # fmt: skip
    functions = [function for kind in kinds for function in vars(kind).values() if hasattr(function, "__code__")]
    looking = {function.__qualname__ for function in functions if _looks(function.__code__)}
    assert looking == {
        "Connection.channel",
        "Connection.rpc",
        "Connection.serve",
        "Client._observed",
    }


def _looks(code: CodeType) -> bool:
    """Whether it belongs to a plain class, and names something of an instrumentation."""
    names = {"instruments", "instrumentation", "_instruments", "InstrumentedChannel", "kinds"}
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    if not code.co_filename.startswith(str(PACKAGE)) or code.co_filename in HOOKS:
        return False
    return code.co_name == "_observed" or bool(names & set(code.co_names)) or any(map(_looks, inner))


class Forgetful:
    def begin(self, operation: Operation) -> None: ...
    def end(self, operation: Operation) -> None: ...
    def count(self, event: rabbitry.Event, labels: Mapping[str, str]) -> None: ...


async def test_with_one_the_tasks_that_a_publish_begins_do_not_keep_it(amqp_url: str) -> None:
    """The first one opens the connection, in a task that lasts as long as the client."""
    async with rabbitry.open_client(amqp_url, instrumentation=Forgetful()) as client:
        gc.collect()
        before = sum(type(each) is PublishOperation for each in gc.get_objects())
        await client.publish(b"first", routing_key=unique())
        gc.collect()
        assert sum(type(each) is PublishOperation for each in gc.get_objects()) == before


async def test_with_one_nothing_is_kept_for_messages_that_have_ended(amqp_url: str) -> None:
    growth = []
    async with some_queue(amqp_url) as queue:
        for instrumentation in (Forgetful(), Metrics()):
            async with rabbitry.open_client(amqp_url, instrumentation=instrumentation) as client:
                tracemalloc.start()
                await _use_everything(client, queue, 5)
                before = _allocated()
                await _use_everything(client, queue, 20)
                growth.append(_allocated() - before)
                tracemalloc.stop()
    assert growth[0] < 120 * 20 < 120 * 100 < growth[1]  # bytes, of 120 messages; the second keeps each operation
