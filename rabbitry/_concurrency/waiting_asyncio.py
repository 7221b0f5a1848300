"""Signals, checkpoints and deadlines on asyncio's own primitives, and AnyIO's on it. Imported only when asyncio runs: a
program on trio needs none of it.

What must stay true: a task is woken once for each wait, takes one step then, and never amid another's or amid what is
being read; who looks for a cancellation finds what AnyIO would find. Where a version of AnyIO keeps its cancel scopes
otherwise than is known here, its own functions are asked.
"""

from __future__ import annotations

import asyncio
from asyncio import current_task
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from math import inf, isfinite
from typing import Any
from weakref import WeakKeyDictionary, ref

import anyio
import anyio.lowlevel
from anyio.lowlevel import current_token

from rabbitry._concurrency.elsewhere import of_another_loop

__all__ = ["AsyncioSignal", "TellingSignal", "Wakes", "check_loop", "looks", "new_signal", "wakes_of"]


# --- signals ----------------------------------------------------------------------------------------------------------


class Wakes:
    """The tasks of one event loop that are woken while its sockets are read: whoever reads has them run when that is
    done, between `begin` and `run`.

    hot: a future would have the loop call each in its next turn, by a handle of its own. That costs a third more for
    each task, and who waits alone the turn.
    """

    __slots__ = ("__weakref__", "collected")

    def __init__(self) -> None:
        self.collected: list[tuple[Context, Callable[[asyncio.Future[None]], object], asyncio.Future[None]]] | None
        self.collected = None  # nobody reads

    def begin(self) -> None:
        """From now on, tasks that are woken wait for `run`."""
        self.collected = []

    def run(self) -> bool:
        """Have each of those tasks take a step. False if there are none. In no task."""
        collected, self.collected = self.collected, None
        if not collected:
            return False
        steps = iter(collected)
        try:
            for context, wake, future in steps:
                context.run(wake, future)
        except BaseException:  # KeyboardInterrupt or SystemExit, which a task passes on
            for context, wake, future in steps:
                future.get_loop().call_soon(wake, future, context=context)
            raise
        return True


_wakes: WeakKeyDictionary[asyncio.AbstractEventLoop, Wakes] = WeakKeyDictionary()


def wakes_of(loop: asyncio.AbstractEventLoop) -> Wakes:
    """What the signals of this loop and whoever reads its sockets have in common."""
    wakes = _wakes.get(loop)
    if wakes is None:
        wakes = _wakes[loop] = Wakes()
    return wakes


class AsyncioSignal:
    """hot: a bare future. A ping-pong between tasks takes 2.7 us a turn, with `anyio.Event` 9; it is once a publish."""

    __slots__ = ("_future", "_wakes")

    def __init__(self, loop: asyncio.AbstractEventLoop, wakes: Wakes) -> None:
        self._future: asyncio.Future[None] = loop.create_future()
        self._wakes = wakes

    def set(self) -> None:
        future = self._future
        if not future.done():
            collected = self._wakes.collected
            if collected is not None and (callbacks := getattr(future, "_callbacks", None)) and len(callbacks) == 1:
                wake, context = callbacks[0]  # the waiting task's, which the future would have the loop call
                future.remove_done_callback(wake)
                collected.append((context, wake, future))
            future.set_result(None)

    def wait(self) -> Awaitable[None]:
        return self._future


class TellingSignal(asyncio.Future[None]):
    """A signal that tells of a cancellation. Cancelling a task cancels, in that very call, the future that it awaits;
    and AnyIO's scopes cancel their waiting tasks as `Task.cancel` does, before their `cancel` returns.
    """

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._on_cancel = on_cancel

    def cancel(self, msg: Any = None) -> bool:
        """Tell of it, and cancel."""
        self._on_cancel()
        return super().cancel(msg)

    def set(self) -> None:
        """Wake who waits."""
        if not self.done():
            self.set_result(None)

    def wait(self) -> asyncio.Future[None]:
        """What to await."""
        return self


