"""Faults at random, which a seed repeats: what happens and when is drawn beforehand, not from what the links do.

What must stay true: at most one lasting fault is on at a time, and when the schedule ends, in whatever way, none is.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

import anyio

from rabbitry._concurrency.clock import loop_time
from rabbitry.testing.faults.proxy import Proxy

MOMENTARY = ("cut", "reset", "half_close")
LASTING = ("stall", "refuse", "delay", "split", "throttle")
FAULTS = (*MOMENTARY, *LASTING)

RECORDS = 10_000  # the latest that a schedule keeps

CoroutineFunction = Callable[[], Awaitable[object]]

logger: logging.Logger = logging.getLogger("rabbitry.testing")


@dataclass(frozen=True, slots=True)
class Fault:
    """What a schedule did: which fault, how many seconds after its beginning, and for how many seconds (0: at once)."""

    name: str
    at: float
    lasting: float


class Schedule:
    """`tg.start_soon(Schedule(proxy, seed=7).run)` - a fault about `every` seconds, until `duration` is over.

    seed:     the same one gives the same faults at the same times, with the same other arguments.
    every:    seconds between the beginnings of two faults, on average: from half to one and a half of it. A lasting
              fault lasts up to half of it, and is undone before the next begins.
    faults:   of FAULTS, or coroutine functions without arguments, such as `node.arestart`; all as likely.
    share:    the probability with which a cut, reset, half_close or stall meets each of the links there are.
    duration: seconds; for ever unless given.

    `applied` are the latest 10,000 faults, the oldest first; the logger `rabbitry.testing` tells each at level INFO.
    Raises ValueError for a fault it does not know, or none.
    """

    def __init__(
        self,
        proxy: Proxy,
        *,
        seed: int,
        every: float = 5.0,
        faults: Sequence[str | CoroutineFunction] = FAULTS,
        share: float = 1.0,
        duration: float = math.inf,
    ) -> None:
        unknown = [fault for fault in faults if isinstance(fault, str) and fault not in FAULTS]
        if unknown or not faults:
            raise ValueError(f"faults are some of {', '.join(FAULTS)} and coroutine functions, not {unknown}")
        if not (every > 0 and 0 <= share <= 1):
            raise ValueError("every is above 0 and share from 0 to 1")
        self.seed = seed
        self.applied: deque[Fault] = deque(maxlen=RECORDS)
        self._proxy = proxy
        self._every = every
        self._faults = tuple(faults)
        self._share = share
        self._duration = duration

    async def run(self) -> None:
        """Apply faults until `duration` is over. A coroutine function that takes longer than until the next fault is
        due delays that one; what it raises ends the schedule. Cancelling ends it as well; either way the lasting fault
        of that moment is undone."""
        started = loop_time()
        for at, fault, lasting, dice in self._plan():
            await anyio.sleep_until(started + at)
            name = fault if isinstance(fault, str) else getattr(fault, "__name__", repr(fault))
            applied = Fault(name, loop_time() - started, lasting if fault in LASTING else 0.0)
            self.applied.append(applied)
            logger.info("%s", applied)
            if not isinstance(fault, str):
                await fault()
            elif fault in MOMENTARY:
                self._strike(fault, dice)
            else:
                with self._on(fault, dice):
                    await anyio.sleep(lasting)
        if self._duration < math.inf:
            await anyio.sleep_until(started + self._duration)

    def _plan(self) -> Iterator[tuple[float, str | CoroutineFunction, float, Random]]:
        """When each fault begins, in seconds; which it is; how long it lasts if it is a lasting one; its own dice."""
        random, at = Random(self.seed), 0.0
        while (at := at + self._every * random.uniform(0.5, 1.5)) < self._duration:
            # The same draws for every fault, whatever it makes of them.
            dice = Random(random.getrandbits(64))
            yield at, random.choice(self._faults), self._every * random.uniform(0.05, 0.5), dice

    def _strike(self, fault: str, dice: Random) -> None:
        for link in self._proxy.links:
            if dice.random() < self._share:
                getattr(link, fault)()

    @contextmanager
    def _on(self, fault: str, dice: Random) -> Iterator[None]:
        proxy = self._proxy
        before = proxy.delay, proxy.split, proxy.throttle
        match fault:
            case "stall" if self._share < 1:
                self._strike(fault, dice)
            case "stall":
                proxy.stall()  # new links, too
            case "refuse":
                proxy.refuse()
            case "delay":
                proxy.delay = dice.uniform(0.005, 0.2)
            case "split":
                proxy.split = dice.choice((1, 2, 7, 64))
            case "throttle":
                proxy.throttle = dice.choice((1_000, 10_000, 100_000))
        try:
            yield
        finally:
            proxy.delay, proxy.split, proxy.throttle = before
            if fault == "stall":
                proxy.resume()
            elif fault == "refuse":
                proxy.accept()
