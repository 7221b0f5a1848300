"""A broker elsewhere, watched through its management API while the run is measured: what it used, held and counted.

It asks in a thread, every other second: nobody who is timed waits for the answer. A broker tells its counters as of
its latest sample, and may sample more rarely than a run lasts: then they stand still, and that is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from time import monotonic
from typing import Any, NamedTuple

import anyio
import anyio.to_thread

from loadtest.execution.state import Run
from loadtest.machine.management import Management, ManagementFailed, Reading

INTERVAL = 2.0
"""Seconds between two questions."""
ANEW = "the broker, or a node of it, began to count anew meanwhile: what it had counted until then lacks in part"


class Seen(NamedTuple):
    """When it was read, what the broker said, and what this program had counted by then."""

    now: float
    reading: Reading
    own: dict[str, int]


_OURS = {"published": "sent", "confirmed": "confirmed", "delivered": "received"}
"""What this program counts of the same, by the names of the tally."""


async def watch_broker(runs: Sequence[Run], management: Management) -> None:
    """Watches from the beginning of the measured window to its end, and enters what it saw into the first run's record.

    What goes wrong is entered, too: a run is not lost over it. Cancelled, it leaves what was seen so far.
    """
    record = runs[0].record
    await runs[0].measuring.wait()
    watch, failed = Watch(management.name), 0
    while True:
        own = {name: sum(getattr(run.record.tally, of) for run in runs) for name, of in _OURS.items()}
        error = None
        try:
            reading = await anyio.to_thread.run_sync(management.read, abandon_on_cancel=True)
            watch.add(monotonic(), reading, own)
        except ManagementFailed as failure:  # a broker under load, or one that restarts, may answer the next time
            error, failed = str(failure), failed + 1
        record.management = {**watch.describe(), "failed_readings": failed, "error": error}
        if record.phases[-1].name != "measure":
            return
        await anyio.sleep(INTERVAL)


class Watch:
    """What a broker's readings say together. Of all of them little is kept: a run may last for days."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._readings = 0
        self._peak = 0
        self._first: Seen | None = None
        self._last: Seen | None = None
        self._counted: Counter[str] = Counter()
        self._cpu = 0.0
        self._cpu_before: float | None = None
        self._began_anew = False

    def add(self, now: float, reading: Reading, own: dict[str, int]) -> None:
        """What the broker said at that moment, and what this program had counted by then."""
        if self._last is not None:
            before = self._last.reading
            for name, number in reading.counters.items():
                self._grow(number - before.counters[name], name)
        if reading.cpu_seconds is not None:
            before_that = reading.cpu_seconds if self._cpu_before is None else self._cpu_before
            self._cpu, self._cpu_before = self._cpu + max(0.0, reading.cpu_seconds - before_that), reading.cpu_seconds
        self._last = Seen(now, reading, own)
        self._first = self._first or self._last
        self._readings += 1
        self._peak = max(self._peak, reading.memory_bytes or 0)

    def _grow(self, number: int, name: str) -> None:
        """Counters grow, but those of a broker that was restarted begin at 0, and those of a node that is gone lack in
        the sum: how much was counted meanwhile is not known then.
        """
        self._counted[name] += max(0, number)
        self._began_anew |= number < 0

    def describe(self) -> dict[str, Any]:
        """What it says, for the result."""
        if self._first is None or self._last is None:
            return {"address": self._address, "readings": 0}
        first, last = self._first, self._last
        is_cpu_known = first.reading.cpu_seconds is not None and last.reading.cpu_seconds is not None
        counted = {name: self._counted[name] for name in last.reading.counters}
        done = {name: last.own[name] - number for name, number in first.own.items()}
        return {
            "address": self._address,
            "readings": self._readings,
            "seconds": round(last.now - first.now, 3),
            "memory_peak_bytes": self._peak or None,
            "cpu_seconds": round(self._cpu, 3) if is_cpu_known else None,
            "messages_before": first.reading.messages,
            "messages_after": last.reading.messages,
            "counted": counted,
            "counted_here": done,
            "note": ANEW if self._began_anew else _find_note(counted, done),
        }


def _find_note(counted: dict[str, int], done: dict[str, int]) -> str | None:
    """Why the broker's counters say nothing, if they don't."""
    if any(done.values()) and not any(counted.values()):
        return (
            "the broker's counters stood still: it takes its statistics more rarely than this was measured "
            "(collect_statistics_interval), or has them switched off"
        )
    return None
