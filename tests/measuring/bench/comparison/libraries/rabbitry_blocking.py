"""rabbitry.blocking: `publisher(window=…).submit` and `flush`; `channel.publish`; `for delivery in channel.consume(…)`
with `delivery.ack()` (docs/guides/blocking.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import repeat

import rabbitry
from rabbitry import blocking
from tests.measuring.bench.comparison.libraries.work import QUEUE, TRANSIENT, Work, open_in_turn
from tests.measuring.bench.measure import Clocks, Figures, percentiles


@contextmanager
def open_channel(work: Work, *, confirm: bool = True) -> Iterator[blocking.Channel]:
    with blocking.connect(work.url) as connection, connection.channel(confirm=confirm) as channel:
        channel.delete_queue(QUEUE)
        channel.declare_queue(QUEUE)
        yield channel
        channel.delete_queue(QUEUE)


def publish(work: Work) -> Figures:
    message = rabbitry.Message(work.body, delivery_mode=TRANSIENT)
    with open_channel(work) as channel, channel.publisher(window=work.ahead) as publisher:
        clocks = Clocks()
        for _ in range(work.count):
            publisher.submit(message, routing_key=QUEUE)
        publisher.flush()
        figures = clocks.figures(work.count)
        assert publisher.confirmed == work.count, publisher
        return figures


def publish_one(work: Work) -> Figures:
    message = rabbitry.Message(work.body, delivery_mode=TRANSIENT)
    latencies: list[float] = []
    with open_channel(work) as channel:
        clocks = Clocks()
        for _ in range(work.count):
            before = time.perf_counter()
            channel.publish(message, routing_key=QUEUE)
            latencies.append(time.perf_counter() - before)
        return clocks.figures(work.count) | percentiles(latencies)


def consume(work: Work) -> Figures:
    message = rabbitry.Message(work.body, delivery_mode=TRANSIENT)
    with open_channel(work, confirm=False) as channel:
        channel.publish_many(repeat(message, work.count), routing_key=QUEUE)
        channel.declare_queue(QUEUE, passive=True)  # they are there
        received = 0
        clocks = Clocks()
        with channel.consume(QUEUE, prefetch=work.ahead) as deliveries:
            for delivery in deliveries:
                delivery.ack()
                received += 1
                if received == work.count:
                    break
        channel.declare_queue(QUEUE, passive=True)  # the acknowledgements are there
        return clocks.figures(work.count)


def connections(work: Work) -> Figures:
    with ExitStack() as held:

        def open_one() -> blocking.Channel:
            connection = held.enter_context(blocking.connect(work.url))
            return held.enter_context(connection.channel())

        return open_in_turn(open_one, work.count)
