"""Deadlines that travel: a server begins nothing whose time is up, and stops what it works on; and says how often."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

import rabbitry
from rabbitry import RequestCounts
from rabbitry._concurrency.clock import Clock, with_clock
from rabbitry._rpc.envelope import time_left
from tests.support.clients import some_queue
from tests.support.helpers import exclusive_queue, has_counts, open_channel, unique, until


def now_ms() -> int:
    return int(time.time() * 1000)


async def test_a_request_tells_how_long_its_caller_waits(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel, connection.rpc() as rpc:
        queue = await exclusive_queue(channel)
        anothers = {"x-rabbitry-remaining": 1, "x-rabbitry-deadline": 1}  # of a request that is passed on

        async def headers(limit: float) -> dict[str, Any]:
            async with anyio.create_task_group() as tg:

                async def call() -> None:
                    with anyio.move_on_after(limit):
                        await rpc.call(queue, headers={"mine": 1} | anothers)

                tg.start_soon(call)
                assert await has_counts(channel, queue, 1)
                request = await channel.get(queue, no_ack=True)
                tg.cancel_scope.cancel()
            assert request is not None
            return request.headers

        assert await headers(float("inf")) == {"mine": 1}
        told = await headers(70)
        assert told["mine"] == 1
        assert 50_000 < told["x-rabbitry-remaining"] <= 70_000
        assert -100 < now_ms() + 70_000 - told["x-rabbitry-deadline"] < 20_000


async def test_a_server_that_starts_late_does_not_execute_what_nobody_waits_for(amqp_url: str) -> None:
    handled = []

    async def handler(name: str) -> str:
        handled.append(name)
        return name

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client, client.rpc() as rpc:
        with anyio.move_on_after(0.05) as scope:
            await rpc.call(queue, "nobody waits for it")
        assert scope.cancelled_caught
        async with anyio.create_task_group() as tg:
            await tg.start(partial(client.serve, queue, handler))
            with anyio.fail_after(30):
                assert await rpc.call(queue, "somebody does") == "somebody does"
            client.stop_consuming()
        assert handled == ["somebody does"]
        assert rpc.late_replies == 0


@pytest.mark.parametrize("where", ["connection", "client"])
async def test_a_server_that_was_stopped_with_requests_in_hand_does_not_execute_them(
    amqp_url: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Those waited behind another one, or in its socket, beyond the broker's reach."""
    handled = []
    release = anyio.Event()

    async def handler(name: str) -> str:
        handled.append(name)
        if name == "long":
            await release.wait()
        return name

    async with open_channel(amqp_url) as channel, rabbitry.connect(amqp_url) as connection:
        queue = (await channel.declare_queue(unique())).name
        async with rabbitry.open_client(amqp_url) as client, client.rpc() as rpc, anyio.create_task_group() as tg:
            server: Any = client if where == "client" else connection
            tg.start_soon(partial(server.serve, queue, handler, concurrency=1, prefetch=5))
            tg.start_soon(rpc.call, queue, "long")
            await until(lambda: handled == ["long"])
            # without an expiration, by which the broker would drop it if it came to it late
            moment = {"x-rabbitry-remaining": 100}
            await channel.publish(rabbitry.Message.msgpack("waits in the prefetch", headers=moment), routing_key=queue)
            assert await has_counts(channel, queue, 0, 1)
            await anyio.sleep(0.2)  # its time counts from its arrival
            moment = {"x-rabbitry-remaining": 5000, "x-rabbitry-deadline": now_ms() - 600}
            await channel.publish(rabbitry.Message.msgpack("from a socket", headers=moment), routing_key=queue)
            release.set()
            assert await rpc.call(queue, "next") == "next"
            assert handled == ["long", "next"]
            if where == "client":
                assert client.statistics()["expired_requests"] == 2
            else:
                assert connection.requests == RequestCounts(answered=2, expired=2)
            tg.cancel_scope.cancel()
        assert await has_counts(channel, queue, 0)  # they were acknowledged
        await channel.delete_queue(queue)
    assert sum("was not begun" in record.message for record in caplog.records) == 1  # one line a second


@pytest.mark.parametrize("where", ["connection", "client"])
async def test_a_handler_is_stopped_when_its_callers_time_is_up(amqp_url: str, where: str) -> None:
    begun, stopped = [], []

    async def handler(name: str) -> str:
        if name == "quick":
            return name
        begun.append(name)
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append(name)

    async with open_channel(amqp_url) as channel, rabbitry.connect(amqp_url) as connection:
        queue = (await channel.declare_queue(unique())).name
        async with rabbitry.open_client(amqp_url) as client, client.rpc() as rpc, anyio.create_task_group() as tg:
            server: Any = client if where == "client" else connection
            tg.start_soon(partial(server.serve, queue, handler, concurrency=1))
            assert await rpc.call(queue, "quick") == "quick"  # it serves
            while not begun:  # the broker drops what comes to it late
                with pytest.raises(TimeoutError), anyio.fail_after(0.3):
                    await rpc.call(queue, "slow")
            with anyio.fail_after(30):
                assert await rpc.call(queue, "quick") == "quick"
            assert stopped == ["slow"]
            if where == "client":
                assert client.statistics()["stopped_requests"] == 1
            else:
                assert (connection.requests.answered, connection.requests.stopped) == (2, 1)
            assert rpc.late_replies == 0
            tg.cancel_scope.cancel()
        assert await has_counts(channel, queue, 0)
        await channel.delete_queue(queue)


