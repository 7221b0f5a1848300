"""Signals, checkpoints and deadlines on asyncio's own primitives, and AnyIO's on it. Imported only when asyncio runs: a
program on trio needs none of it.

What must stay true: a task is woken once for each wait, takes one step then, and never amid another's or amid what is
being read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from math import isfinite
from typing import Any
from weakref import WeakKeyDictionary

import anyio
import anyio.lowlevel
from anyio.lowlevel import current_token

from rabbitry._concurrency.clock import loop_time
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


def looks() -> tuple[Callable[[], Awaitable[None]], Callable[[], float]]:
    """The running loop's `checkpoint_if_cancelled`, and what tells the seconds that cancel scopes leave its tasks.

    hot: AnyIO's own functions find out each time which loop runs; its backend's don't.
    """
    backend: Any = getattr(current_token(), "backend_class", None)  # (AnyIO before 4.11 has no class in its token)
    look: Callable[[], Awaitable[None]] = (backend or anyio.lowlevel).checkpoint_if_cancelled
    return look, partial(_time_left, (backend or anyio).current_effective_deadline)


def _time_left(current_effective_deadline: Callable[[], float]) -> float:
    deadline = current_effective_deadline()
    return deadline - loop_time() if isfinite(deadline) else deadline
