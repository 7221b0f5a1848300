"""Durations: seconds or `timedelta` where users write them, milliseconds where RabbitMQ reads them, and its limit.

What must stay true: the limit is RabbitMQ's own and stands here once; how a duration is rounded to milliseconds is for
each use to say, since a queue must be declared again with the very number that it was declared with.
"""

from __future__ import annotations

from datetime import timedelta
from math import isfinite

__all__ = ["LONGEST_MS", "seconds"]

LONGEST_MS = 2**32 - 1
"""The longest time that RabbitMQ takes in milliseconds, 49 days: of a message's expiration, a queue's message-ttl and
its expires. `rabbit_misc:check_expiry` refuses anything from 2**32 ms on.
"""


def seconds(duration: float | timedelta, name: str = "a duration") -> float:
    """A duration in seconds; `ValueError` for one that is not finite, `TypeError` for no number. `name` is what it was
    given as.
    """
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, bool | str | bytes) or not hasattr(duration, "__float__"):
        raise TypeError(f"{name} is a number of seconds, or a timedelta, not {duration!r}")
    value = float(duration)
    if not isfinite(value):
        raise ValueError(f"{name} must be finite, not {duration}")
    return value
