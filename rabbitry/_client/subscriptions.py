"""`Subscriptions`: the roster of a client's subscriptions, so that all of them can be stopped, for good.

What must stay true: once stopped, none that joins later gets a delivery; an auto-delete queue is forgotten with the
last subscription to it that consumed, as the broker forgets it with its last consumer.
"""

from __future__ import annotations

from typing import Protocol

from rabbitry._client.registry import Registry

__all__ = ["Subscriptions"]


class Member(Protocol):
    """What the roster asks of a subscription."""

    @property
    def queue(self) -> str:
        """The queue's present name."""
        ...

    @property
    def lives(self) -> int:
        """How often it began to consume."""
        ...

    def stop(self) -> None:
        """Take no more deliveries; has the subscription leave the roster if it consumed."""
        ...


class Subscriptions:
    """The subscriptions of one client that were entered, and neither stopped nor left."""

    __slots__ = ("_members", "_registry", "has_stopped")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._members: set[Member] = set()
        self.has_stopped = False

    def __len__(self) -> int:
        return len(self._members)

    def joined(self, subscription: Member) -> None:
        """The subscription was entered."""
        self._members.add(subscription)
        if self.has_stopped:
            subscription.stop()

    def left(self, subscription: Member) -> None:
        """The subscription was stopped or left, and perhaps was the last of its queue."""
        if subscription in self._members:
            self._members.discard(subscription)
            queue = subscription.queue
            if subscription.lives and all(other.queue != queue for other in self._members):
                self._registry.consumer_left(queue)

    def stop(self) -> None:
        """Stop all that there are, and all that will join."""
        self.has_stopped = True
        for subscription in list(self._members):
            subscription.stop()
