"""Several deliveries in one go where a handler is quick: each is treated as if it had come alone."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

import rabbitry
from rabbitry import Stop, blocking
from rabbitry.blocking import ahead
from tests.blocking.test_ends import eventually

InThread = Callable[..., threading.Thread]


def bodies(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last)]


def ready(client: blocking.Client, queue: str) -> int:
    info = client.inspect(queue, timeout=10)
    assert info is not None
    return info.message_count


@pytest.fixture
def goes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many were taken ahead, each time."""
    found: list[int] = []
    take = rabbitry.Consumer._take_some

    def taken(consumer: rabbitry.Consumer, most: int) -> list[rabbitry.Delivery]:
        deliveries = take(consumer, most)
        found.append(len(deliveries))
        return deliveries

    monkeypatch.setattr(rabbitry.Consumer, "_take_some", taken)
    return found


def test_quick_handlers_are_run_in_order_and_in_few_goes(client: blocking.Client, queue: str, goes: list[int]) -> None:
    client.publish_many(bodies(0, 500), routing_key=queue)
    done: list[bytes] = []
    threads: set[int] = set()

    def handle(delivery: blocking.Delivery) -> None:
        threads.add(threading.get_ident())
        done.append(delivery.body)
        if len(done) == 500:
            client.stop_consuming()

    client.process(queue, handle, prefetch=100, timeout=20)
    assert done == bodies(0, 500) and len(threads) == 1 and threading.get_ident() not in threads
    assert max(goes) > 10
    assert ready(client, queue) == 0


@pytest.mark.parametrize("by_stop", [False, True])
def test_after_a_stop_in_the_handler_none_is_begun(
    client: blocking.Client, queue: str, by_stop: bool, goes: list[int]
) -> None:
    client.publish_many(bodies(0, 300), routing_key=queue)
    done: list[bytes] = []
    stop = Stop()

    def handle(delivery: blocking.Delivery) -> None:
        done.append(delivery.body)
        if delivery.body == b"123":
            stop.set() if by_stop else client.stop_consuming()

    client.process(queue, handle, prefetch=100, stop=stop, timeout=20)
    assert done == bodies(0, 124) and max(goes) > 3
    assert ready(client, queue) == 176


@pytest.mark.parametrize(("on_error", "expected"), [("requeue", 306), ("reject", 300)])
def test_what_fails_amid_others_is_settled_as_told(
    client: blocking.Client, queue: str, on_error: Any, expected: int
) -> None:
    """So is what fails as the last one, after the stop."""
    client.publish_many(bodies(0, 300), routing_key=queue)
    runs: Counter[bytes] = Counter()
    order: list[bytes] = []

    def handle(delivery: blocking.Delivery) -> None:
        runs[delivery.body] += 1
        if runs.total() == expected:
            client.stop_consuming()
        if not delivery.redelivered:
            order.append(delivery.body)
            if int(delivery.body) % 50 == 49:
                raise ValueError("amid")

    client.process(queue, handle, prefetch=100, on_error=on_error, timeout=20)
    assert order == bodies(0, 300)
    assert Counter(runs.values()) == ({1: 294, 2: 6} if on_error == "requeue" else {1: 300})
    assert ready(client, queue) == 0


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_what_fails_after_the_stop_is_raised(client: blocking.Client, queue: str, error: type[BaseException]) -> None:
    client.publish_many(bodies(0, 300), routing_key=queue)

    def handle(delivery: blocking.Delivery) -> None:
        if delivery.body == b"250":
            client.stop_consuming()
            raise error

    with pytest.raises(error):
        client.process(queue, handle, prefetch=100, on_error="raise", timeout=20)
    eventually(lambda: ready(client, queue) == 50)


def test_an_error_that_is_to_be_raised_leaves_the_rest(client: blocking.Client, queue: str) -> None:
    client.publish_many(bodies(0, 300), routing_key=queue)

    def handle(delivery: blocking.Delivery) -> None:
        if delivery.body == b"150":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.process(queue, handle, prefetch=100, on_error="raise", timeout=20)
    eventually(lambda: ready(client, queue) == 150)

    def leave(delivery: blocking.Delivery) -> None:
        if delivery.body == b"250":
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        client.process(queue, leave, prefetch=100, timeout=20)
    eventually(lambda: ready(client, queue) == 50)


