"""A broker in this process: an AMQP 0-9-1 broker for tests and for learning, without anything installed. Provisional.

    async with Broker(compat="4.0") as broker, broker.connect() as connection, connection.channel() as channel:
        queue = await channel.declare_queue(exclusive=True)

It is a test double and never a replacement for RabbitMQ: nothing outlives it, and figures measured with it are its own.
It behaves as RabbitMQ does where a test would notice: replies, their codes and texts, order, flags, counts, headers;
`tests/broker/conformance` compares the two. What it can't do it refuses aloud (540, "not implemented by the embedded
broker"): so far streams, `reject-publish` of quorum queues, at-least-once dead-lettering, consumer timeouts, exchange
types that plugins bring. Not there yet either: TLS and Unix sockets, alarms, topic permissions, policies, operators'
limits, priorities of quorum queues.
"""

from __future__ import annotations

from rabbitry.broker.broker import Broker
from rabbitry.broker.compat import Version

__all__ = ["Broker", "Version"]
