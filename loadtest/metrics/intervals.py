"""A growing set of whole numbers that costs memory by its gaps, not by its size.

It owns the arithmetic under the ledger: a set that fills almost in order is one interval, however many numbers are in
it. It knows nothing of messages.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Self


class Intervals:
    """Disjoint half-open intervals ``[start, end)`` in ascending order, never touching each other."""

    __slots__ = ("bounds",)

    def __init__(self) -> None:
        # start, end, start, end …: a position with an odd bisect index lies inside an interval. Not private: the ledger
        # looks at the end by itself, for each message.
        self.bounds: list[int] = []

    def add(self, number: int) -> bool:
        """Adds a number; False if it was there already."""
        bounds = self.bounds
        if bounds and number == bounds[-1]:  # the next one in order: almost every call
            bounds[-1] = number + 1
            return True
        index = bisect_right(bounds, number)
        if index % 2:
            return False
        joins_left = index > 0 and bounds[index - 1] == number
        joins_right = index < len(bounds) and bounds[index] == number + 1
        if joins_left and joins_right:
            del bounds[index - 1 : index + 1]
        elif joins_left:
            bounds[index - 1] = number + 1
        elif joins_right:
            bounds[index] = number
        else:
            bounds[index:index] = (number, number + 1)
        return True

    def __contains__(self, number: int) -> bool:
        return bool(bisect_right(self.bounds, number) % 2)

    def __len__(self) -> int:
        """How many numbers are in the set."""
        return sum(self.bounds[1::2]) - sum(self.bounds[::2])

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The intervals, ascending."""
        return list(zip(self.bounds[::2], self.bounds[1::2], strict=True))

    def merge(self, other: Intervals) -> None:
        """Adds all numbers of another set."""
        bounds: list[int] = []
        for start, end in sorted([*self.spans, *other.spans]):
            if bounds and start <= bounds[-1]:
                bounds[-1] = max(bounds[-1], end)
            else:
                bounds += (start, end)
        self.bounds = bounds

    def to_plain(self) -> list[int]:
        """The intervals as one list of numbers: start, end, start, end …"""
        return list(self.bounds)

    @classmethod
    def from_plain(cls, plain: Sequence[int]) -> Self:
        """The set that `to_plain` was asked of."""
        intervals = cls()
        intervals.bounds = list(plain)
        return intervals

    def overlap(self, other: Intervals) -> int:
        """How many numbers are in both sets."""
        shared, mine, theirs = 0, self.spans, other.spans
        i = j = 0
        while i < len(mine) and j < len(theirs):
            shared += max(0, min(mine[i][1], theirs[j][1]) - max(mine[i][0], theirs[j][0]))
            if mine[i][1] < theirs[j][1]:
                i += 1
            else:
                j += 1
        return shared
