"""Ending in order: `stop_consuming` ends what consumes and what waits for a broker in order to; a `Stop` ends one."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import rabbitry
from rabbitry import Delivery, Queue, Stop
from rabbitry._client import link
from rabbitry.testing import open_proxy
from tests.support.clients import QUICK, refuse, some_queue, through_proxy
from tests.support.helpers import has_counts, open_channel, unique, until

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
WORKER = next(text for text in re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL) if "client.stop_on(" in text)


async def handle_nothing(delivery: Delivery) -> None: ...


async def double(number: int) -> int:
    return 2 * number


# --- after stop_consuming ---------------------------------------------------------------------------------------------


async def enter(client: rabbitry.Client, queue: str) -> None:
    async with client.consume(queue):
        raise AssertionError("entered")


CONSUMING: dict[str, Callable[[rabbitry.Client, str], Awaitable[Any]]] = {
    "process": lambda client, queue: client.process(queue, handle_nothing),
    "serve": lambda client, queue: client.serve(queue, double),
    "consume": enter,
}


@pytest.mark.parametrize("verb", CONSUMING)
async def test_what_begins_after_the_stop_says_so(amqp_url: str, verb: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        client.stop_consuming()
        for _ in range(2):
            with anyio.fail_after(5), pytest.raises(rabbitry.ConsumingStopped, match="is for good") as raised:
                await CONSUMING[verb](client, queue)
        assert isinstance(raised.value, rabbitry.LocalProtocolError)
        assert client.state == "idle" and client.statistics()["subscriptions"] == 0
        await client.publish(b"x", routing_key=queue)  # publishing stays up
        assert await client.inspect(queue) is not None  # and so does what the broker can answer


@pytest.mark.parametrize("verb", ["process", "serve"])
async def test_what_waits_for_a_broker_ends_without_a_word(verb: str) -> None:
    """It was under way when it was told to end."""
    async with rabbitry.open_client(_nowhere(), reconnect=QUICK) as client, anyio.create_task_group() as tg:
        tg.start_soon(CONSUMING[verb], client, "jobs")
        await until(lambda: client.last_error is not None)
        client.stop_consuming()


async def test_a_block_that_waits_for_a_broker_is_entered_and_ends() -> None:
    async with rabbitry.open_client(_nowhere(), reconnect=QUICK) as client, anyio.create_task_group() as tg:

        async def stop() -> None:
            await until(lambda: client.last_error is not None)
            client.stop_consuming()

        tg.start_soon(stop)
        with anyio.fail_after(5):
            async with client.consume("jobs") as deliveries:
                assert [delivery async for delivery in deliveries] == []


# --- what waits in order to consume -----------------------------------------------------------------------------------

WAITING: dict[str, Callable[[rabbitry.Client], Awaitable[object]]] = {
    "declare": lambda client: client.declare(Queue("jobs")),
    "inspect": lambda client: client.inspect("jobs"),
    "delete": lambda client: client.delete(Queue("jobs")),
    "get": lambda client: client.get("jobs"),
    "purge": lambda client: client.purge("jobs"),
    "wait_ready": lambda client: client.wait_ready(),
}


@pytest.mark.parametrize("verb", WAITING)
@pytest.mark.parametrize("broker", ["away", "silent", "vanished"])
async def test_the_stop_ends_what_waits_for_a_broker(amqp_url: str, verb: str, broker: str) -> None:
    async with open_proxy(amqp_url) as proxy:
        if broker == "silent":
            proxy.on_link = lambda link: link.stall()
        url = _nowhere() if broker == "away" else proxy.url
        async with rabbitry.open_client(url, reconnect=QUICK) as client, anyio.create_task_group() as tg:
            if broker == "vanished":
                await client.inspect("jobs")
                refuse(proxy)
                await until(lambda: client.state == "recovering")
            ended = anyio.Event()

            async def wait() -> None:
                with pytest.raises(rabbitry.ConsumingStopped, match=r"stop_consuming\(\) was called"):
                    await WAITING[verb](client)
                ended.set()

            tg.start_soon(wait)
            await until(lambda: client.state != "idle")
            await anyio.wait_all_tasks_blocked()
            client.stop_consuming()
            with anyio.fail_after(1):
                await ended.wait()
                if broker == "vanished":
                    await wait()  # nor does one wait that begins now


@pytest.mark.parametrize("verb", sorted(WAITING.keys() - {"get"}))  # which consumes, and so is refused at once
async def test_the_first_attempt_after_the_stop_has_an_end(
    amqp_url: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "ONE_ATTEMPT", 0.1)
    async with open_proxy(amqp_url) as proxy, rabbitry.open_client(proxy.url) as client:
        proxy.on_link = lambda link: link.stall()
        client.stop_consuming()
        with anyio.fail_after(5), pytest.raises(rabbitry.ConsumingStopped, match="was not made yet"):
            await WAITING[verb](client)


async def test_the_stop_ends_what_waits_for_a_queue_that_is_held(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url) as holder, through_proxy(amqp_url) as (client, proxy):
        jobs = Queue(unique(), exclusive=True)
        await holder.declare(jobs)
        await client.inspect("jobs")
        proxy.links[0].stall()
        ended = anyio.Event()

        async def declare() -> None:
            with pytest.raises(rabbitry.ConsumingStopped, match="which is held"):
                await client.declare(jobs)
            ended.set()

        async with anyio.create_task_group() as tg:
            tg.start_soon(declare)
            await anyio.wait_all_tasks_blocked()
            proxy.cut()
            await until(lambda: client.statistics()["consuming_lives"] == 2)
            await anyio.sleep(0.1)
            assert not ended.is_set()  # its former life may have declared it
            client.stop_consuming()
            with anyio.fail_after(2):
                await ended.wait()


async def test_awaiting_what_ends_something_is_harmless(amqp_url: str) -> None:
    """A habit from clients where these are coroutines."""
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await client.forget(Queue(queue))  # type: ignore[func-returns-value]
        async with client.consume(queue) as deliveries:
            await deliveries.stop()  # type: ignore[func-returns-value]
        async with client.consume(queue) as deliveries:
            await client.stop_consuming()  # type: ignore[func-returns-value]
            assert [delivery async for delivery in deliveries] == []
        await Stop().set()  # type: ignore[func-returns-value]


async def test_the_stop_leaves_what_can_be_done_alone(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        client.stop_consuming()
        await client.declare(Queue(queue))  # for the first time, and by a broker that is there
        await client.inspect(queue)
        refuse(proxy)
        with pytest.raises(rabbitry.ConsumingStopped, match="which is down"):
            while True:  # until it has noticed
                await client.inspect(queue)
        proxy.accept()
        await until(lambda: client.is_ready)
        await client.inspect(queue)


async def test_handlers_at_work_publish_though_the_broker_was_away(amqp_url: str) -> None:
    """What is published has to find the queues of the consuming connection, and waits for that all the same."""
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        await client.declare(Queue.temporary())
        begun, go_on, published = anyio.Event(), anyio.Event(), anyio.Event()

        async def handle(delivery: Delivery) -> None:
            begun.set()
            await go_on.wait()
            await client.publish(b"done", routing_key="nowhere")
            published.set()

        async with anyio.create_task_group() as tg:
            tg.start_soon(client.process, queue, handle)
            await client.publish(b"x", routing_key=queue)
            await begun.wait()
            client.stop_consuming()
            refuse(proxy)
            await until(lambda: client.state == "recovering")
            go_on.set()
            await anyio.sleep(0.1)
            assert not published.is_set()
            proxy.accept()
            with anyio.fail_after(20):
                await published.wait()


# --- the worker of the tutorial ---------------------------------------------------------------------------------------


@contextmanager
def worker(url: str, backend: str, change: tuple[str, str] = ("", "")) -> Iterator[subprocess.Popen[str]]:
    program = WORKER.replace("amqp://guest:guest@localhost", url).replace("tutorial.orders", f"orders.{os.getpid()}")
    assert change[0] in program
    program = program.replace(*change).replace("anyio.run(main)", f"anyio.run(main, backend={backend!r})")
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def ended(process: subprocess.Popen[str]) -> str:
    """What it says in the end, within the second that it has."""
    process.send_signal(signal.SIGTERM)
    with anyio.fail_after(2):  # with the end of an interpreter
        out, err = await anyio.to_thread.run_sync(process.communicate, abandon_on_cancel=True)
    assert process.returncode == 0, err
    return out


async def test_the_worker_ends_with_the_broker_away_from_the_start(anyio_backend_name: str) -> None:
    async with _deaf() as (url, asked):
        with worker(url, anyio_backend_name) as process:
            with anyio.fail_after(30):
                await asked.wait()
            assert await ended(process) == "ended in order\n"


async def test_the_worker_ends_with_the_broker_gone_midway(amqp_url: str, anyio_backend_name: str) -> None:
    async with open_proxy(amqp_url) as proxy:
        idle = ("await client.publish", "await anyio.sleep(0)  # await client.publish")
        with worker(proxy.url, anyio_backend_name, idle) as process:
            async with open_channel(amqp_url) as channel:
                queue = f"orders.{os.getpid()}"
                await until(lambda: bool(proxy.links))
                await channel.declare_queue(queue)
                assert await has_counts(channel, queue, 0, 1)
                refuse(proxy)
                await anyio.sleep(0.3)
                assert await ended(process) == "ended in order\n"
                await channel.delete_queue(queue)


# --- one of several ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["process", "serve", "serve of a connection"])
async def test_a_stop_ends_one_and_no_other(amqp_url: str, verb: str) -> None:
    async with (
        some_queue(amqp_url) as queue,
        some_queue(amqp_url) as another,
        rabbitry.open_client(amqp_url) as client,
        rabbitry.connect(amqp_url) as connection,
    ):
        begun, go_on = anyio.Event(), anyio.Event()
        finished: list[Any] = []
        stop = Stop()

        async def work(what: Any) -> None:
            begun.set()
            await go_on.wait()
            finished.append(what)

        async def run() -> None:
            if verb == "process":
                await client.process(queue, work, prefetch=3, stop=stop)
            else:
                serve = client.serve if verb == "serve" else connection.serve
                await serve(queue, work, concurrency=1, prefetch=3, raw=True, stop=stop)
            ends.append("ended")

        ends: list[str] = []
        async with anyio.create_task_group() as tg, open_channel(amqp_url) as channel:
            await tg.start(partial(client.process, another, handle_nothing))
            tg.start_soon(run)
            for _ in range(3):
                await client.publish(b"x", routing_key=queue)
            await begun.wait()
            stop.set()
            stop.set()
            assert await has_counts(channel, queue, 2, 0)  # what no handler took went back
            assert not ends and not finished
            go_on.set()
            await until(lambda: bool(ends))
            assert len(finished) == 1 and await has_counts(channel, queue, 2, 0)
            assert await has_counts(channel, another, 0, 1)
            await run()  # a stop that was set ends what is begun with it
            assert len(finished) == 1 and repr(stop) == "<Stop, set>"
            stop = Stop()
            tg.start_soon(run)
            await until(lambda: len(finished) == 3)
            tg.cancel_scope.cancel()
        assert stop._callbacks == [] and not stop.is_set()


async def test_a_stop_ends_one_that_waits_for_a_broker() -> None:
    stop = Stop()
    async with rabbitry.open_client(_nowhere(), reconnect=QUICK) as client, anyio.create_task_group() as tg:
        tg.start_soon(partial(client.process, "jobs", handle_nothing, stop=stop))
        await until(lambda: client.last_error is not None)
        stop.set()
        with anyio.fail_after(5):
            while client.statistics()["subscriptions"]:
                await anyio.sleep(0.002)


async def test_a_stop_set_by_the_handler_itself(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        for number in range(3):
            await client.publish(b"%d" % number, routing_key=queue)
        done: list[bytes] = []
        for _ in range(3):
            stop = Stop()

            async def handle(delivery: Delivery, stop: Stop = stop) -> None:
                done.append(delivery.body)
                stop.set()

            with anyio.fail_after(20):
                await client.process(queue, handle, stop=stop)
        assert done == [b"0", b"1", b"2"]


# --- what is handed back ----------------------------------------------------------------------------------------------


@pytest.mark.rabbitmq("the embedded broker forgets no acknowledgement")
async def test_what_a_handler_finished_as_it_stopped_is_not_handled_twice(amqp_url: str) -> None:
    """A quorum queue that takes hundreds of messages back forgets an acknowledgement right behind them, when the
    channel is closed before it gets to that.
    """
    queue, handled = Queue(unique("q"), type="quorum"), list[bytes]()
    bodies = [b"%d" % number for number in range(400)]
    async with rabbitry.open_client(amqp_url) as client:
        await client.declare(queue)
        async with client.publisher() as publisher:
            for body in bodies:
                await publisher.submit(body, routing_key=queue.name)
    try:
        for _ in range(4):
            async with rabbitry.open_client(amqp_url) as client:

                async def handle(delivery: Delivery, client: rabbitry.Client = client) -> None:
                    handled.append(delivery.body)
                    client.stop_consuming()

                await client.process(queue, handle, prefetch=200)
        async with rabbitry.open_client(amqp_url) as client, client.consume(queue) as deliveries:
            while len(set(handled)) < 400:
                with anyio.fail_after(20):
                    delivery = await anext(deliveries)
                handled.append(delivery.body)
                delivery.ack()
        assert sorted(handled) == sorted(bodies)
    finally:
        async with rabbitry.open_client(amqp_url) as client:
            await client.delete(queue)


# --- brokers that are not there ---------------------------------------------------------------------------------------


def _nowhere() -> str:
    """A port at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"amqp://127.0.0.1:{free.getsockname()[1]}"


@asynccontextmanager
async def _deaf() -> AsyncIterator[tuple[str, anyio.Event]]:
    """A server that takes connections and says nothing; and that somebody has come."""
    asked = anyio.Event()

    async def hear(stream: Any) -> None:
        async with stream:
            await stream.receive()
            asked.set()
            await anyio.sleep_forever()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, hear)
        yield f"amqp://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}", asked
        tg.cancel_scope.cancel()
