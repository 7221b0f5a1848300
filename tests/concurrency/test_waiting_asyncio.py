"""What is asyncio's own of how this library waits: tasks that are woken while sockets are read, and AnyIO's scopes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from rabbitry._concurrency.waiting_asyncio import AsyncioSignal, looks, new_signal, wakes_of


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def waiting(
    signal: AsyncioSignal, calls: list[str], name: str, then: Callable[[], object] = lambda: None
) -> None:
    try:
        await signal.wait()
    except asyncio.CancelledError:
        calls.append(f"{name} was cancelled")
        raise
    calls.append(name)
    then()


async def start(calls: list[str], *names: str, **thens: Callable[[], object]) -> dict[str, Any]:
    """Tasks of these names that wait, and their signals."""
    signals = {name: new_signal() for name in names}
    tasks = {name: asyncio.create_task(waiting(signals[name], calls, name, **thens)) for name in names}
    await asyncio.sleep(0)
    return {name: (signals[name], tasks[name]) for name in names}


async def in_a_callback(function: Callable[[], None]) -> None:
    """Have the loop call this, as it calls who reads; raises what that does."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def call() -> None:
        try:
            function()
        except BaseException as error:
            done.set_exception(RuntimeError(repr(error)))
        else:
            done.set_result(None)

    asyncio.get_running_loop().call_soon(call)
    await done


async def test_who_is_woken_while_reading_runs_when_that_is_done() -> None:
    calls: list[str] = []
    loop = asyncio.get_running_loop()
    waiters = await start(calls, "one", "two")
    wakes = wakes_of(loop)
    assert wakes is wakes_of(loop)

    def read() -> None:
        wakes.begin()
        loop.call_soon(calls.append, "the next turn")
        for name in ("two", "one", "two"):
            waiters[name][0].set()
        calls.append("read")
        assert wakes.run()
        calls.append("ran")
        assert not wakes.run()

    await in_a_callback(read)
    await asyncio.gather(*(task for _, task in waiters.values()))
    assert calls == ["read", "two", "one", "ran", "the next turn"]


async def test_who_is_woken_otherwise_runs_in_the_next_turn() -> None:
    calls: list[str] = []
    waiters = await start(calls, "one")
    late = await start(calls, "two", then=waiters["one"][0].set)
    wakes = wakes_of(asyncio.get_running_loop())

    def read() -> None:
        wakes.begin()
        late["two"][0].set()
        wakes.run()  # the task that this runs wakes the other one: that must not go on for ever
        calls.append("ran")

    await in_a_callback(read)
    await asyncio.gather(waiters["one"][1], late["two"][1])
    assert calls == ["two", "ran", "one"]


async def test_a_signal_that_is_set_before_anybody_waits() -> None:
    calls: list[str] = []
    wakes = wakes_of(asyncio.get_running_loop())
    signal = new_signal()

    def read() -> None:
        wakes.begin()
        signal.set()
        assert not wakes.run()

    await in_a_callback(read)
    await waiting(signal, calls, "one")
    assert calls == ["one"]


async def test_each_task_runs_in_its_own_context() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="nobody's")
    found: list[tuple[str, asyncio.Task[Any] | None]] = []
    signals = [new_signal(), new_signal()]

    async def wait(name: str, signal: AsyncioSignal) -> None:
        variable.set(name)
        await signal.wait()
        found.append((variable.get(), asyncio.current_task()))

    tasks = [asyncio.create_task(wait(name, signal)) for name, signal in zip("ab", signals, strict=True)]
    await asyncio.sleep(0)
    wakes = wakes_of(asyncio.get_running_loop())

    def read() -> None:
        wakes.begin()
        for signal in signals:
            signal.set()
        wakes.run()
        assert variable.get() == "nobody's" and asyncio.current_task() is None

    await in_a_callback(read)
    assert found == [("a", tasks[0]), ("b", tasks[1])]


@pytest.mark.parametrize("first", ["woken", "cancelled"])
async def test_cancelling_in_the_moment_of_waking(first: str) -> None:
    """A task that is cancelled by a scope has what it waited for where that came first, as with any future; asyncio's
    own cancelling is never lost.
    """
    calls: list[str] = []
    signal, own_signal = new_signal(), new_signal()
    scope = anyio.CancelScope()

    async def in_scope() -> None:
        with scope:
            await waiting(signal, calls, "in a scope")

    tasks = [asyncio.create_task(in_scope()), asyncio.create_task(waiting(own_signal, calls, "on its own"))]
    await asyncio.sleep(0)
    wakes = wakes_of(asyncio.get_running_loop())

    def cancel() -> None:
        scope.cancel()
        tasks[1].cancel()

    def wake() -> None:
        signal.set()
        own_signal.set()

    def read() -> None:
        wakes.begin()
        for function in (wake, cancel) if first == "woken" else (cancel, wake):
            function()
        wakes.run()

    await in_a_callback(read)
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert done[0] is None and isinstance(done[1], asyncio.CancelledError)
    scoped = "in a scope" if first == "woken" else "in a scope was cancelled"
    assert sorted(calls) == [scoped, "on its own was cancelled"]


async def test_what_ends_the_program_leaves_nobody_asleep() -> None:
    calls: list[str] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    first = await start(calls, "one", then=interrupt)
    others = await start(calls, "two", "three")
    wakes = wakes_of(asyncio.get_running_loop())

    def read() -> None:
        wakes.begin()
        for signal, _ in (*first.values(), *others.values()):
            signal.set()
        wakes.run()

    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
        await in_a_callback(read)
    await asyncio.gather(*(task for _, task in others.values()))
    assert calls == ["one", "two", "three"]
    assert isinstance(first["one"][1].exception(), KeyboardInterrupt)


# --- AnyIO's scopes ---------------------------------------------------------------------------------------------------


async def test_looking_is_as_anyio_looks() -> None:
    look, time_left = looks()
    with anyio.move_on_after(50) as outer, anyio.CancelScope():
        await look()
        assert 0 < time_left() <= 50
        with anyio.CancelScope(shield=True):
            outer.cancel()
            await look()
            assert time_left() == float("inf")
        assert time_left() == -float("inf")
        await look()
        raise AssertionError("it was cancelled")
    assert outer.cancelled_caught

    async def bare() -> float:
        await look()
        return time_left()

    assert await asyncio.create_task(bare()) == float("inf")  # a task that AnyIO does not know


async def test_looking_in_no_task() -> None:
    look, time_left = looks()
    found: list[float] = []

    def call() -> None:
        list(look().__await__())
        found.append(time_left())

    await in_a_callback(call)
    assert found == [float("inf")]
