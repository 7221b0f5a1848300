"""Dead letters on their way: from the queue in which a message has died to those that its dead-letter exchange finds.

What must stay true: a dead message is dealt with after whatever made it die, in turn, so that a chain of queues is no
chain of calls; at least once (`x-dead-letter-strategy`), it is held until all of them have it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from rabbitry.broker.compat import Compat
from rabbitry.broker.deaths import dead_message, goes_round
from rabbitry.broker.discards import DeadLetter, Discards
from rabbitry.broker.entries import Entry
from rabbitry.broker.exchanges import Exchange
from rabbitry.broker.messages import Message
from rabbitry.broker.queues import Queue
from rabbitry.broker.timers import Timers

__all__ = ["Burials"]

RETRY_SECONDS = 180.0
"""How often dead letters are sent again that not all of their queues have taken, as in RabbitMQ."""


class Burials:
    """Those of one virtual host."""

    def __init__(
        self,
        queues: Mapping[str, Queue],
        exchanges: Mapping[str, Exchange],
        route: Callable[[Exchange, Message], Sequence[Queue]],
        compat: Compat,
        timers: Timers,
    ) -> None:
        self._queues = queues
        self._exchanges = exchanges
        self._route = route
        self._compat = compat
        self._timers = timers
        self._dead: deque[tuple[Entry, Queue, str]] = deque()
        self._is_burying = False

    def bury(self, entry: Entry, queue: Queue, reason: str, now: float) -> None:
        """Dead-letter a message, or drop it: so what comes back to a queue that is gone."""
        if queue.options.dead_letter_exchange is None or self._queues.get(queue.name) is not queue:
            return
        with self.behind(now):
            self._dead.append((entry, queue, reason))

    @contextmanager
    def behind(self, now: float) -> Iterator[None]:
        """What dies in this block is dealt with at its end: a message that is given to several queues is in each of
        them before what one has dropped for it.
        """
        if self._is_burying:
            yield
            return
        self._is_burying = True
        try:
            yield
            while self._dead:
                self._dead_letter(*self._dead.popleft(), now)
        finally:
            self._is_burying = False

    def _dead_letter(self, entry: Entry, queue: Queue, reason: str, now: float) -> None:
        options, discards = queue.options, queue.discards
        name = options.dead_letter_exchange or ""
        exchange = self._exchanges.get(name)
        if exchange is None and discards is None:
            return
        wall_time = now + self._timers.wall_offset
        dead = dead_message(entry, queue, reason, name, options.dead_letter_routing_key, wall_time, self._compat)
        if discards is not None:
            letter = DeadLetter(dead, reason, set())
            if discards.is_full or not self._forward(letter, discards, now):
                discards.hold(letter)
                queue.recount()
                self._watch(queue, discards, now)
            return
        assert exchange is not None
        for target in self._targets(exchange, dead, reason):
            if not (self._compat.streams_lose_dead_letters and target.kind == "stream"):
                target.publish(dead, now)

    def _targets(self, exchange: Exchange, dead: Message, reason: str) -> list[Queue]:
        queues = self._route(exchange, dead)
        return [target for target in queues if reason == "rejected" or not goes_round(dead, target.name)]

    # --- at least once ---------------------------------------------------------------------------------------------

    def _forward(self, letter: DeadLetter, discards: Discards, now: float) -> bool:
        """Send it to those of its queues that don't have it yet. Whether all have it: at least one, that is."""
        exchange = self._exchanges.get(letter.message.exchange)
        targets = () if exchange is None else self._targets(exchange, letter.message, letter.reason)
        for target in targets:
            if target.name not in letter.taken and target.publish(letter.message, now, discards):
                letter.taken.add(target.name)
        return bool(letter.taken) and letter.taken.issuperset([target.name for target in targets])

    def _watch(self, queue: Queue, discards: Discards, now: float) -> None:
        if not discards.is_watched:
            discards.is_watched = True
            self._timers.schedule(now + RETRY_SECONDS, partial(self._forward_again, queue, discards))

    def _forward_again(self, queue: Queue, discards: Discards, now: float) -> None:
        discards.is_watched = False
        for letter in discards.held():
            if self._forward(letter, discards, now):
                discards.let_go(letter)
        while (waiting := discards.admit()) is not None:
            if self._forward(waiting, discards, now):
                discards.let_go(waiting)
        queue.recount()
        if discards.count:
            self._watch(queue, discards, now)
