"""`Retry`: when `process` is to try a failed message again, and where it goes in the end; and the headers that tell.

What must stay true: a retry is a value, and reads no clock; the headers are this library's own, few, and mean the same
to every client that ever reads them, as messages wait for days.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from rabbitry._values.arguments import check_name, whole
from rabbitry._values.durations import seconds
from rabbitry._values.topology import Queue, name_of

__all__ = [
    "ATTEMPT",
    "ATTEMPTS",
    "ERROR",
    "EXCHANGE",
    "FROM",
    "LONGEST_DELAY",
    "ROUTING_KEY",
    "TO",
    "USER_ID",
    "Retry",
    "attempt_told",
    "checked_delay",
    "to_exchange",
    "to_queue",
    "without_traces",
]

TO = "x-rabbitry-to"
"""Where a message goes when its delay is over: see `to_queue` and `to_exchange`."""
EXCHANGE = "x-rabbitry-exchange"
"""The exchange that a message was first published to, as the delivery names the one that it came by."""
ATTEMPT = "x-rabbitry-attempt"
"""Which attempt the next one is, of the queue that `TO` names: 2 after the first failure."""
USER_ID = "x-rabbitry-user-id"
"""The user_id of a message that this client's user published again, which the broker would refuse as that property."""
ATTEMPTS, FROM, ROUTING_KEY, ERROR = (
    "x-rabbitry-attempts",
    "x-rabbitry-from",
    "x-rabbitry-routing-key",
    "x-rabbitry-error",
)
"""Of a message in the dead queue: how often it was tried, from which queue, its routing key, the last error's class."""

_OURS = frozenset({TO, EXCHANGE, ATTEMPT, USER_ID, ATTEMPTS, FROM, ROUTING_KEY, ERROR})

_BROKERS = frozenset(
    {
        "x-death",
        *(f"x-{which}-death-{what}" for which in ("first", "last") for what in ("exchange", "queue", "reason")),
        *("x-delivery-count", "x-acquired-count", "x-stream-offset"),
    }
)
"""What the broker notes of a message's way. RabbitMQ 3 reads x-death in what is published: the way from a delay to a
queue in which the message has expired before would be a cycle to it, on which it keeps the message back for ever.
"""

LONGEST_DELAY = 4_200_000.0
"""Seconds, 48 days: what a queue's time to live allows."""


def to_queue(name: str) -> str:
    """What `TO` says where a message goes to this queue, whatever its routing key."""
    return f"queue:{name}"


def to_exchange(name: str) -> str:
    """What `TO` says where a message goes to this exchange, to be routed there as if it was published then."""
    return f"exchange:{name}"


def without_traces(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """The headers of a message that is published again, without what tells of its former way."""
    return {name: value for name, value in (headers or {}).items() if name not in _OURS and name not in _BROKERS}


def attempt_told(headers: Mapping[str, Any], queue: str | None) -> int:
    """Which attempt this is, from 1, of a delivery with these headers. What another queue's retries have counted counts
    as nothing in this one; None is a queue that is not known.
    """
    attempt = headers.get(ATTEMPT)
    if isinstance(attempt, bool) or not isinstance(attempt, int) or attempt < 1:
        return 1
    return int(attempt) if queue is None or headers.get(TO) == to_queue(queue) else 1


def checked_delay(delay: float | timedelta, name: str = "delay") -> float:
    """The delay in seconds. `TypeError` for no duration, `ValueError` for one that is negative or over 48 days."""
    value = seconds(delay, name)
    if not 0 <= value <= LONGEST_DELAY:
        raise ValueError(f"{name} must be 0 to {LONGEST_DELAY:,.0f} seconds (48 days), not {delay}")
    return value


@dataclass(frozen=True, slots=True)
class Retry:
    """When `client.process` tries a message again on which its handler failed, and where it goes in the end.

    `delays` (seconds or timedelta, 0 to 48 days each) are the waits before the second attempt, the third, and so on:
    three delays make four attempts. `dead` gets a message once all have failed: the name of a queue, which must exist
    when the processing begins, or a `Queue`, which is declared then; None (the default) rejects it, so that the queue's
    own dead-letter exchange has it, or, where there is none, nobody. What fails with one of the exception classes in
    `give_up_on` is not tried again, and neither is a body that `convert` can't make what the handler takes, nor a
    message whose headers fill a frame, so that those of a retry have no room.

    A message that kills its worker is not failed to anybody: what bounds that is the queue's own `delivery_limit` and
    dead-letter exchange, without which RabbitMQ 4 drops it from a quorum queue after 20 times.

    Raises `TypeError` and `ValueError` for what is none of these.
    """

    delays: Sequence[float | timedelta]
    dead: str | Queue | None = field(default=None, kw_only=True)
    give_up_on: tuple[type[Exception], ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.delays, str | bytes) or not isinstance(self.delays, Iterable):
            raise TypeError(f"delays are several, such as [1, 5, 30], not {self.delays!r}")
        delays = tuple(checked_delay(delay, "each of the delays") for delay in self.delays)
        object.__setattr__(self, "delays", delays)
        if isinstance(self.dead, Queue):
            if self.dead.is_temporary:
                raise ValueError("dead is a queue that stays: a temporary one goes with its connection")
        elif self.dead is not None:
            check_name("dead, the name of a queue,", self.dead)
            if not self.dead:
                raise ValueError("dead is the name of a queue, or None, not ''")
        if isinstance(self.give_up_on, type):
            object.__setattr__(self, "give_up_on", (self.give_up_on,))
        if not isinstance(self.give_up_on, tuple) or not all(
            isinstance(each, type) and issubclass(each, Exception) for each in self.give_up_on
        ):
            raise TypeError(f"give_up_on is a tuple of exception classes, not {self.give_up_on!r:.200}")

    @classmethod
    def exponential(
        cls,
        *,
        first: float | timedelta = 1.0,
        factor: float = 2.0,
        longest: float | timedelta = 600.0,
        attempts: int = 8,
        dead: str | Queue | None = None,
        give_up_on: tuple[type[Exception], ...] = (),
    ) -> Retry:
        """Delays that grow from `first` by `factor` (at least 1) each, up to `longest`, for so many `attempts` in all
        (at least 1).
        """
        whole(attempts, "attempts", 1)
        begin, most = checked_delay(first, "first"), checked_delay(longest, "longest")
        if not seconds(factor, "factor") >= 1:
            raise ValueError(f"factor must be at least 1, not {factor}")
        delays: list[float] = []
        delay = begin
        for _ in range(attempts - 1):
            delay = min(delay, most)
            delays.append(delay)
            delay *= factor
        return cls(delays, dead=dead, give_up_on=give_up_on)

    @property
    def dead_name(self) -> str | None:
        """The name of the dead queue; None where there is none."""
        return None if self.dead is None else name_of(self.dead, Queue)
