"""What is declared again: equal to what there is, or refused with RabbitMQ's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rabbitry.broker.fields import type_name
from rabbitry.protocol.server.refusals import Refusal

__all__ = ["check_equal", "check_equal_arguments"]


def check_equal(resource: str, key: str, current: object, received: object) -> None:
    """Raise the `Refusal` of a property that is another; `resource` is the entity in RabbitMQ's words."""
    if current != received:
        raise Refusal(
            406,
            f"inequivalent arg '{key}' for {resource}: received '{_word(received)}' but current is '{_word(current)}'",
        )


def check_equal_arguments(
    resource: str,
    current: Mapping[str, Any],
    received: Mapping[str, Any],
    keys: Sequence[str],
    *,
    default_queue_type: bool = False,
) -> None:
    """Raise the `Refusal` of the first of these arguments that is another, there or not.

    `default_queue_type`: whether a queue that was declared without a type has one, which a text then names.
    """
    for key in keys:
        if (key in current, current.get(key)) == (key in received, received.get(key)):
            continue
        if key == "x-queue-type":
            default = "classic"
            if current.get(key, default) == received.get(key, default):
                continue
            if default_queue_type:
                check_equal(resource, key, current.get(key, default), received.get(key, default))
        if key in current and key in received:
            check_equal(resource, key, current[key], received[key])
        else:
            raise Refusal(
                406,
                f"inequivalent arg '{key}' for {resource}: received {_value(received, key)} but current is "
                f"{_value(current, key)}",
            )


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(arguments: Mapping[str, Any], key: str) -> str:
    if key not in arguments:
        return "none"
    value = arguments[key]
    return f"the value '{_word(value)}' of type '{type_name(value)}'"
