"""`Consumer`: an async context manager that iterates over a queue's deliveries, one at a time or in batches.

What must stay true: what arrived is bounded (by prefetch, else by the marks below); nothing that was not handed out is
lost when iteration is cancelled or left: it goes back to the queue. Any number of tasks may iterate the same consumer.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rabbitry._channel.batches import Batches, batch_time
from rabbitry._channel.delivery import Delivery
from rabbitry._channel.life import ChannelLife
from rabbitry._concurrency.waiting import GIVE_WAY, Signal, Waiter, checkpoint, wait_in_line
from rabbitry._errors import ConsumerCancelled, ConsumerOverrun, LocalProtocolError, RabbitryError
from rabbitry._values.options import whole
from rabbitry.protocol.client.channel import ProtocolConsumer
from rabbitry.protocol.client.states import ChannelState
from rabbitry.protocol.wire import methods

__all__ = ["HARD_MARK", "MESSAGE_OVERHEAD", "SOFT_MARK", "Consumer", "consume_method", "life_behind"]

SOFT_MARK = 8 * 1024 * 1024
"""Bytes waiting to be iterated above which the connection stops reading, where nobody awaits a reply on it."""

HARD_MARK = 256 * 1024 * 1024
"""Bytes waiting to be iterated that end the consumer with `ConsumerOverrun`: reading could not pause, memory is
finite.
"""

MESSAGE_OVERHEAD = 512
"""Bytes a waiting delivery takes beside its body, about: the object, its route and properties."""


class Consumer:
    """Deliveries of one queue; made by `channel.consume`. Enter it with `async with`, then iterate with `async for`.

    Iteration raises `ConsumerCancelled` when the broker cancelled it (queue deleted), `ConsumerOverrun`, or the error
    that ended the channel; after `stop()` it just ends. Leaving the block cancels at the broker and puts back what was
    never iterated (with `no_ack` it is lost; in a transaction it goes back at the commit); deliveries taken stay
    settleable until the channel closes.
    """

    __slots__ = (
        "_buffer",
        "_buffered",
        "_calls",
        "_ended",
        "_error",
        "_is_overfull",
        "_life",
        "_method",
        "_on_arrival",
        "_on_end",
        "_prefetch",
        "_registration",
        "_waiting",
        "queue",
    )

    def __init__(
        self,
        life: ChannelLife,
        method: methods.BasicConsume,
        prefetch: int | None,
        on_arrival: Callable[[Delivery], None] | None,
        on_end: Callable[[RabbitryError | None], None] | None,
    ) -> None:
        self._life = life
        self.queue = method.queue
        self._method = method
        self._prefetch = prefetch
        self._on_arrival = on_arrival
        self._on_end = on_end
        self._buffer: deque[Delivery] = deque()
        self._buffered = 0
        self._is_overfull = False
        self._calls = 0
        self._ended = False
        self._error: RabbitryError | None = None
        self._waiting: list[Signal] = []  # one of each task that waits, the first first
        self._registration: ProtocolConsumer | None = None

    def __repr__(self) -> str:
        state = "ended" if self._ended else "consuming" if self._registration is not None else "not entered"
        return f"<Consumer {self.consumer_tag!r} of {self.queue!r}, {state}, {len(self._buffer)} waiting>"

    @property
    def consumer_tag(self) -> str:
        """The consumer's name on its channel."""
        return self._method.consumer_tag

    # --- the block -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start consuming. `NotFound` if there is no such queue, `AccessRefused` or `ResourceLocked` if another has it
        for itself. Cancelling it cancels the consumer at the broker.
        """
        if self._registration is not None:
            raise LocalProtocolError("this consumer was entered before: call channel.consume(...) again")
        life = self._life
        await life.endpoint.begin()
        life.set_prefetch(self._prefetch)
        waiter = Waiter()
        self._registration, slot = life.live.consume(self._method, self, waiter)
        try:
            await life.endpoint.reply(slot, waiter)
        except BaseException:
            self._leave(None)  # deliveries may have come with the reply
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        waiter = Waiter()
        if not self._leave(waiter):
            return
        await self._life.endpoint.wait_answered(waiter)

    def stop(self) -> None:
        """End the iteration: cancel at the broker and put back what was not iterated. Not a coroutine."""
        self._leave(None)

    def _leave(self, waiter: Waiter | None) -> bool:
        """Queue the cancel, then the nacks: in this order nothing is delivered here again. False if there was no
        need.
        """
        registration = self._registration
        if registration is None:
            return False
        channel = self._life.live
        asked = False
        if channel.state is ChannelState.OPEN and channel.cancel(registration, waiter) is not None:
            asked = waiter is not None
        self._put_back(self._take_all())
        self._finish(None)
        self._life.endpoint.wrote_if_any()
        return asked

    def _take_all(self) -> deque[Delivery]:
        buffer, self._buffer = self._buffer, deque()
        self._took(self._buffered)
        return buffer

    def _put_back(self, deliveries: Iterable[Delivery]) -> None:
        """Return to the queue what was never handed out; a stream keeps it anyway."""
        if self._method.no_ack:
            return
        for delivery in deliveries:
            if not delivery.is_stale and not delivery.is_settled and not delivery.seems_streamed:
                self._life.live.requeue(delivery.delivery_tag)

    # --- called when something arrives -----------------------------------------------------------------------------

    def put(self, delivery: Delivery) -> None:
        """A delivery arrived."""
        if self._on_arrival is not None:
            self._on_arrival(delivery)
        if self._ended:  # by what ran since this was parsed
            self._put_back([delivery])
            return
        self._buffer.append(delivery)
        self._buffered += len(delivery.body) + MESSAGE_OVERHEAD
        if self._waiting:
            self._wake()
        if self._buffered > SOFT_MARK:
            self._overfull()

    def _overfull(self) -> None:
        if not self._is_overfull:
            self._is_overfull = True
            self._life.endpoint.set_overfull(self, True)
        if self._buffered > HARD_MARK and not self._ended:
            self._overrun()

    def _overrun(self) -> None:
        """Past the hard mark: this consumer alone ends. What it holds can still be iterated; what still comes goes
        back.
        """
        error = ConsumerOverrun(self.queue, self._buffered)
        assert self._registration is not None
        channel = self._life.live
        if channel.state is ChannelState.OPEN:
            channel.cancel(self._registration, None)
        self._finish(error)

    def cancelled_by_broker(self) -> None:
        """No more deliveries will come."""
        self._finish(ConsumerCancelled(self.consumer_tag, self.queue))

    def channel_ended(self, error: RabbitryError) -> None:
        """The channel is over. The broker has put back what was not acknowledged, so it must not be handed out here
        too.
        """
        if not self._method.no_ack:
            self._take_all()
        self._finish(error)

    def drop_stale(self) -> None:
        """The channel was recovered: keep only what the broker will not deliver again."""
        self._return([delivery for delivery in self._take_all() if self._method.no_ack or not delivery.is_stale])

    def _finish(self, error: RabbitryError | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._error = error
        if self._is_overfull:  # what it holds grows no more: the other consumers may go on
            self._is_overfull = False
            self._life.endpoint.set_overfull(self, False)
        if self._on_end is not None:
            self._on_end(error)
        waiting, self._waiting = self._waiting, []
        for signal in waiting:
            signal.set()

    # --- iterating -------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        """The next delivery. Cancelling it loses nothing: the delivery stays for the next call, or goes back."""
        self._calls += 1
        if self._buffer:
            if self._calls & GIVE_WAY:
                await self._life.endpoint.checkpoint_if_cancelled()
            else:
                await checkpoint()
        while not self._buffer:
            await self._wait()
        return self._take()

    def _take(self) -> Delivery:
        delivery = self._buffer.popleft()
        self._buffered -= len(delivery.body) + MESSAGE_OVERHEAD
        if self._is_overfull:
            self._took(0)
        return delivery

    def _take_some(self, most: int) -> list[Delivery]:
        """Take the deliveries that have arrived, `most` at the most."""
        return [self._take() for _ in range(min(most, len(self._buffer)))]

    async def _wait(self) -> None:
        """Wait for something to change; raises what ended the consumer."""
        if self._registration is None:
            raise LocalProtocolError("enter the consumer first: 'async with channel.consume(...) as deliveries'")
        if self._ended:
            if self._error is None:
                await checkpoint()
                raise StopAsyncIteration
            raise self._error.copy()
        self._life.endpoint.check_loop()
        await wait_in_line(self._waiting, self._life.endpoint.new_signal(), self._wake)

    def _wake(self, deliveries: int = 1) -> None:
        """Have as many tasks look for a delivery as there are new ones."""
        for _ in range(min(deliveries, len(self._waiting))):
            self._waiting.pop(0).set()

    def _took(self, size: int) -> None:
        self._buffered -= size
        if self._is_overfull and self._buffered < SOFT_MARK // 2:
            self._is_overfull = False
            self._life.endpoint.set_overfull(self, False)

    def _return(self, taken: list[Delivery]) -> None:
        """Put deliveries back in front, in order: they were not handed out after all."""
        self._buffer.extendleft(reversed(taken))
        self._buffered += sum(len(delivery.body) + MESSAGE_OVERHEAD for delivery in taken)
        self._wake(len(taken))  # others may wait for what a cancelled batch held
        if self._ended and self._error is None:
            self._put_back(self._take_all())
            self._life.endpoint.wrote_if_any()

    def batches(self, size: int, *, within: float | timedelta) -> Batches:
        """Iterate in batches of up to `size` deliveries (1 to 65,535), each complete `within` seconds of its first one.

        Give the consumer a prefetch of at least `size`, or every batch waits in vain to fill.
        """
        return Batches(self.__anext__, self._take_some, self._return, size, batch_time(size, within))


def consume_method(
    queue: str,
    *,
    consumer_tag: str = "",
    no_ack: bool = False,
    exclusive: bool = False,
    priority: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> methods.BasicConsume:
    """basic.consume, with a tag made here unless given; `priority` is RabbitMQ's x-priority."""
    table = dict(arguments or {})
    if priority is not None:
        priority = whole(priority, "priority")
        table["x-priority"] = priority
    return methods.BasicConsume(
        queue=queue,
        consumer_tag=consumer_tag or f"rabbitry-{secrets.token_hex(8)}",
        no_ack=no_ack,
        exclusive=exclusive,
        arguments=table,
    )


def life_behind(consumer: Consumer) -> ChannelLife:
    """The life of the channel that it consumes on."""
    return consumer._life
