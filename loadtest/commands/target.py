"""What is about to be loaded: shown before anything is, and asked about where nobody named it.

What must stay true: a variable that was left in the environment never makes a run against another machine by itself.
"""

from __future__ import annotations

import sys

from loadtest.scenarios.settings import Settings
from loadtest.units import format_text
from loadtest.urls import is_loopback, redact


class TargetRefused(Exception):
    """Nobody said that this broker is to be loaded."""


def describe_target(settings: Settings) -> str:
    """The brokers, without passwords."""
    return ", ".join(format_text(redact(url)) for url in settings.all_urls) or "a private RabbitMQ node"


def check_target(settings: Settings) -> None:
    """Raises TargetRefused for a broker beyond this machine that only the environment names, unless whoever sits at the
    terminal agrees.
    """
    if settings.confirmed or all(map(is_loopback, settings.all_urls)):
        return
    what = f"$RABBITMQ_URL names {describe_target(settings)}, which is not known to be this machine"
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()):
        raise TargetRefused(f"{what}: say --yes if it shall be loaded, or name it by --url")
    sys.stderr.write(f"loadtest: {what}. Load it? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise TargetRefused("nothing was done")
