"""Consumers of one queue and whose turn it is: round robin among those that can take a message, priorities first.

What must stay true: who can take nothing costs nothing, as it has left the turn until it can; settling is O(1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from rabbitry.broker.consumer_arguments import ConsumerOptions
    from rabbitry.broker.entries import Entry

__all__ = ["Consumer", "Consumers", "Receiver", "Succession"]


class Receiver(Protocol):
    """A channel, as queues see it."""

    @property
    def has_room(self) -> bool:
        """Whether its connection takes more: False while too much waits to be sent."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether its channel-wide prefetch is reached."""
        ...

    def deliver(self, consumer: Consumer, entry: Entry, now: float) -> None:
        """Send it to the client, and remember it until it is settled (unless the consumer needs no ack)."""
        ...

    def lose_consumer(self, consumer: Consumer) -> None:
        """It is one no more, by no wish of the client's: its queue was deleted, say."""
        ...


class Consumer:
    """One consumer. `prefetch` 0 is no limit."""

    __slots__ = (
        "arrival",
        "channel",
        "exclusive",
        "is_waiting",
        "no_ack",
        "options",
        "overdue",
        "prefetch",
        "priority",
        "tag",
        "unacked",
    )

    def __init__(
        self,
        channel: Receiver,
        tag: str,
        arrival: int,
        *,
        no_ack: bool,
        prefetch: int,
        exclusive: bool,
        options: ConsumerOptions,
    ) -> None:
        self.channel: Receiver = channel
        self.tag: str = tag
        self.arrival: int = arrival
        """How many came to its channel before."""
        self.unacked: int = 0
        self.renew(no_ack=no_ack, prefetch=prefetch, exclusive=exclusive, options=options)
        self.overdue: int = 0
        """Deliveries that went back as it had them for too long: it gets nothing before it has settled these."""
        self.is_waiting: bool = False
        """It has left the turn, as it could take nothing."""

    def renew(self, *, no_ack: bool, prefetch: int, exclusive: bool, options: ConsumerOptions) -> None:
        """It begins, or begins again, with what it has not settled yet."""
        self.no_ack: bool = no_ack
        self.prefetch: int = prefetch
        self.options: ConsumerOptions = options
        self.priority: int = options.priority
        self.exclusive: bool = exclusive

    @property
    def can_take(self) -> bool:
        """Whether a message may be delivered to it now."""
        channel = self.channel
        if self.overdue or channel.is_full or not channel.has_room:
            return False
        return not (self.prefetch and self.unacked >= self.prefetch)


Succession: TypeAlias = Literal["age", "priority", "yields", "stalls"]
"""Who is the single active consumer when it has gone: the first that came; the first of the highest priority; or of
these the one with the most prefetch, which need not wait until it has gone: the active one "yields" once it has settled
what it has. Or "stalls" if it has given that back: then nobody is active until a consumer comes or goes, or a channel
ends that has published to the queue."""
UNLIMITED = 2000
"""The prefetch of who has none, in comparisons."""


