"""Why a client is late: it slept for too long, or it waited for the broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic_ns

import anyio

from loadtest.commands.flags import parse_settings
from loadtest.execution.pace import Pace
from loadtest.execution.state import Run, start_run
from loadtest.scenarios.plan import Place
from loadtest.scenarios.settings import Role


@asynccontextmanager
async def at_work(*words: str) -> AsyncIterator[tuple[Run, Pace]]:
    run = start_run(parse_settings(["--producers", "1", *words], {}))
    run.work_begun_at = monotonic_ns()
    run.begin.set()
    async with anyio.create_task_group() as tg:
        tg.start_soon(run.timetable.run)
        pace = Pace(run, Place(Role.PRODUCER, 0, "q"))
        await pace.begin()
        yield run, pace
        tg.cancel_scope.cancel()


async def test_what_falls_due_while_it_sleeps_waited_for_no_room() -> None:
    """Timers are coarser than an interval of 0.04 ms: most messages leave together with the one before."""
    waited = bunched = 0
    async with at_work("--rate-each", "25000") as (run, pace):
        run.measurement.open(0, 2**62)
        for _ in range(1000):
            assert await pace.next() is not None
            waited += pace.was_due
            bunched += pace.slept_over
    assert bunched > 400
    assert waited < 250, "but for those that fell due while the loop itself ran"
    assert run.measurement.inside.wake.count == 1000 - waited
    woken = run.measurement.inside.wake.percentile(0.5)
    assert woken is not None and woken > 0.04


async def test_what_falls_due_while_the_broker_answers_waited_for_room() -> None:
    async with at_work("--rate-each", "1000") as (_, pace):
        for _ in range(3):
            await pace.next()
        await anyio.sleep(0.25)
        late = 0
        for _ in range(200):  # the broker has answered after 250 intervals: all of these were due, however slow this is
            await pace.next()
            late += pace.was_due
    assert late > 100, "but for those that fell due while a busy machine let it sleep on, just before"


async def test_nothing_is_done_that_is_due_once_sending_has_ended() -> None:
    async with at_work("--rate-each", "1000") as (run, pace):
        run.sending_ends = run.work_begun_at + 20_000_000
        await anyio.sleep(0.04)
        done = 0
        while await pace.next() is not None:
            done += 1
    assert run.plan.publishing is not None
    assert done == run.plan.publishing[0].planned(run.work_begun_at, run.sending_ends)


async def test_the_stop_wakes_a_sleeper_who_then_does_nothing() -> None:
    found: list[int | None] = []
    async with at_work("--rate-each", "0.01") as (run, pace), anyio.create_task_group() as tg:

        async def sleep() -> None:
            found.append(await pace.next())

        tg.start_soon(sleep)
        await anyio.wait_all_tasks_blocked()
        run.stop()
    assert found == [None]
