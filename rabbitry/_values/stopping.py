"""`Stop`: what a program ends one `process` or `serve` by, in order, where cancelling it would cut handlers short.

What must stay true: setting it takes no lock, and does the same from wherever it is done, a signal handler included;
once set it stays so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rabbitry._values.nothing import NOTHING

__all__ = ["Stop", "told"]


class Stop:
    """Ends each `process` and `serve` that it was given as `stop=`, as `client.stop_consuming()` ends all: they take no
    more deliveries, what no handler took goes back, the handlers at work finish, and then they return.

        stop = rabbitry.Stop()
        tg.start_soon(partial(client.process, "jobs", handler, stop=stop))
        ...
        stop.set()

    One that is begun when it was set returns at once. An async client's is to be set in its event loop's thread, a
    blocking client's in any.
    """

    __slots__ = ("_callbacks", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._callbacks: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"<Stop, {'set' if self._is_set else 'not set'}>"

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set

    def set(self) -> None:
        """End what has it. Not a coroutine, though awaiting it is harmless; nor is doing it twice any harm."""
        self._is_set = True
        for callback in self._callbacks.copy():
            callback()
        return NOTHING  # type: ignore[no-any-return]


@contextmanager
def told(stop: Stop | None, callback: Callable[[], object]) -> Iterator[None]:
    """A block in which `callback` is called when it is set, at once if it was before; more than once perhaps."""
    if stop is None:
        yield
        return
    stop._callbacks.append(callback)
    try:
        if stop._is_set:
            callback()
        yield
    finally:
        stop._callbacks.remove(callback)
