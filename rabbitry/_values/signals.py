"""`FirstSignal`: a block in which the first of some signals ends work in order, and the next does what it did before.

What must stay true: whatever handled a signal before the block handles it again after the first one, and after the
block; nothing is done in the handler itself but to ask for it. The handler is Python's own: AnyIO's receivers forget
who handled the signal before, asyncio's runner included.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any

from rabbitry._errors import ConsumingStopped, LocalProtocolError

__all__ = ["FirstSignal"]


class FirstSignal:
    """`with FirstSignal(signals, heed):` - `heed` is called with the first of them, between any two instructions of the
    main thread. SIGTERM and SIGINT, where there are none. Blocks may lie in each other: one signal reaches them all.
    What is in order after it ends in order: `ConsumingStopped` ends the block, and is not raised.
    """

    __slots__ = ("_former", "_has_come", "_heed", "_is_over", "_signals")

    def __init__(self, signals: Sequence[int], heed: Callable[[signal.Signals], object]) -> None:
        self._signals = [_checked(each) for each in signals or (signal.SIGTERM, signal.SIGINT)]
        self._heed = heed
        self._former: dict[int, Any] = {}
        self._is_over = self._has_come = False
        _check_main_thread()

    def __enter__(self) -> None:
        _check_main_thread()
        if self._former or self._is_over:
            raise LocalProtocolError("this block was entered before: call stop_on(...) again")
        for number in self._signals:
            if number in self._former:
                continue
            self._former[number] = signal.getsignal(number)
            try:
                signal.signal(number, self)
            except OSError:
                self._restore()
                raise ValueError(f"no program can handle {number.name}") from None
        if self._is_over:  # the signal came meanwhile
            self._restore()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._restore()
        return self._has_come and _is_the_stop(error)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Called with the first signal."""
        was_over = self._is_over
        former = _living(self._former.get(number), number)
        self._restore()
        if not was_over:
            self._has_come = True
            self._heed(signal.Signals(number))
        if isinstance(former, FirstSignal):  # of a block around this one
            former(number, frame)
        elif was_over:  # of a block that was left before one inside it
            signal.signal(number, former)
            signal.raise_signal(number)

    def _restore(self) -> None:
        self._is_over = True
        for number, former in self._former.items():
            if signal.getsignal(number) is self:
                signal.signal(number, _living(former, number))


def _living(handler: Any, number: int) -> Any:
    """The handler, or that which was before the blocks that are over."""
    while isinstance(handler, FirstSignal) and handler._is_over:
        handler = handler._former.get(number)
    return signal.SIG_DFL if handler is None else handler  # None: it was not set by Python


def _is_the_stop(error: BaseException | None) -> bool:
    """Whether this says that consuming was stopped, and nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(ConsumingStopped)[1] is None
    return isinstance(error, ConsumingStopped)


def _checked(number: Any) -> signal.Signals:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"a signal is one of Python's signal.Signals, such as signal.SIGTERM, not {number!r}")
    try:
        return signal.Signals(number)
    except ValueError:
        raise ValueError(f"there is no signal {number}: give such as signal.SIGTERM") from None


def _check_main_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise LocalProtocolError(
            "signals are handled in the main thread alone, and this is another: there, let the main thread handle them "
            "and call client.stop_consuming()"
        )
