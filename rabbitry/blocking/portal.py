"""`Portal`: the event loop, and how threads have it run operations and wait for them. `turns` says which runs it.

What must stay true: what was handed over runs, and what runs ends; a time-out binds in the thread that waits, even
while a callback holds up the loop in another one; who is interrupted while it waits leaves nothing running, and loses
no result that somebody must undo; settlements are in the order of their thread's other operations; the loop runs no
logging handler.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from threading import get_ident
from typing import Any, TypeAlias, TypeVar
from weakref import WeakMethod

import anyio

from rabbitry import LocalProtocolError, NotConnected
from rabbitry.blocking.log_thread import LogThread, ask_levels, write_here
from rabbitry.blocking.operation import UNBOUNDED, Deadline, Operation, Timeout
from rabbitry.blocking.sending import Queued, Sending
from rabbitry.blocking.turns import Turns

__all__ = ["Deadline", "Leave", "Portal", "Timeout", "lease"]

logger: logging.Logger = logging.getLogger("rabbitry")

T = TypeVar("T")

Leave: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

SETTLE_WITHIN = 0.001
"""Seconds a settlement may wait for others to leave with it: to wake the loop for each costs 20 us. Any other operation
takes those before it along at once.
"""

HELD_UP = 0.5
"""Seconds in which the loop must take notice once the time of an operation is up, or it counts as held up."""

STOP_BOUND = 10.0
"""Seconds to wait for the thread's end; what is left in it then is bounded itself, and ends on its own."""

WRITTEN_BOUND = 1.0
"""Seconds to wait for the thread's last log lines to be written: their handler may wait for who waits here."""


