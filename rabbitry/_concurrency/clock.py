"""What time it is: the one seam for every clock that this library reads, so that virtual time can take their place.

What must stay true: whatever of this library waits until a moment, measures how long something took or says when it was
asks here, and never `time`, an event loop or AnyIO (`tests/project/test_clocks.py` holds that, and names the few rooms
that live in real time). The clocks of one thread are exchanged together: its event loop's, and these two. Other threads
keep theirs: a blocking client beside a test in virtual time goes on as before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from random import Random
from threading import get_ident
from typing import NamedTuple

from anyio import current_time as loop_time

__all__ = [
    "SYSTEM",
    "Chance",
    "Clock",
    "clock",
    "exchange",
    "loop_time",
    "monotonic",
    "utc_now",
    "wall_time",
    "with_clock",
]

# `loop_time` is the running event loop's own clock, by which its cancel scopes and sleeps go: where time is virtual,
# the loop's is. Not to be compared with `monotonic`.


class Clock(NamedTuple):
    """Two functions that tell seconds; and what chance is drawn from, so that nothing differs from run to run where
    time is virtual.

    hot: who asks for each message or pass binds the function when it is made, `self._monotonic = clock().monotonic`:
    calling that costs what `time.monotonic` does (50 ns), calling `monotonic()` 35 ns more.
    """

    monotonic: Callable[[], float]
    """Never goes back; its zero means nothing."""
    wall_time: Callable[[], float]
    """Since 1970, UTC; somebody may set it."""
    random: Random = Random()  # one for all: it keeps 2.5 KB
    """What `Chance` draws from."""
    is_virtual: bool = False
    """Whether it stands still while something runs, and leaps when nothing does."""


SYSTEM = Clock(time.monotonic, time.time)

_clocks: dict[int, Clock] = {}
"""By thread, those that do not go by the system's."""


def clock() -> Clock:
    """The clock of this thread, now."""
    return _clocks.get(get_ident(), SYSTEM) if _clocks else SYSTEM


def monotonic() -> float:
    """Seconds that never go back, to be compared with each other only."""
    return clock().monotonic() if _clocks else time.monotonic()


def wall_time() -> float:
    """Seconds since 1970, UTC, to be compared with what other machines say."""
    return clock().wall_time()


def utc_now() -> datetime:
    """The wall clock's time as a date, in UTC."""
    return datetime.fromtimestamp(clock().wall_time(), UTC)


def exchange(other: Clock | None) -> Clock | None:
    """Have this thread go by another clock, by the system's if None. What it went by before."""
    thread = get_ident()
    before = _clocks.pop(thread, None)
    if other is not None:
        _clocks[thread] = other
    return before


class Chance(Random):
    """For jitter: what is drawn from it is drawn from the clock's, the same in each run where time is virtual."""

    def random(self) -> float:
        return clock().random.random()

    def getrandbits(self, k: int, /) -> int:
        return clock().random.getrandbits(k)


@contextmanager
def with_clock(other: Clock) -> Iterator[None]:
    """Tell time by another clock in this thread, for whatever is made inside the block."""
    before = exchange(other)
    try:
        yield
    finally:
        exchange(before)
