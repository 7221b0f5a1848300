"""`Consumer`: deliveries as an iterator, of one connection or, made by a client, through all its lives.

What must stay true: deliveries are fetched many at a time, by one fetch at a time, and only when none is at hand; each
goes to one thread; what was fetched and not handed out goes back when the block is left. There is no lock that a thread
may hold while a signal handler raises in it: the loop would wait for that, with all connections. So whoever has
something new sets it first and wakes the waiting then, and who waits looks once more after being listed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Self, TypeAlias

import anyio

import rabbitry
from rabbitry import RabbitryError
from rabbitry._values.options import checked_prefetch
from rabbitry.blocking.block import Block
from rabbitry.blocking.delivery import Delivery
from rabbitry.blocking.portal import Deadline, Portal, Timeout
from rabbitry.blocking.waiter import Waiter

__all__ = ["Batches", "Consumer"]

AnyConsumer: TypeAlias = rabbitry.Consumer | rabbitry.Subscription

MOST_AT_ONCE = 1000
"""Deliveries fetched at once, at most. To fetch takes a task, some 50 us."""


class Fetch(Waiter):
    """What a thread waits for that finds nothing at hand."""

    __slots__ = ("begin",)

    def __init__(self, begin: Callable[[], None]) -> None:
        super().__init__()
        self.begin: Callable[[], None] = begin  # pyright: ignore[reportIncompatibleMethodOverride]


class Consumer(Block[AnyConsumer]):
    """Deliveries of one queue; made by `consume`. Enter it with `with`, then iterate. Any number of threads may.

    Iteration raises what iterating the async one does, after what is at hand. After `stop()` it ends, and so it does
    when nothing came for `inactivity_timeout`; it may then be iterated again. Leaving the block puts back what was
    never iterated.
    """

    _what = "the consumer"
    _call = "consume(...)"

    def __init__(
        self,
        portal: Portal,
        make: Callable[[], AnyConsumer],
        prefetch: int,
        inactivity_timeout: Timeout,
        timeout: Timeout,
    ) -> None:
        super().__init__(portal, make, timeout)
        self._at_once = min(checked_prefetch(prefetch) or MOST_AT_ONCE, MOST_AT_ONCE)
        self._inactivity_timeout = inactivity_timeout
        self._fetched: deque[Delivery] = deque()
        self._waiting: deque[Fetch] = deque()  # one of each thread that waits
        self._has_ended = self._is_fetching = False
        self._error: Exception | None = None
        self._fetch_scope: anyio.CancelScope | None = None
        self._fetching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        if self._entered is None:
            return super().__repr__()
        return f"<blocking {self._entered!r}, {len(self._fetched)} fetched>"

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self._async.queue

    # --- the block ----------------------------------------------------------------------------------------------------

    async def _leave(self) -> None:
        self._end()
        if self._fetching is not None:
            if self._fetch_scope is not None:
                self._fetch_scope.cancel()
            await asyncio.wait({self._fetching})
        self._give_back(self._take_fetched())
        await super()._leave()

    def _end(self) -> None:
        self._has_ended = True
        self._wake_all()

    def _wake_all(self) -> None:
        while self._waiting:
            try:
                self._portal.turns.end(self._waiting.popleft())
            except IndexError:  # it has just given up
                return

    def _take_fetched(self) -> list[Delivery]:
        """Take what is at hand: one by one, because threads do so meanwhile."""
        taken: list[Delivery] = []
        while self._fetched:
            try:
                taken.append(self._fetched.popleft())
            except IndexError:
                break
        return taken

    def _give_back(self, deliveries: list[Delivery]) -> None:
        """Give deliveries to the consumer of the present life, which puts them back when it is left. On the loop.

        By the async library's own way to take back what a cancelled batch held: nothing public hands deliveries back to
        a consumer, as who iterates an async one never holds what it did not ask for.
        """
        if not deliveries:
            return
        consumer = self._async if isinstance(self._async, rabbitry.Consumer) else self._async._consumer
        live = [delivery for delivery in deliveries if not delivery.is_stale]
        if consumer is not None and live:
            consumer._return(list[rabbitry.Delivery](live))

    def stop(self) -> None:
        """End the iteration, in whichever thread: cancel at the broker and, a moment later or once the block is left,
        put back what was not iterated. Does not wait.
        """
        self._async  # noqa: B018 - raises when not entered
        self._portal.submit(self._stop)

    def _stop(self) -> None:
        self._give_back(self._take_fetched())  # first, so that all of it goes back as one
        self._async.stop()
        self._end()

    # --- iterating ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delivery:
        try:
            delivery = self.receive(timeout=self._inactivity_timeout)
        except TimeoutError:
            raise StopIteration from None
        if delivery is None:
            raise StopIteration
        return delivery

    def receive(self, *, timeout: Timeout = None) -> Delivery | None:
        """The next delivery; None after `stop()`. Raises `TimeoutError` when none comes in time; nothing is lost by it,
        nor by Ctrl-C.
        """
        self._portal.check_thread()
        delivery = self._next_fetched()
        return delivery if delivery is not None else self._wait_for_one(Deadline(timeout))

    def _next_fetched(self) -> Delivery | None:
        """The next delivery that is at hand, and was not put back by the broker meanwhile."""
        while True:
            try:
                delivery = self._fetched.popleft()
            except IndexError:
                return None
            if not delivery.is_stale:
                return delivery

    def _wait_for_one(self, deadline: Deadline) -> Delivery | None:
        self._async  # noqa: B018 - raises when not entered
        while True:
            delivery = self._next_fetched()
            if delivery is not None:
                return delivery
            if self._error is not None:
                raise self._error.copy() if isinstance(self._error, RabbitryError) else self._error
            if self._has_ended:
                return None
            self._wait(deadline.rest)

    def _wait(self, timeout: float | None) -> None:
        """Return when there may be something new."""
        self._portal.check_open()
        fetch = Fetch(self._start_fetching)
        self._waiting.append(fetch)
        try:
            if self._fetched or self._has_ended or self._error is not None:
                return
            if not self._portal.turns.wait(fetch, timeout):
                raise TimeoutError("no delivery came in time")
        finally:
            with suppress(ValueError):  # it was awakened
                self._waiting.remove(fetch)

    # --- on the loop --------------------------------------------------------------------------------------------------

    def _start_fetching(self) -> None:
        """Fetch deliveries, unless a fetch is under way already: one that nobody waits for any more goes on."""
        self._portal.settle_now()  # the broker may wait for that before it sends more
        if not (self._is_fetching or self._fetched or self._has_ended):
            self._is_fetching = True
            self._fetching = self._portal.spawn(self._fetch_some())
            self._fetching.add_done_callback(self._fetch_ended)

    def _fetch_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # with the loop, before its first step: it catches what comes later
            self._end()

    async def _fetch_some(self) -> None:
        fetched: list[Delivery] = []
        error: Exception | None = None
        has_ended = False
        try:
            with anyio.CancelScope() as self._fetch_scope:
                if self._has_ended:
                    self._fetch_scope.cancel()
                batch = await self._async.batches(self._at_once, within=0).__anext__()
                fetched = [Delivery(delivery, self._portal) for delivery in batch]
        except StopAsyncIteration:
            has_ended = True
        except Exception as failure:
            error = failure
        except BaseException:  # the loop ends
            has_ended = True
        self._is_fetching = False
        self._fetched.extend(fetched)
        self._error = error
        self._has_ended |= has_ended
        self._wake_all()

    # --- in batches ---------------------------------------------------------------------------------------------------

    def batches(self, size: int, *, within: float | timedelta, timeout: Timeout = None) -> Batches:
        """Iterate in batches of up to `size` deliveries (1 to 65,535) of one life, each complete `within` seconds of
        its first one; `TimeoutError` when none begins within `timeout`.

        Consume with a prefetch of at least `size`, or every batch waits in vain to fill.
        """
        return Batches(self, self._portal, self._async.batches(size, within=within), timeout)


class Batches:
    """Iterates a consumer in batches; made by `Consumer.batches`."""

    def __init__(
        self,
        consumer: Consumer,
        portal: Portal,
        batches: rabbitry.Batches | rabbitry.SubscriptionBatches,
        timeout: Timeout,
    ) -> None:
        self._consumer = consumer
        self._portal = portal
        self._async = batches
        self._timeout = timeout

    def __iter__(self) -> Iterator[rabbitry.Batch]:
        return self

    def __next__(self) -> rabbitry.Batch:
        """The next batch, never empty. Interrupted or timed out, it loses nothing."""
        batch = self._portal.run(self._next, self._timeout, undo=self._undo)
        if batch is None:
            raise StopIteration
        return batch

    async def _next(self) -> rabbitry.Batch | None:
        consumer = self._consumer
        consumer._give_back(consumer._take_fetched())
        try:
            batch = await self._async.__anext__()
        except StopAsyncIteration:  # which no coroutine's result may be
            return None
        return rabbitry.Batch([Delivery(delivery, self._portal) for delivery in batch])

    def _undo(self, batch: rabbitry.Batch | None) -> None:
        if batch is not None:
            self._consumer._give_back([each for each in batch if isinstance(each, Delivery)])
