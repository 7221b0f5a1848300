"""Who else used this machine's processors: other processes, by their names, between two looks at all of them.

A look reads a few hundred small files, which takes some milliseconds: whoever measures meanwhile looks from a thread.
What began after the first look counts from then on; what ended before the second one is not seen.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from time import monotonic

import psutil

from loadtest.units import format_text

LEAST = 0.05
"""Cores below which a process is not told of."""
MOST = 3
"""Processes that are told of."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All processes at one moment: by number, their names and the processor time that they had used, in seconds."""

    at: float
    used: dict[int, tuple[str, float]]


def look() -> Seen:
    """Looks at every process that may be seen."""
    used = {}
    for process in psutil.process_iter(["name", "cpu_times"]):
        times = process.info["cpu_times"]
        if times is not None:  # it may not be read
            used[process.pid] = process.info["name"] or "?", times.user + times.system
    return Seen(monotonic(), used)


def find_busiest(before: Seen, after: Seen, but: Collection[int]) -> dict[str, float]:
    """The cores that the busiest of them used between two looks, by ``name (pid)``, without those of some numbers."""
    seconds = max(after.at - before.at, 1e-9)
    found = {}
    for pid, (name, total) in after.used.items():
        known, former = before.used.get(pid, (name, 0.0))
        cores = (total - (former if known == name else 0.0)) / seconds
        if pid not in but and cores >= LEAST:
            found[f"{format_text(name)} ({pid})"] = round(cores, 2)
    return dict(sorted(found.items(), key=lambda item: -item[1])[:MOST])
