"""Which deliveries of a channel are outstanding, and which acknowledgements still wait to be sent.

What must stay true: one table serves all consumers and gets of a channel; a tag is settled once; acknowledgements
become one `multiple=True` only up to a tag below which nothing is outstanding. Pure bookkeeping: it knows no frames.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["NO_TAGS", "DeliveryTags"]


class DeliveryTags:
    """Tags rise by one with each delivery of the channel. Those of `no_ack` deliveries are never outstanding."""

    __slots__ = ("_floor", "last", "outstanding", "pending", "stale_up_to", "transaction")

    def __init__(self) -> None:
        self.outstanding: set[int] = set()
        self.last = 0
        # Acknowledged here, not yet told the broker, in the order of acknowledging.
        self.pending: list[int] = []
        # Tags up to this one belong to a former life: the broker has put their messages back.
        self.stale_up_to = 0
        # Settled since the last commit; None outside transaction mode.
        self.transaction: list[int] | None = None
        # Every tag below is settled. It only rises (but for a rollback), so finding it costs one step per delivery.
        self._floor = 1

    def take_acks(self) -> Iterator[tuple[int, bool]]:
        """The pending acknowledgements as few (tag, multiple) pairs; they are pending no more."""
        pending, self.pending = self.pending, []
        if len(pending) == 1:
            yield pending[0], False
            return
        floor = self._raised_floor()
        below = [tag for tag in pending if tag < floor]
        if below:
            yield max(below), len(below) > 1
        if len(below) < len(pending):
            for tag in pending:
                if tag >= floor:
                    yield tag, False

    def _raised_floor(self) -> int:
        floor, last, outstanding = self._floor, self.last, self.outstanding
        while floor <= last and floor not in outstanding:
            floor += 1
        self._floor = floor
        return floor

    def make_stale(self) -> None:
        """The broker puts everything outstanding back."""
        self.stale_up_to = self.last
        self.outstanding.clear()
        self.pending.clear()

    def rollback(self) -> None:
        """What the transaction settled is unsettled again."""
        settled, self.transaction = self.transaction or [], []
        for tag in settled:
            if tag > self.stale_up_to:
                self.outstanding.add(tag)
                self._floor = min(self._floor, tag)


NO_TAGS = DeliveryTags()
"""Shared by the channels that have not consumed or got anything: most only publish, and there may be 10,000."""
