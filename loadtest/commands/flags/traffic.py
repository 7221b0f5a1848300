"""What messages are like, where they go, and what consumers do with them."""

from __future__ import annotations

import argparse
from typing import Any

from loadtest.commands.parsing import checked, duration, number, pairs, read_value, typed
from loadtest.execution.filling import FILLINGS, MOST_BYTES, read_beginning
from loadtest.scenarios import distributions
from loadtest.scenarios.completing import Asked, refuse
from loadtest.scenarios.shapes import parse_shape


def add_messages(parser: argparse.ArgumentParser) -> None:
    """Adds the group of what is sent."""
    add = parser.add_argument_group("messages").add_argument
    text = (
        "what bodies are filled with: zeros, random (incompressible), text (compressible), or a file; each is checked "
    )
    text += "when it arrives (default: zeros, unchecked)"
    add("--body", type=typed(_body), metavar="|".join((*FILLINGS, "FILE")), help=text)
    add(
        "--no-confirm",
        action="store_true",
        help="publish without confirms: what is lost is counted against what was sent",
    )
    text = "give each message a random priority from 1 to N; a classic queue is declared with x-max-priority"
    add("--priorities", **number(most=255), default=Asked.priorities, help=text)
    add("--header", action="append", default=[], metavar="K=V", help="a header of each message (repeatable)")
    text = "let producers choose a queue for each message, unevenly: zipf:1.1, or 80%% to the first"
    add("--skew", type=typed(checked(distributions.parse_skew)), metavar="HOW", help=text)
    add("--fanout", **number(), default=Asked.fanout, help="send each message to N queues, by a fanout exchange")
    add(
        "--topic",
        **number(),
        default=Asked.topic,
        help="the same by a topic exchange, whose N queues' patterns all fit",
    )
    text = (
        "send so many messages altogether, over all producers; the run ends with the last of them (no warm-up unless "
    )
    text += "asked for, and an hour at most unless --duration says otherwise)"
    add("--messages", **number(), help=text)
    text = "end the run after so long without any message"
    add("--until-idle", **duration(text, Asked.until_idle))


def add_answers(parser: argparse.ArgumentParser) -> None:
    """Adds the group of what consumers do."""
    add = parser.add_argument_group("consumers").add_argument
    text = f"how long they work on each message before they answer: {distributions.WORK}"
    add("--work", type=typed(checked(distributions.parse_work)), metavar="TIME", help=text)
    share: dict[str, Any] = {"type": typed(distributions.parse_share), "metavar": "SHARE"}
    text = "put so many deliveries back (basic.nack with requeue), such as 5%%: they come again"
    add("--requeue", "--nack", **share, default=Asked.requeue, help=text)
    text = (
        "reject so many without requeue: dead-lettered where the queue says so, otherwise dropped (not counted as lost)"
    )
    add("--reject", **share, default=Asked.reject, help=text)
    text = "automatic acknowledgement: what is on its way to a consumer that ends is lost, and counted so"
    add("--auto-ack", action="store_true", help=text)


def add_existing(parser: argparse.ArgumentParser) -> None:
    """Adds the group of what is there already."""
    title = "existing queues and exchanges (nothing is declared or deleted then)"
    add = parser.add_argument_group(title).add_argument
    add("--queue", action="append", default=[], metavar="NAME", help="use this queue (repeatable)")
    add("--exchange", metavar="NAME", help="publish to this exchange; without --queue nobody consumes")
    add("--routing-key", metavar="KEY", help="with which routing key (default: the queue's name)")
    text = "take and acknowledge messages that are not this program's, too; without it a run doesn't begin where there "
    text += "are some, puts those back that come later, and ends"
    add("--consume-foreign", action="store_true", help=text)


def read_traffic(given: dict[str, Any]) -> None:
    """Turns what these flags were given into what `Asked` has."""
    given["headers"] = {key: read_value(text) for key, text in pairs("--header", given.pop("header"))}
    sizes = distributions.parse_sizes(given["size"]) if isinstance(given["size"], str) else given["size"]
    if not isinstance(sizes, int):
        refuse(sizes.least < 1 and sizes.distribution is None, f"--size {given['size']}: a size of 0")
        given["sizes"] = given["size"]
        sizes = round(min(sizes.mean, MOST_BYTES))
    given["size"] = sizes
    for flag in ("rate", "rate_each"):
        if isinstance(text := given[flag], str):
            shape = parse_shape(text)
            given[flag] = shape.mean
            if len(shape.segments) > 1 or shape.is_repeated:
                given["shape"] = str(shape)


def _body(text: str) -> str:
    if text not in FILLINGS:
        try:
            read_beginning(text, 1)
        except OSError as error:
            raise ValueError(f"{text!r} is none of {', '.join(FILLINGS)}, and no file: {error.strerror}") from None
    return text


checked_sizes = checked(distributions.parse_sizes)
checked_shape = checked(parse_shape)
