"""`process`: what fails comes back ever more seldom, the prefetch is right for how quick handlers are, and what can't
be a handler is refused at once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import rabbitry
from rabbitry import Delivery
from rabbitry._channel.consumer import MESSAGE_OVERHEAD, has_ended
from rabbitry._channel.second import SecondConsumer
from rabbitry._channel.widening import HELD_MOST, Widening
from rabbitry._client import pauses
from rabbitry._client.pauses import Pauses
from rabbitry._values.options import default_prefetch
from tests.support.clients import some_queue, through_proxy
from tests.support.helpers import exclusive_queue, has_counts, open_channel, unique, until


async def fill(client: rabbitry.Client, queue: str, bodies: list[bytes]) -> None:
    async with client.publisher() as publisher:
        for body in bodies:
            await publisher.submit(body, routing_key=queue)


# --- what is here is handled without waiting, and no longer than it may be --------------------------------------------


@pytest.mark.parametrize("how", ["cancelled", "stopped", "failed"])
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_what_ends_it_is_seen_before_the_next_delivery(amqp_url: str, how: str, concurrency: int) -> None:
    """Though the handlers never wait, and more is here already: it goes back."""
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await fill(client, queue, [b"%d" % number for number in range(100)])
        stop, scope = rabbitry.Stop(), anyio.CancelScope()
        handled: list[bytes] = []

        async def handle(delivery: Delivery) -> None:
            if not handled:
                await anyio.sleep(0.5)  # all that may come is here then
            handled.append(delivery.body)
            if len(handled) == 10:
                if how == "cancelled":
                    scope.cancel()
                elif how == "stopped":
                    stop.set()
                else:
                    raise ValueError("boom")

        with scope:
            process = client.process(queue, handle, concurrency=concurrency, prefetch=100, on_error="raise", stop=stop)
            if how == "failed":
                with pytest.raises(ValueError, match="boom"):
                    await process
            else:
                await process
        assert scope.cancelled_caught == (how == "cancelled")
        assert 10 <= len(handled) <= 9 + concurrency  # each of the others had one at hand
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 100 - len(handled) + (how == "failed"))


async def test_handlers_that_never_wait_let_other_tasks_run(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await fill(client, queue, [b"x"] * 1000)
        handled = most = since = 0

        async def handle(delivery: Delivery) -> None:
            nonlocal handled, most, since
            handled += 1
            since += 1
            most = max(most, since)

        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: client.process(queue, handle, prefetch=1000))
            while handled < 1000:
                since = 0
                await anyio.lowlevel.checkpoint()
            tg.cancel_scope.cancel()
        assert most <= 64


# --- what fails comes back ever more seldom ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("poisons", "options"),
    [(1, {}), (5, {}), (3, {"prefetch": 1}), (3, {"concurrency": 3, "on_error": lambda delivery, error: "requeue"})],
)
async def test_poison_is_run_ever_more_seldom_and_stops_nobody(
    amqp_url: str, poisons: int, options: dict[str, Any]
) -> None:
    """More of them than the prefetch allows, too: what waits to be put back does not use it up."""
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        bad = [b"bad %d" % number for number in range(poisons)]
        await fill(client, queue, [*bad, *[b"good"] * 1000])
        runs: Counter[bytes] = Counter()
        all_good = anyio.Event()

        async def handle(delivery: Delivery) -> None:
            runs[delivery.body] += 1
            if delivery.body != b"good":
                raise ValueError("boom")
            if runs[b"good"] == 1000:
                all_good.set()

        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: client.process(queue, handle, **options))
            with anyio.fail_after(15):
                await all_good.wait()
            await anyio.sleep(1)
            assert all(2 <= runs[body] <= 8 for body in bad), runs  # 0.1 + 0.2 + … + 12.8 s is more than it had
            tg.cancel_scope.cancel()
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, poisons)


async def test_a_quorum_queue_counts_the_failures(amqp_url: str) -> None:
    """Whoever had the message before: its pauses go on where they were."""
    async with rabbitry.open_client(amqp_url) as client:
        jobs = rabbitry.Queue(unique(), type="quorum")
        await client.declare(jobs)
        try:
            await client.publish(b"bad", routing_key=jobs.name)
            at: list[float] = []

            async def handle(delivery: Delivery) -> None:
                at.append(anyio.current_time())
                raise ValueError("boom")

            for _ in range(2):
                with anyio.move_on_after(20) as scope:
                    async with anyio.create_task_group() as tg:
                        tg.start_soon(client.process, jobs, handle)
                        seen = len(at)
                        await until(lambda seen=seen: len(at) == seen + 3)
                        tg.cancel_scope.cancel()
                assert not scope.cancelled_caught
            pauses = [later - earlier for earlier, later in pairwise(at)]
            assert pauses[0] < 0.1 <= pauses[1] < pauses[4] and pauses[4] >= 0.8
        finally:
            with anyio.CancelScope(shield=True):
                await client.delete(jobs)


async def held(client: rabbitry.Client, queue: str, tg: Any, **options: Any) -> Counter[bytes]:
    """Begin to process, and return when both poisons wait to be put back after a pause of 1.6 s or more."""
    runs: Counter[bytes] = Counter()

    async def handle(delivery: Delivery) -> None:
        runs[delivery.body] += 1
        if delivery.body == b"slow":
            await anyio.sleep_forever()
        raise ValueError("boom")

    tg.start_soon(lambda: client.process(queue, handle, **options))
    await until(lambda: min(runs[b"1"], runs[b"2"]) >= 6)
    return runs


@pytest.mark.parametrize("how", ["stopped", "cancelled", "drained", "deleted"])
async def test_what_waits_goes_back_at_once(amqp_url: str, how: str) -> None:
    """Also while a handler is still at work."""
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await fill(client, queue, [b"1", b"2"])
        async with open_channel(amqp_url) as channel, anyio.create_task_group() as tg:
            await held(client, queue, tg, concurrency=2, drain=60 if how == "drained" else 0)
            assert await has_counts(channel, queue, 0, 2)  # a second consumer makes up for them
            await client.publish(b"slow", routing_key=queue)
            await anyio.sleep(0.05)
            with anyio.fail_after(1.2) as prompt:  # the pause is 1.6 s
                if how == "stopped":
                    client.stop_consuming()
                    assert await has_counts(channel, queue, 2)
                elif how == "deleted":
                    await channel.delete_queue(queue)
                else:
                    tg.cancel_scope.cancel()
                    with anyio.CancelScope(shield=True):
                        assert await has_counts(channel, queue, 2 if how == "drained" else 3)
            assert not prompt.cancelled_caught
            tg.cancel_scope.cancel()


@pytest.mark.rabbitmq("its time passes while there is always something to do")
async def test_what_waits_takes_no_more_memory_than_it_may(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no prefetch bounds it: the first goes back ahead of its time."""
    monkeypatch.setattr(pauses, "HARD_MARK", 3 * 10_000)
    most = 0
    put_back = Pauses.put_back

    def watched(self: Pauses, delivery: Delivery) -> float:
        nonlocal most
        pause = put_back(self, delivery)
        most = max(most, len(self))
        assert self._bytes == sum(len(each.body) + MESSAGE_OVERHEAD for _, _, each in self._held)
        return pause

    monkeypatch.setattr(Pauses, "put_back", watched)
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await fill(client, queue, [bytes([number]) * 9000 for number in range(20)])
        runs: Counter[bytes] = Counter()

        async def handle(delivery: Delivery) -> None:
            runs[delivery.body[:1]] += 1
            raise ValueError("boom")

        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: client.process(queue, handle, prefetch=0))
            await until(lambda: len(runs) == 20 and min(runs.values()) >= 3)
            tg.cancel_scope.cancel()
        assert most == 3
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 20)


