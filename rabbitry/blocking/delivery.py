"""`Delivery`: a message received, to be settled from any thread.

What must stay true: settling does not wait; what is settled is so at once for this program, and for the broker soon.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import rabbitry
from rabbitry import AlreadySettled, StaleDelivery
from rabbitry.blocking.portal import Portal

__all__ = ["Delivery"]

logger: logging.Logger = logging.getLogger("rabbitry")


class Delivery(rabbitry.Delivery):
    """A `rabbitry.Delivery` whose `ack`, `nack` and `reject` may be called in any thread.

    They do not wait. They leave within a millisecond, ahead of whatever else is asked for afterwards. If the connection
    is lost in that time, the broker delivers the message again, as with any acknowledgement under way; it is logged.
    """

    __slots__ = ("_is_settling", "_portal")

    def __init__(self, delivery: rabbitry.Delivery, portal: Portal) -> None:
        self._channel = delivery._channel
        self._header = delivery._header
        self._route = delivery._route
        self.body: bytes = delivery.body
        self.consumer: Any = delivery.consumer
        self.delivery_tag: int = delivery.delivery_tag
        self.redelivered: bool = delivery.redelivered
        self._portal = portal
        self._is_settling = False

    @property
    def is_settled(self) -> bool:
        """True once acknowledged, nacked or rejected, and from the start for a `no_ack` consumer's deliveries."""
        return self._is_settling or super().is_settled

    def ack(self) -> None:
        """Acknowledge: the broker may forget the message. Raises `AlreadySettled`, or `StaleDelivery` once the channel
        has ended.
        """
        self._settle(super().ack)

    def nack(self, *, requeue: bool = True) -> None:
        """Say "not processed": back into its queue, or dead-lettered or dropped with `requeue=False`. Errors as `ack`.
        A stream takes neither this nor `reject`: RabbitMQ closes the connection (540).
        """
        self._settle(partial(super().nack, requeue=requeue))

    def reject(self, *, requeue: bool = False) -> None:
        """Say "failed": dead-lettered where the queue says so, else dropped; `requeue=True` puts it back. Errors as
        `ack`.
        """
        self._settle(partial(super().reject, requeue=requeue))

    def settle_handled(self) -> None:
        """Acknowledge, unless that or something else was done. On the loop."""
        if not self.is_settled:
            self._settle_now(super().ack)

    def put_back(self) -> None:
        """Put it back, unless something else was done. On the loop."""
        if not self.is_settled:
            self._settle_now(super().nack)

    def _settle(self, settlement: Callable[[], None]) -> None:
        self._portal.check_fork()
        if self._is_settling or not self._channel.is_outstanding(self.delivery_tag):
            raise self._channel.settle_error(self.delivery_tag)
        self._is_settling = True
        self._portal.settle(partial(self._settle_now, settlement))

    def _settle_now(self, settlement: Callable[[], None]) -> None:
        """Settle, on the loop. A rollback may make the delivery unsettled again, so the channel's word is the last."""
        try:
            settlement()
        except StaleDelivery:
            self._channel.connection.stale_settlements += 1
            logger.warning("a delivery was settled just after its channel had ended: the broker will deliver it again")
        except AlreadySettled:
            logger.warning("a delivery was settled in two threads at once")
        finally:
            self._is_settling = False  # last: until then nothing else says that it is settled
