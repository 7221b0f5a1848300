"""Dead letters on their way: from the queue in which a message has died to those that its dead-letter exchange finds.

What must stay true: a dead message is dealt with after whatever made it die, in turn, so that a chain of queues is no
chain of calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from rabbitry.broker.compat import Compat
from rabbitry.broker.deaths import dead_message, goes_round
from rabbitry.broker.exchanges import Exchange
from rabbitry.broker.messages import Message
from rabbitry.broker.queues import Queue
from rabbitry.broker.timers import Timers

__all__ = ["Burials"]


class Burials:
    """Those of one virtual host."""

    def __init__(
        self,
        exchanges: Mapping[str, Exchange],
        route: Callable[[Exchange, Message], Sequence[Queue]],
        compat: Compat,
        timers: Timers,
    ) -> None:
        self._exchanges = exchanges
        self._route = route
        self._compat = compat
        self._timers = timers
        self._dead: deque[tuple[Message, Queue, str, bool]] = deque()
        self._is_burying = False

    def bury(self, message: Message, queue: Queue, reason: str, now: float, was_delivered: bool) -> None:
        """Dead-letter a message, or drop it."""
        if queue.options.dead_letter_exchange is None:
            return
        self._dead.append((message, queue, reason, was_delivered))
        if self._is_burying:
            return
        self._is_burying = True
        try:
            while self._dead:
                self._dead_letter(*self._dead.popleft(), now)
        finally:
            self._is_burying = False

    def _dead_letter(self, message: Message, queue: Queue, reason: str, was_delivered: bool, now: float) -> None:
        options = queue.options
        exchange = self._exchanges.get(options.dead_letter_exchange or "")
        if exchange is None:
            return
        dead = dead_message(
            message,
            queue.name,
            reason,
            exchange.name,
            options.dead_letter_routing_key,
            now + self._timers.wall_offset,
            was_delivered,
            self._compat,
        )
        for target in self._route(exchange, dead):
            if self._compat.streams_lose_dead_letters and target.kind == "stream":
                continue
            if reason == "rejected" or not goes_round(dead, target.name):
                target.publish(dead, now)
