"""`Turns`: who runs the event loop. The thread that waits for something runs it itself until that has come (it leads);
the others that wait meanwhile (they follow) are woken when theirs has come, or to lead.

A thread that is alone so never hands anything over to another: to wake one and be woken by it costs twice what a
confirmed publish does. What runs the loop while nobody waits is a spare thread, which begins when something is to be
done that nobody waits for, or when nobody has led for a moment (see `spare`), and makes way for whoever comes to wait.

What must stay true: one thread at a time runs the loop; while somebody waits, somebody leads; a wait that has ended is
left at once; what a signal handler raises is raised in no code of the loop (see `signals`); nothing that may raise so
comes between the taking of the turn and its giving back. Where a wake is lost all the same, to what interrupts a
follower as it is told to lead, the spare thread finds nobody leading.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from asyncio.events import _get_running_loop
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from threading import get_ident
from typing import Any

from rabbitry.blocking.log_thread import LogThread, logging_of
from rabbitry.blocking.shared_loop import SharedLoop
from rabbitry.blocking.signals import Guard, is_main
from rabbitry.blocking.spare import Spare
from rabbitry.blocking.waiter import Waiter

try:
    import sniffio
except ModuleNotFoundError:  # a newer AnyIO can do without
    sniffio = None  # type: ignore[assignment]  # asked for before each use

__all__ = ["Turns"]

LAST_STEPS = 3
"""Steps of the loop, at most, that who leaves it takes so that nothing is left half done (what was written is sent), or
late.
"""

STACK_ROOM = 300
"""Frames that must be left of Python's recursion limit in a thread that runs the loop."""


