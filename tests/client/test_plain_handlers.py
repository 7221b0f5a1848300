"""`client.process` with a handler that is no coroutine function: in a worker thread, and settled by how it ends."""

from __future__ import annotations

import threading
from collections.abc import Awaitable
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

import rabbitry
from rabbitry import Delivery
from tests.support.clients import some_queue, through_proxy
from tests.support.helpers import has_counts, open_channel, until


async def test_it_runs_in_a_thread_and_returning_acknowledges(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as other:
        loop, threads = threading.get_ident(), set[int]()

        def handle(delivery: Delivery) -> str:
            threads.add(threading.get_ident())
            if delivery.body == b"last":
                anyio.from_thread.run_sync(client.stop_consuming)
            return "whatever"

        for body in (b"1", b"2", b"last"):
            await client.publish(body, routing_key=queue)
        with anyio.fail_after(20):
            await client.process(queue, handle)
        assert threads and loop not in threads
        assert await has_counts(other, queue, 0)


async def test_as_many_at_once_as_the_concurrency(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        barrier = threading.Barrier(3)
        lock, at_once, most = threading.Lock(), 0, 0

        def handle(delivery: Delivery) -> None:
            nonlocal at_once, most
            with lock:
                at_once += 1
                most = max(most, at_once)
            barrier.wait(20)
            with lock:
                at_once -= 1
            if delivery.body == b"8":
                anyio.from_thread.run_sync(client.stop_consuming)

        for number in range(9):
            await client.publish(b"%d" % number, routing_key=queue)
        with anyio.fail_after(30):
            await client.process(queue, handle, concurrency=3)
        assert most == 3


async def test_what_it_raises_is_its_failure(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as other:
        verdicts: list[str] = []

        def handle(delivery: Delivery) -> None:
            raise StopIteration if delivery.body == b"stop" else ValueError(delivery.body)

        def on_error(delivery: Delivery, error: Exception) -> Any:
            verdicts.append(f"{delivery.body.decode()}: {type(error).__name__}")
            return "reject"

        for body in (b"x", b"stop"):
            await client.publish(body, routing_key=queue)
        async with anyio.create_task_group() as tg:
            tg.start_soon(partial(client.process, queue, handle, on_error=on_error))
            await until(lambda: len(verdicts) == 2)
            tg.cancel_scope.cancel()
        assert verdicts[0] == "x: ValueError" and verdicts[1].startswith("stop: ")
        assert await has_counts(other, queue, 0)
        await client.publish(b"y", routing_key=queue)
        with anyio.fail_after(20), pytest.raises(ValueError, match="y"):
            await client.process(queue, handle, on_error="raise")
        assert await has_counts(other, queue, 1)


async def test_what_it_returns_is_awaited_in_the_loop(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as other:
        loop, threads = threading.get_ident(), list[int]()

        async def handle(delivery: Delivery, more: str) -> None:
            threads.append(threading.get_ident())
            await anyio.lowlevel.checkpoint()
            if delivery.body == b"bad":
                raise ValueError(more)
            client.stop_consuming()

        def returns(delivery: Delivery) -> Awaitable[None]:
            return handle(delivery, "more")

        await client.publish(b"bad", routing_key=queue)
        await client.publish(b"x", routing_key=queue)
        with anyio.fail_after(20):
            await client.process(queue, returns, on_error="reject")
        assert threads == [loop, loop]
        assert await has_counts(other, queue, 0)


async def test_once_it_returned_an_awaitable_it_is_called_in_the_loop(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        loop, threads = threading.get_ident(), list[int]()

        async def work(delivery: Delivery) -> None:
            if delivery.body == b"last":
                client.stop_consuming()

        def handle(delivery: Delivery) -> Awaitable[None]:
            threads.append(threading.get_ident())
            return work(delivery)

        for body in (b"1", b"2", b"last"):
            await client.publish(body, routing_key=queue)
        with anyio.fail_after(20):
            await client.process(queue, lambda delivery: handle(delivery))
        assert threads[0] != loop and threads[1:] == [loop, loop]


@pytest.mark.rabbitmq("its time passes while a thread is at work")
async def test_cancelled_it_is_waited_for_and_what_it_did_counts(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as other:
        began, go_on, ended = threading.Event(), threading.Event(), list[bytes]()

        def handle(delivery: Delivery) -> None:
            began.set()
            go_on.wait(20)
            ended.append(delivery.body)

        await client.publish(b"x", routing_key=queue)
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.process, queue, handle)
            await until(began.is_set)
            tg.cancel_scope.cancel()
            threading.Timer(0.1, go_on.set).start()
        assert ended == [b"x"]
        assert await has_counts(other, queue, 0)


@pytest.mark.rabbitmq("its time passes while a thread is at work")
async def test_cancelled_it_may_look_for_that(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as other:
        began = threading.Event()

        def handle(delivery: Delivery) -> None:
            began.set()
            for _ in range(2000):
                anyio.from_thread.check_cancelled()
                threading.Event().wait(0.01)

        await client.publish(b"x", routing_key=queue)
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.process, queue, handle)
            await until(began.is_set)
            tg.cancel_scope.cancel()
        assert await has_counts(other, queue, 1)


async def test_it_may_settle_and_publish_by_way_of_the_loop(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as other:
        refused: list[Exception] = []

        def handle(delivery: Delivery) -> None:
            if delivery.body == b"answer":
                anyio.from_thread.run_sync(client.stop_consuming)
                return
            try:
                delivery.reject()
            except rabbitry.LocalProtocolError as error:
                refused.append(error)
            anyio.from_thread.run_sync(delivery.reject)
            anyio.from_thread.run(partial(client.publish, b"answer", routing_key=queue))

        await client.publish(b"x", routing_key=queue)
        with anyio.fail_after(20):
            await client.process(queue, handle)
        assert len(refused) == 1 and "from_thread" in str(refused[0])
        assert await has_counts(other, queue, 0)


async def test_a_stale_delivery_finishes_and_comes_again(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        began, go_on, seen = threading.Event(), threading.Event(), list[bool]()

        def handle(delivery: Delivery) -> None:
            seen.append(delivery.redelivered)
            began.set()
            go_on.wait(20)
            if len(seen) == 2:
                anyio.from_thread.run_sync(client.stop_consuming)

        await client.publish(b"x", routing_key=queue)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tg:
                tg.start_soon(client.process, queue, handle)
                await until(began.is_set)
                proxy.cut()
                await until(lambda: client.statistics()["consuming_lives"] == 2)
                go_on.set()
        assert seen == [False, True]
