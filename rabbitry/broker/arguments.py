"""What the arguments of a queue and of a consumer mean: each checked as RabbitMQ checks it, with its texts.

What must stay true: an argument that RabbitMQ acts upon is acted upon here, or refused aloud (540), never passed over.
One that RabbitMQ doesn't know it passes over, and so does this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rabbitry.broker.fields import type_name
from rabbitry.broker.messages import LONGEST_DELAY
from rabbitry.protocol.server.refusals import Refusal

__all__ = ["QUEUE_ARGUMENTS", "QueueOptions", "check_consumer_arguments", "not_here", "queue_options"]


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
    max_priority: int = 0
    single_active: bool = False
    delivery_limit: int | None = None


def not_here(what: str) -> Refusal:
    """The refusal of what RabbitMQ can do and this broker can't."""
    return Refusal(540, f"{what} not implemented by the embedded broker")


class _Invalid(Exception):
    """Why an argument is none, as an Erlang term."""


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Invalid(f'"expected integer, got {type_name(value)}"')
    return value


def _at_least_zero(value: Any, arguments: Mapping[str, Any]) -> int:
    number = _integer(value)
    if number < 0:
        raise _Invalid(f"{{value_negative,{number}}}")
    return number


def _delay(value: Any, arguments: Mapping[str, Any]) -> int:
    number = _at_least_zero(value, arguments)
    if number > LONGEST_DELAY:
        raise _Invalid(f"{{value_too_large,{number}}}")
    return number


def _positive_delay(value: Any, arguments: Mapping[str, Any]) -> int:
    number = _integer(value)
    if number == 0:
        raise _Invalid("{value_zero,0}")
    return _delay(number, arguments)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Invalid(f"{{unacceptable_type,{type_name(value)}}}")
    return value


def _exchange(value: Any, arguments: Mapping[str, Any]) -> str:
    return _text(value)


def _routing_key(value: Any, arguments: Mapping[str, Any]) -> str:
    key = _text(value)
    if "x-dead-letter-exchange" not in arguments:
        raise _Invalid("routing_key_but_no_dlx_defined")
    return key


def _priority(value: Any, arguments: Mapping[str, Any]) -> int:
    number = _at_least_zero(value, arguments)
    if number > 255:
        raise _Invalid(f"{{max_value_exceeded,{number}}}")
    return number


def _overflow(value: Any, arguments: Mapping[str, Any]) -> str:
    if _text(value) not in ("drop-head", "reject-publish", "reject-publish-dlx"):
        raise _Invalid("invalid_overflow")
    return str(value)


def _mode(value: Any, arguments: Mapping[str, Any]) -> str:
    if _text(value) not in ("default", "lazy"):
        raise _Invalid("invalid_queue_mode")
    return str(value)


def _kind(value: Any, arguments: Mapping[str, Any]) -> str:
    if _text(value) not in ("classic", "quorum", "stream"):
        raise _Invalid(f"\"unsupported queue type '{value}'\"")
    return str(value)


def _limit(value: Any, arguments: Mapping[str, Any]) -> int:
    """RabbitMQ takes anything."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise not_here(f"x-delivery-limit of type {type_name(value)} is")
    return value


def _flag(value: Any, arguments: Mapping[str, Any]) -> bool:
    if not isinstance(value, bool):
        raise _Invalid(f"{{unacceptable_type,{type_name(value)}}}")
    return value


_Check = Callable[[Any, Mapping[str, Any]], Any]

# Each argument: how it is checked, and the field that it becomes; "" where nothing can be seen of it.
_CHECKS: dict[str, tuple[_Check, str]] = {
    "x-expires": (_positive_delay, "expires"),
    "x-message-ttl": (_delay, "ttl"),
    "x-dead-letter-exchange": (_exchange, "dead_letter_exchange"),
    "x-dead-letter-routing-key": (_routing_key, "dead_letter_routing_key"),
    "x-max-length": (_at_least_zero, "max_length"),
    "x-max-length-bytes": (_at_least_zero, "max_bytes"),
    "x-max-priority": (_priority, "max_priority"),
    "x-overflow": (_overflow, "overflow"),
    "x-queue-mode": (_mode, ""),
    "x-single-active-consumer": (_flag, "single_active"),
    "x-queue-type": (_kind, "kind"),
    "x-delivery-limit": (_limit, "delivery_limit"),
}
QUEUE_ARGUMENTS = tuple(_CHECKS)
"""The arguments that must be equal when a queue is declared again, in RabbitMQ's order."""

_CLASSIC_ONLY = ("x-max-priority", "x-queue-mode")
_QUORUM_ONLY = ("x-delivery-limit",)

_NOT_HERE = (
    "x-dead-letter-strategy",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-stream-filter-size-bytes",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-consumer-timeout",
    "x-consumer-disconnected-timeout",
    "x-delayed-retry-type",
    "x-delayed-retry-min",
    "x-delayed-retry-max",
)


def queue_options(resource: str, arguments: Mapping[str, Any], versions: Sequence[int]) -> QueueOptions:
    """The options of a queue to be declared; `resource` is the queue in RabbitMQ's words, `versions` are those that
    classic queues can have. Raises `Refusal`."""
    fields: dict[str, Any] = {}
    for name, (check, field) in _CHECKS.items():
        if name in arguments:
            try:
                value = check(arguments[name], arguments)
            except _Invalid as invalid:
                raise Refusal(406, f"invalid arg '{name}' for {resource}: {invalid}") from None
            if field:
                fields[field] = value
    version = arguments.get("x-queue-version", versions[-1])
    if version not in versions:
        text = f"invalid arg 'x-queue-version' for {resource}: \"unsupported queue version '{version}'\""
        raise Refusal(406, text)
    kind = fields.get("kind", "classic")
    if kind == "stream":
        raise not_here("streams are")
    foreign = _QUORUM_ONLY if kind == "classic" else _CLASSIC_ONLY
    for name in foreign:
        if name in arguments:
            raise Refusal(406, f"invalid arg '{name}' for {resource} of queue type rabbit_{kind}_queue")
    for name in _NOT_HERE:
        if name in arguments:
            raise not_here(f"the queue argument {name} is")
    options = QueueOptions(**fields)
    if kind == "quorum" and options.overflow != "drop-head":
        raise not_here(f"x-overflow={options.overflow} of quorum queues is")
    return options


def check_consumer_arguments(resource: str, arguments: Mapping[str, Any]) -> int:
    """A consumer's priority, from its arguments. Raises `Refusal`."""
    for name in arguments:
        if name in ("x-stream-offset", "x-stream-filter", "x-stream-match-unfiltered", "x-consumer-timeout"):
            raise not_here(f"the consumer argument {name} is")
    try:
        return _integer(arguments.get("x-priority", 0))
    except _Invalid as invalid:
        raise Refusal(406, f"invalid arg 'x-priority' for {resource}: {invalid}") from None
