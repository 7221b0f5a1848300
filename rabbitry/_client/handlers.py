"""`Processing`: how `client.process` and `client.serve` treat a delivery: it is handled, and settled by how that ends.

What must stay true: a delivery handed to a handler is settled as `delivery.process` says, whatever ends it; a handler
that can never work is refused before, or its deliveries would come again for ever; one that is no coroutine function
runs in a thread, is never abandoned there, and no more than `concurrency` of them run at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Literal

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from rabbitry._channel.delivery import (
    FAILURES,
    STREAM_TAKES_NOTHING_BACK,
    Delivery,
    DeliveryHandler,
    OnError,
    ProcessDelivery,
    check_on_error,
    settle_handled,
)
from rabbitry._channel.widening import Widening
from rabbitry._channel.working import Workers
from rabbitry._client.pauses import Pauses
from rabbitry._client.retrying import Retrying
from rabbitry._client.subscription import Subscription
from rabbitry._concurrency.waiting import is_being_cancelled
from rabbitry._errors import RabbitryError, shown
from rabbitry._values.annotations import Unfit
from rabbitry._values.handlers import check_handler, is_async
from rabbitry._values.options import Verdict, check_concurrency, checked_prefetch, default_prefetch

__all__ = ["STREAM_HAS_NO_RETRY", "OnStale", "Processing", "asynchronous"]

OnStale = Literal["finish", "cancel"]

STREAM_HAS_NO_RETRY = (
    "a stream takes nothing back, and so has no retry: publish what failed to a queue, and process that with retry="
)


class Processing:
    """One call of `process` or `serve`. `on_loss` is what its subscription is to call when a life is lost."""

    __slots__ = (
        "_handler",
        "_has_ended",
        "_is_stream",
        "_on_error",
        "_put_back",
        "_retrying",
        "_widening",
        "_workers",
        "on_loss",
        "prefetch",
    )

    def __init__(
        self,
        handler: DeliveryHandler,
        *,
        concurrency: int,
        prefetch: int | None,
        on_error: OnError,
        on_stale: OnStale,
        drain: float,
        retrying: Retrying | None = None,
    ) -> None:
        check_concurrency(concurrency)
        if drain < 0:
            raise ValueError(f"drain must not be negative: {drain}")
        if on_stale not in ("finish", "cancel"):
            raise ValueError(f"on_stale is 'finish' or 'cancel', not {on_stale!r}")
        check_on_error(on_error)
        if iscoroutinefunction(on_error):
            raise TypeError(f"on_error is asked while the delivery is settled: it can't be a coroutine, {on_error!r}")
        self._handler = handler
        if retrying is not None and on_error != "requeue":
            raise ValueError("retry says what becomes of failures, and so does on_error: give one of them")
        self._on_error: OnError = on_error
        self._retrying = retrying
        self._has_ended: Callable[[], bool] = bool  # until it runs, and knows
        self.prefetch = default_prefetch(concurrency) if prefetch is None else checked_prefetch(prefetch)
        self._widening = widening = Widening(self.prefetch, concurrency, may_rise=prefetch is None)
        self._put_back = Pauses(widening).put_back
        self._is_stream = False  # until it runs, and knows
        is_cancelling = on_stale == "cancel"
        settle = self._settle if retrying is None else self._settle_or_retry
        self._workers = Workers(
            settle, concurrency=concurrency, drain=drain, is_tracking=is_cancelling, widening=widening
        )
        self.on_loss: Callable[[], None] = self._workers.cancel_stale if is_cancelling else self._workers.hold_repeats

    async def run(self, subscription: Subscription, task_status: TaskStatus[None]) -> None:
        """Handle deliveries until the subscription is stopped or fails, or this is cancelled."""
        if subscription.is_stream and self._on_error == "requeue":
            raise ValueError(STREAM_TAKES_NOTHING_BACK)
        self._is_stream = subscription.is_stream
        if self._is_stream:
            self._widening.stream_offset = subscription.stream_offset
        self._has_ended = lambda: subscription.has_ended
        async with subscription:
            if self._retrying is not None:
                await self._retrying.begin(self._has_ended)
            try:
                await self._workers.run(subscription, task_status)
            finally:
                FAILURES.finish(
                    logging.ERROR,
                    subscription.queue,
                    "the handler of deliveries of queue '%s' failed on %d more since the last such line",
                    shown(subscription.queue),
                )

    async def _settle(self, delivery: Delivery) -> None:
        try:
            await self._handler(delivery)
        except BaseException as error:  # hot: a `with` block around it all would take half a microsecond more
            with ProcessDelivery(delivery, self._verdict, is_stream=self._is_stream, put_back=self._put_back):
                if isinstance(error, anyio.get_cancelled_exc_class()) and not is_being_cancelled():
                    # Under asyncio, who awaits what something else cancelled is told so as if it was cancelled itself.
                    raise RabbitryError("the handler awaited something that was cancelled") from error
                raise
        else:
            settle_handled(delivery)

    async def _settle_or_retry(self, delivery: Delivery) -> None:
        try:
            await self._handler(delivery)
        except BaseException as error:
            if isinstance(error, Exception) and delivery.seems_streamed:
                raise ValueError(STREAM_HAS_NO_RETRY) from error
            with ProcessDelivery(delivery, self._verdict, put_back=self._put_back):
                failure = error
                if isinstance(error, anyio.get_cancelled_exc_class()) and not is_being_cancelled():  # see `_settle`
                    failure = RabbitryError("the handler awaited something that was cancelled")
                    failure.__cause__ = error
                if not isinstance(failure, Exception):
                    raise
                if delivery.is_settled or delivery.is_stale:
                    raise failure from failure.__cause__
                assert self._retrying is not None
                await self._retrying.settle_failed(delivery, failure, self._has_ended)
        else:
            settle_handled(delivery)

    def _verdict(self, delivery: Delivery, error: Exception) -> Verdict:
        if isinstance(error, Unfit) and self._on_error == "requeue":  # as it would be each time that it came again
            return "reject"
        return self._on_error(delivery, error) if callable(self._on_error) else self._on_error


def asynchronous(handler: Callable[[Delivery], Any], concurrency: int) -> DeliveryHandler:
    """The handler itself where it is a coroutine function; else one that runs it in a worker thread, up to
    `concurrency` at once, and awaits what it returns if that can be: once that was so, it is called in the event loop.
    Refuses what can't ever work.
    """
    check_handler(handler)
    if is_async(handler):
        return handler
    check_concurrency(concurrency)
    threads = anyio.CapacityLimiter(concurrency)
    has_awaited = False

    async def in_thread(delivery: Delivery) -> None:
        nonlocal has_awaited
        if has_awaited:  # a lambda, say, which only calls a coroutine function: it blocks nothing
            result = handler(delivery)
        else:
            # Not abandoned when cancelled: it would go on beside the next handlers, beyond `concurrency`, and with a
            # delivery that has been put back. In a tuple, as trio refuses a function that returns an awaitable.
            (result,) = await anyio.to_thread.run_sync(lambda: (handler(delivery),), limiter=threads)
        if isawaitable(result):
            has_awaited = True
            await result

    return in_thread
