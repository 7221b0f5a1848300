"""What is about to be loaded: shown before anything is, and asked about where nobody named it.

What must stay true: a variable that was left in the environment never makes a run against another machine by itself.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from loadtest.scenarios.brokers import AUTO, EMBEDDED, NOTICE, RABBITMQ, embedded_refusals
from loadtest.scenarios.settings import Settings
from loadtest.units import format_text
from loadtest.urls import is_loopback, redact
from rabbitry.testing import RabbitMQNotFound, find_rabbitmq


class TargetRefused(Exception):
    """Nobody said that this broker is to be loaded, or there is none that can bear it."""


def choose_broker(settings: Settings) -> tuple[Settings, list[str]]:
    """The settings with the kind of broker that will be started, if nobody named a broker, and what to say of it.

    TargetRefused where only the embedded one is there, and it is no use for what was asked for. Whether a RabbitMQ that
    is installed also starts is not looked at: if it doesn't, that is an error, and no reason to take another.
    """
    kind, missing = settings.broker, ""
    if settings.urls:
        return settings, []
    if kind == AUTO:
        kind, missing = find_kind()
        for refusal in embedded_refusals(settings) if kind == EMBEDDED else ():
            raise TargetRefused(f"{refusal}. {missing}")
    chosen = replace(settings, broker=kind, workloads=tuple(replace(each, broker=kind) for each in settings.workloads))
    return chosen, tell_embedded(missing) if kind == EMBEDDED else []


def find_kind() -> tuple[str, str]:
    """The kind of broker that `auto` starts here; and if that is the embedded one, how to get RabbitMQ."""
    try:
        find_rabbitmq()
    except RabbitMQNotFound as error:
        return EMBEDDED, str(error)
    return RABBITMQ, ""


def tell_embedded(missing: str = "") -> list[str]:
    """The lines that say what figures of the embedded broker are worth, and why it was taken."""
    return [f"broker    {NOTICE}", *([f"          {missing}"] if missing else [])]


def describe_target(settings: Settings) -> str:
    """The brokers, without passwords."""
    return ", ".join(format_text(redact(url)) for url in settings.all_urls) or "a broker of our own"


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
