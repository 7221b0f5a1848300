"""`StreamPosition`: where a subscription goes on in a stream after its connection was lost.

What must stay true: nothing that came and was not settled is skipped; what was settled is not asked for again, but for
what came after the first delivery that was not.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from typing import Any

from rabbitry._channel.delivery import Delivery
from rabbitry._concurrency.clock import utc_now
from rabbitry._values.arguments import check_offset
from rabbitry._values.options import Offset

__all__ = ["StreamPosition"]


class StreamPosition:
    """Where to go on in a stream: at the first delivery that came and was not settled, else after the last one."""

    __slots__ = ("_following", "_offset", "_open", "_sweep_at")

    def __init__(self, offset: Offset | None) -> None:
        if offset is not None:
            check_offset(offset)
        self._offset = offset
        self._following: int | None = None
        self._open: deque[Delivery] = deque()  # of this life, in their order; those settled are swept out now and then
        self._sweep_at = 64

    def arrived(self, delivery: Delivery) -> None:
        """The next delivery of this life."""
        self._open.append(delivery)
        if len(self._open) >= self._sweep_at:
            self._advance(self._open[-1])
            self._open = deque(each for each in self._open if not each.is_settled)
            self._sweep_at = 64 + 2 * len(self._open)

    def _advance(self, last: Delivery) -> None:
        if last.stream_offset is not None:
            self._following = last.stream_offset + 1

    def following(self) -> int | None:
        """The offset after the last delivery that came; None before the first one."""
        if self._open:
            self._advance(self._open[-1])
        return self._following

    def argument(self) -> Any:
        """x-stream-offset for the next life."""
        if self._open:
            self._advance(self._open[-1])
        unsettled = next((each.stream_offset for each in self._open if not each.is_settled), None)
        self._open.clear()
        if unsettled is not None:
            self._following = unsettled
        if self._following is not None:
            return self._following
        if isinstance(self._offset, timedelta):
            self._offset = utc_now() - self._offset
        return "next" if self._offset is None else self._offset

    def began(self, time: datetime) -> None:
        """The first life has begun. Until something came, "next" is what comes after this, also while we are away."""
        if self._offset in ("next", None):
            self._offset = time
