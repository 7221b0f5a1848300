"""What `process` takes as its handler, as far as can be told before it is called.

What must stay true: nothing is refused here that might work: a lambda or a decorated function may well return an
awaitable, and a signature that somebody gave a function proves nothing about it.
"""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["check_callable", "check_handler", "is_async"]


def check_handler(handler: Any) -> None:
    """Refuse (`TypeError`) what can't ever handle a delivery: its messages would fail and come again, for ever."""
    check_callable(handler)
    if _takes_no_delivery(handler):
        raise TypeError(f"the handler is called with the delivery alone, which {handler!r} can't be")


def check_callable(handler: Any) -> None:
    """Refuse (`TypeError`) what does nothing when it is called, whatever with."""
    if inspect.iscoroutine(handler):
        handler.close()  # which nobody will await
        raise TypeError(f"process takes the function itself, not what calling it gave: {handler.__name__}, without ()")
    if not callable(handler):
        raise TypeError(f"the handler is a function of a delivery, not {handler!r}")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise TypeError(f"the handler has a 'yield', so that calling it runs nothing of it: {handler!r}")


def is_async(handler: Any) -> bool:
    """Whether calling it gives a coroutine, as far as can be told without calling it."""
    return inspect.iscoroutinefunction(handler) or (
        callable(handler) and inspect.iscoroutinefunction(type(handler).__call__)
    )


def _takes_no_delivery(handler: Any) -> bool:
    """Whether it is certain that calling it with one argument fails."""
    if not (inspect.isfunction(handler) or inspect.ismethod(handler)) or hasattr(handler, "__signature__"):
        return False
    try:
        inspect.signature(handler, follow_wrapped=False).bind(None)
    except TypeError:
        return True
    except ValueError:
        pass
    return False
