"""The words that arguments and states of the operations are made of, and the defaults that several signatures state.

What must stay true: the async and the blocking side say the same of the same option, because both say it from here.
What refers to a class that does something (a `Delivery`, a `Service`) stands with that class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from datetime import datetime, timedelta
from inspect import iscoroutinefunction
from typing import Any, Literal, TypeAlias, TypedDict

from rabbitry._values.arguments import whole
from rabbitry._values.topology import Exchange

__all__ = [
    "CLOCK_SKEW",
    "DEFAULT_DRAIN",
    "DEFAULT_MAX_MESSAGE_SIZE",
    "ConsumeOptions",
    "Loss",
    "Offset",
    "OnUnknown",
    "Outcome",
    "ReplyTo",
    "ReplyToAllowed",
    "State",
    "Verdict",
    "WhileDown",
    "check_concurrency",
    "check_on_outcome",
    "check_options",
    "check_window",
    "checked_prefetch",
    "default_prefetch",
]


def check_options(given: Mapping[str, Any], known: type, function: str) -> None:
    """Refuse keyword arguments that `known`, a `TypedDict`, does not list, as Python does where they are written out: a
    misspelt one would be taken for one not given.
    """
    for name in given:
        if name not in known.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


# --- connections and clients ------------------------------------------------------------------------------------------

DEFAULT_MAX_MESSAGE_SIZE = 134217728
"""Bytes, 128 MiB: RabbitMQ's own default of max_message_size up to 3.13 (4.0 lowered it to 16 MiB)."""

DEFAULT_DRAIN = 5.0
"""Seconds that whoever leaves a client's block gives the handlers and publishers of other tasks to finish."""

State: TypeAlias = Literal["idle", "connecting", "connected", "recovering", "closed"]
"""Of a connection that a client keeps."""

WhileDown: TypeAlias = Literal["wait", "fail"]
"""What publishing and calling do while there is no connection."""

# --- publishing -------------------------------------------------------------------------------------------------------

OnUnknown: TypeAlias = Literal["raise", "republish"]
"""What becomes of a publish whose connection was lost before the broker confirmed it."""

Outcome: TypeAlias = Literal["pending", "confirmed", "nacked", "unroutable", "refused", "unknown", "unsent"]
"""What became of a publish."""

Loss: TypeAlias = Literal["refused", "unknown", "unsent"]
"""What the end of a channel makes of a publish that was not confirmed."""


def check_window(window: int) -> None:
    """Refuse a publisher's window in which nothing fits."""
    whole(window, "window", 1)


def check_on_outcome(on_outcome: object) -> None:
    """Refuse what can't be called with a publisher's outcomes."""
    if on_outcome is None:
        return
    if not callable(on_outcome):
        raise TypeError(f"on_outcome is a function of a confirmation, not {on_outcome!r:.200}")
    if iscoroutinefunction(on_outcome) or iscoroutinefunction(type(on_outcome).__call__):
        raise TypeError(
            f"on_outcome is called while reading, where nothing can be awaited: {on_outcome!r:.200} is async"
        )


# --- consuming --------------------------------------------------------------------------------------------------------

MOST_PREFETCH = 65535
"""What basic.qos can say."""


def checked_prefetch(prefetch: int) -> int:
    """Refuse what basic.qos can't say; 0 is unlimited."""
    return whole(prefetch, "prefetch (0 is unlimited)", 0, MOST_PREFETCH)


def check_concurrency(concurrency: int) -> None:
    """Refuse to have nobody work."""
    whole(concurrency, "concurrency", 1)


def default_prefetch(concurrency: int) -> int:
    """What `process` and `serve` begin with: what is at work, and as much again, so that nobody waits for a round trip
    whose work takes longer than one. More would be kept from other workers.
    """
    check_concurrency(concurrency)
    return min(2 * concurrency, MOST_PREFETCH)


Verdict: TypeAlias = Literal["requeue", "reject", "raise"]
"""What becomes of a delivery whose handler failed."""

Offset: TypeAlias = Literal["first", "last", "next"] | int | datetime | timedelta
"""Where in a stream to begin."""


class ConsumeOptions(TypedDict, total=False):
    """The arguments of `client.consume` that `client.process` takes, too."""

    no_ack: bool
    exclusive: bool
    priority: int | None
    consumer_tag: str | None
    arguments: Mapping[str, Any] | None
    offset: Offset | None
    filter: str | Sequence[str] | Set[str] | None
    match_unfiltered: bool


# --- RPC --------------------------------------------------------------------------------------------------------------

ReplyTo: TypeAlias = Literal["direct", "exclusive"] | Exchange
"""Where a caller's replies go."""

ReplyToAllowed: TypeAlias = Literal["any", "generated"] | Callable[[str], bool]
"""Which queues a server replies to, beside the addresses of direct reply-to: any, those whose name the broker has
chosen, or those whose name a function says True of.
"""

CLOCK_SKEW = 0.5
"""Seconds that the clocks of callers and servers are taken to be apart at most, unless `serve` is told otherwise."""
