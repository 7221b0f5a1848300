"""Which signals end a run (Ctrl-C, SIGTERM, the SIGHUP of a terminal that is closed), and what becomes of them while no
event loop heeds them: before a run, between two, while its result is made and written.

What must stay true: each of them ends the program as Ctrl-C does, with what was measured; and however often they come,
what was measured is written first. Outside the main thread, where there are no signals, all of it does nothing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def ending_signals() -> list[signal.Signals]:
    """The signals that end a run in order: of a lost terminal, too, unless the program was started to outlive that
    (`nohup`), or the system has no such signal.
    """
    hang_up: signal.Signals | None = getattr(signal, "SIGHUP", None)
    outlives = hang_up is None or signal.getsignal(hang_up) is signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM] if outlives or hang_up is None else [signal.SIGINT, signal.SIGTERM, hang_up]


@contextmanager
def interruptible() -> Iterator[None]:
    """Each of them raises KeyboardInterrupt, as Ctrl-C does, until the block ends."""
    with _restored():
        if _is_main():
            for number in ending_signals():
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, signal.default_int_handler)
        yield


class Hold:
    """Keeps these signals from interrupting anything, once it has begun."""

    def __init__(self) -> None:
        self.came = False
        """Whether one came meanwhile."""

    def begin(self) -> None:
        """From now on they are only noted."""
        if _is_main():
            for number in ending_signals():
                signal.signal(number, self._note)

    def _note(self, *_: object) -> None:
        self.came = True


@contextmanager
def held() -> Iterator[Hold]:
    """What may begin to keep signals off within the block, for as long as that lasts."""
    with _restored():
        yield Hold()


@contextmanager
def _restored() -> Iterator[None]:
    """The handlers are what they were, afterwards: asyncio resets those that it has used."""
    former = {number: signal.getsignal(number) for number in ending_signals()}
    try:
        yield
    finally:
        if _is_main():
            for number, handler in former.items():
                signal.signal(number, handler)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()
