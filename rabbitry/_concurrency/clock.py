"""What time it is: the one seam for `time.monotonic` and the wall clock, so that a virtual clock can take their place.

What must stay true: whatever of this library waits until a moment or measures how long something took asks here, and
never `time` itself; the two clocks are exchanged together. Who needs the event loop's own time asks
`anyio.current_time`: the loop's clock is the loop's, and a virtual one must be plugged in there, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

__all__ = ["SYSTEM", "Clock", "clock", "monotonic", "utc_now", "wall_time", "with_clock"]


class Clock(NamedTuple):
    """Two functions that tell seconds.

    hot: who asks for each message or pass binds the function when it is made, `self._monotonic = clock().monotonic`:
    calling that costs what `time.monotonic` does (50 ns), calling `monotonic()` 35 ns more.
    """

    monotonic: Callable[[], float]
    """Never goes back; its zero means nothing."""
    wall_time: Callable[[], float]
    """Since 1970, UTC; somebody may set it."""


SYSTEM = Clock(time.monotonic, time.time)

_clock = SYSTEM


def clock() -> Clock:
    """The clock in use now."""
    return _clock


def monotonic() -> float:
    """Seconds that never go back, to be compared with each other only."""
    return _clock.monotonic()


def wall_time() -> float:
    """Seconds since 1970, UTC, to be compared with what other machines say."""
    return _clock.wall_time()


def utc_now() -> datetime:
    """The wall clock's time as a date, in UTC."""
    return datetime.fromtimestamp(_clock.wall_time(), UTC)


@contextmanager
def with_clock(exchanged: Clock) -> Iterator[None]:
    """Tell time by another clock, in this whole process, for whatever is made inside the block."""
    global _clock
    before, _clock = _clock, exchanged
    try:
        yield
    finally:
        _clock = before
