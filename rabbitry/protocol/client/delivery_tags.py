"""Which deliveries of a channel are outstanding, and which acknowledgements still wait to be sent.

What must stay true: one table serves all consumers and gets of a channel; a tag is settled once; acknowledgements
become one `multiple=True` only up to a tag below which nothing is outstanding. Pure bookkeeping: it knows no frames.
"""

from __future__ import annotations

from collections.abc import Iterator

from rabbitry._errors import RemoteProtocolError
from rabbitry.protocol.wire.constants import FRAME_ERROR, RESOURCE_ERROR

__all__ = ["NO_TAGS", "UNREAD_MAX", "DeliveryTags"]


_STEPS = 10_000
"""Tags looked at one by one when the floor is raised. A peer that jumps by 2**60 must not keep us counting."""

UNREAD_MAX = 1_000_000
"""Deliveries that may come while the peer reads nothing of what we say of them. A consumer never holds more."""


class _Requeued(set[int]):
    """The outstanding deliveries while basic.recover is under way: none, whatever comes."""

    __slots__ = ("_lost",)

    def __init__(self, lost: set[int]) -> None:
        super().__init__()
        self._lost = lost

    def add(self, tag: int) -> None:
        """Count a delivery as lost: the broker sent it before it saw the recover, and then put it back."""
        self._lost.add(tag)
        if len(self._lost) > UNREAD_MAX:
            raise RemoteProtocolError(f"{UNREAD_MAX:,} deliveries, and no answer to basic.recover", RESOURCE_ERROR)


class DeliveryTags:
    """Tags rise by one with each delivery of the channel. Those of `no_ack` deliveries are never outstanding."""

    __slots__ = (
        "_boundary",
        "_floor",
        "_lost",
        "_old",
        "last",
        "outstanding",
        "ownerless",
        "pending",
        "requeued",
        "transaction",
    )

    def __init__(self) -> None:
        self.outstanding: set[int] = set()
        self.last: int = 0
        # Acknowledged here, not yet told the broker, in the order of acknowledging.
        self.pending: list[int] = []
        # To be put back into their queue, not yet told the broker; outstanding until then.
        self.requeued: list[int] = []
        # Deliveries that were outstanding when the channel's life ended, by a close or a recover: the broker has put
        # them back. `_boundary` is the last tag before the latest recover-ok. Up to `_old`, the boundary before that,
        # nobody remembers any more which were settled in time, and all count as stale.
        self._lost: set[int] = set()
        self._boundary = 0
        self._old = 0
        # Settled since the last commit, a 0 where tx.commit or tx.rollback was sent; None outside transaction mode.
        self.transaction: list[int] | None = None
        # Those of them that nobody holds: put back by a consumer that was left.
        self.ownerless: set[int] = set()
        # Every tag below is settled. It only rises (but for a rollback), so finding it costs one step per delivery.
        self._floor = 1

    def arrive(self, tag: int) -> None:
        """The next delivery that has to be settled."""
        if tag <= self.last:
            raise RemoteProtocolError(f"delivery tag {tag} after {self.last}", FRAME_ERROR)
        self.last = tag
        self.outstanding.add(tag)

    def take_acks(self) -> Iterator[tuple[int, bool]]:
        """The pending acknowledgements as few (tag, multiple) pairs; they are pending no more."""
        pending, self.pending = self.pending, []
        return self._coalesced(pending)

    def take_requeued(self) -> Iterator[tuple[int, bool]]:
        """The deliveries to put back as few (tag, multiple) pairs; outstanding no more. To be called after `take_acks`.

        RabbitMQ takes a minute to requeue 27,000 messages one by one, and a moment when one nack does it.
        """
        requeued, self.requeued = sorted(self.outstanding.intersection(self.requeued)), []
        self.outstanding.difference_update(requeued)
        return self._coalesced(requeued)

    def _coalesced(self, tags: list[int]) -> Iterator[tuple[int, bool]]:
        """As few (tag, multiple) pairs as settle exactly these tags, which are outstanding no more."""
        if len(tags) == 1:
            yield tags[0], False
            return
        if tags and not self.outstanding:  # hot: as where nothing is below the floor, but for looking at each tag
            self._floor = self.last + 1
            yield max(tags), True
            return
        floor = self._raised_floor()
        below = [tag for tag in tags if tag < floor]
        if below:
            yield max(below), len(below) > 1
        if len(below) < len(tags):
            for tag in tags:
                if tag >= floor:
                    yield tag, False

    def _raised_floor(self) -> int:
        beyond, outstanding = self.last + 1, self.outstanding
        for floor in range(self._floor, min(beyond, self._floor + _STEPS)):
            if floor in outstanding:
                break
        else:
            floor = min(outstanding, default=beyond)
        self._floor = floor
        return floor

    def is_stale(self, tag: int) -> bool:
        """Whether the broker has put the delivery back, so that it can't be settled any more."""
        return tag in self._lost or (tag <= self._old and tag not in self.outstanding)

    def end(self) -> None:
        """The channel is over: the broker puts back everything outstanding."""
        self._lost |= self.outstanding
        self.outstanding = set()
        self.pending.clear()
        self.requeued.clear()

    def start_recover(self) -> None:
        """The broker will put back what is outstanding, and what arrives until `finish_recover`."""
        if isinstance(self.outstanding, _Requeued):
            return
        self._old = self._boundary
        self._lost = self.outstanding
        self.outstanding = _Requeued(self._lost)
        self.pending.clear()
        self.requeued.clear()

    def finish_recover(self) -> None:
        """recover-ok came: what arrives from here on is of the next life."""
        self._boundary = self.last
        self.outstanding = set()

    def finish_transaction(self) -> list[int]:
        """tx.commit or tx.rollback was answered: take what was settled before it was sent."""
        settled = self.transaction or [0]
        end = settled.index(0)
        self.transaction = settled[end + 1 :]
        self.ownerless.difference_update(settled[:end])
        return settled[:end]

    def rollback(self) -> list[int]:
        """What the transaction settled is unsettled again, also what a basic.recover amid it therefore left alone.

        Gives what nobody holds of it, to be put back again.
        """
        ownerless = set(self.ownerless)
        settled = self.finish_transaction()
        for tag in settled:
            self.outstanding.add(tag)
            self._floor = min(self._floor, tag)
        return [tag for tag in settled if tag in ownerless]


NO_TAGS = DeliveryTags()
"""Shared by the channels that have not consumed or got anything: most only publish, and there may be 10,000."""
