"""`Ahead`: has the one worker of a `process` handle several deliveries in one go, where its handler is quick.

To run a handler's deliveries one by one through the event loop costs more than an empty handler itself. So the worker
is given some more of those that have arrived, as many as take it `QUICK` seconds.

What must stay true: each is handled and settled as if it had come alone. What the handler failed on, or returned
something to await for, comes to the client as the next delivery, and fails or is awaited there without being handled
again; after a stop no further one is begun; what waits behind a handler that is slow all of a sudden is given back, and
what was handled is settled, `SLOW` seconds after the start, or when the spare thread comes to run the loop.
"""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from typing import Any, TypeAlias

import rabbitry
from rabbitry.blocking.delivery import Delivery
from rabbitry.blocking.portal import Portal

__all__ = ["Ahead"]

QUICK = 0.002
SLOW = 0.01
MOST = 200
"""Deliveries in one go."""

Caught: TypeAlias = Callable[[Callable[[], Any]], Any]

Outcome: TypeAlias = Callable[[], Any]
"""Returns or raises what the handler has."""


def _returned(result: Any) -> Any:
    return result


def _raised(error: Exception) -> Any:
    raise error


class Ahead:
    """Of one `process`, whose concurrency is 1. Made on the loop."""

    def __init__(
        self,
        portal: Portal,
        handler: Callable[[Delivery], Any],
        caught: Caught,
        in_thread: Callable[[Callable[[Delivery], Any]], Callable[[rabbitry.Delivery], Awaitable[Any]]],
        has_stopped: Callable[[], bool],
        on_error: Any,
    ) -> None:
        """`in_thread` makes a coroutine function that runs a function of a delivery in the worker's thread."""
        self._portal = portal
        self._handler = handler
        self._caught = caught
        self._first = in_thread(self._work)
        self._has_stopped = has_stopped
        self._on_error = on_error
        self._size = 0  # how many more the handler is quick enough for
        self._is_over = False
        self._ahead: deque[tuple[rabbitry.Delivery, Delivery]] = deque()
        self._handled: deque[Delivery] = deque()
        self._at_work: Delivery | None = None  # behind the first
        self._has_done_first = False
        self._special: tuple[rabbitry.Delivery, Outcome] | None = None
        self._outcomes: dict[rabbitry.Delivery, Outcome] = {}
        self._outcome: Outcome | None = None

    # --- on the loop --------------------------------------------------------------------------------------------------

    async def handle(self, delivery: rabbitry.Delivery) -> Any:
        """Handle the delivery, and some of those behind it."""
        self._outcome = self._outcomes.pop(delivery, None) if self._outcomes else None
        self._has_done_first = False
        consumer = delivery.consumer
        if not self._size or type(delivery) is not rabbitry.Delivery or not isinstance(consumer, rabbitry.Consumer):
            return await self._first(delivery)
        self._ahead.extend((each, Delivery(each, self._portal)) for each in consumer._take_some(self._size))
        timer = self._portal.turns.loop.call_later(SLOW, self._settle, consumer)
        try:
            await self._first(delivery)
            if self._special is not None and self._has_stopped():
                await self._handle_last(delivery, *self._special)
        except BaseException:
            if self._has_done_first:  # it is cancelled, by what is to end all, and those behind it are under way
                self._is_over = True
                Delivery(delivery, self._portal).settle_handled()
                if self._at_work is not None:
                    self._at_work.put_back()
            raise
        finally:
            timer.cancel()
            special, self._special = self._special, None
            if special is not None:
                self._outcomes[special[0]] = special[1]
                self._ahead.appendleft((special[0], Delivery(special[0], self._portal)))
            self._settle(consumer)

    async def _handle_last(self, first: rabbitry.Delivery, delivery: rabbitry.Delivery, outcome: Outcome) -> None:
        """Do what the client would do with this one, to which it does not come any more."""
        self._special, self._outcome = None, outcome
        Delivery(first, self._portal).settle_handled()
        with delivery.process(on_error=self._on_error):
            await self._first(delivery)

    def _settle(self, consumer: rabbitry.Consumer) -> None:
        """Acknowledge what was handled, and give back what was not."""
        while self._handled:
            self._handled.popleft().settle_handled()
        rest: list[rabbitry.Delivery] = []
        while self._ahead:
            try:
                rest.append(self._ahead.popleft()[0])
            except IndexError:  # the worker has just taken it
                break
        rest = [delivery for delivery in rest if not delivery.is_stale]
        if rest:
            consumer._return(rest)

    # --- in the worker's thread ---------------------------------------------------------------------------------------

    def _work(self, delivery: Delivery) -> Any:
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            return outcome()
        context = copy_context()
        began = time.perf_counter()
        result = context.copy().run(self._handler, delivery)
        if inspect.isawaitable(result):  # which the loop is to await
            return result
        self._has_done_first = True
        count = 1
        while self._ahead and not (self._is_over or self._has_stopped()):
            try:
                original, each = self._ahead.popleft()
            except IndexError:  # they were given back
                break
            if each.is_stale:
                continue
            self._at_work = each
            try:
                result = context.copy().run(self._caught, partial(self._handler, each))
                if inspect.isawaitable(result):
                    self._special = (original, partial(_returned, result))
                    break
            except Exception as error:
                self._special = (original, partial(_raised, error))
                break
            finally:
                self._at_work = None
            self._handled.append(each)
            count += 1
        each_took = (time.perf_counter() - began) / count
        self._size = min(MOST, 2 * self._size + 1, int(QUICK / max(each_took, 1e-9)))
        return None
