"""Many threads at once: nothing is lost, nothing comes twice, nobody waits for ever."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import blocking
from tests.support.helpers import unique

InThread = Callable[..., threading.Thread]


def test_fifty_threads_lose_nothing(client: blocking.Client, queue: str, in_thread: InThread) -> None:
    """25 publish to one client, each its own way, while 25 consume."""
    expected = {b"%d.%d" % (thread, number) for thread in range(25) for number in range(200)}
    received: list[bytes] = []
    all_there = threading.Event()

    def publish(thread: int) -> None:
        bodies = [b"%d.%d" % (thread, number) for number in range(200)]
        for body in bodies[:20]:
            client.publish(body, routing_key=queue, timeout=20)
        client.publish_many(bodies[20:100], routing_key=queue, window=1 + thread, timeout=20)
        client.publish_many({queue: bodies[100:]}, timeout=20)

    def consume(deliveries: blocking.Consumer) -> None:
        for delivery in deliveries:
            with delivery.process():
                received.append(delivery.body)
            if len(received) >= len(expected):
                all_there.set()

    def consume_alone() -> None:
        with client.consume(queue, prefetch=10) as deliveries:
            consume(deliveries)

    with client.consume(queue, prefetch=50) as shared:
        for thread in range(25):
            in_thread(publish, thread)
            in_thread(consume, shared) if thread % 2 else in_thread(consume_alone)
        assert all_there.wait(30)
        client.stop_consuming()
    assert Counter(received) == Counter(expected)
    info = client.inspect(queue)
    assert info is not None and info.message_count == 0


def test_one_slow_thread_does_not_keep_deliveries_from_others(
    client: blocking.Client, queue: str, in_thread: InThread
) -> None:
    client.publish_many([b"slow", *[b"quick"] * 30], routing_key=queue)
    others_done, seen = threading.Event(), []

    def work(deliveries: blocking.Consumer) -> None:
        for delivery in deliveries:
            if delivery.body == b"slow":
                others_done.wait(10)
            delivery.ack()
            seen.append(delivery.body)
            if len(seen) == 30:
                others_done.set()
            if len(seen) == 31:
                deliveries.stop()

    with client.consume(queue) as deliveries:  # the first fetch brings all of them
        threads = [in_thread(work, deliveries) for _ in range(3)]
        for thread in threads:
            thread.join(10)
    assert seen.index(b"slow") == 30


def test_clients_share_one_thread(client: blocking.Client, amqp_url: str) -> None:
    def hosts() -> int:
        return [thread.name for thread in threading.enumerate()].count("rabbitry.blocking")

    with blocking.open_client(amqp_url) as another, blocking.connect(amqp_url):
        another.publish(b"x", routing_key="nowhere")
        assert hosts() == 1
    client.publish(b"x", routing_key="nowhere")
    assert hosts() == 1


def test_threads_enter_and_leave_at_once(amqp_url: str, in_thread: InThread) -> None:
    """The thread of the loop starts and ends all the while."""
    done = []

    def come_and_go() -> None:
        for _ in range(5):
            with blocking.connect(amqp_url) as connection, connection.channel() as channel:
                channel.publish(b"x", routing_key="nowhere", timeout=10)
        done.append(True)

    threads = [in_thread(come_and_go) for _ in range(6)]
    for thread in threads:
        thread.join(20)
    assert len(done) == 6


def test_a_call_that_would_wait_for_itself_is_refused(client: blocking.Client, queue: str) -> None:
    """`on_error` is called by the very thread that would have to carry out what it waits for."""
    refusals: list[Exception] = []

    def on_error(_: rabbitry.Delivery, __: Exception) -> str:
        try:
            client.publish(b"x")
        except rabbitry.LocalProtocolError as refusal:
            refusals.append(refusal)
        client.stop_consuming()  # does not wait
        return "reject"

    def handle(_: blocking.Delivery) -> None:
        raise ValueError

    client.publish(b"x", routing_key=queue)
    client.process(queue, handle, on_error=on_error)  # type: ignore[arg-type]
    assert len(refusals) == 1


def test_a_trio_task_may_block_for_it(amqp_url: str) -> None:
    """Which trio's other tasks have to wait for: at a program's start, say."""

    async def main() -> None:
        with blocking.open_client(amqp_url) as client:
            client.publish(b"x", routing_key="nowhere", timeout=5)
            client.publish_many([b"x"] * 3, routing_key="nowhere", timeout=5)

    anyio.run(main, backend="trio")


def test_handlers_finish_while_the_client_is_left(amqp_url: str, queue: str, in_thread: InThread) -> None:
    at_work, published = threading.Event(), []

    def handle(_: blocking.Delivery) -> None:
        at_work.set()
        while not client.is_stopping:
            pass
        client.publish(b"1", routing_key="nowhere")
        published.append(client.publish_many([b"2", b"3"], routing_key="nowhere"))

    with Stopping(rabbitry.open_client(amqp_url)) as client:
        client.publish_many([b"x"], routing_key=queue)
        thread = in_thread(client.process, queue, handle)
        at_work.wait(5)
    thread.join(5)
    assert published == [2]


class Stopping(blocking.Client):
    """Tells that it is being left."""

    is_stopping = False

    def __exit__(self, *exception: Any) -> None:
        self.is_stopping = True
        super().__exit__(*exception)


@pytest.mark.parametrize("operation", ["wait_closed", "receive", "serve"])
def test_leaving_ends_what_other_threads_wait_for(
    amqp_url: str, queue: str, operation: str, in_thread: InThread
) -> None:
    ended: list[BaseException | None] = []

    def wait(client: blocking.Client, deliveries: blocking.Consumer) -> None:
        try:
            if operation == "receive":
                deliveries.receive()
            elif operation == "serve":
                client.serve(queue, print)
            else:
                client.wait_closed()
            ended.append(None)
        except rabbitry.RabbitryError as error:
            ended.append(error)

    with blocking.open_client(amqp_url) as client, client.consume(queue) as deliveries:
        thread = in_thread(wait, client, deliveries)
    thread.join(5)
    assert ended == [None] or isinstance(ended[0], rabbitry.NotConnected)


def test_nobody_waits_for_a_thread_that_has_died(
    amqp_url: str, in_thread: InThread, caplog: pytest.LogCaptureFixture
) -> None:
    """It never should; but what runs in it may raise SystemExit, say."""
    ended: list[object] = []

    def wait_closed(client: blocking.Client) -> None:
        with pytest.raises(rabbitry.NotConnected):
            client.wait_closed()
        ended.append(None)

    with pytest.raises(rabbitry.NotConnected, match="ended"):
        with ExitStack() as stack:  # with a queue of its own: all connections of the process end
            client = stack.enter_context(blocking.open_client(amqp_url))
            client.declare(queue := rabbitry.Queue(unique(), expires=60))
            deliveries = stack.enter_context(client.consume(queue))
            threads = [in_thread(wait_closed, client), in_thread(lambda: ended.append(deliveries.receive()))]
            client.publish(b"x", routing_key="nowhere")
            client._portal.submit(lambda: sys.exit(1))
            for thread in threads:
                thread.join(5)
            assert ended == [None, None]
            with pytest.raises(rabbitry.NotConnected):
                client.publish(b"x")
            with blocking.open_client(amqp_url) as another:
                another.publish(b"x", routing_key="nowhere", timeout=5)
    assert "was ended" in caplog.text


@pytest.mark.parametrize("open_one", [blocking.open_client, blocking.connect])
def test_a_python_that_starts_no_threads_in_atexit_says_so(
    open_one: Any, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "can't create new thread at interpreter shutdown"  # as 3.12 has it

    def start(thread: threading.Thread) -> None:
        raise RuntimeError(told)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(rabbitry.LocalProtocolError, match="open it before"), open_one(amqp_url):
            pass
        told = "can't start new thread"  # too many
        with pytest.raises(RuntimeError, match="can't start new thread"), open_one(amqp_url):
            pass
    with open_one(amqp_url):
        pass


def test_a_loop_that_has_run_and_can_not_be_closed_harms_nothing(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In atexit, Python 3.12 can't, once a name has been looked up."""

    async def shutdown_default_executor(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.shutdown_default_executor", shutdown_default_executor)
    with blocking.open_client(amqp_url) as client:
        client.publish(b"x", routing_key="nowhere", timeout=5)
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")]