class Consumers:
    """All consumers of a queue."""

    __slots__ = (
        "_active",
        "_all",
        "_has_to_yield",
        "_leaves_at_once",
        "_priorities",
        "_succession",
        "_turns",
        "_yields",
        "is_single_active",
        "is_stalled",
        "may_stall",
    )

    def __init__(
        self, is_single_active: bool, *, leaves_at_once: bool = False, succession: Succession = "priority"
    ) -> None:
        """`leaves_at_once`: who is at its prefetch has left the turn, and not only when it is passed over."""
        self.is_single_active: bool = is_single_active
        self._leaves_at_once = leaves_at_once
        self._succession = succession
        self._yields = succession in ("yields", "stalls")
        self._active: Consumer | None = None
        self._has_to_yield = False
        """The active one has something to settle still, and gets nothing any more."""
        self.may_stall: bool = is_single_active and succession == "stalls"
        self.is_stalled: bool = False
        """Nobody is active, though there are consumers."""
        self._all: dict[Consumer, None] = {}
        self._turns: dict[int, deque[Consumer]] = {}
        self._priorities: list[int] = []  # those of `_turns`, the highest first

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Consumer]:
        return iter(self._all)

    def __contains__(self, consumer: object) -> bool:
        return consumer in self._all

    def add(self, consumer: Consumer) -> None:
        """The last to come in its turn."""
        self._all[consumer] = None
        self._enter(consumer)
        if self.is_single_active:
            self.is_stalled = False
            self._elect()

    def _enter(self, consumer: Consumer) -> None:
        consumer.is_waiting = False
        if consumer.priority not in self._turns:
            self._turns[consumer.priority] = deque()
            self._priorities = sorted(self._turns, reverse=True)
        self._turns[consumer.priority].append(consumer)

    def remove(self, consumer: Consumer) -> None:
        """It is gone."""
        del self._all[consumer]
        if not consumer.is_waiting:
            self._turns[consumer.priority].remove(consumer)
        if self.is_single_active:
            self.is_stalled = False
            self._elect()

    def settle(self, consumer: Consumer, *, is_done: bool) -> None:
        """What this consumer had is settled; `is_done`: it does not come back. To be told where they `may_stall`."""
        if is_done:
            self.is_stalled = False
        elif consumer is self._active and self._has_to_yield and not consumer.unacked:
            self._active = None
            self._has_to_yield = False
            self.is_stalled = True

    def unblock(self, consumer: Consumer) -> bool:
        """Let it back into the turn if it can take a message again. True if it came back."""
        if self.is_single_active:
            return self.active is not None
        if consumer.is_waiting and consumer in self._all and consumer.can_take:
            self._enter(consumer)
            return True
        return False

    def next(self) -> Consumer | None:
        """Whose turn it is; None if nobody can take a message."""
        if self.is_single_active:
            active = self.active
            return active if active is not None and active.can_take else None
        for priority in self._priorities:
            turn = self._turns[priority]
            while turn:
                consumer = turn.popleft()
                if consumer.can_take:
                    if self._leaves_at_once and consumer.unacked + 1 == consumer.prefetch:
                        consumer.is_waiting = True
                    else:
                        turn.append(consumer)
                    return consumer
                consumer.is_waiting = True
        return None

    def take_back_turn(self, consumer: Consumer) -> None:
        """It was the one that `next` named, and there was nothing for it: it is the next one still."""
        if self.is_single_active:
            return
        turn = self._turns[consumer.priority]
        if consumer.is_waiting:
            consumer.is_waiting = False
        else:
            turn.pop()
        turn.appendleft(consumer)

    @property
    def active(self) -> Consumer | None:
        """The one that gets messages where only one does: it stays that, unless it has gone or is out of the turn by
        itself. None, too, while it has something to settle before another takes over."""
        return self._elect()

    def _elect(self) -> Consumer | None:
        active = self._active
        if active is not None and not active.overdue and active in self._all:
            may_stay = not self._yields or (not self._has_to_yield and active.priority >= self._priorities[0])
            if may_stay:  # hot: asked with each delivery, however many wait
                return active
        waiting = [consumer for consumer in self._all if not consumer.overdue]
        best = None if self.is_stalled else self._first(waiting)
        if active is not None and active in waiting:
            if best is not None and best.priority > active.priority and active.unacked:
                self._has_to_yield = True
            if self._has_to_yield and active.unacked:
                return None
            if not self._has_to_yield and (best is None or best.priority <= active.priority):
                return active
        self._has_to_yield = False
        self._active = best
        return best

    def _first(self, waiting: Sequence[Consumer]) -> Consumer | None:
        """Of these the next to be the active one."""
        if self._succession == "age":
            return waiting[0] if waiting else None
        return max(waiting, key=_rank if self._yields else _priority, default=None)


def _rank(consumer: Consumer) -> tuple[int, int]:
    return consumer.priority, consumer.prefetch or UNLIMITED


_priority = attrgetter("priority")
