"""`Threads`: runs a user's ordinary functions in worker threads, where the async library wants coroutines.

A worker that has nothing to do waits for the next function as any thread waits here: it may run the event loop itself
until that comes (see `turns`). One that is alone so hands nothing over to another thread.

What must stay true: what a function settled is settled before its end is seen; what ends a program (`sys.exit`) leaves
by the call that runs the functions, not by the loop; a function that is cancelled is left to itself, as nothing can
stop it.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from functools import partial, wraps
from typing import Any, TypeAlias, TypeVar

import anyio

import rabbitry
from rabbitry import RabbitryError
from rabbitry._values import converting
from rabbitry._values.converting import Convert
from rabbitry._values.options import Verdict, check_concurrency
from rabbitry._values.stopping import Stop, told
from rabbitry.blocking.ahead import Ahead
from rabbitry.blocking.delivery import Delivery
from rabbitry.blocking.portal import Portal
from rabbitry.blocking.waiter import Waiter

__all__ = ["Handler", "OnError", "Threads", "caught", "on_the_loop"]

T = TypeVar("T")

Handler: TypeAlias = Callable[[Any], Any] | rabbitry.Service | Sequence[Callable[..., Any]]
"""What answers requests."""

OnError: TypeAlias = Verdict | Callable[[rabbitry.Delivery, Exception], Verdict]
"""What becomes of a delivery whose handler failed, or what decides it."""


class Job:
    """A function that a worker is to run, and what came of it."""

    __slots__ = ("context", "error", "function", "future", "result")

    def __init__(self, function: Callable[[], Any], future: asyncio.Future[Any], context: Context) -> None:
        self.function: Callable[[], Any] = function
        self.future: asyncio.Future[Any] = future
        self.context: Context = context
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """In the worker's thread."""
        try:
            self.result = self.context.run(caught, self.function)
        except BaseException as error:  # `caught` raises ordinary ones only, but an interruption may strike anywhere
            self.error = error

    def tell(self) -> None:
        """On the loop: who waits for it goes on, unless it was cancelled."""
        if not self.future.done():
            if self.error is None:
                self.future.set_result(self.result)
            else:
                self.future.set_exception(self.error)


class Worker(Waiter):
    """A thread that runs one job after the other; what it waits for is the next one, or the end."""

    __slots__ = ("_done", "_threads", "job")

    def __init__(self, threads: Threads, job: Job) -> None:
        super().__init__()
        self._threads = threads
        self.job: Job | None = job
        self._done: Job | None = None
        threading.Thread(target=self._work, name="rabbitry.blocking.handler", daemon=True).start()

    def _work(self) -> None:
        turns = self._threads.portal.turns
        while (job := self.job) is not None:
            job.run()
            self.job, self._done = None, job
            del job
            self.is_done = self.is_begun = False
            turns.wait(self)

    # --- on the loop, or by who may run it ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Tell of the job that is done, and be at hand for the next one."""
        done, self._done = self._done, None
        if done is not None:
            done.tell()
        self._threads.is_idle(self)


class Threads:
    """Up to `most` functions at once, for one `process` or `serve`. Made on the loop."""

    def __init__(self, portal: Portal, most: int) -> None:
        self.portal = portal
        check_concurrency(most)
        self._most = most
        self._idle: dict[Worker, None] = {}
        self._has_ended = False
        self._scope = anyio.CancelScope()
        self._exit: BaseException | None = None

    async def run(self, operation: Callable[[], Awaitable[None]]) -> None:
        """Run what calls the functions; raises the `SystemExit` that one of them raised."""
        try:
            with self._scope, suppress(_Exit):
                await operation()
        finally:
            self._has_ended = True
            for worker in self._idle:
                self.portal.turns.end(worker)
            self._idle.clear()
        if self._exit is not None:
            raise self._exit

    def handling(self, handler: Any, has_stopped: Callable[[], bool], on_error: OnError) -> Any:
        """The handler of a `process`, as `asynchronous`; after `has_stopped()` it takes nothing more."""
        in_thread = partial(self.asynchronous, puts_back=True)
        if self._most > 1 or not callable(handler) or inspect.iscoroutinefunction(handler):
            return in_thread(handler)
        return Ahead(self.portal, handler, caught, in_thread, has_stopped, on_error).handle

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
            deliveries = [Delivery(each, self.portal) for each in args if isinstance(each, rabbitry.Delivery)]
            call = partial(function, *(deliveries or args), **kwargs)
            try:
                result = await self.in_worker(call)
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
                self.portal.settle_now()

        return in_thread

    def in_worker(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """What the function returns or raises. Cancelled, it is left to itself, and its worker to nobody."""
        turns = self.portal.turns
        job = Job(function, turns.loop.create_future(), copy_context())
        worker = turns.leading  # if that is one of ours, no thread needs to be woken
        if isinstance(worker, Worker) and worker in self._idle:
            del self._idle[worker]
        elif self._idle:
            worker, _ = self._idle.popitem()
        else:
            Worker(self, job)
            return job.future
        worker.job = job
        turns.end(worker)
        return job.future

    def is_idle(self, worker: Worker) -> None:
        """A worker has nothing to do."""
        if self._has_ended:
            self.portal.turns.end(worker)
        else:
            self._idle[worker] = None

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
