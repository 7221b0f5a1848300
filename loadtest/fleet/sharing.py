"""Settings as they may be sent: without passwords and without what concerns one end alone; and which brokers they name.

A worker is told a broker's address and finds the way to it, password and all, among those its own command line allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote, urlsplit

from loadtest.fleet.plain import from_plain, packed, to_plain
from loadtest.scenarios.settings import Settings
from loadtest.urls import find_address, redact

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


def allow(settings: Settings, allowed: Sequence[str], *, load: float | None, max_rate: float | None) -> Settings:
    """The same settings with the allowed URLs in place of the addresses. NotAllowed if a broker isn't among them, or
    this worker's `load` (messages and calls a second; None in a closed loop) is more than `max_rate`.
    """
    ways = {target_of(url): url for url in reversed(allowed)}
    names = ", ".join(redact(url) for url in allowed)
    for url in settings.all_urls:
        if target_of(url) not in ways:
            raise NotAllowed(f"it loads {names} and nothing else, not {redact(url)}: allow it by --allow-target")
    if max_rate is not None and load is None:
        raise NotAllowed(f"it sends at most {max_rate:,g} messages/s, and a closed loop has no rate: use --rate")
    if max_rate is not None and load is not None and load > max_rate:
        raise NotAllowed(f"its share is {load:,.1f} messages/s, and it sends at most {max_rate:,g} (--max-rate)")
    if settings.body not in FILLINGS:
        raise NotAllowed("it reads no file for the bodies' content")

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
