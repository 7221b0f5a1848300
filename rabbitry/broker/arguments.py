"""What the arguments of a queue mean: each checked as RabbitMQ checks it, with its texts.

What must stay true: an argument that RabbitMQ acts upon is acted upon here, or refused aloud (540), never passed over.
One that RabbitMQ doesn't know it passes over, and so does this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rabbitry.broker import checks
from rabbitry.broker.compat import Compat
from rabbitry.broker.fields import type_name
from rabbitry.protocol.server.refusals import Refusal

__all__ = ["QueueOptions", "compared_arguments", "not_here", "queue_options", "with_plain_age"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """The arguments of a queue in the broker's terms. Times are in milliseconds; None is no limit, no such thing."""

    kind: str = "classic"
    ttl: int | None = None
    expires: int | None = None
    max_length: int | None = None
    max_bytes: int | None = None
    overflow: str = "drop-head"
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    at_least_once: bool = False
    max_priority: int = 0
    single_active: bool = False
    delivery_limit: int | None = None
    consumer_timeout: int | None = None
    max_age: int | None = None
    segment_bytes: int = 500_000_000


def compared_arguments(kind: str, compat: Compat) -> Sequence[str]:
    """The arguments that must be equal when a queue of this type is declared again, in RabbitMQ's order."""
    names = _COMPARED[kind]
    if not compat.has_queue_modes:
        names = [name for name in names if name != "x-queue-mode"]
    return [*names, *sorted(compat.queue_arguments.get(kind, ()))]


