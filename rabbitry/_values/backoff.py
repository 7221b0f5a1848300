"""How long to wait between attempts to connect, and when to give up.

What must stay true: a back-off keeps no state and reads no clock; who counts the attempts asks it for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from math import inf
from random import Random

from rabbitry._values.arguments import whole
from rabbitry._values.durations import seconds

__all__ = ["Backoff"]

_FACTOR_LIMIT = 32  # doublings; more would overflow nothing, and change nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential back-off with full jitter: before attempt n + 1 a random time from 0 to `initial` × 2ⁿ⁻¹, `maximum`
    at most.

    The randomness keeps ten thousand clients of one broker from coming back in step
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter, "full jitter").
    `attempts` (over all hosts once is one; None: without end) and `deadline` (seconds or timedelta since the
    connection was first missed; None: none) say when to give up. A connection that lasts less than a second was an
    attempt that failed. Durations are seconds or timedelta.
    """

    initial: float | timedelta = 0.5
    maximum: float | timedelta = 30.0
    attempts: int | None = None
    deadline: float | timedelta | None = None

    def __post_init__(self) -> None:
        if not 0 < seconds(self.initial) <= seconds(self.maximum):
            raise ValueError(f"back-off: 0 < initial <= maximum, not {self.initial} and {self.maximum}")
        if self.attempts is not None:
            whole(self.attempts, "back-off: attempts", 1)
        if self.deadline is not None and seconds(self.deadline) <= 0:
            raise ValueError(f"back-off: deadline must be positive, not {self.deadline}")

    def delay(self, failures: int, random: Random) -> float:
        """Seconds to wait after so many failed attempts in a row (at least 1)."""
        longest = seconds(self.initial) * 2.0 ** min(failures - 1, _FACTOR_LIMIT)
        return random.uniform(0, min(seconds(self.maximum), longest))

    def rest(self, elapsed: float) -> float:
        """Seconds left until the deadline."""
        return inf if self.deadline is None else seconds(self.deadline) - elapsed

    def is_exhausted(self, failures: int, elapsed: float) -> bool:
        """Whether to give up after so many failures in so many seconds."""
        if self.attempts is not None and failures >= self.attempts:
            return True
        return self.deadline is not None and elapsed >= seconds(self.deadline)
