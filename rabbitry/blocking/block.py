"""`Block`: what a channel, a consumer and an RPC have in common: an async block that the loop enters and leaves.

What must stay true: a block whose entering was interrupted is left, also where it had been entered by then; one that is
left is left to its end, also where the waiting for that is interrupted; one that a thread is still in as the event loop
ends is left before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import ClassVar, Generic, Self, TypeVar
from weakref import WeakMethod

from rabbitry import LocalProtocolError
from rabbitry.blocking.portal import Leave, Portal, Timeout

__all__ = ["Block"]

logger: logging.Logger = logging.getLogger("rabbitry")

T = TypeVar("T")


class Block(Generic[T]):
    """An async block as a `with` block: to be entered once, and left, by whichever threads."""

    _what: ClassVar[str]
    _call: ClassVar[str]

    def __init__(
        self, portal: Portal, make: Callable[[], AbstractAsyncContextManager[T]], timeout: Timeout = None
    ) -> None:
        self._portal = portal
        self._make = make
        self._timeout = timeout
        self._manager: AbstractAsyncContextManager[T] | None = None  # while it has to be left
        self._entered: T | None = None
        self._at_the_end: WeakMethod[Leave] = WeakMethod(self._leave_at_the_end)
        self._failure: Exception | None = None  # to leave it as the loop ended

    def __repr__(self) -> str:
        entered = f"{self._entered!r}" if self._entered is not None else f"{type(self).__name__}, not entered"
        return f"<blocking {entered}>"

    @property
    def _async(self) -> T:
        """The async object that entering gave; `LocalProtocolError` before that."""
        if self._entered is None:
            raise LocalProtocolError(f"{self._what} is not open: enter it first, 'with {self._call} as ...'")
        self._portal.check_fork()
        return self._entered

    def __enter__(self) -> Self:
        """Open the block, within the `timeout` that it was made with."""
        if self._entered is not None:
            raise LocalProtocolError(f"{self._what} was entered before: call {self._call} again")
        self._entered = self._portal.run(self._enter, self._timeout, undo=self._undo)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the block. Interrupted, it goes on closing in the background."""
        if not self._portal.is_gone:
            self._portal.run(self._leave_now, is_final=True)
        elif self._failure is not None and not self._portal.is_forked:
            raise self._failure

    # --- on the loop --------------------------------------------------------------------------------------------------

    async def _enter(self) -> T:
        manager = self._make()
        entered = await manager.__aenter__()
        self._manager = manager
        self._portal.at_the_end.add(self._at_the_end)
        return entered

    async def _leave(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            await manager.__aexit__(None, None, None)

    def _undo(self, _: T) -> None:
        self._portal.spawn(self._leave_quietly())

    async def _leave_now(self) -> None:
        self._portal.at_the_end.discard(self._at_the_end)
        await self._leave()

    async def _leave_at_the_end(self) -> None:
        """Leave the block as the loop is about to end; what that raises is for who is still in it."""
        try:
            await self._leave_now()
        except Exception as error:
            self._failure = error

    async def _leave_quietly(self) -> None:
        try:
            await self._leave_now()
        except Exception as error:
            logger.warning("%s could not be closed: %s", self._what, error)
