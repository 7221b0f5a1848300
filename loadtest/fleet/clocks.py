"""What is known of another host's monotonic clock, and how well: from round trips, the shortest of which tells most.

An exchange gives four moments. The other clock's lead is known to half of what the round trip took on the way, so the
one with the shortest way bounds the error best, as NTP's filter has it. Moments are nanoseconds; nothing here reads a
clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

EXCHANGES = 50
"""How many round trips are made, before a run and after it."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer: sent and returned here, received and answered there."""

    sent: int
    received: int
    answered: int
    returned: int

    @property
    def on_the_way(self) -> int:
        """What the round trip took without the time spent at the other end."""
        return (self.returned - self.sent) - (self.answered - self.received)


@dataclass(frozen=True, slots=True)
class Offset:
    """By how much another clock is ahead of this one, give or take `bound`; `at` is when that was found, here."""

    offset: int
    bound: int
    at: int

    def there(self, here: int) -> int:
        """The same moment on the other clock."""
        return here + self.offset


def estimate(exchanges: Iterable[Exchange]) -> Offset | None:
    """The offset from the exchange that was shortest on its way; None if there is none that makes sense."""
    sound = [each for each in exchanges if each.on_the_way >= 0 and each.returned >= each.sent]
    if not sound:
        return None
    best = min(sound, key=lambda each: each.on_the_way)
    offset = ((best.received - best.sent) + (best.answered - best.returned)) // 2
    return Offset(offset, -(-best.on_the_way // 2), best.returned)


def are_one(one: Offset, other: Offset) -> bool:
    """Whether two readings may be of the same clock."""
    return abs(one.offset - other.offset) <= one.bound + other.bound


def known_as_equal(offset: Offset) -> Offset:
    """The offset of a worker that says it is on this host: none, if that agrees with what was measured."""
    return Offset(0, 0, offset.at) if abs(offset.offset) <= offset.bound else offset


def widen(before: Offset, after: Offset | None) -> int:
    """The error's bound over a whole run: that of the worse reading, and what the clocks drifted apart in between."""
    if after is None:
        return before.bound
    return max(before.bound, after.bound) + abs(after.offset - before.offset)


def drift_ppm(before: Offset, after: Offset | None) -> float | None:
    """How fast the other clock runs away, in millionths; None if it can't be told from the readings' errors."""
    if after is None or after.at <= before.at:
        return None
    moved, error = after.offset - before.offset, before.bound + after.bound
    return None if abs(moved) <= error else round(moved / (after.at - before.at) * 1e6, 3)
