"""Ends a run before its time: when all messages were sent that it was asked for, or when nothing happens any more.

It is looked at ten times a second, from when the measuring began; nothing of it costs a message anything.
"""

from __future__ import annotations

from time import monotonic

import anyio

from loadtest.execution.state import Run
from loadtest.metrics.latencies import NEVER
from loadtest.scenarios.settings import Role

INTERVAL = 0.1


async def watch_for_end(run: Run) -> None:
    """Returns when the run has been told to end; soon, if it was asked for neither."""
    settings, tally = run.settings, run.record.tally
    wanted = None if run.plan.quotas is None else sum(run.plan.quotas[one] for one in run.plan.placed(Role.PRODUCER))
    if settings.messages is None and not settings.until_idle:
        return
    seen, idle_at = -1, 0.0
    while not run.enough.is_set():
        await anyio.sleep(min(INTERVAL, settings.until_idle or INTERVAL))
        if run.measurement.start == NEVER:
            continue
        if wanted is not None and tally.sent >= wanted and tally.settled >= tally.sent:
            run.record.is_complete = True
            return run.enough.set()
        happened = tally.sent + tally.received + tally.foreign + tally.copies + tally.calls + tally.replies
        if happened != seen:
            seen, idle_at = happened, monotonic() + (settings.until_idle or NEVER)
        elif monotonic() >= idle_at:
            run.record.is_complete = True
            return run.enough.set()
