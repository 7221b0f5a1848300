"""A load tester for RabbitMQ: ``python -m loadtest --clients 10000``.

It owns everything about making load and measuring it honestly, and nothing about AMQP: the drivers speak to the broker
through the public names of a client library. Each room imports from those before it in this list, never from one
behind it:

``units`` and ``urls``: what people write. ``scenarios``: what is asked for, as frozen settings and a plan. ``drivers``:
how a client library does it. ``metrics``: what is counted and timed, as records that add up. ``machine``: what it can
bear, and what was used. ``execution``: one process's run. ``fleet``: several processes', on one
machine or on many. ``analysis``: what the records show. ``output``: for people. ``commands``: the command line.

Scenarios, metrics and analysis know no clock, no socket and no event loop.
"""

from __future__ import annotations
