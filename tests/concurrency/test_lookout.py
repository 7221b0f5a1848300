"""A lookout is quiet while its task waits, and not any more within the very call that ends that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
import pytest

from rabbitry._concurrency.lookout import Lookout


async def waiting(lookout: Lookout, tg: anyio.abc.TaskGroup) -> anyio.CancelScope:
    """A scope around a task group whose host waits at the lookout, as `Workers` have it."""
    scope = anyio.CancelScope()

    async def host() -> None:
        with scope:
            async with anyio.create_task_group():
                await lookout.wait()

    tg.start_soon(host)
    await anyio.wait_all_tasks_blocked()
    assert lookout.is_quiet
    return scope


async def test_a_cancellation_is_seen_at_once() -> None:
    lookout = Lookout()
    assert not lookout.is_quiet
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tg:
            scope = await waiting(lookout, tg)
            scope.cancel()
            assert not lookout.is_quiet


async def test_a_cancellation_further_out_is_seen_at_once() -> None:
    lookout = Lookout()
    async with anyio.create_task_group() as tg:
        await waiting(lookout, tg)
        tg.cancel_scope.cancel()
        assert not lookout.is_quiet


async def test_a_deadline_is_seen_as_soon_as_it_is_known() -> None:
    lookout = Lookout()
    async with anyio.create_task_group() as tg:
        scope = await waiting(lookout, tg)
        scope.deadline = anyio.current_time() + 0.01
        while not scope.cancel_called:
            assert lookout.is_quiet
            await anyio.sleep(0.001)
        assert not lookout.is_quiet


async def test_a_shield_around_it_keeps_it_quiet() -> None:
    lookout = Lookout()
    async with anyio.create_task_group() as tg:
        scope = await waiting(lookout, tg)
        scope.shield = True
        tg.cancel_scope.cancel()
        assert lookout.is_quiet
        lookout.end()
        assert not lookout.is_quiet


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_own_cancellation_is_seen_at_once() -> None:
    lookout = Lookout()
    task = asyncio.ensure_future(lookout.wait())
    await anyio.wait_all_tasks_blocked()
    assert lookout.is_quiet
    task.cancel()
    assert not lookout.is_quiet
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("times", [1, 2])
async def test_an_end_before_or_while_somebody_waits(times: int) -> None:
    early, late = Lookout(), Lookout()
    for _ in range(times):
        early.end()
    with anyio.fail_after(30):
        await early.wait()
        async with anyio.create_task_group() as tg:
            await waiting(late, tg)
            for _ in range(times):
                late.end()
            assert not late.is_quiet
    assert not early.is_quiet


async def test_an_event_loop_that_tells_nothing_is_never_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_such(on_cancel: Callable[[], None]) -> None: ...

    monkeypatch.setattr("rabbitry._concurrency.lookout._telling_signal", none_such)
    lookout = Lookout()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tg:
            tg.start_soon(lookout.wait)
            await anyio.wait_all_tasks_blocked()
            assert not lookout.is_quiet
            lookout.end()
