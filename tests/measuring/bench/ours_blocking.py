"""rabbitry.blocking on the benchmark's work: `publish_many`, for programs without async.

What must stay true: as in ours.py; and rabbitry.blocking is imported only where it is measured.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

import rabbitry
from tests.measuring.bench.measure import BODY, QUEUE, Clocks, Figures

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


def renew_queue(channel: blocking.Channel) -> None:
    channel.delete_queue(QUEUE)
    channel.declare_queue(QUEUE)


JOBS = {job.__name__: job for job in (publish_many, publish_many_unconfirmed)}
