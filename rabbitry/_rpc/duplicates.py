"""`Answered`: which requests were answered here, so that one which comes again is not worked on twice.

What must stay true: a request that comes again while its former delivery is still being answered waits for that; a
bounded number of those answered is kept, the latest. Another server, or this one begun anew, knows nothing of them.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import anyio

from rabbitry._rpc.envelope import Request

__all__ = ["Answered", "UnderWay"]

ANSWERED_KEPT = 1000
"""Requests that were answered, and that come again if their acknowledgement was lost with the connection."""


class Answered:
    """Requests are known by where their reply goes, their correlation id and their body: there are callers that use
    one correlation id for all their calls. One without a correlation id is never known.
    """

    __slots__ = ("_answered", "_under_way")

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, str], UnderWay] = {}
        self._answered: dict[tuple[str, str, int], None] = {}

    async def knows(self, request: Request) -> bool:
        """Whether this request, which is redelivered, was answered in a former life; waits for that if it is still
        being answered.
        """
        reply_to, correlation_id = request.key
        if not correlation_id:
            return False
        body = request.delivery.body
        while (earlier := self._under_way.get(request.key)) is not None and earlier.request.delivery.body == body:
            await earlier.wait_done()
        known = reply_to, correlation_id, hash(body)
        if known not in self._answered:
            return False
        if not reply_to:  # where no reply is wanted, an id need not be one message's alone
            del self._answered[known]
        return True

    def under_way(self, request: Request) -> UnderWay:
        """A block in which the request is being answered."""
        return UnderWay(request, self._under_way, self._answered)


class UnderWay:
    """The block of one request. It is known from then on as answered if `was_answered` was set in the block."""

    __slots__ = ("_all", "_answered", "_done", "request", "was_answered")

    def __init__(
        self, request: Request, all_of_them: dict[tuple[str, str], UnderWay], answered: dict[tuple[str, str, int], None]
    ) -> None:
        self.request = request
        self.was_answered = False
        self._all = all_of_them
        self._answered = answered
        self._done: anyio.Event | None = None

    def __enter__(self) -> Self:
        self._all[self.request.key] = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        request = self.request
        if self.was_answered and request.key[1]:
            self._answered[*request.key, hash(request.delivery.body)] = None
            if len(self._answered) > ANSWERED_KEPT:
                del self._answered[next(iter(self._answered))]
        if self._all.get(request.key) is self:
            del self._all[request.key]
        if self._done is not None:
            self._done.set()

    async def wait_done(self) -> None:
        """Return when the block has been left."""
        if self._done is None:
            self._done = anyio.Event()
        await self._done.wait()
