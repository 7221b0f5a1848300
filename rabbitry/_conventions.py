"""What the semantic conventions for messaging (OpenTelemetry, version 1.44) call an operation's attributes, and which
of them its metrics have: the same for each instrumentation that makes metrics.

What must stay true: a metric's attributes have few values. Destinations are exchanges and queues, without routing keys,
which may be too many; of names that the broker makes up there is the template alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from rabbitry._instrumentation import (
    CallOperation,
    Event,
    GetOperation,
    Operation,
    ProcessOperation,
    PublishOperation,
)

__all__ = [
    "DURATION_BUCKETS",
    "Attributes",
    "common",
    "encodable",
    "error_type",
    "of_event",
    "of_operation",
    "server",
    "template",
    "text",
]

Attributes: TypeAlias = dict[str, Any]

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Seconds, as the conventions advise."""

GENERATED = ("amq.gen-", "amq.rabbitmq.reply-to.")
"""How names begin that the broker made up: there are as many as there are queues, or callers."""


# --- of metrics -------------------------------------------------------------------------------------------------------


def of_operation(operation: Operation) -> Attributes:
    """What the metrics have of an operation that has ended; nothing where it is of no kind that is known."""
    match operation:
        case ProcessOperation(queue=queue):
            attributes = _measured("process", "process", queue)
        case GetOperation(queue=queue):
            attributes = _measured("get", "receive", queue)
        case PublishOperation(exchange=exchange) | CallOperation(exchange=exchange):
            attributes = _measured(operation.name, "send", exchange or "amq.default")
        case _:
            return {}
    attributes |= server(operation)
    if operation.error is not None:
        attributes["error.type"] = error_type(operation.error)
    return attributes


def of_event(event: Event, labels: Mapping[str, str]) -> Attributes:
    """What the metrics have of something that is only counted."""
    match event:
        case "consumed":
            return _measured("consume", "receive", labels["queue"])
        case "settled":
            return _measured(labels["how"], "settle", labels["queue"])
        case "reconnected":
            return {"messaging.system": "rabbitmq", "rabbitry.connection": labels["connection"]}


def _measured(operation: str, kind: str, destination: str) -> Attributes:
    """The attributes of a metric, which must not have a series for each name that the broker makes up."""
    made_up = template(destination)
    if made_up is None:
        return encodable(common(operation, kind, destination))
    return common(operation, kind, "") | {"messaging.destination.template": made_up}


# --- of spans, too ----------------------------------------------------------------------------------------------------


def common(operation: str, kind: str, destination: str) -> Attributes:
    """What all spans and metrics have; "" for a destination that is not known, or not told."""
    attributes: Attributes = {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
    }
    if destination:
        attributes["messaging.destination.name"] = destination
    return attributes


def template(queue: str) -> str | None:
    """What stands for all names like this one, if the broker made it up."""
    return next((f"{prefix}*" for prefix in GENERATED if queue.startswith(prefix)), None)


def server(operation: Operation) -> Attributes:
    """The broker where the operation takes place, as far as that is known."""
    if not operation.host:
        return {}
    return {"server.address": operation.host} | ({"server.port": operation.port} if operation.port else {})


def error_type(error: BaseException) -> str:
    """The class of the error, by its full name; without its module for one of Python's own."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def encodable(attributes: Attributes) -> Attributes:
    """The attributes, with `text` for each that is a text."""
    return {name: text(value) if isinstance(value, str) else value for name, value in attributes.items()}


def text(value: str) -> str:
    """The text without lone surrogates, which stand for a peer's octets that are not UTF-8: an exporter would fail at
    them, and lose what else it has with it.
    """
    return value if value.isascii() else value.encode("utf-8", "replace").decode()