def new_signal() -> AsyncioSignal:
    """A signal for the running task. `RuntimeError` where no event loop of asyncio runs."""
    loop = asyncio.get_running_loop()
    return AsyncioSignal(loop, wakes_of(loop))


# --- looking for a cancellation, and for the time that is left --------------------------------------------------------


def check_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Raise unless the running event loop is this one."""
    try:
        if asyncio.get_running_loop() is loop:
            return
    except RuntimeError:  # of trio, or none
        pass
    raise of_another_loop()


def looks(loop: asyncio.AbstractEventLoop) -> tuple[Callable[[], Awaitable[None]], Callable[[], float]]:
    """This loop's `checkpoint_if_cancelled`, and what tells the seconds that the running task's cancel scopes leave."""
    backend: Any = getattr(current_token(), "backend_class", None)  # (AnyIO before 4.11 has no class in its token)
    general: Callable[[], Awaitable[None]] = (backend or anyio.lowlevel).checkpoint_if_cancelled
    states = _known_states()
    if states is None:
        return general, partial(_time_left, (backend or anyio).current_effective_deadline, loop.time)
    return _own_look(loop, states, general), partial(_time_left, _own_deadline(loop, states), loop.time)


def _known_states() -> dict[ref[asyncio.Task[Any]], Any] | None:
    """AnyIO's own record of the innermost cancel scope of each task; None where it is kept in another way."""
    try:
        from anyio._backends import _asyncio

        scope: Any = _asyncio.CancelScope()
        states: Any = _asyncio._task_states
        if (scope._cancel_called, scope._shield, scope._parent_scope, scope._deadline) == (False, False, None, inf):
            known: dict[ref[asyncio.Task[Any]], Any] | None = getattr(states, "data", None)
            return known if type(states) is WeakKeyDictionary else None
    except (ImportError, AttributeError):
        pass
    return None


def _own_look(
    loop: asyncio.AbstractEventLoop, states: dict[ref[asyncio.Task[Any]], Any], general: Callable[[], Awaitable[None]]
) -> Callable[[], Awaitable[None]]:
    """hot: what AnyIO's `checkpoint_if_cancelled` does, a sixth of a confirmed publish, in a third of the time: without
    a coroutine, with one look-up of the task, and without asking the system for the process id, as CPython 3.11 does
    where it is to find the loop.
    """
    nothing: asyncio.Future[None] = loop.create_future()
    nothing.set_result(None)

    def checkpoint_if_cancelled() -> Awaitable[None]:
        try:
            scope = states[ref(current_task(loop))].cancel_scope  # type: ignore[arg-type]  # or TypeError: in no task
        except (KeyError, TypeError):
            return nothing
        while scope is not None:
            if scope._cancel_called:
                return general()
            if scope._shield:
                break
            scope = scope._parent_scope
        return nothing

    return checkpoint_if_cancelled


def _own_deadline(loop: asyncio.AbstractEventLoop, states: dict[ref[asyncio.Task[Any]], Any]) -> Callable[[], float]:
    """hot: what `anyio.current_effective_deadline` does, which first finds out which event loop runs: that takes as
    long as a request is in the making.
    """

    def current_effective_deadline() -> float:
        deadline = inf
        try:
            scope = states[ref(current_task(loop))].cancel_scope  # type: ignore[arg-type]
        except (KeyError, TypeError):
            return deadline
        while scope is not None:
            if scope._cancel_called:
                return -inf
            if scope._deadline < deadline:
                deadline = scope._deadline
            if scope._shield:
                break
            scope = scope._parent_scope
        return deadline

    return current_effective_deadline


def _time_left(current_effective_deadline: Callable[[], float], now: Callable[[], float]) -> float:
    deadline = current_effective_deadline()
    return deadline - now() if isfinite(deadline) else deadline