class Turns:
    """The turns of one event loop, which `new_loop` makes for the spare thread. `settle_now` makes `settlements`."""

    def __init__(
        self, log_thread: LogThread, settlements: deque[Any], settle_now: Callable[[], object], settle_within: float
    ) -> None:
        self._log_thread = log_thread
        self._settlements = settlements
        self._settle_now = settle_now
        self.loop: SharedLoop
        self.main: asyncio.Task[Any]  # with which all ends
        self.context: Context  # of what is called on the loop for nobody's operation
        self.leader: int = 0  # the thread that runs the loop, by its identity
        self._turn = threading.Lock()
        self._leading: Waiter | None = None  # whom the leader waits for
        self._followers: deque[Waiter] = deque()
        self._onlookers: set[Waiter] = set()  # who waits and can't lead
        self._patient: set[Waiter] = set()  # who waits and needs nobody to
        self._running: dict[Waiter, asyncio.Task[None]] = {}
        self.has_ended: bool = False
        self._calls: deque[Callable[[], object]] = deque()
        self._is_told = False  # the loop, that there are calls
        self._spare = Spare(self._turn, self._has_something, settle_within)
        self._spare_leads = self._is_over = False
        self._death: BaseException | None = None
        self._guard = Guard(self._interrupt)

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """The loop, made."""
        self.loop = SharedLoop(self.keep, self.attend)
        return self.loop

    def begin(self) -> None:
        """Called by the task, on the loop, with which all ends."""
        main = asyncio.current_task()
        assert main is not None
        self.main, self.context = main, copy_context()

    # --- in any thread ------------------------------------------------------------------------------------------------

    def post(self, callback: Callable[[], object]) -> None:
        """Have the loop call this when the caller waits, or before."""
        self._calls.append(callback)

    def _begin(self, waiter: Waiter) -> None:
        """Have the loop begin what the calling thread waits for."""
        if not waiter.is_begun:
            waiter.is_begun = True
            self._calls.append(waiter.begin)

    def call(self, callback: Callable[[], object]) -> None:
        """Have the loop call this, soon."""
        self._calls.append(callback)
        self._tell()

    def call_within(self, callback: Callable[[], object]) -> None:
        """Have the loop call this within the time that settlements have, or at once where it runs."""
        if self._turn.locked():
            self.call(callback)
        else:
            self._calls.append(callback)
            self.attend_soon()

    def _tell(self) -> None:
        if not self._is_told:
            self._is_told = True
            try:
                self._call_on_loop(self._make_calls)
            except BaseException:
                self._is_told = False
                raise

    def _call_on_loop(self, callback: Callable[[], object]) -> None:
        """Have the loop call this, unless it is closed."""
        try:
            self.loop.call_soon_threadsafe(callback, context=self.context)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    @property
    def is_led(self) -> bool:
        """Whether a thread runs the loop, now."""
        return self._turn.locked()

    @property
    def leading(self) -> Waiter | None:
        """Whom the thread waits for that runs the loop."""
        return self._leading

    def attend(self) -> None:
        """See to it that a thread runs the loop, now."""
        if not self._turn.locked():
            self._spare.want()

    def attend_soon(self) -> None:
        """See to it that a thread runs the loop within the time that settlements have."""
        self._spare.alert()

    def wait(self, waiter: Waiter, seconds: float | None = None, *, is_patient: bool = False) -> bool:
        """Return whether it has ended, at the latest after so many seconds (None: when it has). A signal handler may
        raise here, any number of times. `is_patient`: others do what it
        waits for, and see to the loop.
        """
        end = None if seconds is None else time.monotonic() + seconds
        may_lead = not is_patient and _is_free()
        while not waiter.is_done:
            if may_lead and self._lead(waiter, end):
                pass
            elif may_lead and self._may_lead():
                self._follow(waiter, end)
            else:
                self._look_on(waiter, end, is_patient)
            if end is not None and time.monotonic() >= end:
                break
        return waiter.is_done

    def _follow(self, waiter: Waiter, end: float | None) -> None:
        """Sleep while another thread leads."""
        self._followers.append(waiter)
        try:
            if self.has_ended:
                waiter.give_up()
            elif self._turn.locked():  # else it may lead
                self._begin(waiter)
                if self._calls:
                    self._tell()
                if self._spare_leads:
                    self._call_on_loop(self._make_way)
                if not waiter.is_done:
                    waiter.sleep(None if end is None else end - time.monotonic())
        finally:
            try:
                self._followers.remove(waiter)
            except ValueError:  # it was told to lead
                if waiter.is_done and not self._turn.locked():
                    self._find_leader()

    def _look_on(self, waiter: Waiter, end: float | None, is_patient: bool) -> None:
        """Sleep, and never lead."""
        onlookers = self._patient if is_patient else self._onlookers
        onlookers.add(waiter)
        try:
            if self.has_ended:
                waiter.give_up()
                return
            self._begin(waiter)
            if self._calls:
                self._tell()
            self.attend()
            if not waiter.is_done:
                waiter.sleep(None if end is None else end - time.monotonic())
        finally:
            onlookers.discard(waiter)

    # --- leading ------------------------------------------------------------------------------------------------------

    def _may_lead(self) -> bool:
        return not self._is_over and self._death is None and not self.main.done()

    def _lead(self, waiter: Waiter, end: float | None) -> bool:
        """Run the loop until this has ended, its time is up, or a signal came; False where another thread runs it, or
        none of those that wait may.
        """
        if self._turn.locked():
            return False
        guard = self._guard if is_main() else None
        if guard is not None:
            guard.begin()
        try:
            if not self._turn.acquire(blocking=False):
                return False
            try:
                if not self._may_lead():
                    return False
                if not waiter.is_done:
                    self._run(waiter, end)
            finally:
                self._turn.release()
                self._find_leader()
        finally:
            if guard is not None:
                guard.end()
        return True

    def _run(self, waiter: Waiter, end: float | None) -> None:
        loop = self.loop
        self.leader, self._leading = get_ident(), waiter
        logging_of.log_thread = self._log_thread
        try:
            if not (waiter.is_begun or self._calls or self._settlements):
                waiter.is_begun = True
                loop.exchange(waiter, end)
            else:
                self._begin(waiter)
                self._take_along()
            if not waiter.is_done:
                self._run_until(end)
            if self._settlements or loop.to_call or loop.is_due:
                self._take_last_steps()
        except BaseException as error:  # which nothing here raises, but a callback of the user's may
            self._death = error
        finally:
            self.leader, self._leading = 0, None
            self._spare.led += 1
            logging_of.log_thread = None

    def _run_until(self, end: float | None) -> None:
        """Run the loop until it is stopped, or this time has come."""
        loop = self.loop
        if end is None:
            loop.run()
            return
        timer = loop.call_later(max(0.0, end - time.monotonic()), loop.stop, context=self.context)
        loop.run()
        timer.cancel()

    def _take_last_steps(self) -> None:
        loop = self.loop
        for _ in range(LAST_STEPS):
            if self._settlements:
                loop.call_soon(self._settle_now, context=self.context)
            elif not (loop.to_call or loop.is_due):
                break
            loop.call_soon(loop.stop, context=self.context)
            loop.run()

    def _take_along(self) -> None:
        """Have the loop do first what was given to it while nobody led."""
        if (self._calls or self._settlements) and not self._is_told:
            self._is_told = True
            self.loop.call_soon(self._make_calls, context=self.context)

    def _find_leader(self) -> None:
        """Nobody leads any more: see to it that somebody does who waits, or the spare thread where it has to."""
        if self._spare.sleeps_long:
            self._spare.look_after()  # in case a wake is lost, too
        if self._may_lead():
            while self._followers:
                try:
                    follower = self._followers.popleft()
                except IndexError:  # it has just given up
                    break
                follower.wake()
                return
            if not (self._onlookers or self._calls or self._settlements or self.loop.to_call):
                return
        self._spare.want()

    def _interrupt(self) -> None:
        """A signal was noted."""
        self._call_on_loop(self.loop.stop)

    # --- on the loop --------------------------------------------------------------------------------------------------

    def start(self, waiter: Waiter, coroutine: Coroutine[Any, Any, None], context: Context) -> None:
        """Run a coroutine for who waits, in a task."""
        self._running[waiter] = self.loop.create_task(coroutine, context=context)

    async def finish(self) -> None:
        """Return when all those are done."""
        while tasks := [task for task in self._running.values() if not task.done()]:
            await asyncio.wait(tasks)

    def end(self, waiter: Waiter) -> None:
        """What it waits for has come."""
        self._running.pop(waiter, None)
        waiter.is_done = True
        if self._leading is not waiter:
            waiter.wake()
        elif self.loop.is_running():
            self.loop.stop()

    def end_while_reading(self, waiter: Waiter) -> None:
        """As `end`, called while a socket is read: the turn of the loop that follows is taken along."""
        waiter.is_done = True
        if self._leading is not waiter:
            waiter.wake()
        elif self.loop.is_running():
            self.loop.call_soon(self.loop.stop, context=self.context)

    def _make_calls(self) -> None:
        self._is_told = False
        if self._settlements:  # the broker may wait for that before it does what follows
            self._settle_now()
        for _ in range(len(self._calls)):
            callback = self._calls.popleft()
            try:
                callback()
            except Exception as error:
                self.loop.call_exception_handler({"message": f"{callback!r} failed", "exception": error})
        if self._calls:
            self._tell()

    def _make_way(self) -> None:
        if self._spare_leads and self._followers:
            self.loop.stop()

    # --- the spare thread ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The loop has ended: tell those who wait."""
        self.has_ended = True
        for waiter in [*self._running, *self._onlookers.copy(), *self._patient.copy(), *list(self._followers)]:
            waiter.give_up()

    def keep(self, run: Callable[[], None]) -> None:
        """Run the loop whenever nobody else does, until `main` is done. From then on the turn is this thread's."""
        if not self._is_over:
            self._turn.acquire()
            try:
                while self._death is None and not self._lead_once(run):
                    self._turn.release()
                    self._find_leader()
                    self._await_turn()
                    if self.main.done():  # in the turn of another thread: the end stopped that one, not this
                        self.loop.call_soon(self.loop.stop)
            finally:
                self._is_over = True
                self.leader = get_ident()
            if self._death is not None:
                raise self._death
        else:
            run()

    def _lead_once(self, run: Callable[[], None]) -> bool:
        """Run the loop until somebody comes to wait; True where all is over."""
        self._spare.begin()
        self._spare_leads, self.leader = True, get_ident()
        self._take_along()
        run()
        self._spare_leads, self.leader = False, 0
        return self.main.done()

    def _await_turn(self) -> None:
        """Return with the turn, as soon as there is something to do and nobody else has it."""
        while True:
            if not self._may_lead():
                self._turn.acquire()  # who has it leaves
                return
            if self._spare.is_due() and self._turn.acquire(blocking=False):
                return

    def _has_something(self) -> bool:
        return bool(self._settlements or self._calls)


def _is_free() -> bool:
    """Whether this thread can run the loop: no event loop runs in it, amid which another one can't run, and its stack
    has room, without which a `RecursionError` would strike the loop's code instead of the caller's.
    """
    # hot: asyncio's own function, of which `get_running_loop` makes an error where there is none
    if _get_running_loop() is not None or (sniffio is not None and sniffio.thread_local.name is not None):
        return False
    try:
        sys._getframe(max(0, sys.getrecursionlimit() - STACK_ROOM))
    except ValueError:  # the stack is not that deep
        return True
    return False
