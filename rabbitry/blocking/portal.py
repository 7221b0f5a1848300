"""`Portal`: the event loop in its thread, and how other threads have it run operations and wait for them.

What must stay true: a waiting thread is always woken, because what was handed over runs, and what runs ends; who is
interrupted while it waits leaves nothing running, and loses no result that somebody must undo; settlements are in the
order of their thread's other operations. A task of AnyIO's own portal costs 80 us of processor time, one of these 26.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from datetime import timedelta
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar, cast

import anyio

from rabbitry import LocalProtocolError, NotConnected
from rabbitry._values.durations import seconds

__all__ = ["Deadline", "Portal", "Timeout", "lease"]

try:
    import sniffio
except ModuleNotFoundError:  # a newer AnyIO can do without
    sniffio = None  # type: ignore[assignment]  # asked for before each use

logger = logging.getLogger("rabbitry")

Timeout: TypeAlias = float | timedelta | None

T = TypeVar("T")

SETTLE_WITHIN = 0.001
"""Seconds a settlement may wait for others to leave with it: to wake the loop for each costs 20 us. Any other operation
takes those before it along at once.
"""

STOP_BOUND = 10.0
"""Seconds to wait for the thread's end; what is left in it then is bounded itself, and ends on its own."""


class Deadline:
    """When a call that takes several steps must be done."""

    __slots__ = ("_end",)

    def __init__(self, timeout: Timeout) -> None:
        self._end = None if timeout is None else time.monotonic() + seconds(timeout)

    @property
    def rest(self) -> float | None:
        """Seconds left, negative when there are none; None without a bound."""
        return None if self._end is None else self._end - time.monotonic()


class Operation(Generic[T]):
    """A coroutine that runs on the loop for one waiting thread, which makes this, waits for it and takes its result."""

    __slots__ = (
        "_context",
        "_done",
        "_error",
        "_function",
        "_is_started",
        "_scope",
        "_timeout",
        "_value",
        "has_value",
        "is_done",
    )

    def __init__(self, function: Callable[[], Awaitable[T]], timeout: float | None) -> None:
        self._function: Callable[[], Awaitable[T]] | None = function
        self._timeout = timeout
        self._context = copy_context()
        if sniffio is not None:  # what it tells AnyIO is another event loop where the caller runs in a trio task
            self._context.run(sniffio.current_async_library_cvar.set, "asyncio")
        self._scope: anyio.CancelScope | None = None
        self._done = threading.Lock()
        self._done.acquire()
        self._value: T | None = None
        self._error: BaseException | None = None
        self.has_value = self.is_done = self._is_started = False

    # --- in the waiting thread ----------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Return when the coroutine has ended. A signal handler may raise here, any number of times."""
        if not self.is_done:
            self._done.acquire()

    def result(self) -> T:
        """What the coroutine returned, or raise what it raised."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback leads here
        return cast(T, self._value)

    # --- on the loop --------------------------------------------------------------------------------------------------

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Run the coroutine in a task. Harmless when done twice."""
        if self._is_started:
            return
        self._is_started = True
        coroutine = self._run()
        try:
            task = tasks.create_task(coroutine, context=self._context)
        except RuntimeError:  # the loop is about to end
            coroutine.close()
            self._end(_thread_ended())
        else:
            task.add_done_callback(self._ended)

    def _ended(self, _: asyncio.Task[None]) -> None:
        """The task is done. One that was cancelled before its first step never ran, and did not say so itself."""
        if not self.is_done:
            self._end(_thread_ended())

    def cancel(self) -> None:
        """Have the operation end; at once if it was never started."""
        if self._scope is not None:
            self._scope.cancel()
        elif not self.is_done:
            self._end(NotConnected("the operation was interrupted before it began"))

    async def _run(self) -> None:
        if self._function is None:
            return
        deadline = math.inf if self._timeout is None else anyio.current_time() + self._timeout
        try:
            with anyio.CancelScope(deadline=deadline) as self._scope:
                self._value = await self._function()
                self.has_value = True
        except asyncio.CancelledError:
            self._end(_thread_ended())
        except BaseException as error:
            self._end(error)
        else:
            self._end(None if self.has_value else TimeoutError(f"not done within {self._timeout} s, and cancelled"))

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        self._function = None  # the task lives on for a moment, and must not keep what the waiting thread drops
        self.is_done = True
        self._done.release()


def _thread_ended() -> NotConnected:
    return NotConnected("the thread that ran the operation has ended")


