"""The drain of all workers together: until what all have sent is received, wherever, or it is no use to wait longer."""

from __future__ import annotations

from time import monotonic

import anyio

from loadtest.execution.leftovers import Leftovers
from loadtest.fleet.crew import Crew

INTERRUPTED_DRAIN = 3.0
"""Seconds of draining, at most, after an interrupt."""
STALL = 2.0
"""Seconds without a delivery after which the broker is asked whether anything is left."""
LOOK = 0.25


async def drain(crew: Crew, leftovers: Leftovers) -> None:
    """Returns when nothing is on its way any more, when the broker has nothing left, or when time is up."""
    run, roster = crew.run, crew.roster

    def is_drained() -> bool:
        return roster.is_drained(run.expected)

    began = monotonic()
    received, stalled_at = -1, began + STALL
    while roster.present and not is_drained():
        patience = min(run.settings.drain, INTERRUPTED_DRAIN) if run.record.is_interrupted else run.settings.drain
        left = began + patience - monotonic()
        if left < 0:
            return
        await crew.until(is_drained, min(left, LOOK))
        now = roster.sum_tally().received
        if now != received:
            received, stalled_at = now, monotonic() + STALL
        elif monotonic() > stalled_at:
            with anyio.move_on_after(left):
                if roster.is_settled() and await leftovers.recount() == 0:
                    return
            stalled_at = monotonic() + STALL
