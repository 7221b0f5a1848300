from __future__ import annotations

from time import monotonic_ns

import anyio

from loadtest.execution.timetable import Timetable
from tests.support.helpers import stopwatch

MILLISECOND = 1_000_000


async def test_everyone_wakes_in_order_and_never_early() -> None:
    timetable = Timetable()
    start = monotonic_ns()
    woken: list[tuple[int, int]] = []

    async def sleep(delay: int) -> None:
        await timetable.sleep_until(start + delay * MILLISECOND)
        woken.append((delay, monotonic_ns() - start))

    async with stopwatch() as elapsed, anyio.create_task_group() as outer:
        outer.start_soon(timetable.run)
        async with anyio.create_task_group() as tg:
            for delay in (60, 20, 40, 0):
                tg.start_soon(sleep, delay)
        outer.cancel_scope.cancel()
        was_busy = (monotonic_ns() - start) / 1e9 - elapsed() > 0.04
    # after a pause of the machine several wake in one turn, which trio takes in any order
    assert [delay for delay, _ in woken] == [0, 20, 40, 60] or (was_busy and len(woken) == 4)
    assert all(late >= delay * MILLISECOND for delay, late in woken)


async def test_an_earlier_appointment_moves_the_alarm() -> None:
    timetable = Timetable()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tg:
            tg.start_soon(timetable.run)
            tg.start_soon(timetable.sleep_until, monotonic_ns() + 3600_000 * MILLISECOND)
            await anyio.sleep(0.02)
            await timetable.sleep_until(monotonic_ns() + 10 * MILLISECOND)
            timetable.wake_everyone()
            await timetable.sleep_until(monotonic_ns() + 3600_000 * MILLISECOND)  # returns at once from now on
            tg.cancel_scope.cancel()


async def test_cancelled_sleepers_leave_the_others_alone() -> None:
    timetable = Timetable()
    async with anyio.create_task_group() as tg:
        tg.start_soon(timetable.run)
        now = monotonic_ns()
        async with anyio.create_task_group() as sleepers:
            sleepers.start_soon(timetable.sleep_until, now + 50 * MILLISECOND)
            await anyio.wait_all_tasks_blocked()
            sleepers.cancel_scope.cancel()
        await timetable.sleep_until(now + 60 * MILLISECOND)
        tg.cancel_scope.cancel()
