"""Who waits for something is woken by each change, however many wait."""

from __future__ import annotations

import anyio
import pytest

from loadtest.fleet.changes import Changes


async def test_all_who_wait_are_woken() -> None:
    changes, number, seen = Changes(), 0, list[int]()

    async def wait_for(least: int) -> None:
        assert await changes.until(lambda: number >= least, 20)
        seen.append(least)

    async with anyio.create_task_group() as tg:
        for least in (3, 1, 2):
            tg.start_soon(wait_for, least)
        await anyio.wait_all_tasks_blocked()
        for number in (1, 2, 3):
            changes.note()
            await anyio.wait_all_tasks_blocked()
            assert seen == list(range(1, number + 1))


async def test_it_is_waited_no_longer_than_said_and_what_is_asked_may_raise() -> None:
    changes = Changes()
    assert not await changes.until(lambda: False, 0.01)
    assert await changes.until(lambda: True, 0)

    def fail() -> bool:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await changes.until(fail)
