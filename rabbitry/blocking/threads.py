"""`Threads`: runs a user's ordinary functions in worker threads, where the async library wants coroutines.

What must stay true: what a function settled is settled before its end is seen; what ends a program (`sys.exit`) leaves
by the call that runs the functions, not by the loop; a function that is cancelled is left to itself, as nothing can
stop it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from typing import Any, TypeAlias, TypeVar

import anyio
import anyio.to_thread

import rabbitry
from rabbitry import RabbitryError
from rabbitry._values import converting
from rabbitry._values.converting import Convert
from rabbitry._values.options import Verdict, check_concurrency
from rabbitry._values.stopping import Stop, told
from rabbitry.blocking.delivery import Delivery
from rabbitry.blocking.portal import Portal

__all__ = ["Handler", "OnError", "Threads", "caught", "on_the_loop"]

T = TypeVar("T")

Handler: TypeAlias = Callable[[Any], Any] | rabbitry.Service | Sequence[Callable[..., Any]]
"""What answers requests."""

OnError: TypeAlias = Verdict | Callable[[rabbitry.Delivery, Exception], Verdict]
"""What becomes of a delivery whose handler failed, or what decides it."""


class Threads:
    """Up to `most` functions at once, for one `process` or `serve`. Made on the loop."""

    def __init__(self, portal: Portal, most: int) -> None:
        self._portal = portal
        check_concurrency(most)
        self._limiter = anyio.CapacityLimiter(most)
        self._scope = anyio.CancelScope()
        self._exit: BaseException | None = None

    async def run(self, operation: Callable[[], Awaitable[None]]) -> None:
        """Run what calls the functions; raises the `SystemExit` that one of them raised."""
        with self._scope, suppress(_Exit):
            await operation()
        if self._exit is not None:
            raise self._exit

    def asynchronous(
        self, function: Any, convert: Convert | None = converting.convert, *, puts_back: bool = False
    ) -> Any:
        """A coroutine function that runs `function` in a thread; of a `Service`, one that has such functions.

        `puts_back`: a delivery whose function ends the program goes back; else that counts as the function's failure.
        A coroutine function runs on the loop, as it is; what is neither is for the operation itself to refuse.
        """
        if isinstance(function, Sequence):
            function = rabbitry.Service(*function, convert=convert)
        if isinstance(function, rabbitry.Service):
            # The service's own table: of what it was made (an object, say, or an interface) only the names are public.
            functions = {name: self.asynchronous(served.function) for name, served in function._functions.items()}
            return rabbitry.Service(functions, convert=function.convert)
        if not callable(function) or inspect.iscoroutinefunction(function):
            return function

        @wraps(function, updated=())  # a service looks at its parameters
        async def in_thread(*args: Any, **kwargs: Any) -> Any:
            deliveries = [Delivery(each, self._portal) for each in args if isinstance(each, rabbitry.Delivery)]
            call = partial(function, *(deliveries or args), **kwargs)
            try:
                result = await anyio.to_thread.run_sync(caught, call, abandon_on_cancel=True, limiter=self._limiter)
                return await result if inspect.isawaitable(result) else result
            except _Exit as ending:
                self._exit = ending.__cause__
                self._scope.cancel()
                if not puts_back:
                    raise
                for delivery in deliveries:
                    if not delivery.is_settled and not delivery.is_stale:
                        delivery.nack()
            finally:
                self._portal.settle_now()

        return in_thread

    def guarded(self, on_error: OnError) -> OnError:
        """`on_error` itself, or a function that does the same and may end the program. It is called on the loop."""
        if not callable(on_error):
            return on_error

        def guarded(delivery: rabbitry.Delivery, error: Exception) -> Any:
            try:
                return caught(partial(on_error, delivery, error))
            except _Exit as ending:
                self._exit = ending.__cause__
                raise

        return guarded


@contextmanager
def on_the_loop(stop: Stop | None, portal: Portal) -> Iterator[Stop | None]:
    """A stop that is set on the loop, after this one was set in whichever thread."""
    if stop is None:
        yield None
        return
    there = Stop()
    if stop.is_set():  # before anything is entered
        there.set()
    with told(stop, lambda: portal.submit_if_open(there.set)):
        yield there


class _Exit(Exception):
    """Carries what is to end the program past the event loop, which it would end."""

    def __str__(self) -> str:
        return "the handler has ended the program"


def caught(function: Callable[[], T]) -> T:
    """What the function returns or raises, but for what would end or cancel who awaits it: that becomes an ordinary
    failure.
    """
    try:
        return function()
    except Exception:
        raise
    except asyncio.CancelledError as error:  # of an event loop of its own
        raise RabbitryError("the function awaited something that was cancelled") from error
    except BaseException as ending:
        raise _Exit from ending
