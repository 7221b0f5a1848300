"""pika's BlockingConnection: with `confirm_delivery` each publish returns when it is confirmed, and there is no other
way to wait for confirms, so that `publish` is one at a time
(https://pika.readthedocs.io/en/stable/examples/blocking_delivery_confirmations.html); callbacks of `basic_consume` with
`start_consuming` and `basic_ack` (https://pika.readthedocs.io/en/stable/examples/blocking_consume.html).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika

from tests.measuring.bench.comparison.libraries.work import QUEUE, TRANSIENT, Work, open_in_turn
from tests.measuring.bench.measure import Clocks, Figures, percentiles

PROPERTIES = pika.BasicProperties(delivery_mode=TRANSIENT)


@contextmanager
def open_channel(work: Work) -> Iterator[Any]:
    with pika.BlockingConnection(pika.URLParameters(work.url)) as connection:
        channel = connection.channel()
        channel.queue_delete(QUEUE)
        channel.queue_declare(QUEUE, durable=True)
        yield channel
        channel.queue_delete(QUEUE)


def publish(work: Work) -> Figures:
    return publish_one(work)


def publish_one(work: Work) -> Figures:
    with open_channel(work) as channel:
        channel.confirm_delivery()
        body = work.body
        latencies: list[float] = []
        clocks = Clocks()
        for _ in range(work.count):
            before = time.perf_counter()
            channel.basic_publish("", QUEUE, body, PROPERTIES)
            latencies.append(time.perf_counter() - before)
        return clocks.figures(work.count) | percentiles(latencies)


def consume(work: Work) -> Figures:
    with open_channel(work) as channel:
        body = work.body
        for _ in range(work.count):
            channel.basic_publish("", QUEUE, body, PROPERTIES)
        channel.queue_declare(QUEUE, passive=True)  # they are there
        channel.basic_qos(prefetch_count=work.ahead)
        received = 0

        def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            nonlocal received
            channel.basic_ack(method.delivery_tag)
            received += 1
            if received == work.count:
                channel.stop_consuming()

        clocks = Clocks()
        channel.basic_consume(QUEUE, on_message)
        channel.start_consuming()
        channel.queue_declare(QUEUE, passive=True)  # the acknowledgements are there
        figures = clocks.figures(work.count)
        assert received == work.count
        return figures


def connections(work: Work) -> Figures:
    def open_one() -> Any:
        connection = pika.BlockingConnection(pika.URLParameters(work.url))
        return connection, connection.channel()

    return open_in_turn(open_one, work.count)
