"""Ending in order, from whichever thread: all that consumes, or one `process` or `serve`."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import rabbitry
from rabbitry import Backoff, Queue, Stop, blocking

InThread = Callable[..., threading.Thread]


@pytest.fixture
def nowhere() -> Iterator[blocking.Client]:
    """A client of a port at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"amqp://127.0.0.1:{free.getsockname()[1]}"
    with blocking.open_client(url, reconnect=Backoff(initial=0.01, maximum=0.05)) as client:
        yield client


def until(condition: Callable[[], Any]) -> None:
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.002)


def handle_nothing(_: blocking.Delivery) -> None: ...


def enter(client: blocking.Client, queue: str) -> None:
    with client.consume(queue, timeout=5):
        raise AssertionError("entered")


@pytest.mark.parametrize(
    "consume",
    [
        lambda client, queue: client.process(queue, handle_nothing, timeout=5),
        lambda client, queue: client.serve(queue, int, timeout=5),
        enter,
    ],
)
def test_what_begins_after_the_stop_says_so(
    client: blocking.Client, queue: str, consume: Callable[[blocking.Client, str], None]
) -> None:
    client.stop_consuming()
    with pytest.raises(rabbitry.ConsumingStopped, match="is for good"):
        consume(client, queue)
    client.publish(b"x", routing_key=queue)
    assert client.inspect(queue) is not None


def test_what_waits_for_a_broker_ends_on_sigterm(nowhere: blocking.Client) -> None:
    """The recipe: the signal's handler stops the client, whose `declare` waits in the main thread."""

    def strike() -> None:
        until(lambda: nowhere.last_error is not None)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: nowhere.stop_consuming())
    thread = threading.Thread(target=strike)
    try:
        thread.start()
        with pytest.raises(rabbitry.ConsumingStopped, match="which is down"):
            nowhere.declare(Queue("jobs"), timeout=20)
    finally:
        thread.join(30)
        signal.signal(signal.SIGTERM, before)


def test_process_that_waits_for_a_broker_ends(nowhere: blocking.Client, in_thread: InThread) -> None:
    threads = [in_thread(nowhere.process, "jobs", handle_nothing), in_thread(nowhere.serve, "jobs", int)]
    until(lambda: nowhere.last_error is not None and nowhere.statistics()["subscriptions"] == 2)
    nowhere.stop_consuming()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("verb", ["process", "serve", "serve of a connection"])
def test_a_stop_ends_one_from_any_thread(
    client: blocking.Client, queue: str, in_thread: InThread, verb: str, amqp_url: str
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    done: list[bytes] = []
    stop = Stop()

    def work(delivery: blocking.Delivery) -> None:
        begun.set()
        go_on.wait(20)
        done.append(delivery.body)

    def run(stop: Stop) -> None:
        if verb == "process":
            client.process(queue, work, prefetch=3, stop=stop)
        elif verb == "serve":
            client.serve(queue, work, concurrency=1, prefetch=3, raw=True, stop=stop)
        else:
            with blocking.connect(amqp_url) as connection:
                connection.serve(queue, work, concurrency=1, prefetch=3, raw=True, stop=stop)

    client.publish_many([b"1", b"2", b"3"], routing_key=queue)
    thread = in_thread(run, stop)
    assert begun.wait(20)
    stop.set()

    def went_back() -> bool:
        info = client.inspect(queue)
        return info is not None and (info.message_count, info.consumer_count) == (2, 0)

    until(went_back)
    assert thread.is_alive()
    go_on.set()
    thread.join(20)
    assert not thread.is_alive() and done == [b"1"]
    run(stop)  # which was set
    assert done == [b"1"]
    again = Stop()
    thread = in_thread(run, again)
    until(lambda: len(done) == 3)
    again.set()
    thread.join(20)


def test_a_consumer_tag_of_ones_own(client: blocking.Client, queue: str) -> None:
    with client.consume(queue, consumer_tag="mine"):
        with pytest.raises(rabbitry.LocalProtocolError, match="'mine' is already in use"):
            client.process(queue, handle_nothing, consumer_tag="mine", timeout=5)
    with pytest.raises(ValueError, match="is not empty"):
        client.serve(queue, int, consumer_tag="", timeout=5)
    for _ in range(3):
        with client.consume(queue, consumer_tag="mine", exclusive=True) as deliveries:
            deliveries.stop()


def test_a_stopped_consumer_frees_its_tag(channel: blocking.Channel) -> None:
    queue = channel.declare_queue(exclusive=True).name
    for _ in range(10):
        with channel.consume(queue, consumer_tag="mine", exclusive=True) as deliveries:
            deliveries.stop()
