"""Several processes and hosts."""

from __future__ import annotations

import argparse
from pathlib import Path

from loadtest.analysis.thresholds import parse_abort
from loadtest.commands.parsing import duration, number
from loadtest.fleet.limits import find_limits, is_counted
from loadtest.fleet.sharing import FILLINGS
from loadtest.scenarios.completing import Asked, refuse
from loadtest.scenarios.settings import STAMP_BYTES, Settings
from loadtest.urls import is_amqp_url, redact


def add_fleet(parser: argparse.ArgumentParser) -> None:
    """Adds the group's flags."""
    add = parser.add_argument_group("several processes and hosts").add_argument
    text = "share the clients out among so many processes on this machine (default %(default)s)"
    add("--processes", **number(), default=Asked.processes, help=text)
    text = "share them out among so many workers, which join from wherever they are: python -m loadtest worker --url …"
    add("--workers", **number(least=0), default=Asked.workers, help=text)
    text = "the broker over which they are led, best another one than the one that is loaded (default: the first --url)"
    add("--control-url", metavar="URL", help=text)
    text = "what the workers and this have in common, and others don't: a file; or $LOADTEST_TOKEN (default: a new one)"
    add("--token-file", type=Path, metavar="FILE", help=text)
    text = "how long to wait for the workers"
    add("--join-timeout", **duration(text, Asked.join_timeout, positive=True))


def check_fleet(settings: Settings) -> None:
    """Refuses what doesn't go together, or would do nothing."""
    is_several = settings.processes > 1 or settings.workers > 0
    refuse(settings.processes > 1 and settings.workers, "--processes and --workers: one of them")
    refuse(
        settings.workers and not settings.urls,
        "--workers needs --url: a private node is for this machine alone, where --processes does the same",
    )
    for flag, value in (("--control-url", settings.control_url), ("--token-file", settings.token_file)):
        refuse(value is not None and not settings.workers, f"{flag} without --workers would do nothing")
    url = settings.control_url
    refuse(url is not None and not is_amqp_url(url), f"--control-url {redact(url or '')!r} is no AMQP URL")
    count = max(settings.processes, settings.workers)
    refuse(
        is_several and count > settings.connections,
        f"{count} workers for {settings.connections} connections: some would be idle",
    )
    refuse(
        is_several and settings.body not in FILLINGS,
        f"--body {settings.body!r}: several processes read no file for it",
    )
    for flag, reason in find_limits(settings):
        refuse(is_several, f"{flag} is for one process: {reason}")
    for text in settings.abort_on:
        refuse(
            is_several and not is_counted(parse_abort(text).path),
            f"--abort-on {text!r}: of several processes only counts are known while they are at work: use --require",
        )
    refuse(
        is_several and settings.producers and settings.consumers and settings.size < STAMP_BYTES,
        f"--size {settings.size}: between processes each message carries {STAMP_BYTES} bytes, so no less",
    )
