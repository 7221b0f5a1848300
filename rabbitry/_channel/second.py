"""`SecondConsumer`: a consumer beside another one, on its channel and into its buffer, to have a larger prefetch; and
`StreamConsumer`, which has the same for a stream.

RabbitMQ knows the prefetch of a consumer from its beginning to its end, and basic.qos for a whole channel
(`global`) not with quorum queues, nor by default from 4.3 on. To cancel the first and begin another would delete an
auto-delete queue, and hand a single active consumer's queue to somebody else. So there is a second one, whose prefetch
comes on top. What must stay true: nothing that was delivered is lost or handed out twice; on a queue with a single
active consumer it never gets anything, and it ends before the first does.
"""

from __future__ import annotations

from collections.abc import Callable
from os import urandom
from typing import Any

from rabbitry._channel.consumer import Consumer, begin_again, life_behind, method_of, shed
from rabbitry._channel.delivery import Delivery
from rabbitry._concurrency.waiting import Waiter
from rabbitry._errors import RabbitryError
from rabbitry.protocol.client.channel import ProtocolConsumer
from rabbitry.protocol.client.states import ChannelState
from rabbitry.protocol.wire import methods

__all__ = ["SecondConsumer", "StreamConsumer"]


class SecondConsumer:
    """Beside `consumer`, which acknowledges and is not exclusive, from when this is given a `prefetch`."""

    __slots__ = ("_consumer", "_registrations", "deliveries", "expected", "is_over", "prefetch")

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._registrations: list[ProtocolConsumer] = []
        self.prefetch = 0
        self.is_over = False  # the broker has cancelled it, as it will the first one: not to be begun again
        self.deliveries = 0  # that came by it
        self.expected = 0  # at a time, at the most: those of one that was cancelled may still be on their way

    async def set_prefetch(self, prefetch: int, *, put_back: bool = False) -> None:
        """Have another prefetch; 0 ends it. What is on its way to the former one is taken all the same, or goes back
        with `put_back`. Raises what ended the channel. Cancelling it leaves the former one.
        """
        former = list(self._registrations)
        if prefetch:
            await self._begin(prefetch)
        channel = life_behind(self._consumer).live
        for registration in former:
            if registration in self._registrations:
                self._registrations.remove(registration)
            if channel.state is not ChannelState.OPEN or registration.discard:
                continue
            if put_back:
                channel.cancel(registration, None)
            else:
                channel.request_cancel(registration, None)
        self.prefetch = prefetch if self._registrations else 0
        life_behind(self._consumer).endpoint.wrote_if_any()

    async def _begin(self, prefetch: int) -> None:
        life = life_behind(self._consumer)
        life.set_prefetch(prefetch)
        self.expected = max(self.expected, self.prefetch + prefetch)
        waiter = Waiter()
        first = method_of(self._consumer)
        method = methods.BasicConsume(
            queue=first.queue, consumer_tag=f"rabbitry-{urandom(8).hex()}", arguments=first.arguments
        )
        registration, slot = life.live.consume(method, self, waiter)
        self._registrations.append(registration)
        self._consumer.beside = self
        try:
            await life.endpoint.reply(slot, waiter)
        except BaseException:
            if registration in self._registrations:
                self._registrations.remove(registration)
            self._cancel(registration)
            raise

    def shed(self, keep: int) -> None:
        """Put back what waits in the first one, but for the `keep` that came first."""
        shed(self._consumer, keep)

    def _cancel(self, registration: ProtocolConsumer) -> None:
        channel = life_behind(self._consumer).live
        if channel.state is ChannelState.OPEN:
            channel.cancel(registration, None)

    # --- called when something arrives, or the first one ends ---------------------------------------------------------

    def put(self, delivery: Delivery) -> None:
        """A delivery arrived: it is the first one's."""
        self.deliveries += 1
        delivery.consumer = self._consumer
        self._consumer.put(delivery)

    def refuse(self, delivery: Delivery, size: int) -> None:
        """A delivery arrived that is too large: it is the first one's."""
        delivery.consumer = self._consumer
        self._consumer.refuse(delivery, size)

    def consumer_ended(self, consumer: Consumer) -> None:
        """The first one ends: this must not outlive it."""
        registrations, self._registrations = self._registrations, []
        self.prefetch = 0
        for registration in registrations:
            self._cancel(registration)

    def cancelled_by_broker(self) -> None:
        """No more will come: the queue has gone. The first one is told so, too, but perhaps later."""
        self.is_over = True
        self._registrations.clear()
        self.prefetch = 0

    def channel_ended(self, error: RabbitryError) -> None:
        """The channel is over, and the first one is told so, too."""
        self.cancelled_by_broker()

    def drop_stale(self) -> None:
        """What came by this waits in the first one, which drops it."""


class StreamConsumer:
    """A stream's consumer with more prefetch than `base`: cancelled, and begun again after what came last, whose offset
    `following` tells. Two would each get all of the stream, and none of it can be put back.
    """

    __slots__ = ("_base", "_consumer", "_following", "deliveries", "is_over", "prefetch")

    def __init__(self, consumer: Consumer, base: int, following: Callable[[], int | None]) -> None:
        self._consumer = consumer
        self._base = base
        self._following = following
        self.prefetch = 0
        self.is_over = False
        self.deliveries = 1

    async def set_prefetch(self, prefetch: int, *, put_back: bool = False) -> None:
        """Have that much on top of the base. Raises what ended the channel."""
        if prefetch != self.prefetch:
            self.prefetch = prefetch
            await begin_again(self._consumer, self._base + prefetch, self._arguments)

    def _arguments(self) -> dict[str, Any]:
        return {**method_of(self._consumer).arguments, "x-stream-offset": self._following()}

    def shed(self, keep: int) -> None:
        """It has all of it to itself: others lose nothing by what waits here."""

    def consumer_ended(self, consumer: Consumer) -> None:
        """There is no other."""
