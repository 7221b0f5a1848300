"""Settings as they may be sent: without passwords and without what concerns one end alone; and which brokers they name.

A worker is told a broker's address and finds the way to it, password and all, among those its own command line allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote, urlsplit

from loadtest.fleet.limits import find_limits
from loadtest.fleet.plain import from_plain, packed, to_plain
from loadtest.scenarios.settings import Settings
from loadtest.scenarios.shapes import parse_shape
from loadtest.urls import find_address, redact

MOST_CLIENTS = 1_000_000
"""Clients of a run, at most: a plan of them takes a gigabyte."""
FILLINGS = (None, "zeros", "random", "text")
"""What bodies are made of without reading a file."""


class NotAllowed(Exception):
    """The worker's own command line doesn't allow what the run asks for."""


def share(settings: Settings, urls: Sequence[str]) -> dict[str, Any]:
    """The settings as plain values, for a run against these brokers."""
    arguments = {
        name: redact(value) if isinstance(value, str) else value for name, value in settings.queue_arguments.items()
    }
    shared = replace(
        settings,
        urls=tuple(map(redact, urls)),
        publish_urls=tuple(map(redact, settings.publish_urls)),
        consume_urls=tuple(map(redact, settings.consume_urls)),
        queue_arguments=arguments,
        labels={name: redact(value) for name, value in settings.labels.items()},
        output=None,
        json=None,
        control_url=None,
        token_file=None,
        management=None,
        metrics=None,
        quiet=True,
        confirmed=True,
    )
    plain: dict[str, Any] = to_plain(shared)
    return plain


def read_shared(plain: Mapping[str, Any]) -> Settings:
    """The settings that were shared. ValueError if they are none of this version's."""
    return from_plain(Settings, dict(plain))


def digest_of(plain: Mapping[str, Any]) -> str:
    """What equal settings have in common."""
    return hashlib.sha256(packed(_sorted(plain))).hexdigest()


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value, key=str)}
    return [_sorted(each) for each in value] if isinstance(value, list | tuple) else value


def check_allowed(settings: Settings, allowed: Sequence[str]) -> None:
    """NotAllowed if a broker isn't among those URLs, or the run asks for what a worker doesn't do for others."""
    known = {target_of(url) for url in allowed}
    names = ", ".join(redact(url) for url in allowed)
    for url in settings.all_urls:
        if target_of(url) not in known:
            raise NotAllowed(f"it loads {names} and nothing else, not {redact(url)}: allow it by --allow-target")
    if settings.body not in FILLINGS:
        raise NotAllowed("it reads no file for the bodies' content")
    for flag, reason in find_limits(settings):
        raise NotAllowed(f"{flag}: {reason}")
    if settings.clients + settings.servers > MOST_CLIENTS:
        raise NotAllowed(f"a run of {settings.clients + settings.servers:,} clients, and {MOST_CLIENTS:,} are the most")


def check_rate(settings: Settings, senders: int, most: float | None) -> None:
    """NotAllowed if so many of a run's producers and callers may send more than so many messages and calls a second."""
    if most is None:
        return
    if settings.rate_each is None:
        raise NotAllowed(f"it sends at most {most:,g} messages/s, and a closed loop has no rate: use --rate")
    load = peak_each(settings) * senders
    if load > most:
        raise NotAllowed(f"its share is {load:,.1f} messages/s, and it sends at most {most:,g} (--max-rate)")


def peak_each(settings: Settings) -> float:
    """What each producer sends a second, and each caller calls, at the highest."""
    assert settings.rate_each is not None
    if settings.shape is None:
        return settings.rate_each
    return parse_shape(settings.shape).peak / (settings.producers or settings.callers)


def with_ways(settings: Settings, allowed: Sequence[str]) -> Settings:
    """The same settings with the URLs that lead to their brokers in place of the addresses."""
    ways = {target_of(url): url for url in reversed(allowed)}

    def found(urls: Sequence[str]) -> tuple[str, ...]:
        return tuple(ways[target_of(url)] for url in urls)

    return replace(
        settings,
        urls=found(settings.urls),
        publish_urls=found(settings.publish_urls),
        consume_urls=found(settings.consume_urls),
    )


def target_of(url: str) -> tuple[str, str, int | None, str]:
    """What a URL leads to: whether by TLS, host, port, virtual host."""
    parts = urlsplit(url)
    host, port = find_address(url)
    return parts.scheme, host.lower(), port, unquote(parts.path[1:]) or "/"
