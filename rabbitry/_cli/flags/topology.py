"""The flags of `declare`, `delete`, `bind`, `unbind` and `purge`."""

from __future__ import annotations

import argparse
from typing import Any

from rabbitry._cli.flags.parser import add_command, add_group, add_value
from rabbitry._cli.values import parse_duration, parse_number


def add_to(commands: Any) -> None:
    """Add the commands."""
    _declare(commands)
    _delete(commands)
    _binding(commands, "bind", "have an exchange route to a queue, or to another exchange")
    _binding(commands, "unbind", "remove a binding")
    _purge(commands)


def _declare(commands: Any) -> None:
    kinds = add_group(commands, "declare", "declare a queue or an exchange")
    add = add_command(
        kinds,
        "queue",
        "rabbitry._cli.commands.topology:declare_queue",
        "declare a queue, or check that it exists",
        """
  rabbitry declare queue jobs --type quorum --dead-letter-exchange dead
  rabbitry declare queue jobs --passive                 fails if there is none""",
        prog="declare queue",
    )
    add.add_argument("name", metavar="NAME")
    add.add_argument("--type", choices=("classic", "quorum", "stream"), default="classic", help="(default %(default)s)")
    add.add_argument("--auto-delete", action="store_true", help="it goes with its last consumer")
    add_value(add, "--max-length", parse_number, "N", "messages it holds at most")
    add_value(add, "--max-length-bytes", parse_number, "N", "bytes of bodies it holds at most")
    text = "what happens beyond that"
    add.add_argument("--overflow", choices=("drop-head", "reject-publish", "reject-publish-dlx"), help=text)
    add_value(add, "--message-ttl", parse_duration, "S", "how long a message waits")
    add_value(add, "--expires", parse_duration, "S", "how long the queue lives unused")
    add_value(add, "--max-age", parse_duration, "S", "how long a stream keeps messages")
    add.add_argument("--dead-letter-exchange", metavar="NAME", help="gets what is rejected or expired")
    add.add_argument("--dead-letter-routing-key", metavar="KEY")
    add.add_argument("--single-active-consumer", action="store_true")
    add_value(add, "--max-priority", parse_number, "N", "1 to 255")
    add_value(add, "--delivery-limit", parse_number, "N", "how often a quorum queue delivers a message again")
    _declared(add)

    add = add_command(
        kinds,
        "exchange",
        "rabbitry._cli.commands.topology:declare_exchange",
        "declare an exchange, or check that it exists",
        """
  rabbitry declare exchange events --type topic""",
        prog="declare exchange",
    )
    add.add_argument("name", metavar="NAME")
    add.add_argument("--type", default="direct", help="direct, fanout, topic, headers or a plugin's (default direct)")
    add.add_argument("--transient", action="store_true", help="it does not outlive the broker's restart")
    add.add_argument("--auto-delete", action="store_true", help="it goes with its last binding")
    add.add_argument("--internal", action="store_true", help="only exchanges can publish to it")
    add.add_argument("--alternate", metavar="NAME", help="the exchange that gets what this one can't route")
    _declared(add)


def _declared(add: argparse.ArgumentParser) -> None:
    add.add_argument("--passive", action="store_true", help="only check that it exists")
    text = "any other argument, as RabbitMQ names it; JSON values are themselves (repeatable)"
    add.add_argument("--argument", action="append", default=[], metavar="K=V", help=text)


def _delete(commands: Any) -> None:
    kinds = add_group(commands, "delete", "delete queues or exchanges")
    for kind in ("queue", "exchange"):
        add = add_command(
            kinds,
            kind,
            f"rabbitry._cli.commands.topology:delete_{kind}",
            f"delete {kind}s" + (", with what is in them" if kind == "queue" else ""),
            f"""
  rabbitry delete {kind} old older --missing-ok""",
            prog=f"delete {kind}",
        )
        add.add_argument("names", nargs="+", metavar="NAME")
        add.add_argument("--missing-ok", action="store_true", help="one that does not exist is fine")
        add.add_argument("--if-unused", action="store_true", help="fail if it is in use")
        if kind == "queue":
            add.add_argument("--if-empty", action="store_true", help="fail if it has messages")


def _binding(commands: Any, verb: str, text: str) -> None:
    kinds = add_group(commands, verb, text)
    for kind in ("queue", "exchange"):
        add = add_command(
            kinds,
            kind,
            f"rabbitry._cli.commands.topology:{verb}",
            f"{text.partition(' to ')[0]} {'to' if verb == 'bind' else 'of'} {kind} DESTINATION",
            f"""
  rabbitry {verb} {kind} {"jobs" if kind == "queue" else "audit"} events --routing-key 'job.#'""",
            prog=f"{verb} {kind}",
        )
        add.set_defaults(kind=kind)
        add.add_argument("destination", metavar="DESTINATION", help=f"the {kind}")
        add.add_argument("source", metavar="SOURCE", help="the exchange")
        text_of_key = "(repeatable, for as many bindings; default: the empty one)"
        add.add_argument("--routing-key", action="append", metavar="KEY", help=text_of_key)
        add.add_argument("--argument", action="append", default=[], metavar="K=V", help="of a headers exchange")


def _purge(commands: Any) -> None:
    add = add_command(
        commands,
        "purge",
        "rabbitry._cli.commands.topology:purge",
        "drop the messages that are ready in queues",
        """
  rabbitry purge jobs""",
    )
    add.add_argument("names", nargs="+", metavar="QUEUE")
