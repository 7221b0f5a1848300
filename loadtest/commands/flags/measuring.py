"""What is measured besides, and what is made of it while the run goes on."""

from __future__ import annotations

import argparse

from loadtest.analysis.thresholds import parse_abort
from loadtest.commands.parsing import duration
from loadtest.scenarios.completing import Asked, refuse
from loadtest.scenarios.settings import Settings


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """Adds the group's flags."""
    add = parser.add_argument_group("measuring").add_argument
    text = "such as 'confirm.p99 > 1s': end the run when that is true of what was measured so far, with exit code 3"
    add("--abort-on", action="append", default=[], metavar="EXPR", help=f"{text} (repeatable)")
    add("--abort-after", **duration("measure for so long before that", Asked.abort_after))
    text = "first find out what this generator reaches against a sink that does nothing (as a process of its own)"
    add("--calibrate", action="store_true", help=text)


def check_measuring(settings: Settings) -> None:
    """Refuses expressions that can't be read, or that nothing could be true of while the run goes on."""
    for text in settings.abort_on:
        parse_abort(text)
    refuse(
        settings.abort_after != Asked.abort_after and not settings.abort_on,
        "--abort-after says from when on --abort-on counts: name that, too",
    )
    after, duration_ = settings.abort_after, settings.duration
    refuse(
        settings.abort_on and after >= duration_,
        f"--abort-after {after:g} s is not within --duration {duration_:g} s: nothing could abort",
    )
