"""Ends a run before its time: when all messages were sent that it was asked for, when nobody is left who would send the
rest of them, or when nothing happens any more.

It is looked at ten times a second, from when the measuring began; nothing of it costs a message anything. Of several
processes each only notes how it is with its own: a run is over where it is so with all of them.
"""

from __future__ import annotations

from time import monotonic

import anyio

from loadtest.execution.state import Run
from loadtest.metrics.latencies import NEVER
from loadtest.scenarios.settings import Role

INTERVAL = 0.1


async def watch_for_end(run: Run, *, is_alone: bool) -> None:
    """Returns when the run has been told to end; soon, if it was asked for neither. `is_alone` is whether it is this
    process that decides.
    """
    settings, tally = run.settings, run.record.tally
    if settings.messages is None and not settings.until_idle:
        return
    producers, seen, idle_at = run.plan.placed(Role.PRODUCER), -1, 0.0
    while not run.enough.is_set():
        await anyio.sleep(min(INTERVAL, settings.until_idle or INTERVAL))
        if run.measurement.start == NEVER:
            continue
        is_all_sent = settings.messages is not None and not any(map(run.may_send, producers))
        is_all_sent = is_all_sent and tally.settled >= tally.sent
        happened = tally.sent + tally.received + tally.foreign + tally.copies + tally.calls + tally.replies
        if happened != seen:
            seen, idle_at = happened, monotonic() + (settings.until_idle or NEVER)
        is_idle = monotonic() >= idle_at
        run.is_done = is_all_sent or is_idle
        if run.is_done and is_alone:
            run.record.is_complete = is_idle or all(not run.left_to_send(producer) for producer in producers)
            return run.enough.set()