class Portal:
    """An event loop, started by the first `lease`, ended when the last one is given back."""

    def __init__(self) -> None:
        self._tasks: asyncio.TaskGroup
        self._stopping: asyncio.Event
        self._lock = threading.RLock()  # a signal handler or a finalizer may come back to it in the same thread
        self.is_open: bool = False
        self.at_the_end: set[WeakMethod[Leave]] = set()
        """Each leaves a block that a thread may still be in then. None of them raises. Used on the loop alone."""
        self._settlements: deque[Callable[[], object]] = deque()
        self._is_settling = False
        self._forks = _forks
        self.leases: int = 0
        self._has_run = False
        started = threading.Event()
        self._log_thread = LogThread()
        self.turns: Turns = Turns(self._log_thread, self._settlements, self.settle_now, SETTLE_WITHIN)
        self._thread = threading.Thread(target=self._host, args=(started,), name="rabbitry.blocking", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._log_thread.end()
            raise
        started.wait()

    def _host(self, started: threading.Event) -> None:
        self._log_thread.begin()
        try:
            options = {"loop_factory": self.turns.new_loop}
            anyio.run(self._run, started, backend="asyncio", backend_options=options)
        except BaseException:  # which nothing here raises, but a callback of the user's may
            if self._has_run:  # Python 3.12 can't close a loop in `atexit`: it would start a thread for that
                logger.debug("closing the event loop of rabbitry.blocking failed", exc_info=True)
            else:
                logger.critical(
                    "the event loop of rabbitry.blocking was ended, and so is all that it ran", exc_info=True
                )
        finally:
            with self._lock:
                self.is_open = False
            started.set()
            self.turns.close()
            self._log_thread.end()

    async def _run(self, started: threading.Event) -> None:
        self.turns.begin()
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
                await self.turns.finish()
                for reference in list(self.at_the_end):
                    if (leave := reference()) is not None:
                        await leave()
        self._has_run = True

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
        if self._forks != _forks:
            raise LocalProtocolError(
                "this was opened before the process forked, and belongs to the parent: open another one in the child "
                "(in multiprocessing's initializer, gunicorn's post_fork, or when it is first used)"
            )

    def check_open(self) -> None:
        """Raise once it does nothing any more."""
        if not self.is_open:
            raise _closed()

    def check_thread(self) -> None:
        """Raise where waiting for the loop would wait for ever: in what the loop calls, and in a child process."""
        self.check_fork()  # first: in the child, threads have the identities of the parent's
        if get_ident() == self.turns.leader:
            raise LocalProtocolError(
                "a blocking call in what the event loop itself calls, and which it waits for: on_outcome, on_error and "
                "an instrumentation must hand it over to another thread"
            )

    def submit(self, callback: Callable[[], object]) -> None:
        """Have the loop call `callback`, in the order of submission. Does not wait. `NotConnected` after the end."""
        self.check_fork()
        with self._lock:
            self.check_open()
            self.turns.call(callback)

    def submit_soon(self, callback: Callable[[], object]) -> None:
        """As `submit`, for what has a millisecond: what comes meanwhile may be done with it."""
        self.check_fork()
        with self._lock:
            self.check_open()
            self.turns.call_within(callback)

    def _post(self, callback: Callable[[], object]) -> None:
        """As `submit`, where the caller then waits."""
        self.check_fork()
        with self._lock:
            self.check_open()
            self.turns.post(callback)

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
        is_patient: bool = False,
    ) -> T:
        """What `await function()` on the loop returns or raises; `TimeoutError` once it was cancelled for that.

        Interrupted by what a signal handler raises, it cancels it and waits for its end; interrupted again, it does not
        wait. `undo` is called on the loop with a result that so had no taker. `is_final`: it has to be done, and goes
        on without being waited for. `is_patient`: other threads do it, and run the loop.
        """
        operation = Operation(function, Deadline(timeout), self.turns, is_patient=is_patient)
        return self.result_of(operation, undo=undo, is_final=is_final)

    def send(
        self, queue: Callable[[], Queued | None], publish: Callable[[], Awaitable[None]], timeout: Timeout = None
    ) -> None:
        """As `run(publish, timeout)`, by `queue` and without a task where that can be: see `Sending`."""
        self.result_of(Sending(queue, publish, UNBOUNDED if timeout is None else Deadline(timeout), self.turns))

    def result_of(
        self, operation: Operation[T], *, undo: Callable[[T], object] | None = None, is_final: bool = False
    ) -> T:
        """What the operation returns or raises: see `run`."""
        # hot: without the calls that mostly find nothing. The fork first: in the child, threads have the identities of
        # the parent's.
        if self._forks != _forks or get_ident() == self.turns.leader:
            self.check_thread()
        deadline = operation.deadline
        try:
            if not self.is_open:
                raise _closed()
            if operation.wait(deadline.rest) or self._is_cancelled(operation):
                return operation.result()
        except BaseException:  # its own error, too, but for which there is nothing to undo
            if is_final:
                self.submit_if_open(operation.begin)
            else:
                self._abandon(operation, undo)
            raise
        self.submit_if_open(partial(operation.abandon, undo))
        raise deadline.error(": the event loop is held up in its thread, by a callback or a lock that it waits for")

    def _is_cancelled(self, operation: Operation[Any]) -> bool:
        """Wait for the end of an operation whose time is up; False where the loop takes no notice."""
        has_ended = False
        while not has_ended:  # it is being cancelled, and what it began undone
            noticed = threading.Event()
            self.submit_if_open(noticed.set)
            has_ended = operation.wait(HELD_UP)
            if not (has_ended or noticed.is_set()) and self.is_open:
                return False
        return True

    def _abandon(self, operation: Operation[T], undo: Callable[[T], object] | None) -> None:
        """End an operation whose result nobody takes any more."""
        try:
            if not operation.is_done:
                self._post(operation.cancel)
                operation.wait()
            if operation.has_value and undo is not None:
                self.submit(partial(undo, operation.result()))
        except NotConnected:  # all is over, and so is what it did
            pass

    def settle(self, settlement: Callable[[], object]) -> None:
        """Have the loop make a settlement soon, together with others. Does not wait."""
        self.check_fork()
        self._settlements.append(settlement)
        if not self.turns.is_led:
            self.turns.attend_soon()
        elif not self._is_settling:
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

    def _settle_soon(self) -> None:
        self.turns.loop.call_later(SETTLE_WITHIN, self.settle_now)

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
                self.turns.call(self._stop)
        if get_ident() != self.turns.leader:
            self._thread.join(STOP_BOUND)
            self._log_thread.join(WRITTEN_BOUND)

    def _stop(self) -> None:
        self.settle_now()
        self._stopping.set()


def _closed() -> NotConnected:
    return NotConnected("it is closed: use it inside its 'with' block")


# --- the portal of this process ---------------------------------------------------------------------------------------

_portal: Portal | None = None
_lock = threading.RLock()
_forks = 0


def lease() -> Portal:
    """The process's portal; each lease is to be given back."""
    global _portal
    ask_levels()
    with _lock:
        if _portal is None or not _portal.is_open:
            try:
                _portal = Portal()
            except RuntimeError as error:
                if "shutdown" not in str(error):  # but that there are too many threads, say
                    raise
                raise LocalProtocolError(
                    "the interpreter is shutting down, and this Python starts no threads in atexit any more: open it "
                    "before (what is open then can be used in atexit), or use the async client by anyio.run"
                ) from error
        _portal.leases += 1
        return _portal


def _forget() -> None:
    """Begin anew in the child of a fork: the thread is not here, and the lock may be held by one that isn't either."""
    global _portal, _lock, _forks
    write_here()
    _portal, _lock, _forks = None, threading.RLock(), _forks + 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
