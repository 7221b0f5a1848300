"""pika's BlockingConnection on the benchmark's work, used the way its documentation shows: with `confirm_delivery`,
each publish returns when it is confirmed; it has no other way to wait for confirms.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.measuring.bench.measure import BODY, PREFETCH, QUEUE, Clocks, Figures


def publish_many(url: str, count: int) -> Figures:
    """All confirmed."""
    with open_channel(url) as channel:
        channel.confirm_delivery()
        clocks = Clocks()
        publish_all(channel, count)
        return clocks.figures(count)


def publish_many_unconfirmed(url: str, count: int) -> Figures:
    with open_channel(url) as channel:
        clocks = Clocks()
        publish_all(channel, count)
        channel.queue_declare(QUEUE, passive=True)  # its reply says that the broker has dealt with all
        return clocks.figures(count)


def blocking_process(url: str, count: int) -> Figures:
    """`basic_consume` and `start_consuming`, with a callback that only acknowledges."""
    with open_channel(url) as channel:
        fill(channel, count)
        channel.basic_qos(prefetch_count=PREFETCH)
        handled = 0

        def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            nonlocal handled
            channel.basic_ack(method.delivery_tag)
            handled += 1
            if handled == count:
                channel.stop_consuming()

        clocks = Clocks()
        channel.basic_consume(QUEUE, handle)
        channel.start_consuming()
        return clocks.figures(count)


def blocking_iterate(url: str, count: int) -> Figures:
    """The generator `channel.consume`, each message acknowledged."""
    with open_channel(url) as channel:
        fill(channel, count)
        channel.basic_qos(prefetch_count=PREFETCH)
        clocks = Clocks()
        for received, (method, _, _) in enumerate(channel.consume(QUEUE), 1):
            channel.basic_ack(method.delivery_tag)
            if received == count:
                break
        channel.cancel()
        return clocks.figures(count)


def fill(channel: Any, count: int) -> None:
    """Put so many messages into the queue."""
    publish_all(channel, count)
    channel.queue_declare(QUEUE, passive=True)  # they are there


def publish_all(channel: Any, count: int) -> None:
    import pika

    properties = pika.BasicProperties(delivery_mode=1)
    for _ in range(count):
        channel.basic_publish("", QUEUE, BODY, properties)


@contextmanager
def open_channel(url: str) -> Iterator[Any]:
    """A channel on a connection of its own, and an empty queue."""
    import pika

    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_delete(QUEUE)
        channel.queue_declare(QUEUE, durable=True)
        yield channel
        channel.queue_delete(QUEUE)


JOBS = {
    f"pika.{job.__name__}": job for job in (publish_many, publish_many_unconfirmed, blocking_process, blocking_iterate)
} | {"pika.blocking_one": publish_many}
