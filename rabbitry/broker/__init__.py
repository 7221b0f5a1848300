"""A broker in this process: an AMQP 0-9-1 broker for tests and for learning, without anything installed. Provisional.

    async with Broker(compat="4.0") as broker, broker.connect() as connection, connection.channel() as channel:
        queue = await channel.declare_queue(exclusive=True)
        ...
        assert broker.queue(queue.name).bodies == [b"job"]

It is a test double and never a replacement for RabbitMQ: nothing outlives it, and figures measured with it are its own.
It behaves as RabbitMQ does where a test would notice: replies, their codes and texts, order, flags, counts, headers;
`tests/broker/conformance` compares the two. What it can't do it refuses aloud (540, "not implemented by the embedded
broker"): so far delayed retries and priorities of quorum queues, exchange types that plugins bring. Not there yet
either: topic permissions, policies, operators' limits.

A test looks (`queue`, `published`, `connections`), helps itself (`publish`, `drain`) and breaks: `refuse_connections`,
`nack_publishes`, `raise_alarm`, `connections[0].drop()` and more.
"""

from __future__ import annotations

from rabbitry._signatures import hide_constructors
from rabbitry.broker.broker import Broker
from rabbitry.broker.compat import Version
from rabbitry.broker.inspection import BindingState, ConsumerState, Published, QueueState, StoredMessage
from rabbitry.broker.served import ServedConnection

__all__ = [
    "BindingState",
    "Broker",
    "ConsumerState",
    "Published",
    "QueueState",
    "ServedConnection",
    "StoredMessage",
    "Version",
]

hide_constructors(ServedConnection)