def with_plain_age(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments with the largest age of a stream in milliseconds, as far as it is one."""
    try:
        return {**arguments, "x-max-age": str(checks.age(arguments["x-max-age"], arguments))}
    except (KeyError, checks.Invalid, ValueError):
        return arguments


def not_here(what: str) -> Refusal:
    """The refusal of what RabbitMQ can do and this broker can't."""
    return Refusal(540, f"{what} not implemented by the embedded broker")


def _limit(value: Any, arguments: Mapping[str, Any]) -> int:
    """RabbitMQ takes anything."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise not_here(f"x-delivery-limit of type {type_name(value)} is")
    return value


_Check = Callable[[Any, Mapping[str, Any]], Any]

# Each argument, in RabbitMQ's order: how it is checked, and the field that it becomes; "" where nothing can be seen.
_CHECKS: dict[str, tuple[_Check, str]] = {
    "x-expires": (checks.positive_delay, "expires"),
    "x-message-ttl": (checks.delay, "ttl"),
    "x-dead-letter-exchange": (checks.text, "dead_letter_exchange"),
    "x-dead-letter-routing-key": (checks.dead_letter_key, "dead_letter_routing_key"),
    "x-dead-letter-strategy": (checks.choice("invalid_dlx_strategy", "at-most-once", "at-least-once"), ""),
    "x-max-length": (checks.at_least_zero, "max_length"),
    "x-max-length-bytes": (checks.at_least_zero, "max_bytes"),
    "x-max-in-memory-length": (checks.at_least_zero, ""),
    "x-max-in-memory-bytes": (checks.at_least_zero, ""),
    "x-max-priority": (checks.priority, "max_priority"),
    "x-overflow": (checks.choice("invalid_overflow", "drop-head", "reject-publish", "reject-publish-dlx"), "overflow"),
    "x-queue-mode": (checks.choice("\"unsupported queue mode '{}'\"", "default", "lazy"), ""),
    "x-single-active-consumer": (checks.flag, "single_active"),
    "x-consumer-timeout": (checks.at_least_zero, "consumer_timeout"),
    "x-consumer-disconnected-timeout": (checks.at_least_zero, ""),
    "x-queue-type": (checks.choice("\"unsupported queue type '{}'\"", "classic", "quorum", "stream"), "kind"),
    "x-quorum-initial-group-size": (checks.at_least_one, ""),
    "x-max-age": (checks.age, "max_age"),
    "x-stream-max-segment-size-bytes": (checks.at_least_zero, "segment_bytes"),
    "x-stream-filter-size-bytes": (checks.at_least_zero, ""),
    "x-initial-cluster-size": (checks.at_least_one, ""),
    "x-queue-leader-locator": (
        checks.choice("invalid_queue_locator_arg", "client-local", "balanced", "random", "least-leaders"),
        "",
    ),
    "x-delivery-limit": (_limit, "delivery_limit"),
}

_DEAD_LETTERS = ("x-dead-letter-exchange", "x-dead-letter-routing-key")
_LENGTHS = ("x-max-length", "x-max-length-bytes", "x-overflow")
_COMMON = ("x-expires", "x-message-ttl", *_DEAD_LETTERS, *_LENGTHS, "x-single-active-consumer", "x-queue-type")
_KNOWN: dict[str, frozenset[str]] = {
    "classic": frozenset((*_COMMON, "x-max-priority", "x-queue-mode", "x-queue-version", "x-queue-master-locator")),
    "quorum": frozenset(
        (
            *_COMMON,
            "x-dead-letter-strategy",
            "x-delivery-limit",
            "x-max-in-memory-bytes",
            "x-max-in-memory-length",
            "x-queue-leader-locator",
            "x-quorum-initial-group-size",
        )
    ),
    "stream": frozenset(
        (
            "x-initial-cluster-size",
            "x-max-age",
            "x-max-length-bytes",
            "x-queue-leader-locator",
            "x-queue-type",
            "x-stream-max-segment-size-bytes",
        )
    ),
}

_COMPARED: dict[str, Sequence[str]] = {
    "classic": (
        "x-expires",
        "x-message-ttl",
        *_DEAD_LETTERS,
        "x-max-length",
        "x-max-length-bytes",
        "x-max-priority",
        "x-overflow",
        "x-queue-mode",
        "x-queue-version",
        "x-single-active-consumer",
        "x-queue-type",
        "x-queue-master-locator",
    ),
    "quorum": (
        *_DEAD_LETTERS,
        "x-dead-letter-strategy",
        "x-expires",
        "x-max-length",
        "x-max-length-bytes",
        "x-max-in-memory-length",
        "x-max-in-memory-bytes",
        "x-overflow",
        "x-single-active-consumer",
        "x-queue-type",
        "x-quorum-initial-group-size",
        "x-delivery-limit",
        "x-message-ttl",
        "x-queue-leader-locator",
    ),
    "stream": (
        "x-max-length-bytes",
        "x-queue-type",
        "x-max-age",
        "x-stream-max-segment-size-bytes",
        "x-initial-cluster-size",
        "x-queue-leader-locator",
    ),
}

_NOT_HERE = ("x-delayed-retry-type", "x-delayed-retry-min", "x-delayed-retry-max")

LARGEST_SEGMENT = 3_000_000_000
"""Octets."""


def queue_options(resource: str, arguments: Mapping[str, Any], compat: Compat) -> QueueOptions:
    """The options of a queue to be declared; `resource` is the queue in RabbitMQ's words. Raises `Refusal`."""
    kind = _checked(resource, "x-queue-type", arguments, compat) or "classic"
    known = {each: names | compat.queue_arguments.get(each, frozenset()) for each, names in _KNOWN.items()}
    fields: dict[str, Any] = {}
    for name, (_, field) in _CHECKS.items():
        if name not in arguments or name not in known[kind]:
            continue
        if name == "x-queue-mode" and not compat.has_queue_modes:
            continue
        value = _checked(resource, name, arguments, compat)
        if field:
            fields[field] = value
    if kind == "classic":
        _check_version(resource, arguments, compat)
    foreign = frozenset().union(*known.values()) - known[kind]
    for name in arguments:
        if name in foreign:
            raise Refusal(406, f"invalid arg '{name}' for {resource} of queue type rabbit_{kind}_queue")
    if kind == "stream":
        _check_stream(arguments, compat)
    if compat.consumer_timeout == "queue" and "x-consumer-timeout" in arguments:
        fields["consumer_timeout"] = _checked(resource, "x-consumer-timeout", arguments, compat)
    if compat.consumer_timeout == "quorum":
        for name in _NOT_HERE:
            if name in arguments:
                raise not_here(f"the queue argument {name} is")
    if kind == "quorum":
        if fields.get("overflow") == "reject-publish-dlx":
            fields["overflow"] = "drop-head"  # with a warning in its log, as where the next is passed over
        is_asked = arguments.get("x-dead-letter-strategy") == "at-least-once"
        can_wait = fields.get("overflow") == "reject-publish" and "dead_letter_exchange" in fields
        fields["at_least_once"] = is_asked and can_wait
    return QueueOptions(**fields)


def _checked(resource: str, name: str, arguments: Mapping[str, Any], compat: Compat) -> Any:
    if name not in arguments:
        return None
    try:
        return _CHECKS[name][0](arguments[name], arguments)
    except checks.Invalid as invalid:
        raise Refusal(406, f"invalid arg '{name}' for {resource}: {invalid}") from None
    except ValueError:
        if compat.stumbles_over_ages:
            raise Refusal(541, "", (0, 0)) from None
        raise Refusal(406, f"invalid arg '{name}' for {resource}: invalid_max_age") from None


def _check_version(resource: str, arguments: Mapping[str, Any], compat: Compat) -> None:
    version = arguments.get("x-queue-version", compat.queue_versions[-1])
    if version not in compat.queue_versions:
        text = f"invalid arg 'x-queue-version' for {resource}: \"unsupported queue version '{version}'\""
        raise Refusal(406, text)


def _check_stream(arguments: Mapping[str, Any], compat: Compat) -> None:
    if arguments.get("x-stream-max-segment-size-bytes", 0) > LARGEST_SEGMENT:
        raise Refusal(406, "Exceeded max value for x-stream-max-segment-size-bytes")
    name = "x-stream-filter-size-bytes"
    if name in arguments and compat.has_stream_filters:
        size = arguments[name]
        is_number = isinstance(size, int) and not isinstance(size, bool)
        if not is_number and compat.checks_filter_types:
            raise Refusal(406, f"Invalid type for {name}")
        if not is_number or not 16 <= size <= 255:
            raise Refusal(406, f"Invalid value for {'' if compat.checks_filter_types else ' '}{name}")