async def test_a_handler_that_fails_as_it_is_stopped_gives_no_late_reply(amqp_url: str) -> None:
    async def handler(how: str) -> str:
        if how == "quick":
            return how
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("in its clean-up")

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with connection.rpc() as rpc, anyio.create_task_group() as tg:
            tg.start_soon(connection.serve, queue, handler)
            with anyio.move_on_after(0.2):
                await rpc.call(queue, "slow")
            with anyio.fail_after(5):
                assert await rpc.call(queue, "quick") == "quick"
                await until(lambda: connection.requests == RequestCounts(answered=1, stopped=1))
            assert rpc.late_replies == 0
            tg.cancel_scope.cancel()


async def test_nested_calls_inherit_the_deadline(amqp_url: str) -> None:
    seen = []

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        outer, inner = await exclusive_queue(channel), await exclusive_queue(channel)
        async with connection.rpc() as rpc, anyio.create_task_group() as tg:

            async def pass_on(payload: Any) -> Any:
                return await rpc.call(inner, raw=True)

            async def look(request: rabbitry.Delivery) -> bytes:
                seen.append(request.headers["x-rabbitry-remaining"])
                return b""

            tg.start_soon(connection.serve, outer, pass_on)
            tg.start_soon(partial(connection.serve, inner, look, raw=True))
            with anyio.fail_after(50):
                assert await rpc.call(outer) == b""
            tg.cancel_scope.cancel()
    assert len(seen) == 1
    assert 20_000 < seen[0] < 50_000 + 1


@pytest.mark.parametrize(
    ("remaining", "deadline_in", "waited", "clock_skew", "left"),
    [
        (5000, 5.0, 0.0, 0.5, 5.0),
        (5000, 2.0, 0.0, 0.5, 2.5),  # three seconds in a queue: by the clock, and the skew
        (5000, 2.0, 0.0, None, 5.0),
        (5000, 2.0, 4.0, 0.5, 1.0),  # four in hand: by what remains
        (5000, -1.0, 0.0, 0.5, -0.5),
        (5000, 5.4, 0.0, 0.5, 5.0),
        (5000, 60.0, 1.0, 0.5, 4.0),  # from the future
        (0, 5.0, 0.0, 0.5, 0.0),
        (5000, None, 2.0, 0.5, 3.0),
        (None, 2.0, 0.0, 0.5, None),
    ],
)
def test_the_time_left(
    remaining: int | None,
    deadline_in: float | None,
    waited: float,
    clock_skew: float | None,
    left: float | None,
) -> None:
    headers: dict[str, Any] = {}
    if remaining is not None:
        headers["x-rabbitry-remaining"] = remaining
    if deadline_in is not None:
        headers["x-rabbitry-deadline"] = 1_700_000_000_000 + int(deadline_in * 1000)
    with with_clock(Clock(time.monotonic, lambda: 1_700_000_000.0)):
        found = time_left(headers, waited, clock_skew)
    assert found == (None if left is None else pytest.approx(left, abs=0.05))


@pytest.mark.parametrize("wrong", ["1", 1.0, True, None, [1], b"1"])
def test_headers_of_another_type_count_as_not_there(wrong: Any) -> None:
    assert time_left({"x-rabbitry-remaining": wrong, "x-rabbitry-deadline": 1}, 0, 0.5) is None
    assert time_left({"x-rabbitry-remaining": 1000, "x-rabbitry-deadline": wrong}, 0, 0.5) == 1


