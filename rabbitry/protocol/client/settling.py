"""What leaves a channel, in which order: acknowledgements ahead of the next frame, nothing behind a commit.

What must stay true: acknowledgements coalesce into `multiple=True` only where every outstanding delivery up to that tag
was acknowledged, and leave before any other frame of the channel; behind a tx.commit, frames wait here until it is
answered. `DeliveryTags` keeps the books, this makes the frames. Knows nothing of consumers or publishes.
"""

from __future__ import annotations

from typing import Any

from rabbitry._errors import AlreadySettled, RabbitryError, RemoteProtocolError, StaleDelivery
from rabbitry.protocol.client.delivery_tags import NO_TAGS, UNREAD_MAX, DeliveryTags
from rabbitry.protocol.client.life import ConnectionLife
from rabbitry.protocol.wire.constants import RESOURCE_ERROR
from rabbitry.protocol.wire.framing import ACK, NACK, REJECT, settlement_frame
from rabbitry.protocol.wire.methods import TxCommit

__all__ = ["Settling"]


class Settling:
    """The base of `ProtocolChannel` that queues its frames and settles its deliveries."""

    __slots__ = ("connection", "error", "held", "number", "tags")

    def __init__(self, connection: ConnectionLife[Any], number: int) -> None:
        self.connection: ConnectionLife[Any] = connection
        self.number: int = number
        self.error: RabbitryError | None = None  # why it ended
        self.tags: DeliveryTags = NO_TAGS
        # Frames that wait for tx.commit-ok, None while no commit is under way.
        self.held: list[bytes] | None = None

    # --- order -------------------------------------------------------------------------------------------------------

    def own_tags(self) -> DeliveryTags:
        """This channel's own table, made when it is first needed."""
        if self.tags is NO_TAGS:
            self.tags = DeliveryTags()
        return self.tags

    def queue(self, frame: bytes) -> None:
        """Queue a frame behind the settlements that wait."""
        if self.tags.pending or self.tags.requeued:
            self.flush_acks()
        self.append(frame)

    def append(self, frame: bytes) -> None:
        """Queue a frame, behind a commit only once that is answered.

        RabbitMQ closes the connection (504) when anything but channel.close follows a tx.commit that it still works on.
        """
        if self.held is not None:
            self.held.append(frame)
            return
        self.connection.queue(frame)
        if frame[7:11] == TxCommit.key:
            self.held = []

    def release_held(self) -> None:
        """The commit was answered: what waited for that leaves, up to the next commit."""
        held, self.held = self.held or [], None
        for frame in held:
            self.append(frame)

    def drop_held(self) -> None:
        """What waited for the commit will not be sent: the channel ends."""
        self.held = None

    @property
    def is_committing(self) -> bool:
        """Whether a tx.commit has not been answered yet: what is sent now waits for that, here."""
        return self.held is not None

    # --- settling ----------------------------------------------------------------------------------------------------

    def ack(self, tag: int) -> None:
        """Acknowledge one delivery. Leaves with the connection's next bytes, coalesced with its neighbours."""
        tags = self.tags
        try:
            tags.outstanding.remove(tag)
        except KeyError:
            raise self.settle_error(tag) from None
        if tags.transaction is not None:
            # rollback makes it unsettled again, so a transaction sees each ack by itself
            tags.transaction.append(tag)
            self.append(settlement_frame(self.number, ACK, tag, 0))
            return
        pending = tags.pending
        if not pending:
            self.connection.acking.append(self)
        pending.append(tag)

    def nack(self, tag: int, requeue: bool) -> None:
        """Queue basic.nack for one delivery."""
        self._settle(tag, NACK, 2 if requeue else 0)

    def reject(self, tag: int, requeue: bool) -> None:
        """Queue basic.reject for one delivery; unlike a nack it counts towards a quorum queue's delivery limit on newer
        brokers.
        """
        self._settle(tag, REJECT, 1 if requeue else 0)

    def _settle(self, tag: int, method_id: int, bits: int) -> None:
        self.flush_acks()  # while this one still counts as outstanding: no `multiple` may reach over it
        try:
            self.tags.outstanding.remove(tag)
        except KeyError:
            raise self.settle_error(tag) from None
        if self.tags.transaction is not None:
            self.tags.transaction.append(tag)
        self.append(settlement_frame(self.number, method_id, tag, bits))

    def requeue(self, tag: int) -> None:
        """Put back a delivery that was never handed out. Leaves with the next bytes, coalesced like acks; in a
        transaction it takes effect at the commit, and is done again after a rollback.
        """
        tags = self.tags
        if tags.transaction is not None:
            self.nack(tag, True)
            tags.ownerless.add(tag)
            return
        if not tags.requeued:
            self.connection.acking.append(self)
        tags.requeued.append(tag)
        if len(tags.requeued) > UNREAD_MAX:
            self.connection.fail(
                RemoteProtocolError(f"{UNREAD_MAX:,} deliveries that go back, and the peer reads none", RESOURCE_ERROR)
            )

    def flush_acks(self) -> None:
        """Turn the pending acknowledgements, and then the deliveries to put back, into as few frames as possible."""
        tags = self.tags
        if tags.pending:
            for tag, multiple in tags.take_acks():
                self.append(settlement_frame(self.number, ACK, tag, multiple))
        if tags.requeued:
            for tag, multiple in tags.take_requeued():
                self.append(settlement_frame(self.number, NACK, tag, 3 if multiple else 2))

    def settle_error(self, tag: int) -> RabbitryError:
        """Why a delivery can't be settled."""
        if self.is_stale(tag):
            why = f" ({self.error})" if self.error is not None else " (the channel was recovered)"
            return StaleDelivery(f"the delivery's channel life is over{why}: the broker has put it back into its queue")
        return AlreadySettled(
            "the delivery was settled before, by ack(), nack(), reject() or the end of its process block, or it came "
            "to a consumer with no_ack=True: a delivery is settled once"
        )

    def is_stale(self, tag: int) -> bool:
        """Whether the delivery was still unsettled when the life of this channel that it belongs to ended."""
        return self.tags.is_stale(tag)

    def is_outstanding(self, tag: int) -> bool:
        """Whether the delivery still has to be settled."""
        return tag in self.tags.outstanding
