"""`process_all`: runs a handler for each delivery of a subscription, some at a time, and settles by how it ends.

What must stay true: a delivery handed to a handler is settled as `delivery.process` says, whatever ends it; handlers at
work outlive a cancellation by `drain` seconds and no longer; the group's own tasks never show in what is raised.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from inspect import isawaitable
from typing import Any, Literal, TypeAlias

import anyio
from anyio.abc import TaskStatus

from rabbitry._channel.delivery import (
    STREAM_TAKES_NOTHING_BACK,
    Delivery,
    OnError,
    ProcessDelivery,
    Verdict,
    check_on_error,
)
from rabbitry._client.subscription import Subscription
from rabbitry._concurrency.scopes import background
from rabbitry._concurrency.waiting import is_being_cancelled
from rabbitry._errors import LocalProtocolError, RabbitryError

__all__ = ["DeliveryHandler", "OnStale", "process_all"]

logger = logging.getLogger("rabbitry")

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
    if subscription.is_stream and on_error == "requeue":
        raise LocalProtocolError(STREAM_TAKES_NOTHING_BACK)
    handler = subscription._observed(partial(_awaited, handler))
    at_work: dict[anyio.CancelScope, Delivery] = {}
    refusals: list[RabbitryError] = []  # of the subscription
    errors: list[Exception] = []  # of handlers, to be raised
    ending, running = anyio.Event(), concurrency

    def verdict(delivery: Delivery, error: Exception) -> Verdict:
        if isinstance(error, _NotAwaitable):  # as the next one would be
            return "raise"
        return on_error(delivery, error) if callable(on_error) else on_error

    async def settle(delivery: Delivery) -> None:
        with ProcessDelivery(delivery, verdict, is_stream=subscription.is_stream):
            await _handled(handler, delivery)

    async def settle_in_scope(delivery: Delivery) -> None:
        with anyio.CancelScope(shield=drain > 0) as scope:
            at_work[scope] = delivery
            try:
                await settle(delivery)
            finally:
                del at_work[scope]

    # hot: a scope of its own takes 6 us
    see_through = settle_in_scope if drain or on_stale == "cancel" else settle

    async def work() -> None:
        nonlocal running
        try:
            while True:
                delivery = await subscription.__anext__()
                try:
                    await see_through(delivery)
                except Exception as error:
                    errors.append(error)
                    ending.set()
                    return
        except StopAsyncIteration:
            pass
        except RabbitryError as error:  # which each worker meets, once its handler is done
            refusals.append(error)
        running -= 1
        if not running:
            ending.set()

    def cancel_stale() -> None:
        for scope, delivery in at_work.items():
            if delivery.is_stale:
                scope.cancel()

    if on_stale == "cancel":
        subscription._on_loss = cancel_stale
    async with subscription:
        async with background() as workers:
            for _ in range(concurrency):
                workers.start_soon(work)
            task_status.started()
            try:
                await ending.wait()
            finally:
                subscription.stop()
                for scope in at_work:
                    scope.deadline = anyio.current_time() + drain
                workers.cancel_scope.cancel()
        for other in errors[1:]:
            logger.error("another handler failed, too", exc_info=other)
        for error in errors or refusals:
            raise error


class _NotAwaitable(LocalProtocolError):
    """The handler is no coroutine function."""


async def _awaited(handler: DeliveryHandler, delivery: Delivery) -> None:
    """Told apart by what it returns: a lambda or a decorated function may well be one."""
    awaitable = handler(delivery)
    if not isawaitable(awaitable):
        raise _NotAwaitable(
            f"process takes a coroutine function as its handler, but {handler!r} returned no awaitable: write it with "
            "'async def', and have work that blocks done by 'await anyio.to_thread.run_sync(...)'"
        )
    await awaitable


async def _handled(handler: DeliveryHandler, delivery: Delivery) -> None:
    """Under asyncio, who awaits what something else cancelled is told so as if it was cancelled itself."""
    try:
        await handler(delivery)
    except anyio.get_cancelled_exc_class() as error:
        if is_being_cancelled():
            raise
        raise RabbitryError("the handler awaited something that was cancelled") from error
