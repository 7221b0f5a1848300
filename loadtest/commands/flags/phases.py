"""How long each phase takes."""

from __future__ import annotations

import argparse

from loadtest.commands.parsing import duration
from loadtest.scenarios.completing import DEFAULT_WARMUP, Asked


def add_phases(parser: argparse.ArgumentParser) -> None:
    """Adds the group's flags."""
    add = parser.add_argument_group("time").add_argument
    add("--duration", **duration("how long to measure", Asked.duration, positive=True))
    text = f"how long to run before measuring (default {DEFAULT_WARMUP:g} s, in short searches less)"
    add("--warmup", **duration(text, None))
    add("--drain", **duration("how long consumers may take for what is left in the queues", Asked.drain))
    text = "start the clients spread over this time, in the warm-up; longer warm-ups follow from it"
    add("--ramp", **duration(text, Asked.ramp))
