"""Which broker a run may have, by kind, and what the embedded one is no use for. Pure: from values alone.

What must stay true: figures of the embedded broker are nowhere told as RabbitMQ's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loadtest.scenarios.settings import Settings

AUTO, RABBITMQ, EMBEDDED, OTHER = "auto", "rabbitmq", "embedded", "other"
CHOICES = (AUTO, RABBITMQ, EMBEDDED)
"""What can be asked for. `auto` is the broker that was named, then a RabbitMQ installed here, then the embedded one."""

NOT_RABBITMQ = "the figures describe the client and this broker, not RabbitMQ"
NOTICE = f"the embedded broker, in a process of its own: {NOT_RABBITMQ}"
"""What is said wherever its figures are."""

EMBEDDED_PLATFORM = "rabbitry embedded broker"
"""What its server property `platform` begins with: clients take it for RabbitMQ by the other ones."""

NEED_RABBITMQ = {"restart": "all that the embedded broker has is in memory, and would be gone"}
"""Faults that it can't have, and why."""


def kind_of(server_properties: Mapping[str, Any]) -> str:
    """The kind of a broker, by what it says of itself on connecting."""
    if _text(server_properties.get("platform")).startswith(EMBEDDED_PLATFORM):
        return EMBEDDED
    return RABBITMQ if _text(server_properties.get("product")) == "RabbitMQ" else OTHER


def recorded_kind(broker: Mapping[str, Any] | None) -> str | None:
    """The kind of the broker that a result has. Older results don't name it, but what it said; None is not known."""
    if not broker:
        return None
    kind: str | None = broker.get("kind")
    return kind or (kind_of(broker) if broker.get("product") else None)


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def embedded_refusals(settings: Settings) -> Iterator[str]:
    """Why the embedded broker is no use for these settings, by flag; nothing if it is."""
    for fault in settings.faults:
        if fault.action in NEED_RABBITMQ:
            yield f"--fault {str(fault)!r} needs a RabbitMQ: {NEED_RABBITMQ[fault.action]}"
    if settings.management is not None:
        yield "--management: the embedded broker has no management API; its processor time and memory are measured"
