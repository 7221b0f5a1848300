"""`process_all`: runs a handler for each delivery of a subscription, some at a time, and settles by how it ends.

What must stay true: a delivery handed to a handler is settled as `delivery.process` says, whatever ends it; handlers at
work outlive a cancellation by `drain` seconds and no longer; the group's own tasks never show in what is raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

import anyio
from anyio.abc import TaskStatus

from rabbitry._delivery import Delivery, OnError, check_on_error
from rabbitry._errors import LocalProtocolError, RabbitryError
from rabbitry._scopes import background
from rabbitry._subscription import Subscription

__all__ = ["DeliveryHandler", "OnStale", "process_all"]

DeliveryHandler: TypeAlias = Callable[[Delivery], Awaitable[Any]]
OnStale = Literal["finish", "cancel"]


async def process_all(
    subscription: Subscription,
    handler: DeliveryHandler,
    *,
    concurrency: int,
    on_error: OnError,
    on_stale: OnStale,
    drain: float,
    task_status: TaskStatus[None],
) -> None:
    """Until the subscription is stopped, fails, or this is cancelled."""
    if concurrency < 1:
        raise LocalProtocolError(f"concurrency must be at least 1, not {concurrency}")
    if drain < 0:
        raise LocalProtocolError(f"drain must not be negative: {drain}")
    if on_stale not in ("finish", "cancel"):
        raise LocalProtocolError(f"on_stale is 'finish' or 'cancel', not {on_stale!r}")
    check_on_error(on_error)
    at_work: dict[anyio.CancelScope, Delivery] = {}
    failures: list[RabbitryError] = []

    async def work() -> None:
        while True:
            try:
                delivery = await subscription.__anext__()
            except StopAsyncIteration:
                return
            except RabbitryError as error:  # which each worker meets, once its handler is done
                failures.append(error)
                return
            with anyio.CancelScope(shield=drain > 0) as scope:
                at_work[scope] = delivery
                try:
                    with delivery.process(on_error):
                        await handler(delivery)
                finally:
                    del at_work[scope]

    def cancel_stale() -> None:
        for scope, delivery in at_work.items():
            if delivery.is_stale:
                scope.cancel()

    if on_stale == "cancel":
        subscription._on_loss = cancel_stale
    async with subscription:
        all_ended, running = anyio.Event(), concurrency

        async def work_to_the_end() -> None:
            nonlocal running
            await work()
            running -= 1
            if not running:
                all_ended.set()

        async with background() as workers:
            for _ in range(concurrency):
                workers.start_soon(work_to_the_end)
            task_status.started()
            try:
                await all_ended.wait()
            except BaseException:  # cancelled, or a handler's error that is to be raised
                subscription.stop()
                for scope in at_work:
                    scope.deadline = anyio.current_time() + drain
                workers.cancel_scope.cancel()
                raise
        if failures:
            raise failures[0]
