"""Which broker."""

from __future__ import annotations

import argparse


def add_broker(parser: argparse.ArgumentParser) -> None:
    """Adds the group's flags."""
    title = "broker (default: a private node, started for the run and removed after it)"
    add = parser.add_argument_group(title).add_argument
    text = "a running broker (repeatable; or $RABBITMQ_URL); amqps:// for TLS, with ?cacertfile= and so on"
    add("--url", action="append", default=[], help=text)
    add("--vhost", help="the virtual host, instead of the URL's")
    text = "load a broker that only $RABBITMQ_URL names, though it is not on this machine, without being asked"
    add("--yes", action="store_true", help=text)
