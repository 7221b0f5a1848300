"""`Guard`: keeps what signal handlers raise out of the event loop's code while the main thread runs it.

Python runs signal handlers in the main thread, between any two steps of whatever that does. What a handler raises there
(`KeyboardInterrupt`, say) would tear the loop's own state. So each handler that is a Python function is exchanged,
while the main thread runs the loop, for a `Note` that writes the signal down and has the loop stop; the handler itself
is called when the main thread has left the loop, where what it raises goes to the caller.

What must stay true: no signal is lost, whatever raises wherever. A `Note` that stays behind, because something raised
while the handlers were put back, does what the handler does; it goes with the next use. The child of a fork has no
`Note`s, whichever thread forked: no event loop runs there that would call the handlers.
"""

from __future__ import annotations

import inspect
import os
import signal
import threading
import weakref
from collections.abc import Callable
from threading import get_ident
from types import FrameType
from typing import Any, TypeAlias

__all__ = ["Guard", "is_main"]

Handler: TypeAlias = Callable[[int, FrameType | None], Any]

# hot: the functions in C. Those around them make enumerations of what they take and give, which costs the tenfold.
_C: Any = getattr(signal, "_signal", signal)
_handler_of: Callable[[int], Any] = _C.getsignal
_set_handler: Callable[[int, Any], Any] = _C.signal
_NUMBERS = tuple(sorted(map(int, signal.valid_signals())))


class Note:
    """Stands in for a signal's handler."""

    __slots__ = ("_guard", "handler")

    def __init__(self, guard: Guard, handler: Handler) -> None:
        self._guard = guard
        self.handler: Handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> Any:
        guard = self._guard
        if not guard.is_on:
            return self.handler(number, frame)
        guard.noted[number] = self.handler
        guard.interrupt()
        return None


class Guard:
    """Of one event loop. `interrupt` is called in a signal handler, to have the main thread leave the loop soon."""

    def __init__(self, interrupt: Callable[[], object]) -> None:
        self.interrupt = interrupt
        self.is_on: bool = False
        self.noted: dict[int, Handler] = {}
        self._seen: list[Any] = []  # what all signals' handlers were the last time
        self._notes: list[tuple[int, Note]] = []  # what stands in for those of them that are functions
        _guards.add(self)

    def begin(self) -> None:
        """Called in the main thread, before it runs the loop. May raise what a handler raises."""
        handlers = list(map(_handler_of, _NUMBERS))
        if handlers != self._seen:
            self._look(handlers)
        notes = self._notes
        try:
            for number, note in notes:
                _set_handler(number, note)
        except BaseException:
            self.end()
            raise
        if notes is self._notes:
            self.is_on = True
        else:  # a handler has run the loop amid this, and put back those that were exchanged by then
            _put_back(notes)
            self.begin()

    def _look(self, handlers: list[Any]) -> None:
        notes: list[tuple[int, Note]] = []
        for number, handler in zip(_NUMBERS, handlers, strict=True):
            if isinstance(handler, Note):  # which has stayed behind
                handler = handler.handler
            if callable(handler):
                notes.append((number, Note(self, handler)))
        self._notes, self._seen = notes, handlers

    def end(self) -> None:
        """Called in the main thread, after it has left the loop. Raises what the handlers raise that are due."""
        self.is_on = False
        try:
            _put_back(self._notes)
        finally:
            if self.noted:
                self._call_handlers()

    def forget(self) -> None:
        """In the child of a fork: what was noted is the parent's, and the thread that ran the loop is not here."""
        self.noted.clear()
        self.end()

    def _call_handlers(self) -> None:
        """Call them all, whatever one of them raises."""
        number, handler = self.noted.popitem()
        try:
            handler(number, inspect.currentframe())
        finally:
            if self.noted:
                self._call_handlers()


def _put_back(notes: list[tuple[int, Note]]) -> None:
    """Put the handlers back, all of them, whatever one raises meanwhile."""
    try:
        for number, note in notes:
            if _handler_of(number) is note:  # not what a callback has put in its place
                _set_handler(number, note.handler)
    except BaseException:
        _put_back(notes)
        raise


def is_main() -> bool:
    """Whether this is the thread that signal handlers run in."""
    return get_ident() == _main  # hot: without asking `threading` for it


_main = threading.main_thread().ident


_guards: weakref.WeakSet[Guard] = weakref.WeakSet()


def _forget() -> None:
    global _main
    _main = get_ident()  # the thread that forked is the child's main thread
    for guard in list(_guards):
        guard.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
