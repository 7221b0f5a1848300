"""The deliveries of one channel that are not settled yet, by their tags.

What must stay true: settling one, or all up to one, costs what is settled and no more, in whatever order it happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from rabbitry.broker.consumers import Consumer
from rabbitry.broker.entries import Entry
from rabbitry.broker.queues import Queue
from rabbitry.protocol.server.refusals import Refusal

__all__ = ["Unsettled", "UnsettledDeliveries", "by_queue", "in_turn"]


SPARE = 64
"""Tags of settled deliveries that are kept, beside as many as there are unsettled ones."""


class Unsettled(NamedTuple):
    """A delivery: `consumer` is None for one that was got, `queue` for one that has gone back already (its consumer had
    it for too long) or never counted; `since` is when it was made."""

    tag: int
    entry: Entry
    queue: Queue | None
    consumer: Consumer | None
    since: float


class UnsettledDeliveries:
    """Those of a channel."""

    __slots__ = ("_by_tag", "_order")

    def __init__(self) -> None:
        self._by_tag: dict[int, Unsettled] = {}
        self._order: deque[int] = deque()  # may begin with tags that are settled

    def __len__(self) -> int:
        return len(self._by_tag)

    def __iter__(self) -> Iterator[Unsettled]:
        """The oldest first."""
        return iter(self._by_tag.values())

    def detach(self, unsettled: Unsettled) -> None:
        """This delivery's message has gone back; settling it has no effect."""
        self._by_tag[unsettled.tag] = Unsettled(
            unsettled.tag, unsettled.entry, None, unsettled.consumer, unsettled.since
        )

    def add(self, unsettled: Unsettled) -> None:
        """A delivery with a tag above all others."""
        self._by_tag[unsettled.tag] = unsettled
        self._order.append(unsettled.tag)
        if len(self._order) > 2 * len(self._by_tag) + SPARE:  # an old one stays, and those behind it come and go
            self._order = deque(self._by_tag)

    def take(self, tag: int, multiple: bool) -> list[Unsettled]:
        """Those that a settlement means, in the order of their tags. Raises `Refusal` for a tag that is not there."""
        if multiple and not tag:
            return self.take_all()
        if tag not in self._by_tag:
            raise Refusal(406, f"unknown delivery tag {tag}")
        if not multiple:
            one = [self._by_tag.pop(tag)]
            while self._order and self._order[0] not in self._by_tag:
                self._order.popleft()
            return one
        taken = []
        while self._order and self._order[0] <= tag:
            unsettled = self._by_tag.pop(self._order.popleft(), None)
            if unsettled is not None:
                taken.append(unsettled)
        return taken

    def take_all(self) -> list[Unsettled]:
        """All of them."""
        taken = list(self._by_tag.values())
        self._by_tag.clear()
        self._order.clear()
        return taken

    def put_back(self, unsettled: Iterable[Unsettled]) -> None:
        """Those that were taken are not settled after all."""
        for each in unsettled:
            self._by_tag[each.tag] = each
        self._by_tag = dict(sorted(self._by_tag.items()))
        self._order = deque(self._by_tag)


def in_turn(taken: Sequence[Unsettled]) -> Collection[Sequence[Unsettled]]:
    """What is settled at once, as RabbitMQ does it: the deliveries of each consumer by themselves, and each message
    that was got; by the queues' names, the messages that were got before the consumers, and these by their tags.
    """
    groups: dict[Consumer | int, list[Unsettled]] = {}
    for each in taken:
        groups.setdefault(each.tag if each.consumer is None else each.consumer, []).append(each)
    return groups.values() if len(groups) < 2 else sorted(groups.values(), key=_turn)


def _turn(group: Sequence[Unsettled]) -> tuple[str, bool, int, str]:
    queue = next((each.queue.name for each in group if each.queue is not None), "")
    tag, _, _, consumer, _ = group[0]
    return (queue, False, tag, "") if consumer is None else (queue, True, 0, consumer.tag)


def by_queue(unsettled: Iterable[Unsettled]) -> dict[Queue, list[Entry]]:
    """Their entries, for each queue in their order."""
    grouped: dict[Queue, list[Entry]] = {}
    for each in unsettled:
        if each.queue is not None:
            grouped.setdefault(each.queue, []).append(each.entry)
    return grouped
