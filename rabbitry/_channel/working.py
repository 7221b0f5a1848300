"""`Workers`: runs what settles each delivery of a source, some at a time, until that ends, fails, or is cancelled.

What must stay true: a delivery that was taken is given to `settle`, whatever ends the source; those at work outlive a
cancellation by `drain` seconds and no longer; the group's own tasks never show in what is raised.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

import anyio
from anyio.abc import TaskStatus

from rabbitry._channel.delivery import Delivery
from rabbitry._channel.repeats import Repeats
from rabbitry._channel.widening import Widening
from rabbitry._concurrency.clock import loop_time
from rabbitry._concurrency.lookout import Lookout
from rabbitry._concurrency.scopes import background
from rabbitry._errors import RabbitryError
from rabbitry._values.options import check_concurrency

__all__ = ["Settle", "Source", "Workers"]

logger = logging.getLogger("rabbitry")

Settle: TypeAlias = Callable[[Delivery], Awaitable[None]]
"""Handles a delivery, and settles it by how that ends. What it raises ends all."""


class Source(Protocol):
    """Where deliveries come from: a consumer, or a subscription. Any number of tasks may iterate it."""

    async def __anext__(self) -> Delivery:
        """The next one; raises `StopAsyncIteration`, or why there are no more, to each task that asks."""
        ...

    def _take_now(self) -> Delivery | None:
        """The next one, where it is here; None also now and then, so that `__anext__` lets other tasks run. It does not
        look for a cancellation.
        """
        ...

    def stop(self) -> None:
        """Take no more: what nobody has taken goes back."""
        ...


class Workers:
    """Made inert, for one `run`. `drain` seconds may pass until who is at work is cancelled."""

    __slots__ = (
        "_at_work",
        "_concurrency",
        "_drain",
        "_errors",
        "_idle",
        "_lookout",
        "_refusals",
        "_repeats",
        "_settle",
        "_under_way",
        "_widening",
    )

    def __init__(
        self,
        settle: Settle,
        *,
        concurrency: int,
        drain: float = 0.0,
        is_tracking: bool = False,
        widening: Widening | None = None,
    ) -> None:
        """`is_tracking` is for who will call `cancel_stale`. `widening` sees to the prefetch."""
        check_concurrency(concurrency)
        self._concurrency = concurrency
        self._drain = drain
        self._settle: Settle = settle
        if drain or is_tracking:  # hot: a scope for each delivery takes 6 us
            self._settle = self._in_a_scope(settle)
        self._widening = widening
        self._at_work: list[Delivery | None] = [None] * concurrency  # what each worker has
        self._repeats = Repeats()
        self._under_way: dict[anyio.CancelScope, Delivery] = {}
        self._idle = 0  # workers that have come to their end
        self._lookout = Lookout()  # for the end of all
        self._errors: list[Exception] = []  # of `settle`
        self._refusals: list[RabbitryError] = []  # of the source

    async def run(self, source: Source, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Return once the source has stopped and all are done; raise the first error of `settle`, else the source's.

        Cancelled, or when `settle` raised, it stops the source, and who is at work has `drain` seconds to finish.
        """
        async with background() as tg:
            if self._widening is not None:
                self._widening.start_soon = tg.start_soon
            for number in range(self._concurrency):
                tg.start_soon(self._work, source, number)
            task_status.started()
            try:
                await self._lookout.wait()
            finally:
                if self._widening is not None:
                    self._widening.start_soon = None
                source.stop()
                self._repeats.put_back()
                for scope in self._under_way:
                    scope.deadline = loop_time() + self._drain
                tg.cancel_scope.cancel()
        for other in self._errors[1:]:
            logger.error("another handler failed, too", exc_info=other)
        for error in self._errors or self._refusals:
            raise error

    async def _work(self, source: Source, number: int) -> None:
        settle, at_work, repeats, widening = self._settle, self._at_work, self._repeats, self._widening
        lookout, take_now = self._lookout, source._take_now
        try:
            while True:
                delivery = repeats.take() if repeats.waiting else None
                if delivery is None:
                    # hot: what is here is taken in 0.4 us; `__anext__` takes 3.3 on asyncio, 1.7 on trio
                    if lookout.is_quiet:
                        delivery = take_now()
                    elif lookout.has_ended:
                        return
                    if delivery is None:
                        delivery = await source.__anext__()
                    if repeats.former and repeats.holds(delivery):
                        continue
                at_work[number] = delivery
                try:
                    await settle(delivery)
                except Exception as error:
                    self._errors.append(error)
                    self._lookout.end()
                    return
                finally:
                    at_work[number] = None
                    if repeats.former:
                        repeats.finished(delivery)
                if widening is not None:
                    widening.done = done = widening.done + 1
                    if done >= widening.look_at:
                        widening.look(delivery)
        except StopAsyncIteration:
            repeats.put_back()
        except RabbitryError as error:  # which each worker meets, once its delivery is settled
            self._refusals.append(error)
        self._idle += 1
        if self._idle == self._concurrency:
            self._lookout.end()

    def _in_a_scope(self, settle: Settle) -> Settle:
        """What settles a delivery within a cancel scope of its own."""

        async def settle_in_scope(delivery: Delivery) -> None:
            with anyio.CancelScope(shield=self._drain > 0) as scope:
                self._under_way[scope] = delivery
                try:
                    await settle(delivery)
                finally:
                    del self._under_way[scope]

        return settle_in_scope

    def cancel_stale(self) -> None:
        """Cancel the work on deliveries that the broker will deliver again. Called while reading."""
        for scope, delivery in self._under_way.items():
            if delivery.is_stale:
                scope.cancel()

    def hold_repeats(self) -> None:
        """Have what the broker will deliver again wait for the work on it to finish. Called while reading."""
        self._repeats.lost([delivery for delivery in self._at_work if delivery is not None])
