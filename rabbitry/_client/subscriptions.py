"""`Subscriptions`: the roster of a client's subscriptions: all of them are revived when a life begins, and stopped, for
good, when the client is to consume no more.

What must stay true: once stopped, none that joins later gets a delivery, and each is told why; one that can't subscribe
again now holds up no other; an auto-delete queue is forgotten with the last subscription to it that consumed, as the
broker forgets it with its last consumer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rabbitry._client.registry import Registry
from rabbitry._errors import LocalProtocolError, RabbitryError

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

    @property
    def consumer_tag(self) -> str | None:
        """The consumer tag that it was given."""
        ...

    @property
    def _has_lost_its_consumer(self) -> bool:
        """Whether it has to subscribe again."""
        ...

    async def _revive(self) -> None:
        """Subscribe again, if need be. Raises nothing: whoever iterates is told."""
        ...

    def stop(self) -> None:
        """Take no more deliveries; has the subscription leave the roster if it consumed."""
        ...


class Subscriptions:
    """The subscriptions of one client that were entered, and neither stopped nor left."""

    __slots__ = ("_members", "_refusal", "_registry", "_start_soon")

    def __init__(self, registry: Registry, start_soon: Callable[..., object]) -> None:
        """`start_soon` runs something in a task of the client."""
        self._registry = registry
        self._start_soon = start_soon
        self._members: set[Member] = set()
        self._refusal: RabbitryError | None = None

    def __len__(self) -> int:
        return len(self._members)

    def check_open(self) -> None:
        """Raise why nothing is to be consumed any more, once that is so."""
        if self._refusal is not None:
            raise self._refusal.copy()

    def joined(self, subscription: Member) -> None:
        """The subscription is entered. Raises why it can't be."""
        self.check_open()
        tag = subscription.consumer_tag
        if tag is not None and any(other.consumer_tag == tag for other in self._members):
            raise LocalProtocolError(f"consumer tag {tag!r} is already in use on this client")
        self._members.add(subscription)

    def left(self, subscription: Member) -> None:
        """The subscription was stopped or left, and perhaps was the last of its queue."""
        if subscription in self._members:
            self._members.discard(subscription)
            queue = subscription.queue
            if subscription.lives and all(other.queue != queue for other in self._members):
                self._registry.consumer_left(queue)

    def life_began(self) -> None:
        """There is a connection again: have those that consumed on the former one subscribe, each by a short-lived task
        of its own. Whoever iterates them may be busy for long, and a queue may be gone by then.
        """
        for subscription in list(self._members):
            if subscription._has_lost_its_consumer:
                self._start_soon(subscription._revive)

    def lost_its_consumer(self, subscription: Member) -> None:
        """The broker has ended the consumer alone, and the connection lives. Called while reading."""
        if subscription in self._members:
            self._start_soon(subscription._revive)

    def stop(self, refusal: RabbitryError) -> None:
        """Stop all that there are; those that would join later are refused by a copy of this error."""
        self._refusal = refusal
        for subscription in list(self._members):
            subscription.stop()
