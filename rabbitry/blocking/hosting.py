"""`Hosted`: what a client and a connection have in common: an async block that one task of the loop holds open.

What must stay true: such a block is entered and left in the same task, whichever threads ask for it; what ends it from
within is raised where the `with` block ends, unless that raises something of its own.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import anyio

from rabbitry import LocalProtocolError, NotConnected
from rabbitry.blocking.portal import Portal, lease

__all__ = ["Hosted", "start"]

T = TypeVar("T")


class Host(Generic[T]):
    """The task that holds the block. Made and used on the loop alone; knows nothing of who asked for it."""

    def __init__(self, manager: AbstractAsyncContextManager[T]) -> None:
        self._manager = manager
        self._entered, self._leave, self._ended = anyio.Event(), anyio.Event(), anyio.Event()
        self._scope = anyio.CancelScope()
        self._value: T | None = None
        self.failure: BaseException | None = None

    async def enter(self, portal: Portal) -> T:
        """Return what entering gives, or raise what it raises. Cancelling it leaves nothing behind."""
        portal.spawn(self._hold()).add_done_callback(self._done)
        try:
            await self._entered.wait()
        except BaseException:
            self._scope.cancel()
            with anyio.CancelScope(shield=True):
                await self._ended.wait()
            raise
        if self._value is None:
            assert self.failure is not None
            raise self.failure
        return self._value

    async def leave(self) -> None:
        """Leave the block, and return when it is done."""
        self._leave.set()
        await self._ended.wait()

    def leave_soon(self) -> None:
        """Leave the block, without waiting."""
        self._leave.set()

    async def _hold(self) -> None:
        try:
            with self._scope:
                async with self._manager as self._value:
                    self._entered.set()
                    await self._leave.wait()
        except asyncio.CancelledError:
            self.failure = NotConnected("the thread that it ran in has ended")
        except BaseException as error:
            self.failure = error

    def _done(self, _: asyncio.Task[None]) -> None:
        if self._value is None and self.failure is None:
            self.failure = NotConnected("it was never entered")
        self._entered.set()
        self._ended.set()


class Hosted(Generic[T]):
    """Base of `Client` and `Connection`. Inert until it is entered, and to be entered once."""

    _what = "it"
    _how = "with"

    def __init__(self) -> None:
        self._leased: Portal | None = None
        self._host: Host[T] | None = None
        self._value: T | None = None
        self._was_entered = self._is_started = self._is_left = False
        self._failure: BaseException | None = None  # what ended it from within

    def _manager(self) -> AbstractAsyncContextManager[T]:
        """The async block to hold open."""
        raise NotImplementedError

    @property
    def _portal(self) -> Portal:
        if self._leased is None or self._is_left:
            state = "closed" if self._is_left else "not open"
            how = "before its close()" if self._is_started else f"inside its block, '{self._how}'"
            raise NotConnected(f"{self._what} is {state}: use it {how}")
        self._leased.check_fork()
        return self._leased

    @property
    def _opened(self) -> tuple[Portal, T]:
        """The portal, and the async object inside the block; `NotConnected` outside it."""
        return self._portal, self._value  # type: ignore[return-value]  # hot: without `cast`

    @property
    def _async(self) -> T:
        return self._opened[1]

    def __enter__(self) -> Self:
        if self._was_entered:
            raise LocalProtocolError(f"{self._what} was entered before: make another one")
        self._was_entered = True
        portal = self._leased = lease()
        try:
            self._value = portal.run(self._enter)
        except BaseException:
            if self._host is not None:  # it may have been entered before this was interrupted
                portal.submit_if_open(self._host.leave_soon)
            self._leased = self._host = None
            portal.give_back()
            raise
        return self

    async def _enter(self) -> T:
        self._host = Host(self._manager())
        return await self._host.enter(self._portal)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the block; in the child of a fork, do nothing. Interrupted, it goes on closing in the background."""
        self._leave()
        failure = self._failure
        if failure is not None and (error is None or (isinstance(error, NotConnected) and error.__cause__ is failure)):
            raise failure from None

    def _leave(self) -> None:
        portal, host = self._leased, self._host
        if portal is None or portal.is_forked or host is None:
            return
        self._host = None
        try:
            if not portal.is_gone:
                portal.run(host.leave)  # handlers in other threads may still publish meanwhile
        except BaseException:
            _leave_soon(host, portal)
            raise
        finally:
            self._is_left = True
        portal.give_back()
        self._failure = host.failure

    # --- without a block ----------------------------------------------------------------------------------------------

    def _close(self) -> None:
        """Leave what `start` entered, unless it was left. What ended it from within is not raised."""
        if not self._is_started:
            raise LocalProtocolError(f"{self._what} ends with its 'with' block; close() is for what start_client made")
        self._leave()

    def __del__(self) -> None:
        host, portal = getattr(self, "_host", None), getattr(self, "_leased", None)
        if host is not None and portal is not None and not portal.is_forked:
            if not sys.is_finalizing():  # a thread that is no more may hold the portal's lock
                _leave_soon(host, portal)
            how = "without its close()" if self._is_started else "inside its 'with' block"
            warnings.warn(f"{self._what} was dropped {how}", ResourceWarning, 2, self)


def start(hosted: Hosted[Any]) -> None:
    """Enter it without a block: its `_close` is to leave it."""
    hosted.__enter__()
    hosted._is_started = True


def _leave_soon(host: Host[Any], portal: Portal) -> None:
    """Have the host leave its block, and the lease given back, without waiting."""
    portal.submit_if_open(host.leave_soon)
    portal.submit_if_open(portal.give_back)
