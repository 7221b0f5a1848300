"""In which order messages arrived, beside which of them: gaps, latecomers, duplicates, each with the broker's own word.

What is kept for every message is nothing: only what does not arrive in its turn is looked at. The broker says of a
message that it was delivered before (`redelivered`); what comes with that flag may come late or twice, and what comes
without it may not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

Seen = dict[int, int]
"""The highest number that one consumer has received of each producer, of those that did not come in their turn."""


@dataclass(slots=True)
class Order:
    """How often an arrival was out of order, seen from one process; those with the redelivered flag are told apart."""

    gaps: int = 0
    """Arrivals before which at least one message of the same producer is missing yet, and was not refused either."""
    gaps_redelivered: int = 0
    reordered: int = 0
    """Arrivals at a consumer that had received a later message of the same producer before."""
    reordered_redelivered: int = 0
    duplicates: int = 0
    """Arrivals of what had arrived before."""
    duplicates_redelivered: int = 0

    def merge(self, other: Order) -> None:
        """Adds another's counts. What two processes received one each, neither of them has seen twice."""
        for name, number in asdict(other).items():
            setattr(self, name, getattr(self, name) + number)

    def to_plain(self) -> dict[str, int]:
        """Every count by its name."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The order that `to_plain` was asked of."""
        return cls(**plain)
