"""Which broker."""

from __future__ import annotations

import argparse

from loadtest.commands.parsing import duration
from loadtest.scenarios.completing import Asked


def add_broker(parser: argparse.ArgumentParser) -> None:
    """Adds the group's flags."""
    title = "broker (default: a private node, started for the run and removed after it)"
    add = parser.add_argument_group(title).add_argument
    text = "a running broker (repeatable; or $RABBITMQ_URL); amqps:// for TLS, with ?cacertfile= and so on"
    add("--url", action="append", default=[], help=text)
    add("--vhost", help="the virtual host, instead of the URL's")
    add("--publish-url", metavar="URL", help="where producers connect to instead, such as another node of the cluster")
    text = "where consumers connect to instead; without --url, queues are declared there"
    add("--consume-url", metavar="URL", help=text)
    add("--wait-broker", **duration("how long to wait for a broker that is still starting", Asked.wait_broker))
    text = "load a broker that only $RABBITMQ_URL names, though it is not on this machine, without being asked"
    add("--yes", action="store_true", help=text)
