"""A thread with a connection of its own, and the way from it to the event loop.

A thread does what it is asked to and posts what came of it; the event loop, which alone keeps the ledger, takes
everything that was posted in one go. So there is no lock: a deque takes what is posted, and the loop is woken once for
all that piles up until it looks. Measured: a request that does nothing, there and back, costs 20 µs of processor time
with one thread, 10 with a hundred that ask at once and share wake-ups, 30 with a thousand. An operation that is
cancelled goes on in its thread, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import anyio

from loadtest.drivers.base import ConnectionLost
from loadtest.drivers.blocking import BlockingConnection, Connect

CLOSE_BOUND = 5.0
"""Seconds a thread may take to close what it has opened; then it is left to itself, and ends with the process."""
REST = 2.0
"""Seconds without anything to do after which a connection is looked at: for heartbeats, and whether it still lives."""

T = TypeVar("T")


class Handover:
    """The way from any thread to the loop. Must be made on the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._posted: deque[Callable[[], None]] = deque()
        self._is_woken = False
        self._is_taking = False
        self._afterwards: list[Callable[[], None]] = []

    def post(self, function: Callable[[], None]) -> None:
        """Has the loop call the function soon. What one thread posts is called in its order. Never raises."""
        # A post that finds the flag set was made before the loop cleared it, and so before it empties the deque.
        self._posted.append(function)
        if not self._is_woken:
            self._is_woken = True
            try:
                self._loop.call_soon_threadsafe(self._take)
            except RuntimeError:  # the loop has ended, and nobody waits any more
                pass

    def afterwards(self, function: Callable[[], None]) -> None:
        """Has it called soon, once everything that was posted until then is dealt with. On the loop."""
        self._afterwards.append(function)
        if not self._is_taking:
            self.post(_nothing_to_do)

    def _take(self) -> None:
        self._is_woken = False
        self._is_taking = True
        posted = self._posted
        try:
            for _ in range(len(posted)):  # what comes meanwhile has woken the loop again
                posted.popleft()()
        finally:
            self._is_taking = False
            afterwards, self._afterwards = self._afterwards, []
            if posted:  # one of them raised: the others are not to wait for the next post
                self.post(_nothing_to_do)
        for function in afterwards:
            function()


class Worker:
    """A thread with a connection: it does one thing after the other."""

    def __init__(self, connect: Connect, url: str, name: str, handover: Handover) -> None:
        self._connect = connect
        self._url = url
        self._name = name
        self.handover = handover
        self._jobs: SimpleQueue[Callable[[BlockingConnection], None] | None] = SimpleQueue()
        self._ended = asyncio.Event()
        self._is_over = False
        self.connection: BlockingConnection | None = None

    async def start(self) -> None:
        """Opens the connection."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        threading.Thread(target=self._run, args=(opened,), name="loadtest client", daemon=True).start()
        await opened

    async def ask(self, function: Callable[[BlockingConnection], T]) -> T:
        """What the function returns, or raises, in the thread. ConnectionLost if the connection has ended."""
        if self._is_over:
            raise ConnectionLost("the connection was lost")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # hot: twice for each message
        post = self.handover.post

        def job(connection: BlockingConnection) -> None:
            try:
                result = function(connection)
            except BaseException as error:
                post(partial(_fail, answer, error))
            else:
                post(partial(_succeed, answer, result))

        self._jobs.put(job)
        return await answer

    async def end(self) -> None:
        """Closes the connection, in bounded time."""
        self._is_over = True
        self._jobs.put(None)
        with anyio.move_on_after(CLOSE_BOUND, shield=True):
            await self._ended.wait()

    def _run(self, opened: asyncio.Future[None]) -> None:
        post = self.handover.post
        try:
            connection = self.connection = self._connect(self._url, self._name)
        except BaseException as error:
            self._is_over = True
            post(partial(_fail, opened, _as_os_error(error)))
            post(self._ended.set)
            return
        post(partial(_succeed, opened, None))
        while (job := self._next_job(connection)) is not None:
            job(connection)
        try:
            connection.close()
        except Exception:
            pass  # it was lost before, or the broker is gone
        post(self._ended.set)

    def _next_job(self, connection: BlockingConnection) -> Callable[[BlockingConnection], None] | None:
        is_alive = True
        while True:
            try:
                return self._jobs.get(timeout=REST if is_alive else None)
            except Empty:
                try:
                    connection.rest()
                except Exception:
                    is_alive = False  # whoever asks next hears of it from the library


@asynccontextmanager
async def open_worker(worker: Worker) -> AsyncIterator[Worker]:
    try:
        await worker.start()
        yield worker
    finally:
        await worker.end()


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _as_os_error(error: BaseException) -> BaseException:
    """The run knows a broker that can't be reached by OSError; libraries have errors of their own for it."""
    return error if isinstance(error, OSError) else ConnectionError(str(error) or repr(error))


def _nothing_to_do() -> None:
    """Only has the loop take what there is."""
