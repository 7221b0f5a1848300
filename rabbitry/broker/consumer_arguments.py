"""What the arguments of a consumer mean, each checked as RabbitMQ checks it, with its texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from rabbitry.broker import checks
from rabbitry.broker.compat import Compat
from rabbitry.broker.fields import type_name
from rabbitry.protocol.server.refusals import Refusal, term

__all__ = ["ConsumerOptions", "Offset", "consumer_options"]

Offset: TypeAlias = Literal["first", "last", "next"] | int | datetime | timedelta
"""Where a consumer of a stream begins: a number is an offset, a `timedelta` so long ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """The arguments of a consumer. `timeout` is in milliseconds; `filters` are None where all messages match."""

    priority: int = 0
    timeout: int | None = None
    offset: Offset = "next"
    filters: frozenset[str] | None = None
    matches_unfiltered: bool = False


_PLAIN = ConsumerOptions()

_KNOWN = {
    "classic": frozenset(("x-priority",)),
    "quorum": frozenset(("x-priority",)),
    "stream": frozenset(("x-stream-offset",)),
}


def consumer_options(resource: str, kind: str, arguments: Mapping[str, Any], compat: Compat) -> ConsumerOptions:
    """The options of a consumer of such a queue; `resource` is the queue in RabbitMQ's words. Raises `Refusal`."""
    if not arguments:
        return _PLAIN
    known = {each: names | compat.consumer_arguments.get(each, frozenset()) for each, names in _KNOWN.items()}
    fields: dict[str, Any] = {}
    for name, field in (("x-priority", "priority"), ("x-consumer-timeout", "timeout"), ("x-stream-offset", "offset")):
        if name in arguments and name in known[kind]:
            try:
                fields[field] = _CHECKS[name](arguments[name], arguments)
            except checks.Invalid as invalid:
                raise Refusal(406, f"invalid arg '{name}' for {resource}: {invalid}") from None
            except ValueError:
                if compat.stumbles_over_ages:
                    raise Refusal(541, "", (0, 0)) from None
                raise Refusal(406, f"invalid arg '{name}' for {resource}: {_no_offset(arguments[name])}") from None
    foreign = frozenset().union(*known.values()) - known[kind]
    for name in arguments:
        if name in foreign:
            raise Refusal(406, f"invalid arg '{name}' for {resource} of queue type rabbit_{kind}_queue")
    filters = arguments.get("x-stream-filter")
    if "x-stream-filter" in known[kind] and isinstance(filters, (str, list, tuple)):
        listed = [filters] if isinstance(filters, str) else [each for each in filters if isinstance(each, str)]
        fields["filters"] = frozenset(listed)
        fields["matches_unfiltered"] = arguments.get("x-stream-match-unfiltered") is True
    return ConsumerOptions(**fields)


def _offset(value: Any, arguments: Mapping[str, Any]) -> Offset:
    if isinstance(value, str):
        if value in ("first", "last", "next"):
            return value  # type: ignore[return-value]
        try:
            return timedelta(milliseconds=checks.age(value, arguments))
        except checks.Invalid:
            raise checks.Invalid(_no_offset(value)) from None
    if isinstance(value, datetime) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise checks.Invalid(f"{{invalid_stream_offset_arg,{type_name(value)}}}")


def _no_offset(value: object) -> str:
    return f"{{invalid_stream_offset_arg,{{longstr,{term(str(value).encode())}}}}}"


_CHECKS = {"x-priority": checks.integer, "x-consumer-timeout": checks.at_least_zero, "x-stream-offset": _offset}
