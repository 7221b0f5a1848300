"""`Subscription`: consuming that goes on in the next life, from when that begins, whether or not anybody iterates.

What must stay true: iteration gives a delivery, ends or raises, and never waits for what can't come; a delivery belongs
to the life it came in; nothing that was not handed out is lost; a stream goes on after what was settled. It keeps no
task: a task of the client subscribes again, and whoever iterates meanwhile does so, too, one of them at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from random import Random
from types import TracebackType
from typing import Self, TypeVar

import anyio

from rabbitry._channel.batches import Batch, batch_time
from rabbitry._channel.channel import Channel, life_of, new_consumer
from rabbitry._channel.consumer import Consumer, check_consumer_tag, consume_method, ended_by
from rabbitry._channel.delivery import Delivery
from rabbitry._client.link import Link
from rabbitry._client.outcomes import in_a_life
from rabbitry._client.registry import LOCKED_PAUSE, Registry, held_bound, is_node_down
from rabbitry._client.streams import StreamPosition
from rabbitry._client.subscriptions import Subscriptions
from rabbitry._concurrency.clock import loop_time, utc_now
from rabbitry._connection.connection import Connection
from rabbitry._endpoint import CLOSE_BOUND
from rabbitry._errors import (
    AccessRefused,
    ChannelClosed,
    Closed,
    ConnectionClosed,
    ConsumerCancelled,
    LocalProtocolError,
    NotConnected,
    NotFound,
    RabbitryError,
)
from rabbitry._values.arguments import table_of
from rabbitry._values.durations import seconds
from rabbitry._values.nothing import NOTHING
from rabbitry._values.options import ConsumeOptions, checked_prefetch
from rabbitry._values.topology import Queue, name_of

__all__ = ["Subscription", "SubscriptionBatches"]

logger = logging.getLogger("rabbitry")


T = TypeVar("T")


class Subscription:
    """Deliveries of one queue, through all lives; made by `client.consume`. Enter it, then iterate with `async for`.

    When a connection is lost, iteration goes on in the next life: what was not settled is delivered again, and to
    settle a delivery of the former life raises `StaleDelivery`. When the broker ends the consumer alone (its leader
    moved, it took too long to acknowledge), it subscribes again, and raises `ConsumerCancelled` where the queue is
    gone. It does so as soon as it can, also while nobody iterates: what then comes, within its prefetch, waits. It also
    raises what the broker refuses, `ConsumerOverrun`, `MessageTooLarge`, and `NotConnected` once the client has given
    up. After `stop()`, `client.stop_consuming()` or the end of the client it just ends. Any number of tasks may
    iterate.

    Leaving the block puts back what was never iterated and what was taken but not settled.
    """

    def __init__(
        self,
        link: Link,
        registry: Registry,
        roster: Subscriptions,
        queue: str | Queue,
        options: ConsumeOptions,
        *,
        prefetch: int,
        on_arrival: Callable[[Delivery], None] | None = None,
        on_loss: Callable[[], None] | None = None,
        on_too_large: Callable[[Delivery, int], None] | None = None,
    ) -> None:
        """Called while reading: `on_arrival` with each delivery, but of a stream, whose position this keeps itself;
        `on_loss` when a life ended and made its deliveries stale; `on_too_large`, where that is not to end it, with
        one that came without its body, to settle it, and its size.
        """
        self._link = link
        self._registry = registry
        if not isinstance(queue, Queue):
            name_of(queue, Queue)  # refuses what has none
        self._queue = queue
        self._prefetch = checked_prefetch(prefetch)
        self._no_ack = no_ack = options.get("no_ack", False)
        self.consumer_tag: str | None = options.get("consumer_tag")  # None: each life's consumer has one of its own
        if self.consumer_tag is not None:
            check_consumer_tag(self.consumer_tag)
            if not self.consumer_tag:
                raise ValueError("a consumer tag is not empty: leave it out to have one made")
        self._exclusive = options.get("exclusive", False)
        self._priority = options.get("priority")
        self._arguments = table_of(options.get("arguments"))
        offset = options.get("offset")
        if "x-stream-offset" in self._arguments:
            raise ValueError("say where to begin in a stream by offset=, so that it can go on after a loss")
        kind = registry.type_of(queue)
        if offset is not None and kind not in (None, "stream"):
            raise ValueError(f"offset= is for streams: {queue!r} is a {kind} queue")
        is_stream = offset is not None or kind == "stream"
        if is_stream and (no_ack or not prefetch):
            raise ValueError("a stream is consumed with acknowledgements and a prefetch of at least 1")
        self._position = StreamPosition(offset) if is_stream else None
        self._on_arrival = on_arrival if self._position is None else self._position.arrived
        self._on_loss = on_loss
        self._on_too_large = on_too_large
        self._roster = roster
        self._channel: Channel | None = None
        self._consumer: Consumer | None = None
        self._is_entered = False
        self._is_stopped = self._has_left = False
        self._failure: RabbitryError | None = None
        self._fruitless = 0  # times subscribed in a row for nothing: no delivery, and not for long
        self._since = 0.0
        self._lock = anyio.Lock()
        self._waiting = anyio.CancelScope()
        self.lives: int = 0

    def __repr__(self) -> str:
        state = "stopped" if self._is_stopped else "consuming" if self._is_entered else "not entered"
        return f"<Subscription to {self.queue!r}, {state}, {self.lives} lives>"

    @property
    def is_stream(self) -> bool:
        """Whether the queue is known to be a stream: by `offset`, or because this client declared it as one."""
        return self._position is not None

    @property
    def has_ended(self) -> bool:
        """Whether no more deliveries will come: it was stopped, or has failed."""
        return self._is_stopped or self._failure is not None

    def stream_offset(self) -> int | None:
        """The offset after what came last of the stream; None where nothing did, or it is none."""
        return self._position.following() if self._position is not None else None

    @property
    def queue(self) -> str:
        """The queue's name, for a temporary one the present."""
        if isinstance(self._queue, Queue) and self._queue.is_temporary:
            with suppress(LocalProtocolError):
                return self._queue.current_name
            return ""
        return self._registry.name_of(self._queue)

    # --- the block ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Subscribe, as soon as there is a connection. Cancelling it leaves nothing behind.

        After `client.stop_consuming()` it raises `ConsumingStopped`; called meanwhile, that ends the waiting, and the
        iteration with it.
        """
        if self._is_entered:
            raise LocalProtocolError("this subscription was entered before: call client.consume(...) again")
        self._roster.joined(self)
        self._is_entered = True
        try:
            await self._subscribe()
        except BaseException:
            self._roster.left(self)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._link.check_loop()
        self._is_stopped = self._has_left = True
        self._waiting.cancel()
        try:
            if self._consumer is not None:
                await self._consumer.__aexit__(None, None, None)
            if self._lock.locked():  # by who subscribes again, which ends now: what that has begun is undone
                with anyio.move_on_after(CLOSE_BOUND, shield=True):
                    async with self._lock:
                        pass
        finally:
            self.stop()
            try:
                if self._channel is not None:
                    await life_of(self._channel).close()
            finally:
                self._roster.left(self)

    def stop(self) -> None:
        """End the iteration: cancel at the broker and, a quarter of a second later or once the block is left, put back
        what was not iterated. Not a coroutine, though awaiting it is harmless: it does not wait for the broker, leaving
        the block does.
        """
        self._is_stopped = True
        self._waiting.cancel()
        if self._consumer is not None:
            self._consumer.stop()
            self._roster.left(self)
        return NOTHING  # type: ignore[no-any-return]

    # --- iterating ----------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        """The next delivery. Cancelling it loses nothing: the delivery stays for the next call, or goes back."""
        return await self._next(Consumer.__anext__)

    def _take_now(self) -> Delivery | None:
        """As the consumer's of now: None where that has nothing, or none is there."""
        consumer = self._consumer
        delivery = consumer._take_now() if consumer is not None else None
        if delivery is not None:
            self._fruitless = 0
        return delivery

    def batches(self, size: int, *, within: float | timedelta) -> SubscriptionBatches:
        """Iterate in batches of up to `size` deliveries (1 to 65,535) of one life, each complete `within` seconds of
        its first one.

        Subscribe with a prefetch of at least `size`, or every batch waits in vain to fill.
        """
        within = batch_time(size, within)
        if self._prefetch and self._prefetch < size:
            raise ValueError(f"a batch of {size} never fills: consume with prefetch={size} or more")
        return SubscriptionBatches(self, size, within)

    async def _next(self, take: Callable[[Consumer], Awaitable[T]]) -> T:
        """What `take` gets from the consumer of now, or from those to come."""
        while True:
            consumer = self._consumer
            if consumer is None:
                if self._is_entered and self._is_stopped:
                    raise StopAsyncIteration
                raise LocalProtocolError("enter it first: 'async with client.consume(...) as deliveries'")
            try:
                taken = await take(consumer)
            except (Closed, ConsumerCancelled) as error:
                await self._resume(consumer, error)
            else:
                self._fruitless = 0
                return taken

    # --- subscribing --------------------------------------------------------------------------------------------------

    @property
    def _has_lost_its_consumer(self) -> bool:
        """Whether it has to subscribe again: the broker, or the end of a life, has ended its consumer."""
        if self._consumer is None or self._is_stopped or self._failure is not None:
            return False
        return isinstance(ended_by(self._consumer), Closed | ConsumerCancelled)

    async def _revive(self) -> None:
        """Subscribe again, if need be. Raises nothing: whoever iterates is told."""
        ended = self._consumer
        if ended is None or not self._has_lost_its_consumer:
            return
        error = ended_by(ended)
        assert error is not None
        try:
            await self._resume(ended, error, is_asked_for=False)
        except (StopAsyncIteration, RabbitryError):
            pass  # it was stopped, was refused (which was logged), or the client has ended
        except Exception:  # who iterates tries again, and meets it
            logger.exception("subscribing to queue %r again has failed", ended.queue)

    async def _resume(self, ended: Consumer, error: RabbitryError, *, is_asked_for: bool = True) -> None:
        """Subscribe again, unless another task has; raises `StopAsyncIteration` where there is nothing more to come. A
        refusal is final once somebody iterates; until then the queue may be declared again.
        """
        async with self._lock:
            if self._consumer is not ended and not self._is_stopped:
                return
            if self._failure is not None:
                raise self._failure.copy()
            if not self._is_stopped:
                if not isinstance(error, ConnectionClosed):  # of which the link tells
                    logger.warning("the consumer of queue %r was ended and subscribes again: %s", ended.queue, error)
                if isinstance(error, ConnectionClosed) or loop_time() - self._since > seconds(
                    self._link.backoff.maximum
                ):
                    self._fruitless = 0
                await self._leave_channel(ended)
                try:
                    await self._subscribe(resuming=True)
                except (ChannelClosed, ConnectionClosed) as refusal:
                    logger.warning("queue %r is consumed no more: %s", ended.queue, refusal)
                    ended.drop_stale()
                    failure = error if isinstance(error, ConsumerCancelled) else refusal
                    is_final = is_asked_for or self._lock.statistics().tasks_waiting > 0
                    if is_final or isinstance(refusal, ConnectionClosed):  # or it would end each life to come
                        self._failure = failure
                    raise failure.copy() from refusal
            if self._is_stopped:
                raise StopAsyncIteration

    async def _leave_channel(self, ended: Consumer) -> None:
        """Close the channel of a consumer that has ended, also where the broker ended the consumer alone: what was not
        acknowledged in time RabbitMQ 4.3 delivers again, and a late acknowledgement of the former delivery has it close
        the channel over the right one.
        """
        assert self._channel is not None
        await life_of(self._channel).close()
        ended.drop_stale()

    async def _subscribe(self, *, resuming: bool = False) -> None:
        """Begin to consume, in the present life or the next one; returns early when stopped."""
        trouble = Trouble() if resuming else None

        async def attempt(connection: Connection) -> bool:
            return await self._attempt(connection, trouble)

        with anyio.CancelScope() as self._waiting:
            if self._is_stopped:
                return
            try:
                while not await in_a_life(
                    self._link, "wait", attempt, before=self._pause, trial=self._try, was_accepted=resuming
                ):
                    pass
            except NotConnected:
                if not self._is_stopped:
                    raise

    async def _pause(self) -> None:
        """Wait, longer each time, where subscribing was of no use."""
        if self._fruitless > 1:
            await anyio.sleep(self._link.backoff.delay(self._fruitless - 1, Random()))

    async def _try(self, connection: Connection) -> None:
        """Ask for the consumer where it harms nobody else. What it gets goes back, as it was asked for to be settled:
        with no_ack, which RabbitMQ refuses of streams alone, only whether the queue is one is asked.
        """
        async with connection.channel(confirm=False, prefetch=1) as channel:
            if self._no_ack:
                name = self._registry.name_of(self._queue)
                try:
                    await channel.get(name)
                except ConnectionClosed as error:
                    error.text = f"{error.text} (queue {name!r} is a stream, which can't be consumed with no_ack=True)"
                    raise
            else:
                await self._new_consumer(channel, is_trial=True).__aenter__()

    async def _attempt(self, connection: Connection, trouble: Trouble | None) -> bool:
        """Subscribe in this life. False where the broker refuses what it may grant the next time."""
        self._fruitless += 1
        began = utc_now()
        if self._channel is not None and self._on_loss is not None:  # it may have ended without a consumer
            self._on_loss()
        channel = connection.channel(confirm=False, prefetch=self._prefetch)
        try:
            await channel.__aenter__()
            consumer = self._new_consumer(channel)
            await consumer.__aenter__()
        except ConnectionClosed:
            raise
        except ChannelClosed as error:
            if not await self._is_mended(error, connection, channel, trouble):
                raise
            return False
        except BaseException:
            await life_of(channel).close()
            raise
        if self._consumer is not None:
            consumer.take_over(self._consumer)
        self._channel, self._consumer = channel, consumer
        if self._is_stopped:  # in the very turn in which the reply came
            consumer.stop()
            if self._has_left:
                await life_of(channel).close()
            return True
        self.lives += 1
        self._since = loop_time()
        if self._position is not None:
            self._position.began(began)
        return True

    async def _is_mended(
        self, error: ChannelClosed, connection: Connection, refused: Channel, trouble: Trouble | None
    ) -> bool:
        """Whether a refusal may be over by now; waits where it takes time, and declares what went with its consumer."""
        if is_node_down(error):
            logger.warning("queue %r is out of reach until its node is back: %s", self.queue, error)
            return True
        if trouble is None:
            return False
        if _is_held_by_us(error) and loop_time() < trouble.began + held_bound(refused):
            await anyio.sleep(LOCKED_PAUSE)
            return True
        went = self._registry.went_with_its_consumer(self._queue) if isinstance(error, NotFound) else []
        if not went or trouble.has_declared:
            return False
        trouble.has_declared = True
        with suppress(ConnectionClosed):
            await self._registry.declare(connection, went)
        return True

    def _new_consumer(self, channel: Channel, *, is_trial: bool = False) -> Consumer:
        arguments = self._arguments
        if self._position is not None:
            arguments = {**arguments, "x-stream-offset": self._position.argument()}
        method = consume_method(
            self._registry.name_of(self._queue),
            consumer_tag=self.consumer_tag or "",
            no_ack=self._no_ack,
            exclusive=self._exclusive,
            priority=self._priority,
            arguments=arguments,
        )
        if is_trial:
            return new_consumer(channel, method)
        consumer = new_consumer(channel, method, on_arrival=self._on_arrival, on_end=self._ended)
        consumer.on_too_large = self._on_too_large
        return consumer

    def _ended(self, error: RabbitryError | None) -> None:
        if self._on_loss is not None and isinstance(error, Closed):
            self._on_loss()
        # While somebody subscribes, that goes on; where the connection was lost, it waits for the next life.
        if not (self._lock.locked() or isinstance(error, ConnectionClosed)) and self._has_lost_its_consumer:
            self._roster.lost_its_consumer(self)


class Trouble:
    """What subscribing again has met: when it `began`, as the broker may still see a consumer of a former life, and
    whether it has declared an auto-delete queue that went with it, which it does once.
    """

    __slots__ = ("began", "has_declared")

    def __init__(self) -> None:
        self.began = loop_time()
        self.has_declared = False


class SubscriptionBatches:
    """Iterates a subscription in batches; made by `Subscription.batches`."""

    __slots__ = ("_size", "_subscription", "_within")

    def __init__(self, subscription: Subscription, size: int, within: float) -> None:
        self._subscription = subscription
        self._size = size
        self._within = within

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        """The next batch, never empty, of one connection life. Cancelling it loses nothing."""
        return await self._subscription._next(
            lambda consumer: consumer.batches(self._size, within=self._within).__anext__()
        )


def _is_held_by_us(error: ChannelClosed) -> bool:
    """Whether the broker still sees the exclusive consumer of our former life."""
    return isinstance(error, AccessRefused) and "exclusive use" in str(error)
