"""rabbitry.blocking on the benchmark's work: publishing many and one by one, handling and iterating, without async.

What must stay true: as in ours.py; and rabbitry.blocking is imported only where it is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import repeat
from typing import TYPE_CHECKING

import rabbitry
from tests.measuring.bench.measure import BODY, PREFETCH, QUEUE, Clocks, Figures, percentiles

if TYPE_CHECKING:
    from rabbitry import blocking

MESSAGE = rabbitry.Message(BODY, delivery_mode=1)


def publish_many(url: str, count: int) -> Figures:
    """All confirmed."""
    from rabbitry import blocking

    with blocking.open_client(url) as client, blocking.connect(url) as connection, connection.channel() as channel:
        renew_queue(channel)
        client.publish_many([MESSAGE], routing_key=QUEUE)  # the client has its connection and channel
        clocks = Clocks()
        published = client.publish_many(repeat(MESSAGE, count), routing_key=QUEUE)
        figures = clocks.figures(count)
        assert published == count
        channel.delete_queue(QUEUE)
    return figures


def publish_many_unconfirmed(url: str, count: int) -> Figures:
    from rabbitry import blocking

    with blocking.connect(url) as connection, connection.channel(confirm=False) as channel:
        renew_queue(channel)
        clocks = Clocks()
        published = channel.publish_many(repeat(MESSAGE, count), routing_key=QUEUE)
        channel.declare_queue(QUEUE, passive=True)  # its reply says that the broker has dealt with all
        figures = clocks.figures(count)
        assert published == count
        channel.delete_queue(QUEUE)
    return figures


# --- one at a time ----------------------------------------------------------------------------------------------------


def blocking_one(url: str, count: int) -> Figures:
    """`client.publish`, which returns once it is confirmed."""
    from rabbitry import blocking

    with blocking.open_client(url) as client, blocking.connect(url) as connection, connection.channel() as channel:
        renew_queue(channel)
        client.publish(MESSAGE, routing_key=QUEUE)  # the client has its connection and channel
        figures = timed(client.publish, count)
        channel.delete_queue(QUEUE)
    return figures


def blocking_channel_one(url: str, count: int) -> Figures:
    """The same by a raw channel."""
    from rabbitry import blocking

    with blocking.connect(url) as connection, connection.channel() as channel:
        renew_queue(channel)
        figures = timed(channel.publish, count)
        channel.delete_queue(QUEUE)
    return figures


def timed(publish: Callable[..., None], count: int) -> Figures:
    """The figures of so many calls."""
    latencies: list[float] = []
    clocks = Clocks()
    for _ in range(count):
        before = time.perf_counter()
        publish(MESSAGE, routing_key=QUEUE)
        latencies.append(time.perf_counter() - before)
    return clocks.figures(count) | percentiles(latencies)


def blocking_submit(url: str, count: int) -> Figures:
    """`publisher().submit` from one thread, all confirmed in the end."""
    from rabbitry import blocking

    with blocking.open_client(url) as client, blocking.connect(url) as connection, connection.channel() as channel:
        renew_queue(channel)
        with client.publisher() as publisher:
            clocks = Clocks()
            for _ in range(count):
                publisher.submit(MESSAGE, routing_key=QUEUE)
            publisher.flush()
            figures = clocks.figures(count)
            assert publisher.confirmed == count
        channel.delete_queue(QUEUE)
    return figures


# --- consuming --------------------------------------------------------------------------------------------------------


def blocking_process(url: str, count: int) -> Figures:
    """`client.process` with a handler that does nothing."""
    from rabbitry import blocking

    handled = 0

    def handle(_: rabbitry.Delivery) -> None:
        nonlocal handled
        handled += 1
        if handled == count:
            client.stop_consuming()

    with blocking.open_client(url) as client, blocking.connect(url) as connection, connection.channel() as channel:
        fill(channel, count)
        client.inspect(QUEUE)  # the client has its connection
        clocks = Clocks()
        client.process(QUEUE, handle, prefetch=PREFETCH)
        figures = clocks.figures(count)
        assert handled == count
        channel.delete_queue(QUEUE)
    return figures


def blocking_iterate(url: str, count: int) -> Figures:
    """`for delivery in client.consume(...)`, each acknowledged."""
    from rabbitry import blocking

    received = 0
    with blocking.open_client(url) as client, blocking.connect(url) as connection, connection.channel() as channel:
        fill(channel, count)
        client.inspect(QUEUE)
        clocks = Clocks()
        with client.consume(QUEUE, prefetch=PREFETCH) as deliveries:
            for delivery in deliveries:
                delivery.ack()
                received += 1
                if received == count:
                    break
        figures = clocks.figures(count)
        channel.delete_queue(QUEUE)
    return figures


def fill(channel: blocking.Channel, count: int) -> None:
    """An empty queue with that many messages."""
    renew_queue(channel)
    channel.publish_many(repeat(MESSAGE, count), routing_key=QUEUE)


def renew_queue(channel: blocking.Channel) -> None:
    channel.delete_queue(QUEUE)
    channel.declare_queue(QUEUE)


JOBS = {
    job.__name__: job
    for job in (
        *(publish_many, publish_many_unconfirmed),
        *(blocking_one, blocking_channel_one, blocking_submit, blocking_process, blocking_iterate),
    )
}
