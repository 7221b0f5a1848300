"""`Session`: connections for a command, and how it is interrupted.

What must stay true: the first signal ends what the command says can be ended in order, or else all of it; the second
cancels all of it; a third meets the handlers of before, by which the program ends at once. What the command raises
leaves as it is, in no group.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager

import anyio
from anyio.abc import TaskStatus

import rabbitry
from rabbitry import AuthenticationFailed, Backoff, Client, ConnectFailed, Connection
from rabbitry._cli.output import INTERRUPTED

RETRY_PAUSE = 0.5
"""Seconds between attempts of a command that --wait has wait for the broker."""


class Session:
    """What a command has of its surroundings."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._url: str = arguments.url
        self._wait: float = arguments.wait or 0
        self._name = f"rabbitry {arguments.command}"
        self._end: Callable[[], object] | None = None  # in order
        self.is_interrupted = False

    # --- the broker ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """A connection for what is done at once."""
        deadline = time.monotonic() + self._wait
        async with AsyncExitStack() as stack:
            while True:
                try:
                    connection = await stack.enter_async_context(rabbitry.connect(self._url, name=self._name))
                    break
                except ConnectFailed as error:
                    if isinstance(error, AuthenticationFailed) or time.monotonic() + RETRY_PAUSE > deadline:
                        raise
                await anyio.sleep(RETRY_PAUSE)
            yield connection

    def open_client(self) -> AbstractAsyncContextManager[Client]:
        """A client for what goes on for long: lost connections are made again."""
        backoff = Backoff(maximum=5, deadline=self._wait) if self._wait else Backoff(attempts=1)
        return rabbitry.open_client(self._url, name=self._name, reconnect=backoff)

    # --- interrupting -------------------------------------------------------------------------------------------------

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """The first signal cancels this block; what follows it goes on."""
        with anyio.CancelScope() as scope, self.ending_by(scope.cancel):
            yield

    @contextmanager
    def ending_by(self, end: Callable[[], object]) -> Iterator[None]:
        """The first signal calls this in the block, and cancels nothing."""
        if self.is_interrupted:
            end()
        self._end = end
        try:
            yield
        finally:
            self._end = None

    async def run(
        self, command: Callable[[argparse.Namespace, Session], Awaitable[int]], arguments: argparse.Namespace
    ) -> int:
        """Runs the command to its exit code."""
        failure: Exception | None = None
        code = INTERRUPTED
        async with anyio.create_task_group() as tg:
            await tg.start(self._heed_signals, tg.cancel_scope)
            try:
                code = await command(arguments, self)
            except Exception as error:
                failure = error
            tg.cancel_scope.cancel()
        if failure is not None:  # raised here, it is in no group
            raise failure
        return INTERRUPTED if self.is_interrupted else code

    async def _heed_signals(self, everything: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with anyio.open_signal_receiver(*before) as signals:
                task_status.started()
                async for _ in signals:
                    if self._end is None or self.is_interrupted:
                        everything.cancel()
                    else:
                        self._end()
                    self.is_interrupted = True
        except NotImplementedError:  # Windows' event loops have none; there the handlers of before end it all at once
            task_status.started()
            await anyio.sleep_forever()
        finally:  # of the handlers, trio alone restores what they were: the program's, which end it at once
            for number, handler in before.items():
                signal.signal(number, handler)
