"""Ctrl-C and SIGTERM while no event loop heeds them: before a run, between two, while its result is made and written.

What must stay true: SIGTERM ends the program as Ctrl-C does, with what was measured; and however often either comes,
what was measured is written first. Outside the main thread, where there are no signals, all of it does nothing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does, until the block ends."""
    with _restored():
        if _is_main():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield


class Hold:
    """Keeps both signals from interrupting anything, once it has begun."""

    def __init__(self) -> None:
        self.came = False
        """Whether one came meanwhile."""

    def begin(self) -> None:
        """From now on they are only noted."""
        if _is_main():
            for number in SIGNALS:
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
    former = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if _is_main():
            for number, handler in former.items():
                signal.signal(number, handler)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()
