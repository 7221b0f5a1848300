"""How often, and with what varied."""

from __future__ import annotations

import argparse

from loadtest.commands.parsing import number
from loadtest.scenarios.completing import Asked


def add_trials(parser: argparse.ArgumentParser) -> None:
    """Adds the group's flags."""
    add = parser.add_argument_group("trials (each in a process of its own, in turns, on one broker)").add_argument
    text = "run the same so many times, and tell what they have in common (default %(default)s)"
    add("--repeat", **number(), default=Asked.repeat, help=text)
    text = (
        "run it with each of these values, such as queue-type=classic,quorum or transient=yes,no; with ; between those "
        "that have commas (repeatable: all combinations)"
    )
    add("--vary", action="append", default=[], metavar="FLAG=A,B", help=text)
