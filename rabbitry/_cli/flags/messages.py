"""The flags of `publish`, `consume` and `get`."""

from __future__ import annotations

import argparse
from typing import Any

from rabbitry._cli.flags.parser import add_command, add_header, add_value
from rabbitry._cli.values import parse_count, parse_duration, parse_number

LOOKING = (
    "With a quorum queue, --requeue uses up: each look counts as a delivery (before RabbitMQ 4.3), and beyond the "
    "queue's delivery limit messages are dead-lettered or dropped."
)


def add_to(commands: Any) -> None:
    """Add the commands."""
    _publish(commands)
    _consume(commands)
    _get(commands)


def _publish(commands: Any) -> None:
    add = add_command(
        commands,
        "publish",
        "rabbitry._cli.commands.publish:publish",
        "publish messages, and wait until the broker has confirmed them",
        """
  rabbitry publish --routing-key jobs 'hello'
  rabbitry publish --exchange events --routing-key job.new --property content_type=application/json < event.json
  tail -f access.log | rabbitry publish --routing-key log --lines
  rabbitry consume old --json --timeout 1 | rabbitry publish --json-lines --routing-key new""",
        notes="It goes on after a message that the broker refuses and after a line that is no message, names each, and "
        "exits 1 or 2 in the end. Lines that all go to one place are not read where there is no such exchange, and "
        "from a pipe no further where no queue is bound for the first of them, unless --failed keeps them. What was "
        "under way when a connection was lost is sent again; how many may have arrived twice for that is said.",
    )
    add.add_argument("body", nargs="?", metavar="BODY", help="the body (default: all of stdin)")
    add.add_argument("more", nargs="*", metavar="BODY", help="more of them: a message each")
    add.add_argument("--exchange", metavar="NAME", help="(default: the default exchange, whose keys are queues' names)")
    add.add_argument("--routing-key", metavar="KEY")
    _properties(add)
    add.add_argument(
        "--mandatory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fail where no queue is bound (the default), or have the broker drop the message",
    )
    add_value(add, "--repeat", parse_count, "N", "publish the body so often", 1)
    many = add.add_mutually_exclusive_group()
    many.add_argument("--lines", action="store_true", help="a message for each line of stdin")
    many.add_argument(
        "--json-lines",
        action="store_true",
        help="each line is a message with its properties, as `consume --json` writes it; flags given here win over it",
    )
    add.add_argument("-0", "--null", action="store_true", help="lines end with NUL, not with a line feed")
    text = "append what was not confirmed, in the form that --json-lines reads"
    add.add_argument("--failed", metavar="FILE", help=text)
    add_value(add, "--window", parse_count, "N", "publish so many ahead of their confirms", 1000)


def _consume(commands: Any) -> None:
    add = add_command(
        commands,
        "consume",
        "rabbitry._cli.commands.consume:consume",
        "write the bodies of a queue's messages to stdout, and acknowledge each once it is written",
        """
  rabbitry consume jobs --count 10
  rabbitry consume jobs --json | jq .properties.headers
  rabbitry consume jobs --requeue --timeout 1           look at what is there, and put it back
  rabbitry consume --exchange events --routing-key 'job.#'
  rabbitry consume audit --offset first --timeout 5     a stream, from its beginning""",
        notes="It goes on until --count, --timeout, Ctrl-C, or until the queue is deleted. What was not written "
        "whole by then goes back to the queue. Into a pipe, on Linux, it writes one message at a time and acknowledges "
        "it once it was read; with --count, and where that can't be known, once it was written. To a terminal, bodies "
        f"are written without control characters. {LOOKING}",
    )
    add.add_argument("queue", nargs="?", metavar="QUEUE")
    add.add_argument("--exchange", metavar="NAME", help="instead of QUEUE: a temporary queue, bound to this exchange")
    add.add_argument(
        "--routing-key", action="append", metavar="KEY", help="of that binding (repeatable; default: the empty one)"
    )
    add_value(add, "--count", parse_count, "N", "end after so many messages; with fewer of them the exit code is 1")
    add_value(add, "--timeout", parse_duration, "S", "end when no message has come for so long")
    add.add_argument(
        "--requeue", action="store_true", help="keep each message unacknowledged, and put all of them back in the end"
    )
    add.add_argument(
        "--no-ack",
        action="store_true",
        help="the broker forgets each message as it sends it: what is under way when this ends is lost",
    )
    add_value(add, "--prefetch", parse_number, "N", "messages sent ahead, 0 is unlimited", 100)
    add.add_argument("--exclusive", action="store_true", help="fail if the queue has another consumer")
    add.add_argument("--offset", metavar="WHERE", help="of a stream: first, last, next, a number, or a time")
    _output(add)


def _get(commands: Any) -> None:
    add = add_command(
        commands,
        "get",
        "rabbitry._cli.commands.consume:get",
        "take what is in a queue now, one message unless told otherwise, without waiting",
        """
  rabbitry get jobs > body
  rabbitry get jobs --requeue --json                    look at the first one, and put it back
  rabbitry get jobs --count 100 --null | xargs -0 -n 1 work""",
        notes="A single body is written as it is, byte for byte; several as `consume` writes them. "
        f"The exit code is 1 if there is nothing to get. {LOOKING}",
    )
    add.add_argument("queue", metavar="QUEUE")
    add_value(add, "--count", parse_count, "N", "take so many at most", 1)
    add.add_argument("--requeue", action="store_true", help="put them back in the end")
    add.add_argument("--no-ack", action="store_true", help="the broker forgets each message as it sends it")
    _output(add)


def _output(add: argparse.ArgumentParser) -> None:
    either = add.add_mutually_exclusive_group()
    either.add_argument("-0", "--null", action="store_true", help="a NUL after each body, not a line feed")
    either.add_argument("--bare", action="store_true", help="nothing after each body")


def _properties(add: argparse.ArgumentParser) -> None:
    add.add_argument(
        "--property",
        action="append",
        default=[],
        metavar="K=V",
        help="content_type, priority, expiration (5s), delivery_mode (1 transient, 2 persistent), correlation_id, "
        "timestamp (or now) and so on (repeatable)",
    )
    add_header(add)
