"""`Operation`: a coroutine that runs on the loop for one waiting thread, and the `Deadline` that it has there.

What must stay true: a thread that waits is always woken; a result that nobody takes any more is undone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from datetime import timedelta
from typing import Generic, TypeAlias, TypeVar, cast

import anyio

from rabbitry import NotConnected
from rabbitry._values.durations import seconds
from rabbitry.blocking.turns import Turns
from rabbitry.blocking.waiter import Waiter

__all__ = ["UNBOUNDED", "Deadline", "Operation", "Timeout"]

try:
    import sniffio
except ModuleNotFoundError:  # a newer AnyIO can do without
    sniffio = None  # type: ignore[assignment]  # asked for before each use

Timeout: TypeAlias = float | timedelta | None

T = TypeVar("T")


class Deadline:
    """When a call must be done, however many steps it takes. It counts from the call, in the waiting thread."""

    __slots__ = ("_end", "_timeout")

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout
        self._end = None if timeout is None else time.monotonic() + seconds(timeout)

    @property
    def rest(self) -> float | None:
        """Seconds left, negative when there are none; None without a bound."""
        return None if self._end is None else self._end - time.monotonic()

    def error(self, why: str) -> TimeoutError:
        """What to raise when the time is up."""
        timeout = self._timeout.total_seconds() if isinstance(self._timeout, timedelta) else self._timeout
        return TimeoutError(f"not done within {timeout} s{why}")


UNBOUNDED = Deadline(None)


class Operation(Waiter, Generic[T]):
    """Made by the waiting thread, which waits for it and takes its result. `is_patient`: other
    threads do it, and see to the loop."""

    __slots__ = (
        "_context",
        "_error",
        "_function",
        "_is_cancelled",
        "_is_patient",
        "_is_started",
        "_scope",
        "_task",
        "_turns",
        "_undo",
        "_value",
        "deadline",
        "has_value",
    )

    def __init__(
        self, function: Callable[[], Awaitable[T]], deadline: Deadline, turns: Turns, *, is_patient: bool = False
    ) -> None:
        Waiter.__init__(self)  # hot: without `super()`
        self._turns = turns
        self._is_patient = is_patient
        self._function: Callable[[], Awaitable[T]] | None = function
        self.deadline: Deadline = deadline
        self._context = copy_context()
        self._scope: anyio.CancelScope | None = None
        self._undo: Callable[[T], object] | None = None
        self._value: T | None = None
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self.has_value: bool = False
        self._is_started = self._is_cancelled = False

    # --- in the waiting thread ----------------------------------------------------------------------------------------

    def wait(self, bound: float | None = None) -> bool:
        """Return whether the coroutine has ended, at the latest after `bound` seconds (None: when it has). A signal
        handler may raise here, any number of times.
        """
        return self._turns.wait(self, bound, is_patient=self._is_patient)

    def result(self) -> T:
        """What the coroutine returned, or raise what it raised."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback leads here
        return self._value  # type: ignore[return-value]  # hot: without `cast`

    # --- on the loop, or by who may run it ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Run the coroutine in a task. Harmless when done twice."""
        if not (self._is_started or self.is_done):
            self._is_started = True
            self._start()

    def _start(self) -> None:
        if sniffio is not None:  # what it tells AnyIO is another event loop where the caller runs in a trio task
            self._context.run(sniffio.current_async_library_cvar.set, "asyncio")
        self._turns.start(self, self._run(), self._context)

    def give_up(self) -> None:
        """The loop has ended: where the coroutine never took a step, it has not said so itself."""
        if not self.is_done:
            self._end(_thread_ended())

    def cancel(self) -> None:
        """Have the operation end; at once if it was never started."""
        if self._scope is not None:
            self._scope.cancel()
        elif self._task is not None:
            if not self._is_cancelled:
                self._is_cancelled = True
                self._task.cancel()
        elif not self.is_done:
            self._end(NotConnected("the operation was interrupted before it began"))

    def abandon(self, undo: Callable[[T], object] | None) -> None:
        """Have the operation end, and `undo` called with its result if it has one after all: nobody waits any more."""
        self._undo = undo
        self.cancel()
        if self.is_done:
            self._undo_result()

    async def _run(self) -> None:
        function = self._function
        if function is None:
            return
        rest = self.deadline.rest
        try:
            if rest is None:  # hot: a scope takes 5 us
                self._task = asyncio.current_task()
                self._value = await function()
                self.has_value = True
            else:
                with anyio.CancelScope(deadline=anyio.current_time() + rest) as self._scope:
                    self._value = await function()
                    self.has_value = True
        except asyncio.CancelledError:
            self._end(self.deadline.error(", and cancelled") if self._is_cancelled else _thread_ended())
        except BaseException as error:
            self._end(error)
        else:
            self._end(None if self.has_value else self.deadline.error(", and cancelled"))

    def _end(self, error: BaseException | None, *, while_reading: bool = False) -> None:
        self._error = error
        self._function = None  # the task lives on for a moment, and must not keep what the waiting thread drops
        if while_reading:
            self._turns.end_while_reading(self)
        else:
            self._turns.end(self)
        self._undo_result()

    def _undo_result(self) -> None:
        undo, self._undo = self._undo, None
        if undo is not None and self.has_value:
            undo(cast(T, self._value))


def _thread_ended() -> NotConnected:
    return NotConnected("the thread that ran the operation has ended")