class Portal:
    """An event loop in a thread of its own, started by the first `lease`, ended when the last one is given back."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._tasks: asyncio.TaskGroup
        self._stopping: asyncio.Event
        self._lock = threading.RLock()  # a signal handler or a finalizer may come back to it in the same thread
        self.is_open = False
        self._settlements: deque[Callable[[], object]] = deque()
        self._is_settling = False
        self._forks = _forks
        self.leases = 0
        started = threading.Event()
        self._thread = threading.Thread(target=self._host, args=(started,), name="rabbitry.blocking", daemon=True)
        self._thread.start()
        started.wait()

    def _host(self, started: threading.Event) -> None:
        try:
            anyio.run(self._run, started, backend="asyncio")
        except BaseException:  # which nothing here raises, but a callback of the user's may
            logger.critical("the event loop of rabbitry.blocking was ended, and so is all that it ran", exc_info=True)
        finally:
            with self._lock:
                self.is_open = False
            started.set()

    async def _run(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        async with asyncio.TaskGroup() as self._tasks:
            self.is_open = True
            started.set()
            try:
                await self._stopping.wait()
            finally:  # also where something ends the loop that never should
                with self._lock:
                    self.is_open = False
                await asyncio.sleep(0)  # what was submitted before becomes a task, which ends with the others

    # --- in any thread ------------------------------------------------------------------------------------------------

    @property
    def is_forked(self) -> bool:
        """Whether this process has only a copy of the portal, without its thread."""
        return self._forks != _forks

    @property
    def is_gone(self) -> bool:
        """Whether the portal can do nothing any more: a block that is left then has nothing to close."""
        return self.is_forked or not self.is_open

    def check_fork(self) -> None:
        """Raise in a child process, where the loop does not run."""
        if self.is_forked:
            raise LocalProtocolError(
                "this was opened before the process forked, and belongs to the parent: open another one in the child"
            )

    def submit(self, callback: Callable[[], object]) -> None:
        """Have the loop call `callback`, in the order of submission. Does not wait. `NotConnected` after the end."""
        self.check_fork()
        with self._lock:
            if not self.is_open:
                raise NotConnected("it is closed: use it inside its 'with' block")
            self._loop.call_soon_threadsafe(callback)

    def submit_if_open(self, callback: Callable[[], object]) -> None:
        """Have the loop call `callback`, if there is a loop."""
        with suppress(NotConnected, LocalProtocolError):
            self.submit(callback)

    def run(
        self,
        function: Callable[[], Awaitable[T]],
        timeout: Timeout = None,
        *,
        undo: Callable[[T], object] | None = None,
        is_final: bool = False,
    ) -> T:
        """What `await function()` on the loop returns or raises; `TimeoutError` once it was cancelled for that.

        Interrupted by what a signal handler raises, it cancels it and waits for its end; interrupted again, it does not
        wait. `undo` is called on the loop with a result that so had no taker. `is_final`: it has to be done, and goes
        on without being waited for.
        """
        if threading.get_ident() == self._thread.ident:
            raise LocalProtocolError(
                "a blocking call from the thread that has to carry it out: a callback must not wait for the broker"
            )
        operation = Operation(function, None if timeout is None else seconds(timeout))
        begin = partial(self._begin, operation)
        self.check_fork()
        try:
            self.submit(begin)
            operation.wait()
            return operation.result()
        except BaseException:  # its own error, too, but for which there is nothing to undo
            if is_final:
                self.submit_if_open(begin)
            else:
                self._abandon(operation, undo)
            raise

    def _abandon(self, operation: Operation[T], undo: Callable[[T], object] | None) -> None:
        """End an operation whose result nobody takes any more."""
        try:
            if not operation.is_done:
                self.submit(operation.cancel)
                operation.wait()
            if operation.has_value and undo is not None:
                self.submit(partial(undo, operation.result()))
        except NotConnected:  # all is over, and so is what it did
            pass

    def settle(self, settlement: Callable[[], object]) -> None:
        """Have the loop make a settlement soon, together with others. Does not wait."""
        self.check_fork()
        self._settlements.append(settlement)
        if not self._is_settling:
            self._is_settling = True
            try:
                self.submit(self._settle_soon)
            except BaseException:
                self._is_settling = False
                raise

    # --- on the loop --------------------------------------------------------------------------------------------------

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in a task. It must not raise; cancelled with the loop, it may never take a step."""
        return self._tasks.create_task(coroutine)

    def _begin(self, operation: Operation[Any]) -> None:
        self.settle_now()
        operation.start(self._tasks)

    def _settle_soon(self) -> None:
        self._loop.call_later(SETTLE_WITHIN, self.settle_now)

    def settle_now(self) -> None:
        """Make the settlements that were handed over so far."""
        self._is_settling = False  # first: who adds one from now on wakes the loop again
        while self._settlements:
            settlement = self._settlements.popleft()
            try:
                settlement()
            except Exception:
                logger.exception("a settlement failed")

    # --- the end ------------------------------------------------------------------------------------------------------

    def give_back(self) -> None:
        """Give one lease back; with the last one the thread ends, for which this waits unless it is called there."""
        global _portal
        if self.is_forked:
            return
        with _lock:
            self.leases -= 1
            if self.leases:
                return
            if _portal is self:
                _portal = None
        with self._lock:
            if self.is_open:
                self.is_open = False
                self._loop.call_soon_threadsafe(self._stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(STOP_BOUND)

    def _stop(self) -> None:
        self.settle_now()
        self._stopping.set()


# --- the portal of this process ---------------------------------------------------------------------------------------

_portal: Portal | None = None
_lock = threading.RLock()
_forks = 0


def lease() -> Portal:
    """The process's portal; each lease is to be given back."""
    global _portal
    with _lock:
        if _portal is None or not _portal.is_open:
            _portal = Portal()
        _portal.leases += 1
        return _portal


def _forget() -> None:
    """Begin anew in the child of a fork: the thread is not here, and the lock may be held by one that isn't either."""
    global _portal, _lock, _forks
    _portal, _lock, _forks = None, threading.RLock(), _forks + 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
