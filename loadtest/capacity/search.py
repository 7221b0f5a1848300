"""The search for the highest rate that can be kept up: what was found at the rates so far, and which to try next.

It begins a little below what a closed loop squeezed out, grows while rates are held, goes to what was done where one
was not, and halves the bracket in between. The rate that failed is tried again, for longer, before it is believed: a
machine's pause looks like a limit, and so does a broker that works faster once some work waits. And what is held is
believed only after a longer step a little below it. The number of steps is bounded, and at most as many as its driver
has time for.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

BELOW_CLOSED = 0.9
"""Where the search begins: with thousands of clients a closed loop is an overload."""
CLOSE = 1.08
"""The ratio of the lowest rate not held to the highest one held at which the bracket is narrow enough."""
MARGIN = 0.93
"""What is verified lies so much below the highest rate held: there a chance pause is caught up with."""
GROWTHS = (1.25, 1.6, 2.0)
"""By what the rate grows while all are held, ever faster: the closed loop may have been held up by its round trips."""
REGROWTH = 1.1
"""By what it grows once a limit has turned out to have been a pause."""
WIDE = 1.15
EXTRA_STEPS = 3
"""A bracket wider than that is narrowed by so many steps more, though the time for them is over."""
MOST_STEPS = 16
LEAST_STEP_DOWN = 0.95
STEEPEST_STEP_DOWN = 0.2
BLIND_STEP_DOWN = 0.9
LATE_STEP_DOWN = 0.9
STEEPEST_AFTER_VERIFYING = 0.8
"""To which part of a rate that was not held the search goes down: to what was done of it, within these bounds."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What to try next: a rate in messages per second."""

    rate: float
    is_verifying: bool = False
    is_long: bool = False
    """Whether it takes the time of two."""


class Search:
    """One search: ask for the next probe, tell what became of it, until there is none."""

    def __init__(self, closed_rate: float) -> None:
        self.sustainable: float | None = None
        """The rate that was verified; None until then, and if none could be kept up."""
        self.held = 0.0
        """The highest rate that was held in a short step."""
        self._next = closed_rate * BELOW_CLOSED
        self._failed: float | None = None
        self._doubted: float | None = None
        self._repeated: float | None = None
        self._has_regrown = False
        self._grown = 0
        self._steps = self._left = 0
        self._probe: Probe | None = None

    def next(self, steps_left: int = MOST_STEPS) -> Probe | None:
        """The next probe; None once all is known or can't be. So many steps, besides this one, are still possible."""
        if self.sustainable is not None or self._steps >= MOST_STEPS or self._next <= 0:
            return None
        self._steps += 1
        left = self._left = min(steps_left, MOST_STEPS - self._steps)
        if self.held and (self._is_late(left) or (self._is_narrow() and not self._has_doubt(left))):
            self._probe = Probe(self.held * MARGIN, is_verifying=True, is_long=True)
        elif left < -EXTRA_STEPS:
            return None
        else:
            rate = self._choose(left)
            self._probe = Probe(rate, is_long=rate == self._failed)
        return self._probe

    def note(self, *, is_held: bool, capacity: float = 1.0, is_doubtful: bool = False) -> None:
        """What became of the latest probe: whether it was held, and else which share of it was done.

        It is doubtful where all stood still for a while: a verification is repeated once then.
        """
        assert self._probe is not None
        rate, probe = self._probe.rate, self._probe
        if probe.is_verifying:
            if is_held:
                self.sustainable = rate
            elif not is_doubtful or self._repeated == rate or self._left < -EXTRA_STEPS:
                self._fail_verification(rate, capacity)
            else:
                self._repeated = rate
        elif is_held:
            self.held = max(self.held, rate)
            if self._failed is not None and rate >= self._failed:  # it had been a pause, and no limit
                self._failed, self._has_regrown = None, True
        elif self._failed is not None and rate >= self._failed:
            self._doubted = self._failed
        else:
            self._failed = rate
            told = capacity if capacity < LEAST_STEP_DOWN else BLIND_STEP_DOWN  # a pause says nothing of the capacity
            self._next = rate * max(STEEPEST_STEP_DOWN, told * 0.97)

    def _fail_verification(self, rate: float, capacity: float) -> None:
        """What was held for a moment can't be kept up: from here it goes down, each time by a step."""
        self._failed = self._doubted = rate
        least = LEAST_STEP_DOWN if self._left > 0 else LATE_STEP_DOWN
        self.held = rate * min(least, max(STEEPEST_AFTER_VERIFYING, capacity)) / MARGIN

    def _is_narrow(self) -> bool:
        return self._failed is not None and self._failed <= self.held * CLOSE

    def _is_late(self, left: int) -> bool:
        """Whether there is no time for anything but the verification."""
        is_wide = self._failed is None or self._failed > self.held * WIDE
        return left <= (-EXTRA_STEPS if is_wide else 0)

    def _has_doubt(self, left: int) -> bool:
        """Whether the rate that failed is to be tried again, if there is time for it and what may follow."""
        return self._failed != self._doubted and left >= 3

    def _choose(self, left: int) -> float:
        if self._failed is None:
            if self.held:
                growth = REGROWTH if self._has_regrown else GROWTHS[min(self._grown, len(GROWTHS) - 1)]
                self._next = self.held * growth
                self._grown += 1
            return self._next
        if not self.held:
            return self._next
        if self._is_narrow() and self._has_doubt(left):
            return self._failed
        if self.held * sqrt(CLOSE) < self._next < self._failed / sqrt(CLOSE):
            return self._next
        return sqrt(self.held * self._failed)
