"""`broker`: an embedded broker on a port, until interrupted."""

from __future__ import annotations

import argparse
import errno

import anyio

from rabbitry._cli.output import CommandError, emit, say
from rabbitry._cli.session import Session
from rabbitry.broker import Broker


async def broker(arguments: argparse.Namespace, session: Session) -> int:
    """Serves; tells its URL once it answers."""
    async with Broker(compat=arguments.compat, history=0) as broker:  # nobody can ask what was published
        try:
            await broker.listen(arguments.host, arguments.port)
        except OSError as error:
            taken = " (--port 0 takes a free one)" if error.errno == errno.EADDRINUSE else ""
            raise CommandError(f"can't listen at {arguments.host}:{arguments.port}: {error}{taken}") from None
        record = {"url": broker.url, "compat": arguments.compat}
        emit(record, broker.url, as_line_of_json=arguments.json)
        say(f"like RabbitMQ {arguments.compat}, all in memory; Ctrl-C ends it")
        with session.interruptible():
            await anyio.sleep_forever()
    return 0
