"""How this library waits: signals, one-shot waiters for replies, and the checkpoints of operations that need not wait.

Operations that find their work done already must still notice cancellation, and now and then let other tasks run.
A full checkpoint each time would cost more than the operation (a publish 8 to 13 us instead of 2), so operations look
for cancellation every time and give way every 32nd (`GIVE_WAY`); looking alone never lets a deadline's timer run.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import cache, partial
from math import inf, isfinite
from threading import get_ident
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import anyio
import anyio.lowlevel
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from rabbitry._concurrency.clock import loop_time
from rabbitry._concurrency.elsewhere import of_another_thread
from rabbitry._errors import LocalProtocolError
from rabbitry._later import Later

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = Later("asyncio")

__all__ = [
    "GIVE_WAY",
    "Listener",
    "Signal",
    "Waiter",
    "Waits",
    "call_soon_from_anywhere",
    "check_here",
    "checkpoint",
    "checkpoint_if_cancelled",
    "is_being_cancelled",
    "new_signal",
    "running_loop",
    "wait_in_line",
    "waits",
]

GIVE_WAY = 31
"""`calls & GIVE_WAY == 0` on every 32nd call."""


class Listener(Protocol):
    """Is told once that something has come."""

    def set(self) -> object:
        """It has. Harmless when done twice."""
        ...


class Signal(Listener, Protocol):
    """Wakes the one task that waits for it, now or when it comes to wait. `anyio.Event` is one, and the general way."""

    def wait(self) -> Awaitable[object]:
        """What to await, at once and in the task that asks, until it is set. Cancelling that harms nothing."""
        ...


class Waits(NamedTuple):
    """How to wait on one event loop.

    hot: a reactor asks for it once. To ask each time which loop runs costs a signal 1 us (CPython 3.11 asks the system
    for the process id, too), and a checkpoint on trio 0.3 us.
    """

    new_signal: Callable[[], Signal]
    checkpoint_if_cancelled: Callable[[], Awaitable[None]]
    check_loop: Callable[[], None]
    """Raises in a task of any other event loop, which nothing here would ever wake."""
    time_left: Callable[[], float]
    """The seconds that the cancel scopes around the running task leave it; minus infinity where it is cancelled."""
    thread: int
    """The thread that it runs in, as `threading.get_ident` gives it."""


def waits() -> Waits:
    """How to wait on the running event loop. trio is asked first: as a guest it runs inside asyncio. Any folder called
    `trio` may have been imported by that name; a module of trio's own has not.
    """
    if "trio.lowlevel" in sys.modules:
        trio = _waiting_trio()
        if trio.in_trio_task():
            check_loop = partial(trio.check_token, trio.current_trio_token())
            return Waits(trio.TrioSignal, trio.checkpoint_if_cancelled, check_loop, trio.time_left, get_ident())
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return Waits(anyio.Event, checkpoint_if_cancelled, _check_nothing, _time_left, get_ident())
    ours = _waiting_asyncio()
    look, time_left = ours.looks()
    new_signal = partial(ours.AsyncioSignal, loop, ours.wakes_of(loop))
    return Waits(new_signal, look, partial(ours.check_loop, loop), time_left, get_ident())


def _check_nothing() -> None:
    """Whether the event loop is another one can't be told."""


def _time_left() -> float:
    deadline = anyio.current_effective_deadline()
    return deadline - loop_time() if isfinite(deadline) else deadline


def check_here(check_loop: Callable[[], None]) -> None:
    """Raise unless the event loop runs here, in another thread than before: several may run one in turn."""
    try:
        check_loop()
    except LocalProtocolError:
        raise of_another_thread() from None


def running_loop() -> object:
    """What identifies the event loop that runs here; None for one that AnyIO knows and this module does not."""
    if "trio.lowlevel" in sys.modules and (trio := _waiting_trio()).in_trio_task():
        token: object = trio.current_trio_token()
        return token
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def call_soon_from_anywhere() -> Callable[[Callable[[], object]], object]:
    """What has the event loop that runs here call a function soon, from any thread and any signal handler. Raises
    `RuntimeError` once the loop has ended.
    """
    if "trio.lowlevel" in sys.modules and (trio := _waiting_trio()).in_trio_task():
        run_sync_soon: Callable[[Callable[[], object]], object] = trio.current_trio_token().run_sync_soon
        return run_sync_soon
    return asyncio.get_running_loop().call_soon_threadsafe


def new_signal() -> Signal:
    """A signal for the running task, of the kind that its event loop wakes fastest."""
    if "trio.lowlevel" in sys.modules and (trio := _waiting_trio()).in_trio_task():
        signal: Signal = trio.TrioSignal()
        return signal
    try:
        signal = _waiting_asyncio().new_signal()
        return signal
    except RuntimeError:
        return anyio.Event()


@cache
def _waiting_trio() -> ModuleType:
    from rabbitry._concurrency import waiting_trio

    return waiting_trio


@cache
def _waiting_asyncio() -> ModuleType:
    from rabbitry._concurrency import waiting_asyncio

    return waiting_asyncio


async def wait_in_line(line: list[Signal], signal: Signal, pass_on: Callable[[], None]) -> None:
    """Wait behind those in `line`, from which whoever wakes takes the first.

    `pass_on` is called where it is cancelled when it had its turn already: the turn must not be lost with it.
    """
    line.append(signal)
    try:
        await signal.wait()
    except BaseException:
        if signal in line:
            line.remove(signal)
        else:
            pass_on()
        raise


def is_being_cancelled() -> bool:
    """Whether the running task is being cancelled, by a scope around it or by asyncio's own `Task.cancel`.

    asyncio also raises `CancelledError` in who awaits a future that something else cancelled: then this is false.
    """
    if anyio.current_effective_deadline() == -inf:
        return True
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0


class Waiter:
    """The one place a task waits for one reply. Setting it twice keeps the first; nobody waiting costs nothing."""

    __slots__ = ("_error", "_signal", "is_done", "value")

    def __init__(self) -> None:
        self.is_done: bool = False
        self.value: Any = None
        self._error: BaseException | None = None
        self._signal: Signal | None = None

    def set(self, value: Any) -> None:
        """The reply came."""
        if not self.is_done:
            self.is_done = True
            self.value = value
            if self._signal is not None:
                self._signal.set()

    def fail(self, error: BaseException) -> None:
        """There will be no reply, because of `error`."""
        if not self.is_done:
            self._error = error
            self.set(None)

    async def wait(self, new_signal: Callable[[], Signal] = new_signal) -> Any:
        """The reply. Cancelling leaves the waiter as it was."""
        if not self.is_done:
            await self.told(new_signal())
        return self.result()

    def told(self, signal: Signal) -> Awaitable[object]:
        """What to await until there is a `result`; `signal` is one of the running event loop's."""
        self._signal = signal
        return signal.wait()

    def result(self) -> Any:
        """The reply, or raise why there is none."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback leads here: a cycle would keep the caller's locals
        return self.value
