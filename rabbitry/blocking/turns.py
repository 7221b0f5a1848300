"""`Turns`: who runs the event loop. The thread that waits for something runs it itself until that has come (it leads);
the others that wait meanwhile (they follow) are woken when theirs has come, or to lead.

A thread that is alone so never hands anything over to another: to wake one and be woken by it costs twice what a
confirmed publish does. What runs the loop while nobody waits is a spare thread, which begins when something is to be
done that nobody waits for, or when nobody has led for `UNATTENDED` seconds, and makes way for whoever comes to wait.

What must stay true: one thread at a time runs the loop; while somebody waits, somebody leads; a wait that has ended is
left at once; what a signal handler raises is raised in no code of the loop (see `signals`); nothing that may raise so
comes between the taking of the turn and its giving back. Where a wake is lost all the same, to what interrupts a
follower as it is told to lead, the spare thread finds nobody leading.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import threading
import time
from asyncio.events import _get_running_loop, _set_running_loop
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVarTuple, Unpack

from rabbitry.blocking.log_thread import LogThread, write_here
from rabbitry.blocking.signals import Guard, is_main

if TYPE_CHECKING or sys.platform != "win32":
    from asyncio import SelectorEventLoop as PlainLoop
else:
    from asyncio import ProactorEventLoop as PlainLoop

try:
    import sniffio
except ModuleNotFoundError:  # a newer AnyIO can do without
    sniffio = None  # type: ignore[assignment]  # asked for before each use

__all__ = ["Turns", "Waiter"]

Arguments = TypeVarTuple("Arguments")

UNATTENDED = 0.05
"""Seconds for which nobody needs to run the loop: heartbeats and the like take longer."""

LAST_STEPS = 3
"""Steps of the loop, at most, that who leaves it takes so that nothing is left half done: what was written is sent."""

STACK_ROOM = 300
"""Frames that must be left of Python's recursion limit in a thread that runs the loop."""


class Waiter:
    """What a thread waits for, in `Turns.wait`; `Turns.end` ends it."""

    __slots__ = ("_awake", "is_begun", "is_done")

    def __init__(self) -> None:
        self.is_done = self.is_begun = False
        self._awake = threading.Lock()
        self._awake.acquire()

    def begin(self) -> None:
        """What is to be done on the loop, first of all, or as who is about to run it."""

    def give_up(self) -> None:
        """The loop has ended, and nothing will come."""
        self.is_done = True
        self.wake()

    def wake(self) -> None:
        """Have its thread look again. Harmless when done twice."""
        try:
            self._awake.release()
        except RuntimeError:
            pass

    def sleep(self, seconds: float | None) -> None:
        """Return once it is woken, or so many seconds have passed (None: whenever that is)."""
        self._awake.acquire(timeout=-1 if seconds is None else min(max(seconds, 0.0), threading.TIMEOUT_MAX))


SPARED = 3
"""Looks at the sockets in a row that the loop goes without while it has something to call."""