async def test_a_lost_connection_drops_what_waits(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The broker has put it back itself, and it comes in the next life."""
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        await fill(client, queue, [b"1", b"2"])
        async with anyio.create_task_group() as tg:
            runs = await held(client, queue, tg)
            before = runs.copy()
            proxy.cut()
            await until(lambda: runs[b"1"] == before[b"1"] + 1 and runs[b"2"] == before[b"2"] + 1, 10)
            await anyio.sleep(1)
            assert max(runs[b"1"] - before[b"1"], runs[b"2"] - before[b"2"]) == 1  # its pause has grown
            client.stop_consuming()
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 2)
    assert "after its channel had ended" not in caplog.text


async def test_what_waits_makes_nobody_wait_in_the_next_life_either(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        await client.publish(b"bad", routing_key=queue)
        failed: list[float] = []
        good = anyio.Event()

        async def handle(delivery: Delivery) -> None:
            if delivery.body == b"bad":
                failed.append(anyio.current_time())
                raise ValueError("boom")
            good.set()

        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: client.process(queue, handle, prefetch=1))
            await until(lambda: len(failed) == 6)  # the next pause is 3.2 s
            proxy.cut()
            await client.publish(b"good", routing_key=queue, on_unknown="republish")
            await good.wait()
            assert len(failed) == 7 and anyio.current_time() - failed[-1] < 2
            tg.cancel_scope.cancel()


async def test_two_workers_do_not_play_ping_pong(amqp_url: str) -> None:
    async with (
        some_queue(amqp_url) as queue,
        rabbitry.open_client(amqp_url) as client,
        rabbitry.open_client(amqp_url) as other,
        anyio.create_task_group() as tg,
    ):
        await client.publish(b"bad", routing_key=queue)
        runs = 0

        async def handle(delivery: Delivery) -> None:
            nonlocal runs
            runs += 1
            raise ValueError("boom")

        for each in (client, client, other):
            tg.start_soon(each.process, queue, handle)
        await anyio.sleep(3)
        assert 3 <= runs <= 15
        tg.cancel_scope.cancel()


async def test_what_fails_once_comes_again_at_once(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await fill(client, queue, [b"%d" % number for number in range(50)])
        done: set[bytes] = set()

        async def handle(delivery: Delivery) -> None:
            if not delivery.redelivered:
                raise ValueError("once")
            done.add(delivery.body)
            if len(done) == 50:
                client.stop_consuming()

        with anyio.fail_after(5):
            await client.process(queue, handle)


async def test_what_was_settled_is_not_put_back(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await fill(client, queue, [b"x"])

        async def handle(delivery: Delivery) -> None:
            if not delivery.redelivered:
                raise ValueError("first")
            await delivery.ack()  # type: ignore[func-returns-value]
            client.stop_consuming()
            raise KeyError("second")

        with anyio.fail_after(20):
            await client.process(queue, handle)
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 0)
    first, second = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "(put back)" in first and "(it was settled before)" in second and f"queue '{queue}'" in second


async def test_poison_is_a_line_a_second(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await fill(client, queue, [b"bad"] * 500)
        failed = 0

        async def handle(delivery: Delivery) -> None:
            nonlocal failed
            failed += 1
            if failed == 500:
                client.stop_consuming()
            raise ValueError("boom")

        began = anyio.current_time()
        with anyio.fail_after(20):
            await client.process(queue, handle, on_error="reject")
        took = anyio.current_time() - began
    lines = [record.getMessage() for record in caplog.records]
    assert 2 <= len(lines) <= 3 + took
    assert sum("Traceback" in (record.exc_text or "") for record in caplog.records) == 1
    told = sum(int(line.rpartition("(and ")[2].partition(" ")[0]) for line in lines if "(and " in line)
    assert told + len(lines) - 1 + int(lines[-1].rpartition("failed on ")[2].partition(" ")[0]) == 500


# --- the prefetch -----------------------------------------------------------------------------------------------------


async def test_on_error_can_not_be_a_coroutine(amqp_url: str) -> None:
    async def decide(delivery: Delivery, error: Exception) -> str:
        return "reject"

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        with pytest.raises(TypeError, match="coroutine"):
            await client.process(queue, coroutine_function, on_error=decide)  # type: ignore[arg-type]
        await client.publish(b"x", routing_key=queue)

        async def handle(delivery: Delivery) -> None:
            raise ValueError("boom")

        with anyio.fail_after(20), pytest.raises(TypeError, match="coroutine"):
            await client.process(queue, handle, on_error=lambda *args: decide(*args))  # type: ignore[arg-type, return-value]
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 1)


async def consumers_of(channel: rabbitry.Channel, queue: str) -> int:
    return (await channel.declare_queue(queue, passive=True)).consumer_count


@pytest.mark.parametrize("auto_delete", [False, True])
async def test_quick_handlers_are_not_bound_by_the_round_trip(amqp_url: str, auto_delete: bool) -> None:
    async with through_proxy(amqp_url) as (client, proxy), rabbitry.open_client(amqp_url) as near:
        queue = rabbitry.Queue(unique(), auto_delete=auto_delete)
        await client.declare(queue)
        bodies = [b"%d" % number for number in range(3000)]
        await fill(near, queue.name, bodies)
        proxy.delay = 0.01
        seen: list[bytes] = []

        async def handle(delivery: Delivery) -> None:
            seen.append(delivery.body)
            if len(seen) == len(bodies):
                client.stop_consuming()

        with anyio.fail_after(15):  # two for each round trip of 20 ms take 30 s
            await client.process(queue, handle)
        assert seen == bodies  # each once, and in order
        if not auto_delete:
            await near.delete(queue)


async def test_a_stream_is_not_bound_by_the_round_trip(amqp_url: str) -> None:
    """It goes on where it was as its prefetch rises, in its next life, too."""
    async with through_proxy(amqp_url) as (client, proxy), rabbitry.open_client(amqp_url) as near:
        stream = rabbitry.Queue(unique(), type="stream")
        await client.declare(stream)
        try:
            bodies = [b"%d" % number for number in range(3000)]
            await fill(near, stream.name, bodies)
            proxy.delay = 0.01
            seen: list[bytes] = []

            async def handle(delivery: Delivery) -> None:
                seen.append(delivery.body)
                if len(seen) == 2000:
                    proxy.cut()
                if delivery.body == bodies[-1]:
                    client.stop_consuming()

            with anyio.fail_after(20):
                await client.process(stream, handle, offset="first", on_error="raise")
            assert seen[:2000] == bodies[:2000]
            again = bodies.index(seen[2000])
            assert again >= 1800 and seen[2000:] == bodies[again:]
        finally:
            with anyio.CancelScope(shield=True):
                await near.delete(stream)


async def test_quick_servers_are_not_bound_by_the_round_trip(amqp_url: str) -> None:
    async with through_proxy(amqp_url) as (client, proxy), rabbitry.open_client(amqp_url) as near:
        async with some_queue(amqp_url) as queue, near.rpc() as rpc, anyio.create_task_group() as tg:
            tg.start_soon(lambda: client.serve(queue, double, concurrency=4))
            proxy.delay = 0.02
            done = 0

            async def ask() -> None:
                nonlocal done
                while True:
                    assert await rpc.call(queue, 21) == 42
                    done += 1

            for _ in range(50):
                tg.start_soon(ask)
            async with open_channel(amqp_url) as channel:
                await until(lambda: done >= 300, 20)
                assert await consumers_of(channel, queue) <= 2
            tg.cancel_scope.cancel()


async def double(number: int) -> int:
    return 2 * number


async def test_slow_jobs_are_shared(amqp_url: str) -> None:
    """Two workers get half of the jobs each: neither hoards."""
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await fill(client, queue, [b"job"] * 40)
        done: Counter[str] = Counter()

        def worker(name: str) -> Callable[[Delivery], Any]:
            async def handle(delivery: Delivery) -> None:
                await anyio.sleep(0.2)
                done[name] += 1
                if done.total() == 40:
                    client.stop_consuming()

            return handle

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tg:
                tg.start_soon(client.process, queue, worker("a"))
                tg.start_soon(client.process, queue, worker("b"))
        assert abs(done["a"] - done["b"]) <= 4, done


async def test_what_was_taken_for_quick_handlers_goes_back_when_they_are_slow(amqp_url: str) -> None:
    async with through_proxy(amqp_url) as (client, proxy), some_queue(amqp_url) as queue:
        async with rabbitry.open_client(amqp_url) as near, open_channel(amqp_url) as channel:
            await fill(near, queue, [b"quick"] * 1500 + [b"slow"] * 60)
            proxy.delay = 0.01
            widest = slow = 0

            async def handle(delivery: Delivery) -> None:
                nonlocal slow
                if delivery.body == b"slow":
                    slow += 1
                    await anyio.sleep(0.5)

            async with anyio.create_task_group() as tg:
                tg.start_soon(client.process, queue, handle)
                while not slow:
                    widest = max(widest, await consumers_of(channel, queue))
                    await anyio.sleep(0.02)
                assert widest in (2, 3)  # one is exchanged for another
                with anyio.fail_after(10):
                    while True:  # until only two are with the worker, as in the beginning
                        info = await channel.declare_queue(queue, passive=True)
                        if info.consumer_count == 1 and info.message_count >= 60 - slow - 2:
                            break
                        await anyio.sleep(0.02)
                tg.cancel_scope.cancel()


@pytest.mark.parametrize("options", [{"prefetch": 2}, {"exclusive": True}, {"no_ack": True}])
@pytest.mark.rabbitmq("it moves much, and wants a socket's buffers")
async def test_a_prefetch_that_was_given_stays(amqp_url: str, options: dict[str, Any]) -> None:
    """Nor has an exclusive consumer another beside it."""
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        async with open_channel(amqp_url) as channel, anyio.create_task_group() as tg:
            await fill(client, queue, [b"x"] * 5000)
            done = 0

            async def handle(delivery: Delivery) -> None:
                nonlocal done
                done += 1

            tg.start_soon(lambda: client.process(queue, handle, **options))
            while done < 5000:
                assert await consumers_of(channel, queue) <= 1
                await anyio.sleep(0.01)
            tg.cancel_scope.cancel()


async def test_a_single_active_consumer_stays_the_active_one(amqp_url: str) -> None:
    """The second one gets nothing there, and is given up."""
    async with through_proxy(amqp_url) as (client, proxy), rabbitry.open_client(amqp_url) as near:
        queue = rabbitry.Queue(unique(), arguments={"x-single-active-consumer": True})
        await near.declare(queue)
        bodies = [b"%d" % number for number in range(400)]
        await fill(near, queue.name, bodies)
        proxy.delay = 0.005
        seen: list[tuple[str, bytes]] = []

        def worker(name: str) -> Callable[[Delivery], Any]:
            async def handle(delivery: Delivery) -> None:
                seen.append((name, delivery.body))

            return handle

        async with anyio.create_task_group() as tg:
            await tg.start(lambda **status: client.process(queue.name, worker("first"), **status))
            await tg.start(lambda **status: near.process(queue, worker("waiting"), **status))
            await until(lambda: len(seen) == 400)
            tg.cancel_scope.cancel()
        assert seen == [("first", body) for body in bodies]
        await near.delete(queue)


@pytest.mark.parametrize(
    ("size", "held", "more"), [(10, 1, 2), (10, 1000, 100), (1 << 20, 1000, 64), (100 << 20, 5, 0)]
)
async def test_what_is_made_up_for_is_bounded(amqp_url: str, size: int, held: int, more: int) -> None:
    """Or a prefetch of 2 would let come a hundred of the largest messages that there are."""
    async with open_channel(amqp_url) as channel:
        async with channel.consume(await exclusive_queue(channel), prefetch=2) as deliveries:
            widening, second = Widening(2, 1), SecondConsumer(deliveries)
            widening._largest = size
            widening.held = lambda: held
            await widening._tick(second, 0)
            assert second.prefetch == more


async def test_a_second_consumer_that_the_broker_cancelled_is_not_begun_again(amqp_url: str) -> None:
    """Its queue has gone, and the first one is about to be told: to ask for it would end the channel, and what handlers
    have of it could not be settled any more.
    """
    async with open_channel(amqp_url) as channel:
        async with channel.consume(await exclusive_queue(channel), prefetch=2) as deliveries:
            widening, second = Widening(2, 1), SecondConsumer(deliveries)
            widening._risen = 8
            await widening._tick(second, 0)
            assert second.prefetch == 6 and await consumers_of(channel, deliveries.queue) == 2
            await channel.delete_queue(deliveries.queue)
            await until(lambda: second.is_over and has_ended(deliveries))
            await widening._tick(second, 0)
            assert second.prefetch == 0 and channel.is_open


async def test_what_was_refused_is_not_asked_again(amqp_url: str) -> None:
    """By a policy that allows a channel one consumer, say: every life would end by it."""

    class Refused(Widening):
        async def _follow(self, consumer: Any, second: Any) -> None:
            raise rabbitry.AccessRefused("not that many", code=403, method="basic.consume")

    class Lost(Widening):
        async def _follow(self, consumer: Any, second: Any) -> None:
            raise rabbitry.ConnectionClosed("gone")

    async with open_channel(amqp_url) as channel:
        async with channel.consume(await exclusive_queue(channel), prefetch=2) as deliveries:
            for kind in (Refused, Lost):
                widening = kind(2, 1)
                await widening._watched(deliveries)
                assert widening._is_useless == (kind is Refused)


async def test_what_comes_to_be_held_as_a_watch_ends_is_made_up_for(amqp_url: str) -> None:
    watches = 0

    class Brief(Widening):
        async def _follow(self, consumer: Any, second: Any) -> None:
            nonlocal watches
            watches += 1
            if watches == 1:
                self.held = lambda: 1
                self.hold_changed(delivery)

    async with open_channel(amqp_url) as channel:
        async with channel.consume(await exclusive_queue(channel, [b"x"]), prefetch=1) as deliveries:
            delivery = await anext(deliveries)
            async with anyio.create_task_group() as tg:
                widening = Brief(1, 1)
                widening.start_soon = tg.start_soon
                widening._watch(delivery)
            assert watches == 2


def test_the_bounds_of_the_prefetch() -> None:
    widening = Widening(2, 1)
    assert [widening._wanted(rate) for rate in (0, 1, 5, 1e6)] == [0, 1, 5, 8]
    widening._risen = 90
    assert widening._wanted(1e6) == 100
    widening._largest = 1 << 20
    assert widening._wanted(1e6) == 8  # 8 MiB
    assert Widening(200, 100)._wanted(1e6) == 800
    assert HELD_MOST == 100


# --- what can't be a handler ------------------------------------------------------------------------------------------


async def coroutine_function(delivery: Delivery) -> None: ...


async def without_arguments() -> None: ...


async def with_two(delivery: Delivery, more: int) -> None: ...


async def generator(delivery: Delivery) -> Any:
    yield delivery


def plain_generator(delivery: Delivery) -> Any:
    yield delivery


NO_HANDLERS: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a string": lambda: "handle",
    "a coroutine": lambda: coroutine_function(None),  # type: ignore[arg-type]
    "no argument": lambda: without_arguments,
    "two arguments": lambda: with_two,
    "an async generator": lambda: generator,
    "a generator": lambda: plain_generator,
    "a method": lambda: Methods().without,
}


class Methods:
    async def without(self) -> None: ...

    async def handle(self, delivery: Delivery) -> None:
        await handle_and_stop(delivery)

    async def __call__(self, delivery: Delivery) -> None:
        await handle_and_stop(delivery)


@pytest.mark.parametrize("what", NO_HANDLERS)
async def test_what_can_not_be_a_handler_is_refused_at_once(amqp_url: str, what: str) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        with anyio.fail_after(5), pytest.raises(TypeError):
            await client.process("no such queue", NO_HANDLERS[what]())
        assert client.state == "idle"


_stop: Callable[[], None]


async def handle_and_stop(delivery: Delivery, more: int = 0) -> None:
    _stop()


def decorated(function: Any) -> Any:
    def wrapper(*args: Any) -> Any:
        return function(*args)

    wrapper.__wrapped__ = with_two  # type: ignore[attr-defined]
    return wrapper


@pytest.mark.parametrize(
    "handler",
    [
        handle_and_stop,
        Methods().handle,
        Methods(),
        lambda delivery: handle_and_stop(delivery),
        lambda *args: handle_and_stop(*args),
        decorated(handle_and_stop),
    ],
)
async def test_what_works_is_taken(amqp_url: str, handler: Any) -> None:
    global _stop
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        _stop = client.stop_consuming
        await client.publish(b"x", routing_key=queue)
        with anyio.fail_after(20):
            await client.process(queue, handler)
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 0)


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"concurrency": 0}, ValueError),
        ({"concurrency": -1}, ValueError),
        ({"concurrency": True}, TypeError),
        ({"concurrency": 2.0}, TypeError),
        ({"concurrency": "2"}, TypeError),
        ({"concurrency": None}, TypeError),
        ({"prefetch": -1}, ValueError),
        ({"prefetch": 65_536}, ValueError),
        ({"prefetch": True}, TypeError),
        ({"prefetch": 10.0}, TypeError),
        ({"prefetch": "10"}, TypeError),
        ({"drain": -1}, ValueError),
    ],
)
async def test_numbers_that_make_no_sense(amqp_url: str, options: dict[str, Any], error: type[Exception]) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        with anyio.fail_after(5):
            with pytest.raises(error, match=next(iter(options))):
                await client.process("no such queue", coroutine_function, **options)
            with pytest.raises(error, match=next(iter(options))):
                await client.serve("no such queue", double, **options)
        assert client.state == "idle"


@pytest.mark.parametrize(
    ("prefetch", "error"), [(-1, ValueError), (65_536, ValueError), (True, TypeError), (1.5, TypeError)]
)
async def test_a_prefetch_that_makes_no_sense(amqp_url: str, prefetch: Any, error: type[Exception]) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        with pytest.raises(error, match="prefetch"):
            client.consume("x", prefetch=prefetch)
        with pytest.raises(error, match="prefetch"):
            async with client.channel(prefetch=prefetch):
                pass
        assert client.state == "idle"
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        with pytest.raises(error, match="prefetch"):
            connection.channel(prefetch=prefetch)
        with pytest.raises(error, match="prefetch"):
            channel.consume("x", prefetch=prefetch)
        with pytest.raises(error, match="prefetch"):
            await channel.qos(prefetch)
        with pytest.raises(error, match="prefetch"):
            await connection.serve("x", double, prefetch=prefetch)
        async with channel.consume("amq.rabbitmq.reply-to", no_ack=True) as deliveries:
            with pytest.raises(error, match="batch"):
                deliveries.batches(prefetch, within=1)


def test_the_first_prefetch() -> None:
    assert [default_prefetch(concurrency) for concurrency in (1, 10, 40_000)] == [2, 20, 65_535]
