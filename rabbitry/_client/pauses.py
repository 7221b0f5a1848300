"""`Pauses`: what a `process` puts back not at once but after a while, because its handler failed on it again.

What must stay true: whoever fails for ever is run again ever more seldom, and never at once; what waits here occupies
no worker, and no more memory than `HARD_MARK`, whatever the prefetch; it is put back at once when its consumer ends,
and dropped when the broker has put it back itself.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf
from typing import Any, TypeAlias

import anyio

from rabbitry._channel.consumer import HARD_MARK, MESSAGE_OVERHEAD, Consumer, has_ended
from rabbitry._channel.delivery import Delivery
from rabbitry._channel.widening import Widening
from rabbitry._concurrency.clock import monotonic
from rabbitry._errors import DecodeError

__all__ = ["LONGEST", "SHORTEST", "Pauses"]

SHORTEST, LONGEST = 0.1, 30.0
"""Seconds: the pause after the first failure of what was redelivered, which doubles with each further one, and where
that ends.
"""

REMEMBERED = 1000
"""Failing messages whose failures are counted here; beyond that, the one that failed least lately is forgotten."""

HASHED = 65536
"""Bytes of a body by which it is known, beside its length."""

FORGOTTEN_AFTER = 4 * LONGEST
"""Seconds without a failure after which the next one counts as the first."""

Key: TypeAlias = tuple[Any, ...]


class Pauses:
    """The pauses of one `process`, whose `widening` makes up for what is held here: it must not use up the prefetch."""

    __slots__ = ("_bytes", "_failures", "_held", "_is_running", "_number", "_sooner", "_widening")

    def __init__(self, widening: Widening) -> None:
        self._widening = widening
        widening.held = self.__len__
        self._held: list[tuple[float, int, Delivery]] = []  # a heap: until when, and in which order they came
        self._bytes = 0  # of what is held
        self._failures: dict[Key, tuple[int, float]] = {}  # how often, and when the last time; the latest last
        self._number = 0
        self._is_running = False
        self._sooner = anyio.Event()  # something is to be put back before what was to be the first

    def __len__(self) -> int:
        return len(self._held)

    def put_back(self, delivery: Delivery) -> float:
        """Put the delivery back: the first time at once, and then after a pause. Gives its seconds.

        Each failure of a message is counted by its quorum queue (x-delivery-count), whoever had it. A classic queue
        counts nothing: there it is counted here, by what the message is.
        """
        failures = self._failed(delivery)
        consumer = delivery.consumer
        start_soon = self._widening.start_soon
        if not delivery.redelivered or not isinstance(consumer, Consumer) or has_ended(consumer) or start_soon is None:
            delivery.reject(requeue=True)
            return 0.0
        pause = min(LONGEST, SHORTEST * 2.0 ** min(failures - 1, 32))
        consumer.holder = self
        self._number += 1
        heappush(self._held, (monotonic() + pause, self._number, delivery))
        self._bytes += _size(delivery)
        while self._bytes > HARD_MARK and len(self._held) > 1:
            self._put_back_first()
        if self._held[0][2] is delivery:
            self._sooner.set()
        if not self._is_running:
            self._is_running = True
            start_soon(self._end_them)
        self._widening.hold_changed(delivery)
        return pause

    def _failed(self, delivery: Delivery) -> int:
        """How often it has failed after it was redelivered, this time included; at least 1."""
        try:
            counted = delivery.headers.get("x-delivery-count")
            message_id = delivery.properties.message_id
        except DecodeError:
            counted = message_id = None
        if isinstance(counted, int) and counted > 0:
            return counted
        key = (message_id, delivery.exchange, delivery.routing_key, len(delivery.body), hash(delivery.body[:HASHED]))
        now = monotonic()
        before, when = self._failures.pop(key, (0, -inf))
        failures = before + 1 if now - when < FORGOTTEN_AFTER else 1
        if len(self._failures) >= REMEMBERED:
            del self._failures[next(iter(self._failures))]
        self._failures[key] = (failures, now)
        return max(1, failures - 1)

    async def _end_them(self) -> None:
        """Put back each when its time has come; return when none is left."""
        try:
            while self._held:
                self._sooner = anyio.Event()
                with anyio.move_on_after(self._held[0][0] - monotonic()):
                    await self._sooner.wait()
                while self._held and self._held[0][0] <= monotonic():
                    self._put_back_first()
        finally:
            self._is_running = False

    def _put_back_first(self) -> None:
        _, _, delivery = heappop(self._held)
        self._bytes -= _size(delivery)
        _put_back_now(delivery)

    def consumer_ended(self, consumer: Consumer) -> None:
        """Put back what it delivered, unless the broker has done so. Called while reading, or as it is stopped."""
        ended = sorted(each for each in self._held if each[2].consumer is consumer)
        self._held = [each for each in self._held if each[2].consumer is not consumer]
        self._held.sort()
        self._bytes = sum(_size(delivery) for _, _, delivery in self._held)
        for _, _, delivery in ended:
            _put_back_now(delivery)
        self._sooner.set()


def _size(delivery: Delivery) -> int:
    return len(delivery.body) + MESSAGE_OVERHEAD


def _put_back_now(delivery: Delivery) -> None:
    if not delivery.is_stale and not delivery.is_settled:
        delivery.reject(requeue=True)