class Turns:
    """The turns of one event loop, which `new_loop` makes for the spare thread. `settle_now` makes `settlements`."""

    def __init__(
        self, log_thread: LogThread, settlements: deque[Any], settle_now: Callable[[], object], settle_within: float
    ) -> None:
        self._log_thread = log_thread
        self._settlements = settlements
        self._settle_now = settle_now
        self._settle_within = settle_within
        self.loop: SharedLoop
        self.main: asyncio.Task[Any]  # with which all ends
        self.context: Context  # of what is called on the loop for nobody's operation
        self.leader = 0  # the thread that runs the loop, by its identity
        self._turn = threading.Lock()
        self._leading: Waiter | None = None  # whom the leader waits for
        self._led = 0  # how often somebody did
        self._followers: deque[Waiter] = deque()
        self._onlookers: set[Waiter] = set()  # who waits and can't lead
        self._patient: set[Waiter] = set()  # who waits and needs nobody to
        self._running: dict[Waiter, asyncio.Task[None]] = {}
        self.has_ended = False
        self._calls: deque[Callable[[], object]] = deque()
        self._is_told = False  # the loop, that there are calls
        self._spare = Waiter()
        self._is_wanted = self._spare_leads = self._sleeps_long = self._is_alert = False  # the spare thread
        self._is_over = False
        self._death: BaseException | None = None
        self._guard = Guard(self._interrupt)

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """The loop, made."""
        self.loop = SharedLoop(self)
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
            self._want_spare()

    def attend_soon(self) -> None:
        """See to it that a thread runs the loop within the time that settlements have."""
        if not self._is_alert:
            self._is_alert = True
            self._spare.wake()

    def wait(self, waiter: Waiter, seconds: float | None = None, *, is_patient: bool = False) -> bool:
        """Return whether it has ended, at the latest after so many seconds (None: when it has). A signal handler may
        raise here, any number of times. `is_patient`: others do what it
        waits for, and see to the loop.
        """
        end = None if seconds is None else time.monotonic() + seconds
        may_lead = not is_patient and _is_free()
        while not waiter.is_done:
            if not may_lead or not self._may_lead():
                self._look_on(waiter, end, is_patient)
            elif not self._lead(waiter, end):
                self._follow(waiter, end)
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
        """Run the loop until this has ended, its time is up, or a signal came; False where another thread runs it."""
        if self._turn.locked():
            return False
        guard = self._guard if is_main() else None
        if guard is not None:
            guard.begin()
        try:
            if not self._turn.acquire(blocking=False):
                return False
            try:
                if self._may_lead() and not waiter.is_done:
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
        timer: asyncio.TimerHandle | None = None
        self.leader, self._leading = get_ident(), waiter
        self._log_thread.begin()
        try:
            if end is not None:
                timer = loop.call_later(max(0.0, end - time.monotonic()), loop.stop, context=self.context)
            if not (waiter.is_begun or self._calls or self._settlements):
                waiter.is_begun = True
                loop.call_now(waiter.begin)
            else:
                self._begin(waiter)
                self._take_along()
            loop.run()
            if timer is not None:
                timer.cancel()
            for _ in range(LAST_STEPS):
                if self._settlements:
                    loop.call_soon(self._settle_now, context=self.context)
                elif not loop.has_work:
                    break
                loop.call_soon(loop.stop, context=self.context)
                loop.run()
        except BaseException as error:  # which nothing here raises, but a callback of the user's may
            self._death = error
        finally:
            self.leader, self._leading = 0, None
            self._led += 1
            write_here()

    def _take_along(self) -> None:
        """Have the loop do first what was given to it while nobody led."""
        if (self._calls or self._settlements) and not self._is_told:
            self._is_told = True
            self.loop.call_soon(self._make_calls, context=self.context)

    def _find_leader(self) -> None:
        """Nobody leads any more: see to it that somebody does who waits, or the spare thread where it has to."""
        if self._sleeps_long:  # it is to look after this from now on, in case a wake is lost, too
            self._spare.wake()
        if self._may_lead():
            while self._followers:
                try:
                    follower = self._followers.popleft()
                except IndexError:  # it has just given up
                    break
                follower.wake()
                return
            if not (self._onlookers or self._calls or self._settlements or self.loop.has_work):
                return
        self._want_spare()

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
        if self._leading is waiter:
            self.loop.stop()
        else:
            waiter.wake()

    def end_while_reading(self, waiter: Waiter) -> None:
        """As `end`, called while a socket is read: the turn of the loop that follows is taken along."""
        waiter.is_done = True
        if self._leading is waiter:
            self.loop.call_soon(self.loop.stop, context=self.context)
        else:
            waiter.wake()

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

    def _want_spare(self) -> None:
        self._is_wanted = True
        self._spare.wake()

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
        self._is_wanted = False
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
            if self._is_due() and self._turn.acquire(blocking=False):
                return

    def _is_due(self) -> bool:
        """Sleep, and then say whether to lead, if nobody else does."""
        led, seconds = self._led, self._settle_within if self._is_alert else UNATTENDED
        if not self._is_wanted:
            self._spare.sleep(seconds)
        if self._is_wanted:
            self._is_wanted = False
            return True
        if self._is_alert:
            if self._settlements or self._calls:
                return True
            self._is_alert = False
            return bool(self._settlements or self._calls)
        if led != self._led:
            return False
        if self._turn.locked():
            self._sleeps_long = True
            if self._turn.locked() and not (self._is_wanted or self._is_alert):
                self._spare.sleep(None)
            self._sleeps_long = False
            return False
        return True


class SparingSelector(selectors.DefaultSelector):
    """hot: does not look at the sockets each time that the loop has something to call at once, but every fourth time.
    A publish goes through four steps of the loop, and waits in one of them; each other look takes 4 us.
    """

    def __init__(self) -> None:
        super().__init__()
        self._spared = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready, after `timeout` seconds at the most; without a look where there is no time to wait."""
        if timeout is not None and timeout <= 0 and self._spared < SPARED:
            self._spared += 1
            return []
        self._spared = 0
        return super().select(timeout)


class SharedLoop(PlainLoop):
    """An event loop that several threads run in turn."""

    def __init__(self, turns: Turns) -> None:
        if sys.platform == "win32":
            super().__init__()
        else:
            super().__init__(SparingSelector())
        self._turns = turns

    def run_forever(self) -> None:
        """What the spare thread does."""
        self._turns.keep(super().run_forever)

    def call_now(self, callback: Callable[[], object]) -> None:
        """Call it, by who is about to run the loop: as if it was run already."""
        _set_running_loop(self)
        try:
            callback()
        finally:
            _set_running_loop(None)

    def run(self) -> None:
        """Run until it is stopped."""
        super().run_forever()

    @property
    def has_work(self) -> bool:
        """Whether something is to be called at once."""
        return bool(getattr(self, "_ready", True))

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Arguments]], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.Handle:
        """Have it called, by whoever runs the loop."""
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        self._turns.attend()
        return handle


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
