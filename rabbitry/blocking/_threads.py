"""`Threads`: runs a user's ordinary functions in worker threads, where the async library wants coroutines.

What must stay true: what a function settled is settled before its end is seen; what ends a program (`sys.exit`) leaves
by the call that runs the functions, not by the loop; a function that is cancelled is left to itself, as nothing can
stop it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread

import rabbitry
from rabbitry.blocking._delivery import Delivery
from rabbitry.blocking._portal import Portal

__all__ = ["Threads"]


class Threads:
    """Up to `most` functions at once, for one `process` or `serve`. Made on the loop."""

    def __init__(self, portal: Portal, most: int) -> None:
        self._portal = portal
        self._limiter = anyio.CapacityLimiter(max(1, most))  # below 1 the operation itself refuses
        self._scope = anyio.CancelScope()
        self._exit: BaseException | None = None

    async def run(self, operation: Callable[[], Awaitable[None]]) -> None:
        """Run what calls the functions; raises the `SystemExit` that one of them raised."""
        with self._scope:
            await operation()
        if self._exit is not None:
            raise self._exit

    def asynchronous(self, function: Any, *, puts_back: bool = False) -> Any:
        """A coroutine function that runs `function` in a thread; what can't be run so is passed on as it is.

        `puts_back`: a delivery whose function ends the program goes back; else that counts as the function's failure.
        """
        if not callable(function) or inspect.iscoroutinefunction(function):
            return function

        async def in_thread(argument: Any) -> Any:
            if isinstance(argument, rabbitry.Delivery):
                argument = Delivery(argument, self._portal)
            try:
                return await anyio.to_thread.run_sync(
                    _caught, function, argument, abandon_on_cancel=True, limiter=self._limiter
                )
            except _Exit as ending:
                self._exit = ending.__cause__
                self._scope.cancel()
                if not puts_back:
                    raise
                if not argument.is_settled and not argument.is_stale:
                    argument.nack()
            finally:
                self._portal.settle_now()

        return in_thread


class _Exit(Exception):
    """Carries what is to end the program past the event loop, which it would end."""

    def __str__(self) -> str:
        return "the handler has ended the program"


def _caught(function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return function(argument)
    except Exception:
        raise
    except BaseException as ending:
        raise _Exit from ending
