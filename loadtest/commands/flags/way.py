"""With which library, on which event loop."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

from loadtest.commands.parsing import number
from loadtest.drivers import BACKENDS, LIBRARIES
from loadtest.scenarios.completing import Asked, refuse
from loadtest.scenarios.settings import Settings
from loadtest.urls import is_encrypted, redact


def add_way(parser: argparse.ArgumentParser) -> None:
    """Adds the group's flags."""
    add = parser.add_argument_group("how").add_argument
    add("--backend", choices=BACKENDS, default=Asked.backend, help="(default %(default)s)")
    add("--driver", choices=tuple(LIBRARIES), default=Asked.driver, help="the client library (default %(default)s)")
    text = "connections being opened, or closed, at a time (default %(default)s)"
    add("--handshakes", **number(), default=Asked.handshakes, help=text)
    add("--seed", **number(least=0), help="of everything random (default: a new one, in the result)")


def check_driver(settings: Settings) -> None:
    """Refuses what the client library can't do."""
    name, backend, library = settings.driver, settings.backend, LIBRARIES[settings.driver]
    others = _either(other for other, each in LIBRARIES.items() if backend in each.backends)
    refuse(
        backend not in library.backends,
        f"{name} runs on {_either(library.backends)} only: use --backend {library.backends[0]}, or --driver {others} "
        f"for {backend}",
    )
    others = _either(other for other, each in LIBRARIES.items() if each.has_tls)
    for url in filter(is_encrypted, settings.all_urls):
        refuse(
            not library.has_tls,
            f"{redact(url)!r}: TLS is for --driver {others}, as other libraries take other options for it",
        )
    for ability, flag in _needed(settings):
        others = _either(other for other, each in LIBRARIES.items() if ability in each.can)
        refuse(ability not in library.can, f"--driver {name} can't do {flag}: use --driver {others}")


def _needed(settings: Settings) -> Iterator[tuple[str, str]]:
    """What the driver must be able to do, by its name in the table of drivers, and the flag that asks for it."""
    asked = {
        ("window", "--window"): settings.window > 1,
        ("ack-every", "--ack-every"): settings.ack_every > 1,
        ("stream", "--queue-type stream"): settings.is_stream,
        ("rpc", "--callers"): settings.callers,
        ("no-confirm", "--no-confirm"): settings.no_confirm,
        ("exchange", "--exchange"): settings.exchange is not None,
        ("exchange", "--fanout"): settings.fanout,
        ("exchange", "--topic"): settings.topic,
        ("priorities", "--priorities"): settings.priorities,
        ("headers", "--header"): settings.headers,
        ("auto-ack", "--auto-ack"): settings.auto_ack,
        ("work", "--work"): settings.work is not None,
        ("requeue", "--requeue"): settings.requeue,
        ("reject", "--reject"): settings.reject,
    }
    return (needed for needed, is_asked in asked.items() if is_asked)


def _either(names: Iterable[str]) -> str:
    return " or ".join(names)
