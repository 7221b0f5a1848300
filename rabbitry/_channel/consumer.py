"""`Consumer`: an async context manager that iterates over a queue's deliveries, one at a time or in batches.

What must stay true: what arrived is bounded; nothing that was not handed out is lost when iteration is cancelled or
left: it goes back to the queue. Any number of tasks may iterate the same consumer.

What bounds the memory: where there is a prefetch, that many messages of `max_message_size` each, and then the
connection is read on, whatever it holds, or one consumer's large messages would silence all others on it. Where there
is none (0, or `no_ack`), or where the broker sends more than it allows, the marks below.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from os import urandom
from types import TracebackType
from typing import Any, Protocol, Self

from rabbitry._channel.batches import Batches, batch_time
from rabbitry._channel.delivery import Delivery
from rabbitry._channel.life import ChannelLife
from rabbitry._concurrency.waiting import GIVE_WAY, Signal, Waiter, checkpoint, wait_in_line
from rabbitry._errors import (
    ConsumerCancelled,
    ConsumerOverrun,
    LocalProtocolError,
    MessageTooLarge,
    RabbitryError,
)
from rabbitry._values.arguments import check_offset, table_of, whole
from rabbitry._values.nothing import NOTHING
from rabbitry.protocol.client.channel import ProtocolConsumer
from rabbitry.protocol.client.states import ChannelState, Mode
from rabbitry.protocol.wire import methods

__all__ = [
    "HARD_MARK",
    "MESSAGE_OVERHEAD",
    "SOFT_MARK",
    "Companion",
    "Consumer",
    "Feeding",
    "begin_again",
    "check_consumer_tag",
    "consume_method",
    "ended_by",
    "has_ended",
    "is_starved",
    "life_behind",
    "method_of",
    "shed",
    "waiting_at",
]

SOFT_MARK = 8 * 1024 * 1024
"""Bytes that wait to be iterated in a consumer without a prefetch, above which the connection stops reading where
nobody awaits a reply on it.
"""

HARD_MARK = 256 * 1024 * 1024
"""Bytes that wait to be iterated which end such a consumer with `ConsumerOverrun`: reading could not pause, memory is
finite.
"""

LONGEST_TAG = 255
"""Bytes of a consumer tag (specification 4.2.5.3: short strings)."""

PUT_BACK_AFTER = 0.25
"""Seconds after `stop()` at which what was not iterated goes back, if the block is not left before. What is being
handled then is often acknowledged right behind it; and a quorum queue that has hundreds of messages to take back keeps
an acknowledgement behind them waiting, and drops it where the channel is closed meanwhile: it would be handled twice.
"""

MESSAGE_OVERHEAD = 512
"""Bytes a waiting delivery takes beside its body, about: the object, its route and properties."""


class Companion(Protocol):
    """What ends with a consumer: one beside it, or who keeps deliveries of it to put them back later."""

    def consumer_ended(self, consumer: Consumer) -> None:
        """It ends, or has: cancel, and put back what the broker has not put back itself."""
        ...


class Feeding(Companion, Protocol):
    """A companion whose deliveries come to the consumer as well: at the most `expected` at a time."""

    expected: int


class Consumer:
    """Deliveries of one queue; made by `channel.consume`. Enter it with `async with`, then iterate with `async for`.

    Iteration raises `ConsumerCancelled` when the broker cancelled it (queue deleted), `ConsumerOverrun`,
    `MessageTooLarge`, or the error that ended the channel; after `stop()` it just ends. Leaving the block cancels at
    the broker and puts back what was never iterated (with `no_ack` it is lost; in a transaction it goes back at the
    commit); deliveries taken stay settleable until the channel closes.
    """

    __slots__ = (
        "_bound",
        "_buffer",
        "_buffered",
        "_calls",
        "_cancelling",
        "_ended",
        "_error",
        "_is_overfull",
        "_life",
        "_method",
        "_on_arrival",
        "_on_end",
        "_prefetch",
        "_registration",
        "_rest",
        "_waiting",
        "beside",
        "holder",
        "on_too_large",
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
        self.queue: str = method.queue
        self._method = method
        self._prefetch = prefetch
        self._on_arrival = on_arrival
        self._on_end = on_end
        self._buffer: deque[Delivery] = deque()
        self._bound: int | None = None  # deliveries that wait here at the most; None: their bytes are counted
        self._buffered = 0  # bytes, while they are counted
        self._is_overfull = False
        self._calls = 0
        self._ended = False
        self._error: RabbitryError | None = None
        self._rest: deque[Delivery] = deque()  # what goes back a moment after `stop`
        self._waiting: list[Signal] = []  # one of each task that waits, the first first
        self._registration: ProtocolConsumer | None = None
        self.beside: Feeding | None = None  # feeds the same buffer: see second.py
        self.holder: Companion | None = None  # keeps what was handed out, for a while
        self.on_too_large: Callable[[Delivery, int], None] | None = None  # settles it, and this goes on
        self._cancelling: Waiter | None = None  # for cancel-ok, once the cancel was asked for here

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
        prefetch = life.set_prefetch(self._prefetch)
        if prefetch and not self._method.no_ack:
            self._bound = prefetch
        waiter = Waiter()
        self._registration, slot = life.live.consume(self._method, self, waiter)
        try:
            await life.endpoint.reply(slot, waiter)
        except BaseException:
            self._leave()
            self._put_back_rest()  # deliveries may have come with the reply
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._life.endpoint.check_loop()
        self._leave()
        self._put_back_rest()
        cancelling = self._cancelling  # by this, or by `stop` before; from cancel-ok on the tag is free again
        if cancelling is not None and not cancelling.is_done:
            await self._life.endpoint.wait_answered(cancelling)

    def stop(self) -> None:
        """End the iteration: cancel at the broker and, a quarter of a second later or once the block is left, put back
        what was not iterated; in a transaction, with its next commit. Not a coroutine, though awaiting it is harmless:
        it does not wait for the broker, leaving the block does.
        """
        is_under_way = bool(self._rest)
        self._leave()
        if self._rest and self._life.live.mode is Mode.TRANSACTION:  # or the commit that comes now might be the last
            self._put_back_rest()
        elif self._rest and not is_under_way:
            self._life.endpoint.call_later(PUT_BACK_AFTER, self._put_back_rest)
        return NOTHING  # type: ignore[no-any-return]

    def _leave(self) -> None:
        """Queue the cancel; the nacks follow it, so that nothing is delivered here again."""
        if self._registration is None:
            return
        if self.beside is not None:  # first, or it might be given what this one leaves
            self.beside.consumer_ended(self)
        self._cancel(self._registration)
        rest = self._take_all()
        if not self._method.no_ack:
            self._rest += rest
        self._finish(None)
        self._life.endpoint.wrote_if_any()

    def _put_back_rest(self) -> None:
        rest, self._rest = self._rest, deque()
        self._put_back(rest)
        self._life.endpoint.wrote_if_any()

    def _cancel(self, registration: ProtocolConsumer) -> None:
        """Queue the cancel, unless it was asked for before, or there is nothing to cancel any more."""
        channel = self._life.live
        if channel.state is ChannelState.OPEN and not registration.discard:
            waiter = Waiter()
            channel.cancel(registration, waiter)
            if registration.discard:  # and cancel-ok will come, be it after consume-ok
                self._cancelling = waiter

    def _take_all(self) -> deque[Delivery]:
        buffer, self._buffer = self._buffer, deque()
        self._buffered = 0
        self._took()
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
        buffer = self._buffer
        buffer.append(delivery)
        if self._waiting:
            self._wake()
        if self._bound is None:
            self._buffered += len(delivery.body) + MESSAGE_OVERHEAD
            if self._buffered > SOFT_MARK:
                self._overfull()
        elif len(buffer) > self._bound:
            self._count()

    def _count(self) -> None:
        """More waits than the prefetch lets come. A second consumer's may be among it; else the broker sends too much,
        and from now on what waits here counts by its bytes.
        """
        waiting, bound = len(self._buffer), self._bound
        if self.beside is not None and bound is not None and waiting <= bound + self.beside.expected:
            return
        self._bound = None
        self._buffered = sum(len(delivery.body) + MESSAGE_OVERHEAD for delivery in self._buffer)
        if self._buffered > SOFT_MARK:
            self._overfull()

    def _overfull(self) -> None:
        if not self._is_overfull:
            self._is_overfull = True
            self._life.endpoint.set_overfull(self, True)
        if self._buffered > HARD_MARK and not self._ended:
            self._overrun()

    def _overrun(self) -> None:
        """Past the hard mark: this consumer alone ends."""
        self._end_alone(ConsumerOverrun(self.queue, self._buffered))

    def refuse(self, delivery: Delivery, size: int) -> None:
        """A delivery arrived that is too large, without its body: this consumer alone ends, or it would get it again
        and again. It goes back behind the cancel, and so to another.
        """
        if self.on_too_large is not None and not self._ended:
            self.on_too_large(delivery, size)
            return
        if not self._ended:
            limit = self._life.endpoint.protocol.max_message_size
            self._end_alone(MessageTooLarge(self.queue, size, limit, self._method.no_ack))
        self._put_back([delivery])

    def _end_alone(self, error: RabbitryError) -> None:
        """What it holds can still be iterated, and what still comes goes back."""
        assert self._registration is not None
        self._cancel(self._registration)
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
        for companion in (self.beside, self.holder):
            if companion is not None:
                companion.consumer_ended(self)
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

    def _take_now(self) -> Delivery | None:
        """What `__anext__` would give without waiting or giving way, taken without looking for a cancellation."""
        calls = self._calls + 1
        if self._buffer and calls & GIVE_WAY:
            self._calls = calls
            return self._take()
        return None

    def _take(self) -> Delivery:
        delivery = self._buffer.popleft()
        if self._bound is None:
            self._buffered -= len(delivery.body) + MESSAGE_OVERHEAD
            if self._is_overfull:
                self._took()
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

    def _took(self) -> None:
        if self._is_overfull and self._buffered < SOFT_MARK // 2:
            self._is_overfull = False
            self._life.endpoint.set_overfull(self, False)

    def _return(self, taken: list[Delivery]) -> None:
        """Put deliveries back in front, in order: they were not handed out after all."""
        self._put_in_front(taken)
        if self._ended and self._error is None:
            self._put_back(self._take_all())
            self._life.endpoint.wrote_if_any()

    def _put_in_front(self, deliveries: list[Delivery]) -> None:
        self._buffer.extendleft(reversed(deliveries))
        if self._bound is None:
            self._buffered += sum(len(delivery.body) + MESSAGE_OVERHEAD for delivery in deliveries)
        self._wake(len(deliveries))  # others may wait for what a cancelled batch held

    def take_over(self, former: Consumer) -> None:
        """Give out first what a consumer that has ended still holds, of the same queue, and need not be settled."""
        held = [delivery for delivery in former._take_all() if self._method.no_ack or not delivery.is_stale]
        if self._bound is not None:
            self._bound += len(held)
        self._put_in_front(held)

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
    check_consumer_tag(consumer_tag)
    table = table_of(arguments)
    if "x-stream-offset" in table:
        check_offset(table["x-stream-offset"])
    if priority is not None:
        priority = whole(priority, "priority")
        table["x-priority"] = priority
    return methods.BasicConsume(
        queue=queue,
        consumer_tag=consumer_tag or f"rabbitry-{urandom(8).hex()}",
        no_ack=no_ack,
        exclusive=exclusive,
        arguments=table,
    )


def has_ended(consumer: Consumer) -> bool:
    """Whether nothing will come any more."""
    return consumer._ended


def method_of(consumer: Consumer) -> methods.BasicConsume:
    """The request that it consumes by."""
    return consumer._method


def waiting_at(consumer: Consumer) -> int:
    """Deliveries that came and nobody has taken."""
    return len(consumer._buffer)


def is_starved(consumer: Consumer) -> bool:
    """Whether somebody waits for a delivery, now."""
    return bool(consumer._waiting)


async def begin_again(consumer: Consumer, prefetch: int, arguments: Callable[[], dict[str, Any]]) -> None:
    """Cancel it, and consume once more with another prefetch, for the same iteration. `arguments` is asked in between,
    when all that came before is here. Cancelled, or when that fails, it has ended.
    """
    life = consumer._life
    registration = consumer._registration
    if registration is None or not registration.is_started:
        return
    waiter = Waiter()
    try:
        await life.endpoint.reply(life.live.request_cancel(registration, waiter), waiter)
        if consumer._ended:
            return
        life.set_prefetch(prefetch)
        consumer._bound = len(consumer._buffer) + prefetch
        waiter = Waiter()
        method = consumer._method
        method = methods.BasicConsume(queue=method.queue, consumer_tag=method.consumer_tag, arguments=arguments())
        consumer._registration, slot = life.live.consume(method, consumer, waiter)
        await life.endpoint.reply(slot, waiter)
    except RabbitryError as error:  # of which the channel does not tell it while it is no consumer there
        consumer.channel_ended(error)
        raise
    except BaseException:
        consumer.stop()
        raise


def shed(consumer: Consumer, keep: int) -> None:
    """Put back what waits in it, but for the `keep` that came first."""
    rest = consumer._take_all()
    kept = [rest.popleft() for _ in range(min(keep, len(rest)))]
    consumer._put_in_front(kept)
    consumer._put_back(rest)
    consumer._life.endpoint.wrote_if_any()


def check_consumer_tag(tag: str) -> None:
    """Refuse what basic.consume can't say."""
    if not isinstance(tag, str):
        raise TypeError(f"a consumer tag is text, not {tag!r}")
    try:
        size = len(tag.encode())
    except UnicodeEncodeError:
        raise ValueError(f"a consumer tag is text that UTF-8 can say, not {tag!r}") from None
    if size > LONGEST_TAG:
        raise ValueError(f"a consumer tag has up to {LONGEST_TAG} bytes, not {size}")


def ended_by(consumer: Consumer) -> RabbitryError | None:
    """What has ended it; None while it goes on, or where it was stopped."""
    return consumer._error


def life_behind(consumer: Consumer) -> ChannelLife:
    """The life of the channel that it consumes on."""
    return consumer._life