def test_what_waits_behind_a_handler_that_is_slow_suddenly_goes_back_at_a_stop(
    client: blocking.Client, queue: str, in_thread: InThread
) -> None:
    client.publish_many(bodies(0, 300), routing_key=queue)
    begun, go_on = threading.Event(), threading.Event()
    done: list[bytes] = []
    stop = Stop()

    def handle(delivery: blocking.Delivery) -> None:
        if delivery.body == b"100":
            begun.set()
            go_on.wait(20)
        done.append(delivery.body)

    def process() -> None:
        client.process(queue, handle, prefetch=250, stop=stop)

    thread = in_thread(process)
    assert begun.wait(20)
    stop.set()
    eventually(lambda: ready(client, queue) == 199)  # those before it are acknowledged, too
    assert thread.is_alive()
    go_on.set()
    thread.join(20)
    assert done == bodies(0, 101)


def test_time_is_up_behind_the_first(client: blocking.Client, queue: str) -> None:
    """What was handled is acknowledged, and what a thread is stuck with goes back."""
    client.publish_many(bodies(0, 300), routing_key=queue)
    go_on = threading.Event()

    def handle(delivery: blocking.Delivery) -> None:
        if delivery.body == b"100":
            go_on.wait(20)

    with pytest.raises(TimeoutError):
        client.process(queue, handle, prefetch=250, timeout=0.5, drain=0.1)
    eventually(lambda: ready(client, queue) == 200)
    go_on.set()


def test_who_settles_it_and_who_awaits_something(client: blocking.Client, queue: str) -> None:
    client.publish_many(bodies(0, 300), routing_key=queue)
    awaited: list[bytes] = []
    rejected: list[bytes] = []

    async def work(body: bytes) -> None:
        awaited.append(body)

    def handle(delivery: blocking.Delivery) -> Any:
        number = int(delivery.body)
        if number % 7 == 3:
            delivery.ack()
        elif number % 11 == 5:
            rejected.append(delivery.body)
            delivery.reject()
        elif number == 200:
            return work(delivery.body)
        if number == 299:
            client.stop_consuming()
        return None

    client.process(queue, handle, prefetch=100, timeout=20)
    assert awaited == [b"200"] and len(rejected) == len(set(rejected))
    assert ready(client, queue) == 0


def test_each_has_a_context_of_its_own(client: blocking.Client, queue: str) -> None:
    variable: ContextVar[int] = ContextVar("variable", default=0)
    client.publish_many(bodies(0, 200), routing_key=queue)
    seen: list[int] = []

    def handle(delivery: blocking.Delivery) -> None:
        seen.append(variable.get())
        variable.set(1)
        if len(seen) == 200:
            client.stop_consuming()

    client.process(queue, handle, prefetch=100, timeout=20)
    assert set(seen) == {0}


def test_a_lost_connection_loses_nothing(proxy: Any, channel: blocking.Channel, queue: str) -> None:
    channel.publish_many(bodies(0, 2000), routing_key=queue)
    seen: Counter[bytes] = Counter()
    with blocking.open_client(proxy.url, reconnect=rabbitry.Backoff(initial=0.01)) as client:

        def handle(delivery: blocking.Delivery) -> None:
            seen[delivery.body] += 1
            if seen.total() in (500, 1200):
                proxy.cut()
            if len(seen) == 2000:
                client.stop_consuming()

        client.process(queue, handle, prefetch=100, timeout=30)
    assert len(seen) == 2000


def test_slow_handlers_get_one_at_a_time(
    client: blocking.Client, queue: str, goes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "QUICK", 0.002)
    client.publish_many(bodies(0, 20), routing_key=queue)
    done: list[bytes] = []

    def handle(delivery: blocking.Delivery) -> None:
        time.sleep(0.004)
        done.append(delivery.body)
        if len(done) == 20:
            client.stop_consuming()

    client.process(queue, handle, prefetch=20, timeout=20)
    assert done == bodies(0, 20) and not any(goes)
