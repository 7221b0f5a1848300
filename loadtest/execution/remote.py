"""A broker elsewhere, watched through its management API while the run is measured: what it used, held and counted.

It asks in a thread, every other second: nobody who is timed waits for the answer. A broker tells its counters as of
its latest sample, and may sample more rarely than a run lasts: then they stand still, and that is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

import anyio
import anyio.to_thread

from loadtest.execution.state import Run
from loadtest.machine.management import Management, ManagementFailed, Reading

INTERVAL = 2.0
"""Seconds between two questions."""

_OURS = {"published": "sent", "confirmed": "confirmed", "delivered": "received"}
"""What this program counts of the same, by the names of the tally."""


Seen = tuple[float, Reading, dict[str, int]]
"""When it was read, what the broker said, and what this program had counted by then."""


async def watch_broker(runs: Sequence[Run], management: Management) -> None:
    """Watches from the beginning of the measured window to its end, and enters what it saw into the first run's record.

    What goes wrong is entered, too: a run is not lost over it. Cancelled, it leaves what was seen so far.
    """
    record = runs[0].record
    await runs[0].measuring.wait()
    seen: list[Seen] = []  # the first and the latest: a run may last for days
    peak, readings, failed = 0, 0, 0
    while True:
        own = {name: sum(getattr(run.record.tally, of) for run in runs) for name, of in _OURS.items()}
        error = None
        try:
            reading = await anyio.to_thread.run_sync(management.read, abandon_on_cancel=True)
            seen = [*seen[:1], (monotonic(), reading, own)]
            peak, readings = max(peak, reading.memory_bytes or 0), readings + 1
        except ManagementFailed as failure:  # a broker under load, or one that restarts, may answer the next time
            error, failed = str(failure), failed + 1
        told = _describe(management, seen, peak or None, readings)
        record.management = {**told, "failed_readings": failed, "error": error}
        if record.phases[-1].name != "measure":
            return
        await anyio.sleep(INTERVAL)


def _describe(management: Management, seen: Sequence[Seen], peak: int | None, readings: int) -> dict[str, Any]:
    if not seen:
        return {"address": management.name, "readings": 0}
    (began, first, own), (ended, last, own_last) = seen[0], seen[-1]
    cpu = None if first.cpu_seconds is None or last.cpu_seconds is None else last.cpu_seconds - first.cpu_seconds
    counted = {name: last.counters[name] - number for name, number in first.counters.items()}
    done = {name: own_last[name] - number for name, number in own.items()}
    return {
        "address": management.name,
        "readings": readings,
        "seconds": round(ended - began, 3),
        "memory_peak_bytes": peak,
        "cpu_seconds": None if cpu is None else round(cpu, 3),
        "messages_before": first.messages,
        "messages_after": last.messages,
        "counted": counted,
        "counted_here": done,
        "note": _find_note(counted, done),
    }


def _find_note(counted: dict[str, int], done: dict[str, int]) -> str | None:
    """Why the broker's counters say nothing, if they don't."""
    if any(done.values()) and not any(counted.values()):
        return (
            "the broker's counters stood still: it takes its statistics more rarely than this was measured "
            "(collect_statistics_interval), or has them switched off"
        )
    return None
