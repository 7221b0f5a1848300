"""`broker`: an embedded broker on a port, until interrupted."""

from __future__ import annotations

import argparse
import errno
from ipaddress import ip_address
from urllib.parse import urlsplit

import anyio

from rabbitry._cli.output import CommandError, emit, say
from rabbitry._cli.session import Session
from rabbitry.broker import Broker

OPEN_TO_ALL = (
    "it listens at {host}: anybody on the network can connect, as guest, whose password everybody knows, and without "
    "TLS; the default, --host 127.0.0.1, is for this machine alone"
)


async def broker(arguments: argparse.Namespace, session: Session) -> int:
    """Serves; tells its URL once it answers."""
    async with Broker(compat=arguments.compat, history=0) as broker:  # nobody can ask what was published
        try:
            await broker.listen(arguments.host, arguments.port)
        except OSError as error:
            taken = " (--port 0 takes a free one)" if error.errno == errno.EADDRINUSE else ""
            raise CommandError(f"can't listen at {arguments.host}:{arguments.port}: {error}{taken}") from None
        if not is_for_this_machine(broker.url):
            say(f"warning: {OPEN_TO_ALL.format(host=arguments.host)}")
        record = {"url": broker.url, "compat": arguments.compat}
        emit(record, broker.url, as_line_of_json=arguments.json)
        say(f"like RabbitMQ {arguments.compat}, all in memory; Ctrl-C ends it")
        with session.interruptible():
            await anyio.sleep_forever()
    return 0


def is_for_this_machine(url: str) -> bool:
    """Whether what listens there is for this machine alone. By the address it has, as a name may stand for any."""
    return ip_address(urlsplit(url).hostname or "").is_loopback
