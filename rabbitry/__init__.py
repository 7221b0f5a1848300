"""A RabbitMQ (AMQP 0-9-1) client on structured concurrency, native to trio and asyncio.

    async with rabbitry.open_client("amqp://guest:guest@localhost") as client:
        await client.declare(rabbitry.Queue("jobs"))
        await client.publish(b"hello", routing_key="jobs", mandatory=True)
        async with client.consume("jobs") as deliveries:
            async for delivery in deliveries:
                with delivery.process():
                    print(delivery.body)

Begin with one of these:

- `open_client`, `start_client`: a `Client`, which comes back by itself after a connection was lost;
- `connect`: a `Connection`, one life, which raises when it ends; its `channel()` is a `Channel`;
- `open_reactor`: a `Reactor`, for hundreds or thousands of connections in one event loop.

What they take and give: `Message` and `Delivery`; `Exchange`, `Queue`, `Binding` and `ExchangeBinding`; `Publisher`
and `Confirmation`; `Subscription` and `Consumer`; `RPC` and `Service`; `Backoff` and `Retry`. All errors of this
library are `RabbitryError`; what a time-out raises is the builtin `TimeoutError`.

Beside it: `rabbitry.blocking`, the same without async; `rabbitry.testing` and `rabbitry.broker`, RabbitMQ and a broker
in this process for tests; `rabbitry.opentelemetry`, spans and metrics; `rabbitry.protocol`, AMQP without I/O.
`python -m rabbitry` is the command line, `python -m rabbitry.tutorials` has programs to read.
"""

# The public names are in `rabbitry._public`, which is imported when the first of them is asked for: a package is
# imported ahead of what is in it, so that the command line would wait for all of the client to show its `--help`, and
# Ctrl-C would meet that import where nothing can catch it.

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rabbitry._public import *  # noqa: F403
    from rabbitry._public import __all__ as __all__
else:

    def __getattr__(name):
        """Called for what is not there yet: imports all of the public names, and is not needed any more."""
        if name == "__all__" or not name.startswith("_"):
            from rabbitry import _public

            for each in ("__all__", *_public.__all__):
                globals().setdefault(each, getattr(_public, each))  # what a test has put there meanwhile stays
            for each in ("__getattr__", "__dir__"):
                globals().pop(each, None)  # Python does the same from now on, and `help` shows names alone
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])

    def __dir__():
        load = globals().get("__getattr__")
        if load is not None:
            load("__all__")
        return sorted(globals())
