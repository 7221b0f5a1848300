"""`submit` queues: what is refused at once, what is told later, and in which order all of it leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import rabbitry
from rabbitry import Exchange, Message, blocking
from tests.blocking.test_ends import eventually

InThread = Callable[..., threading.Thread]


def bodies(channel: blocking.Channel, queue: str) -> list[bytes]:
    return [each.body for each in iter(lambda: channel.get(queue, no_ack=True), None)]


@pytest.fixture(params=["client", "channel"])
def has_publisher(request: pytest.FixtureRequest, client: blocking.Client, channel: blocking.Channel) -> Any:
    return client if request.param == "client" else channel


@pytest.mark.parametrize(
    ("message", "options", "error"),
    [
        ("text", {}, TypeError),
        (7, {}, TypeError),
        (Message(b"x", headers={"a": object()}), {}, TypeError),
        (Message(b"x", priority=300), {}, ValueError),
        (b"x", {"routing_key": "k" * 256}, ValueError),
        (b"x", {"routing_key": 7}, (TypeError, AttributeError)),
        (b"x", {"exchange": 7}, TypeError),
        (b"x", {"exchange": "e" * 256}, ValueError),
        (b"x", {"timeout": float("nan")}, ValueError),
        (b"x", {"timeout": 0}, TimeoutError),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(
    has_publisher: Any, message: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    with has_publisher.publisher() as publisher:
        with pytest.raises(error):
            publisher.submit(message, **options)
        assert publisher.sent == 0


def test_the_order_is_that_of_the_calls(has_publisher: Any, channel: blocking.Channel, queue: str) -> None:
    with has_publisher.publisher(window=10) as publisher:
        for number in range(0, 100, 4):
            publisher.submit(b"%d" % number, routing_key=queue)
            publisher.submit(bytearray(b"%d" % (number + 1)), routing_key=queue)  # which is not queued
            publisher.submit(Message(b"%d" % (number + 2)), routing_key=queue, mandatory=True)
            publisher.publish(b"%d" % (number + 3), routing_key=queue)
        assert publisher.sent == 100
    assert [int(body) for body in bodies(channel, queue)] == list(range(100))


def test_the_window_bounds_what_is_queued(proxy: Any, queue: str) -> None:
    with blocking.open_client(proxy.url) as client, client.publisher(window=5) as publisher:
        publisher.publish(b"x", routing_key=queue)
        proxy.stall()
        for _ in range(5):
            publisher.submit(b"x", routing_key=queue, timeout=5)
        assert publisher.pending == 5
        with pytest.raises(TimeoutError):
            publisher.submit(b"late", routing_key=queue, timeout=0.02)
        assert (publisher.pending, publisher.sent) == (5, 6)
        proxy.resume()
        publisher.flush(timeout=10)
        assert (publisher.pending, publisher.confirmed) == (0, 6)


def test_what_is_queued_leaves_by_itself(client: blocking.Client, channel: blocking.Channel, queue: str) -> None:
    """Nobody waits for it: neither in this thread nor in another."""
    with client.publisher(exchange=Exchange("amq.direct", "direct")) as publisher:
        confirmation = publisher.submit(b"x", routing_key=queue, exchange="", tag="mine")
        other = publisher.submit(b"y", routing_key="nowhere")
        assert (confirmation.tag, confirmation.message, confirmation.routing_key) == ("mine", b"x", queue)
        assert (confirmation.exchange, other.exchange) == ("", "amq.direct")
        eventually(lambda: confirmation.outcome == other.outcome == "confirmed")
    assert bodies(channel, queue) == [b"x"]


def test_a_confirmation_can_be_waited_for_at_once(has_publisher: Any, queue: str, in_thread: InThread) -> None:
    with has_publisher.publisher() as publisher:
        confirmations = [publisher.submit(b"x", routing_key=queue) for _ in range(20)]
        threads = [in_thread(confirmation.wait) for confirmation in reversed(confirmations)]
        for thread in threads:
            thread.join(10)
        assert {confirmation.outcome for confirmation in confirmations} == {"confirmed"}


def test_what_can_not_be_sent_any_more_is_told(amqp_url: str, queue: str) -> None:
    with blocking.connect(amqp_url) as connection, connection.channel() as channel:
        with pytest.raises(rabbitry.PublishesFailed) as caught, channel.publisher() as publisher:
            publisher.publish(b"fine", routing_key=queue)
            with pytest.raises(rabbitry.NotFound):
                channel.declare_queue("no such queue", passive=True)  # which ends the channel
            lost = publisher.submit(b"lost", routing_key=queue)
            with pytest.raises(rabbitry.NotSent):
                lost.wait(timeout=5)
            assert lost.outcome == "unsent" and isinstance(lost.failure(), rabbitry.NotSent)
            with pytest.raises(rabbitry.ChannelClosed):
                publisher.submit(b"refused now", routing_key=queue)
            assert (publisher.sent, publisher.confirmed, publisher.failed, publisher.pending) == (2, 1, 1, 0)
        assert [failure.message for failure in caught.value.failures] == [b"lost"] and caught.value.count == 1
        assert connection.is_open


def test_on_outcome_is_told_what_can_not_be_sent(amqp_url: str, queue: str) -> None:
    told: list[tuple[Any, str]] = []
    with blocking.connect(amqp_url) as connection, connection.channel() as channel:
        with channel.publisher(on_outcome=lambda each: told.append((each.tag, each.outcome))) as publisher:
            publisher.publish(b"fine", routing_key=queue)
            with pytest.raises(rabbitry.NotFound):
                channel.declare_queue("no such queue", passive=True)
            for tag in range(3):
                try:
                    publisher.submit(b"lost", routing_key=queue, tag=tag)
                except rabbitry.ChannelClosed:
                    assert tag > 0
    assert told[:2] == [(None, "confirmed"), (0, "unsent")]


def test_a_cut_connection_loses_nothing(proxy: Any, channel: blocking.Channel, queue: str) -> None:
    with blocking.open_client(proxy.url, reconnect=rabbitry.Backoff(initial=0.01)) as client:
        with client.publisher(window=50, on_unknown="republish") as publisher:
            for number in range(2000):
                publisher.submit(b"%d" % number, routing_key=queue, timeout=20)
                if number in (300, 1200):
                    proxy.cut()
        assert publisher.confirmed == 2000
    assert {int(body) for body in bodies(channel, queue)} == set(range(2000))


def test_who_leaves_by_an_error_waits_for_no_broker(proxy: Any, queue: str) -> None:
    with blocking.open_client(proxy.url) as client:
        with pytest.raises(ZeroDivisionError), client.publisher() as publisher:
            publisher.publish(b"x", routing_key=queue)
            proxy.stall()
            lost = publisher.submit(b"lost", routing_key=queue)
            threading.Timer(0.3, proxy.resume).start()
            raise ZeroDivisionError
        eventually(lambda: lost.outcome != "pending")
