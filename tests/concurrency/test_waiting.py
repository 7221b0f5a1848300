"""How this library waits: signals of each event loop, waiters for one reply, lines, and who is being cancelled."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import ExitStack
from math import inf
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from rabbitry._concurrency.waiting import (
    Signal,
    Waiter,
    is_being_cancelled,
    new_signal,
    wait_in_line,
    waits,
)

ROOT = Path(__file__).parents[2]


async def test_each_event_loop_has_its_own_signal(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        from rabbitry._concurrency.waiting_trio import TrioSignal

        assert type(new_signal()) is TrioSignal
    else:
        from rabbitry._concurrency.waiting_asyncio import AsyncioSignal

        assert type(new_signal()) is AsyncioSignal
    await waits().checkpoint_if_cancelled()


async def test_who_need_not_wait_learns_of_each_cancellation() -> None:
    """Of a scope of its own or one further out, not from behind a shield, nor of one that is over."""
    look = waits().checkpoint_if_cancelled
    with anyio.CancelScope() as outer, anyio.CancelScope() as inner:
        await look()
        outer.cancel()
        with anyio.CancelScope(shield=True):
            await look()
        assert not inner.cancel_called
        await look()
        raise AssertionError("it was cancelled")
    assert outer.cancelled_caught and not inner.cancelled_caught
    await look()


async def test_the_time_that_is_left_is_that_of_the_scopes_around() -> None:
    """As AnyIO tells it: of the nearest deadline up to a shield, and none where a scope is cancelled."""
    here, scopes = waits().time_left, ExitStack()

    def enter(seconds: float = inf, *, shield: bool = False) -> anyio.CancelScope:
        return scopes.enter_context(anyio.CancelScope(deadline=anyio.current_time() + seconds, shield=shield))

    def is_as_expected() -> bool:
        expected = anyio.current_effective_deadline() - anyio.current_time()
        return here() == expected or here() == pytest.approx(expected, abs=5)

    assert here() == inf
    with scopes:
        enter()
        outer, inner = enter(50), enter(100)
        assert is_as_expected() and 40 < here() <= 50
        inner.deadline = anyio.current_time() + 20
        assert is_as_expected() and here() <= 20
        outer.cancel()
        assert is_as_expected() and here() == -inf
        enter(90, shield=True)
        assert is_as_expected() and 80 < here() <= 90
        enter(shield=True)
        assert is_as_expected() and here() == inf
    assert here() == inf


async def test_a_signal_set_before_or_while_somebody_waits() -> None:
    early = new_signal()
    early.set()
    early.set()
    await early.wait()
    late = new_signal()
    async with anyio.create_task_group() as tg:

        async def set_later() -> None:
            await anyio.wait_all_tasks_blocked()
            late.set()

        tg.start_soon(set_later)
        with anyio.fail_after(30):
            await late.wait()


async def test_cancelling_a_wait_harms_nothing() -> None:
    signal = new_signal()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await signal.wait()
    assert scope.cancelled_caught
    signal.set()  # wakes nobody


async def test_a_waiter_keeps_the_first_it_is_told() -> None:
    waiter = Waiter()
    waiter.set("reply")
    waiter.fail(ValueError("too late"))
    assert await waiter.wait() == "reply"
    failed = Waiter()
    error = ValueError("no reply")
    failed.fail(error)
    failed.set("too late")
    with pytest.raises(ValueError, match="no reply") as raised:
        await failed.wait()
    assert raised.value is error


async def test_who_had_its_turn_when_cancelled_passes_it_on() -> None:
    line: list[Signal] = []
    passed: list[str] = []
    async with anyio.create_task_group() as tg:
        tg.start_soon(wait_in_line, line, new_signal(), lambda: passed.append("in line"))
        await anyio.wait_all_tasks_blocked()
        tg.cancel_scope.cancel()
    assert line == [] and passed == []  # it was still in line
    async with anyio.create_task_group() as tg:
        tg.start_soon(wait_in_line, line, new_signal(), lambda: passed.append("its turn"))
        await anyio.wait_all_tasks_blocked()
        line.pop()  # what whoever wakes it does first
        tg.cancel_scope.cancel()
    assert passed == ["its turn"]


async def test_who_is_being_cancelled(anyio_backend_name: str) -> None:
    assert not is_being_cancelled()
    with anyio.CancelScope() as scope:
        scope.cancel()
        assert is_being_cancelled()
        await anyio.lowlevel.checkpoint()
    if anyio_backend_name == "asyncio":
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        assert is_being_cancelled()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        task.uncancel()  # (from CPython 3.13 on, before it is raised, this would take it back)


A_FOLDER_CALLED_TRIO = """
import asyncio, sys, types

sys.modules["trio"] = types.ModuleType("trio")  # what `import trio` gives where there is such a folder and no trio

from rabbitry.broker import Broker

async def main():
    async with Broker() as broker:
        await broker.listen()
        async with broker.open_client() as client, client.rpc():
            await client.publish(b"x", routing_key="nowhere")

asyncio.run(main())
"""


def test_a_folder_called_trio_is_not_taken_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", A_FOLDER_CALLED_TRIO], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
