"""What the run is to answer: how much can be kept up, at which latency."""

from __future__ import annotations

import argparse

from loadtest import units
from loadtest.commands.parsing import duration, typed
from loadtest.scenarios.completing import (
    DEFAULT_SHARE,
    LONGEST_SEARCH,
    SEARCH_PER_DURATION,
    SHORTEST_SEARCH,
)

MODES = ("closed", "paced", "both")


def add_answer(parser: argparse.ArgumentParser) -> None:
    """Adds the group's flags."""
    add = parser.add_argument_group("answer").add_argument
    text = (
        "both: find the rate that can be kept up, then measure latency on a schedule at a share of it (default); "
        "closed: measure a closed loop, where the next one leaves with the answer; paced: measure at a given --rate "
        "(the default with one)"
    )
    add("--mode", choices=MODES, help=text)
    text = f"of the rate that can be kept up, the share at which latency is measured (default {DEFAULT_SHARE:g})"
    add("--share", type=typed(units.parse_share), metavar="F", help=text)
    text = (
        f"how long the search for that rate may take, about (default {SEARCH_PER_DURATION:g} × --duration, from "
        f"{SHORTEST_SEARCH:g} to {LONGEST_SEARCH:g} s)"
    )
    add("--search", **duration(text, None, positive=True))
