"""AMQPStorm: on a channel with `confirm_deliveries` each publish returns when it is confirmed, which it looks for every
10 ms, and there is no other way to wait for confirms, so that `publish` is one at a time
(https://www.amqpstorm.io/examples/publish_message_with_confirm.html); callbacks of `basic.consume` with
`start_consuming` and `message.ack()` (https://www.amqpstorm.io/examples/simple_consumer.html). Sockets are watched by
`poll`, as it says for more than a thousand descriptors.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import amqpstorm

from tests.measuring.bench.comparison.libraries.work import QUEUE, TRANSIENT, Work, open_in_turn
from tests.measuring.bench.measure import Clocks, Figures, percentiles


def connect(url: str) -> Any:
    library: Any = amqpstorm  # its annotations export none of its names
    return library.UriConnection(f"{url}{'&' if urlsplit(url).query else '?'}poller=poll")


@contextmanager
def open_channel(work: Work) -> Iterator[Any]:
    with connect(work.url) as connection, connection.channel() as channel:
        channel.queue.delete(QUEUE)
        channel.queue.declare(QUEUE, durable=True)
        yield channel
        channel.queue.delete(QUEUE)


def publish(work: Work) -> Figures:
    return publish_one(work)


def publish_one(work: Work) -> Figures:
    with open_channel(work) as channel:
        channel.confirm_deliveries()
        body = work.body
        latencies: list[float] = []
        clocks = Clocks()
        for _ in range(work.count):
            before = time.perf_counter()
            is_taken = channel.basic.publish(body, QUEUE, properties={"delivery_mode": TRANSIENT})
            latencies.append(time.perf_counter() - before)
            assert is_taken
        return clocks.figures(work.count) | percentiles(latencies)


def consume(work: Work) -> Figures:
    with open_channel(work) as channel:
        body = work.body
        for _ in range(work.count):
            channel.basic.publish(body, QUEUE, properties={"delivery_mode": TRANSIENT})
        channel.queue.declare(QUEUE, passive=True)  # they are there
        channel.basic.qos(work.ahead)
        received = 0

        def on_message(message: Any) -> None:
            nonlocal received
            message.ack()
            received += 1
            if received == work.count:
                message.channel.stop_consuming()

        clocks = Clocks()
        channel.basic.consume(on_message, QUEUE)
        channel.start_consuming(auto_decode=False)
        channel.queue.declare(QUEUE, passive=True)  # the acknowledgements are there
        figures = clocks.figures(work.count)
        assert received == work.count
        return figures


def connections(work: Work) -> Figures:
    def open_one() -> Any:
        connection = connect(work.url)
        return connection, connection.channel()

    return open_in_turn(open_one, work.count)
