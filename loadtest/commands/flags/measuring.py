"""What is measured besides, and what is made of it while the run goes on."""

from __future__ import annotations

import argparse

from loadtest import units
from loadtest.analysis.thresholds import parse_abort, parse_threshold
from loadtest.analysis.traffic import has_queues
from loadtest.commands.parsing import checked, duration, typed
from loadtest.machine.management import Management
from loadtest.scenarios.completing import Asked, refuse
from loadtest.scenarios.settings import Settings


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """Adds the group's flags."""
    add = parser.add_argument_group("measuring").add_argument
    text = "such as 'confirm.p99 > 1s': end the run when that is true of what was measured so far, with exit code 3"
    parse = typed(checked(parse_abort))
    add("--abort-on", type=parse, action="append", default=[], metavar="EXPR", help=f"{text} (repeatable)")
    add("--abort-after", **duration("measure for so long before that", Asked.abort_after))
    text = "serve the counters to Prometheus there while the run goes on; port 0 takes a free one and says which"
    add("--metrics", type=typed(units.parse_address), metavar="HOST:PORT", help=text)
    text = "the broker's management API, http://user:password@host:15672: its memory, processor time, queues, counters"
    add("--management", metavar="URL", help=text)
    text = "first find out what this generator reaches against a sink that does nothing (as a process of its own)"
    add("--calibrate", action="store_true", help=text)


def check_measuring(settings: Settings) -> None:
    """Refuses what can't be asked, or what could abort nothing while the run goes on."""
    if settings.management is not None:
        Management(settings.management)  # which refuses what is none
    refuse(
        settings.abort_after != Asked.abort_after and not settings.abort_on,
        "--abort-after says from when on --abort-on counts: name that, too",
    )
    after, duration_ = settings.abort_after, settings.duration
    refuse(
        settings.abort_on and after >= duration_,
        f"--abort-after {after:g} s is not within --duration {duration_:g} s: nothing could abort",
    )


def check_expressions(settings: Settings) -> None:
    """Refuses expressions about what no part of the run will measure: better now than when it is over."""
    is_closed = settings.loop == "closed" and settings.scenario != "sweep" and not settings.workloads
    reasons = {
        "publish": "" if settings.producers else "there are no producers",
        "consume": "" if has_queues(settings) else "no queue is known to consume from",
        "end_to_end": "" if settings.consumers else "there are no consumers",
        "rpc": "" if settings.callers else "there are no callers",
        "confirm_": "nothing is confirmed (--no-confirm)" if settings.no_confirm else "",
        "lag": "nothing is late in a closed loop (--mode)" if is_closed else "",
    }
    for flag, texts in (("--require", settings.require), ("--abort-on", settings.abort_on)):
        for text in texts:
            path = parse_threshold(text).path
            for part, reason in reasons.items():
                is_of_it = any(word.startswith(part) for word in path)
                refuse(reason and is_of_it, f"{flag} {text!r} would not be measured: {reason}")