async def test_a_server_whose_clock_is_ahead_says_what_to_do(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    behind = {"x-rabbitry-remaining": 5000, "x-rabbitry-deadline": now_ms() - 3_600_000}
    monkeypatch.setattr("rabbitry._rpc.caller.deadline_headers", lambda remaining: ("5000", behind))

    async def call(rpc: rabbitry.RPC, queue: str) -> None:
        with anyio.move_on_after(5):
            await rpc.call(queue, "abc")

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        for clock_skew, counts in ((0.5, RequestCounts(expired=1)), (None, RequestCounts(expired=1, answered=1))):
            queue = await exclusive_queue(channel)
            async with connection.rpc() as rpc, anyio.create_task_group() as tg:
                tg.start_soon(partial(connection.serve, queue, len, clock_skew=clock_skew))
                tg.start_soon(call, rpc, queue)
                await until(lambda counts=counts: connection.requests == counts)  # type: ignore[misc]
                tg.cancel_scope.cancel()
    assert "serve with clock_skew=None" in caplog.text


async def test_a_clock_skew_is_a_number_of_seconds(amqp_url: str) -> None:
    async def handler(_: Any) -> None: ...

    async with rabbitry.connect(amqp_url) as connection, rabbitry.open_client(amqp_url) as client:
        for wrong in (-1, float("inf"), float("nan")):
            with pytest.raises(ValueError, match="clock_skew"):
                await connection.serve("x", handler, clock_skew=wrong)
            with pytest.raises(ValueError, match="clock_skew"):
                await client.serve("x", handler, clock_skew=wrong)


# --- in threads -------------------------------------------------------------------------------------------------------


async def test_plain_functions_run_in_worker_threads_as_many_as_the_concurrency(amqp_url: str) -> None:
    threads = set()
    running = most = 0
    lock, met = threading.Lock(), threading.Event()

    def handler(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            threads.add(threading.get_ident())
            if most == 3:
                met.set()
        met.wait(20)
        with lock:
            running -= 1
        if number == 7:
            raise ValueError("seven")
        return 2 * number

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        replies = []
        async with connection.rpc() as rpc, anyio.create_task_group() as tg:
            tg.start_soon(partial(connection.serve, queue, handler, concurrency=3, prefetch=20))

            async def call(number: int) -> None:
                replies.append(await rpc.call(queue, number))

            with anyio.fail_after(30):
                async with anyio.create_task_group() as calls:
                    for number in [*range(7), *range(8, 12)]:
                        calls.start_soon(call, number)
                with pytest.raises(rabbitry.RemoteError, match="ValueError: seven"):
                    await rpc.call(queue, 7)
            tg.cancel_scope.cancel()
        assert sorted(replies) == [2 * number for number in [*range(7), *range(8, 12)]]
        assert threading.get_ident() not in threads
        assert most == 3


async def test_a_lambda_around_a_coroutine_function(amqp_url: str) -> None:
    """That it is one shows only when it was called: what it returned is awaited, on trio as well."""

    async def double(number: int) -> int:
        await anyio.lowlevel.checkpoint()
        return 2 * number

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with connection.rpc() as rpc, anyio.create_task_group() as tg:
            tg.start_soon(partial(connection.serve, queue, lambda number: double(number)))
            with anyio.fail_after(30):
                assert await rpc.call(queue, 21) == 42
            tg.cancel_scope.cancel()


async def test_fifty_threads_where_the_concurrency_is_fifty(amqp_url: str) -> None:
    """AnyIO's own bound, which the whole program shares, is 40."""
    all_at_once = threading.Barrier(50, timeout=30)

    def handler(_: Any) -> int:
        all_at_once.wait()
        return 42

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with connection.rpc() as rpc, anyio.create_task_group() as tg:
            tg.start_soon(partial(connection.serve, queue, handler, concurrency=50))
            async with anyio.create_task_group() as calls:
                for _ in range(50):
                    calls.start_soon(rpc.call, queue)
            assert connection.requests == RequestCounts(answered=50)
            tg.cancel_scope.cancel()


@pytest.mark.rabbitmq("its time passes while a thread is at work")
async def test_a_thread_whose_callers_time_is_up_can_notice_and_gives_no_late_reply(amqp_url: str) -> None:
    begun, noticed = [], []

    def handler(how: str) -> str:
        if how == "quick":
            return how
        begun.append(how)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            time.sleep(0.002)
            if how == "looks":
                try:
                    anyio.from_thread.check_cancelled()
                except BaseException:
                    noticed.append(how)
                    raise
            elif time.monotonic() > until - 29.8:
                return how
        return how

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with connection.rpc() as rpc, anyio.create_task_group() as tg:
            tg.start_soon(partial(connection.serve, queue, handler, concurrency=1))
            for how in ("looks", "doesn't"):
                while how not in begun:  # the broker drops what comes to it late
                    with anyio.move_on_after(0.1):
                        await rpc.call(queue, how)
            with anyio.fail_after(30):
                assert await rpc.call(queue, "quick") == "quick"
            assert (connection.requests.answered, connection.requests.stopped) == (1, 2)
            assert (noticed, rpc.late_replies) == (["looks"], 0)
            tg.cancel_scope.cancel()
        assert await has_counts(channel, queue, 0)


@pytest.mark.rabbitmq("its time passes while a thread is at work")
@pytest.mark.parametrize("where", ["connection", "client"])
async def test_cancelled_serving_waits_for_its_threads(amqp_url: str, where: str) -> None:
    """It sends no reply any more, and puts the request back."""
    begun, finish, ended = threading.Event(), threading.Event(), threading.Event()

    def handler(_: Any) -> int:
        begun.set()
        finish.wait(30)
        ended.set()
        return 42

    async with some_queue(amqp_url) as queue, open_channel(amqp_url) as channel:
        await channel.publish(rabbitry.Message.msgpack(1, reply_to=queue), routing_key=queue)
        async with rabbitry.connect(amqp_url) as connection, rabbitry.open_client(amqp_url) as client:
            server: Any = client if where == "client" else connection
            async with anyio.create_task_group() as tg:
                tg.start_soon(server.serve, queue, handler)
                await until(begun.is_set)
                tg.cancel_scope.cancel()
                finish.set()
            assert ended.is_set()
            assert await has_counts(channel, queue, 1)
            assert [request.redelivered for request in [await channel.get(queue)] if request] == [True]
