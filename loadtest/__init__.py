"""A load tester for RabbitMQ: ``python -m loadtest --clients 10000``.

It owns everything about making load and measuring it honestly, and nothing about AMQP: the drivers in
``loadtest.drivers`` speak to the broker through the public names of a client library. Pure parts (plan, schedule,
ledger, histogram, preflight, verdict, summary) know no clock, no socket and no event loop.
"""

from __future__ import annotations
