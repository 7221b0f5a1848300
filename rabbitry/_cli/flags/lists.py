"""The flags of the operator's view: `ping`, `queues`, `exchanges`, `bindings` and `connections`."""

from __future__ import annotations

import argparse
from typing import Any

from rabbitry._cli.flags.parser import add_command, add_value
from rabbitry._cli.values import parse_duration


def add_to(commands: Any) -> None:
    """Add the commands."""
    _ping(commands)
    _queues(commands)
    for kind in ("exchanges", "bindings", "connections"):
        _other(commands, kind)


def _ping(commands: Any) -> None:
    add_command(
        commands,
        "ping",
        "rabbitry._cli.commands.topology:ping",
        "connect, and tell which broker answered and how fast",
        """
  rabbitry ping --wait 60                               until the broker is up""",
    )


def _queues(commands: Any) -> None:
    add = add_command(
        commands,
        "queues",
        "rabbitry._cli.commands.lists:queues",
        "list queues: messages ready and unacknowledged, consumers, memory, and what looks wrong",
        """
  rabbitry queues
  rabbitry queues --check --window 5m || alert
  rabbitry queues --rabbitmqctl 'sudo rabbitmqctl'""",
        notes="It points out queues (1) that had unacknowledged messages all through the last minute (--window) in "
        "which not one was acknowledged: their consumers forget to, or take longer, or reject everything; and it tells "
        "whether they have filled their prefetch; (2) that have no consumer and more messages than half a window ago, "
        "and then more than a window ago. Both come from the samples that the management keeps. Where "
        "the broker takes these too seldom, --check asks the queues themselves, by AMQP, twice. Without samples "
        "(rabbitmqctl, or statistics switched off) it tells only what is so at this moment: a prefetch that is full, "
        "messages that nobody consumes.",
    )
    _listing(add)
    text = "how long it must have gone on, up to 1h"
    add_value(add, "--window", parse_duration, "S", text, 60.0)
    add.add_argument("--check", action="store_true", help="list those alone that something is wrong with; then exit 1")


def _other(commands: Any, kind: str) -> None:
    handler = f"rabbitry._cli.commands.lists:{kind}"
    add = add_command(commands, kind, handler, f"list {kind}", f"\n  rabbitry {kind} --json")
    _listing(add)


def _listing(add: argparse.ArgumentParser) -> None:
    either = add.add_mutually_exclusive_group()
    either.add_argument(
        "--management",
        metavar="URL",
        help="the management HTTP API (or $RABBITRY_MANAGEMENT_URL; default: port 15672 of the broker's host, for "
        "amqps 15671 by https); without a user of its own, with the broker's",
    )
    either.add_argument(
        "--rabbitmqctl",
        nargs="?",
        const="rabbitmqctl",
        metavar="COMMAND",
        help="ask a local node by rabbitmqctl instead, run by this command",
    )
    add.add_argument("--cacert", metavar="FILE", help="the authorities that an https management is verified against")
    add.add_argument("--all-vhosts", action="store_true", help="of all virtual hosts")
