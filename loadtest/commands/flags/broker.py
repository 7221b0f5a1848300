"""Which broker."""

from __future__ import annotations

import argparse

import rabbitry
from loadtest.commands.parsing import duration
from loadtest.scenarios.brokers import CHOICES
from loadtest.scenarios.completing import Asked, refuse
from loadtest.scenarios.settings import Settings
from loadtest.urls import redact

BROKER_HELP = (
    "auto takes a broker that is named, then a RabbitMQ installed here, then the embedded one, and says so; rabbitmq "
    "is never the embedded one; embedded starts that, in a process of its own: its figures are not RabbitMQ's (default "
    "%(default)s)"
)


def add_broker(parser: argparse.ArgumentParser) -> None:
    """Adds the group's flags."""
    title = "broker (default: a private RabbitMQ node, or the embedded broker where none is installed)"
    add = parser.add_argument_group(title).add_argument
    add("--broker", choices=CHOICES, default=Asked.broker, help=BROKER_HELP)
    text = "a running broker (repeatable; or $RABBITMQ_URL); amqps:// for TLS, with ?cacertfile= and so on"
    add("--url", action="append", default=[], help=text)
    add("--vhost", help="the virtual host, instead of the URL's")
    add("--publish-url", metavar="URL", help="where producers connect to instead, such as another node of the cluster")
    text = "where consumers connect to instead; without --url, queues are declared there"
    add("--consume-url", metavar="URL", help=text)
    add("--wait-broker", **duration("how long to wait for a broker that is still starting", Asked.wait_broker))
    text = "load a broker that only $RABBITMQ_URL names, though it is not on this machine, without being asked"
    add("--yes", action="store_true", help=text)


def check_broker(settings: Settings) -> None:
    """Refuses URLs that lead nowhere, as rabbitry reads them: what is wrong with one is no broker's absence."""
    if not settings.driver.startswith("rabbitry"):
        return
    for url in settings.all_urls:
        try:
            rabbitry.connect(url)  # which connects nothing yet
        except ValueError as error:
            refuse(True, f"{redact(url)!r}: {error}")
