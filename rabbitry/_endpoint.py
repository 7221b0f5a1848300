"""Where the protocol meets its transport: bytes in, events to their owners, back-pressure both ways, the bounded close.

One per connection, callbacks only: it owns no task. What must stay true: nothing here awaits user code or raises into
the transport; every token the protocol gave back is told how it ended.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from threading import get_ident
from typing import Any, Protocol

import anyio

from rabbitry._concurrency.clock import monotonic
from rabbitry._concurrency.waiting import Signal, Waiter, Waits, check_here
from rabbitry._errors import Closed, ConnectionClosed, RabbitryError, shown
from rabbitry._transport.contracts import Transport
from rabbitry._values.culprit import find_culprit, loss
from rabbitry.protocol.client import events
from rabbitry.protocol.client.connection import ProtocolConnection
from rabbitry.protocol.client.slots import Slot
from rabbitry.protocol.client.states import ConnectionState

__all__ = ["CLOSE_BOUND", "HIGH_WATER", "SEND_AHEAD", "AlarmWatcher", "Endpoint"]

logger = logging.getLogger("rabbitry")

HIGH_WATER = 262144
"""Bytes queued on one connection above which publishing waits. Around 1,300 messages of 128 bytes: more gains
nothing.
"""

SEND_AHEAD = 8192
"""Bytes queued in one turn above which a publish sends without waiting for the turn to end.

With 100 tasks publishing, the broker then works on the first messages while the rest are still being made: 6 % more of
them than with 65,536. Sending each 4,096 gains nothing more, and a publish without confirms costs the same.
"""
CLOSE_BOUND = 5.0
"""Seconds a close waits for the broker's answer."""

CLOSE_BOUND_SILENT = 0.5
"""Seconds a close waits on a blocked connection, which the broker does not read, or where one waited in vain before."""


class Receiver(Protocol):
    """What receives a consumer's deliveries; the token given to `ProtocolChannel.consume`. Called while reading."""

    def put(self, delivery: Any) -> None:
        """A delivery arrived, of the connection's own type."""
        ...

    def refuse(self, delivery: Any, size: int) -> None:
        """A delivery arrived that is too large, and is here without its body of `size` bytes."""
        ...

    def cancelled_by_broker(self) -> None:
        """No more will come, though the channel is open."""
        ...

    def channel_ended(self, error: RabbitryError) -> None:
        """No more will come, and what was not acknowledged will be delivered again."""
        ...

    def drop_stale(self) -> None:
        """The channel was recovered: what is held here and not acknowledged will be delivered again."""
        ...


class AlarmWatcher(Protocol):
    """What a connection tells of the broker's alarms, if somebody asks."""

    def alarm_changed(self, reason: str | None) -> None:
        """The broker has blocked the connection, or does no longer (None). Called while reading."""
        ...


class Endpoint:
    """The protocol and the transport of one connection. `transport` is set once the socket is connected. `host` and
    `port` are the broker's as the URL has them (the path of a Unix socket and 0), for who tells of this connection.
    """

    __slots__ = (
        "_changed",
        "_later",
        "_next_tick",
        "_overfull",
        "_waited_in_vain",
        "blocked_reason",
        "check_loop",
        "checkpoint_if_cancelled",
        "closed",
        "host",
        "name",
        "new_signal",
        "opened",
        "port",
        "protocol",
        "thread",
        "time_left",
        "transport",
        "unmatched_returns",
        "watcher",
    )

    def __init__(self, protocol: ProtocolConnection, name: str, waits: Waits, host: str, port: int) -> None:
        self.protocol: ProtocolConnection = protocol
        self.name: str = name
        self.host: str = host
        self.port: int = port
        self.new_signal: Callable[[], Signal] = waits.new_signal
        self.checkpoint_if_cancelled: Callable[[], Awaitable[None]] = waits.checkpoint_if_cancelled
        self.check_loop: Callable[[], None] = waits.check_loop
        self.time_left: Callable[[], float] = waits.time_left
        self.thread: int = waits.thread
        self.transport: Transport = _NoTransport()
        self.blocked_reason: str | None = None
        self.watcher: AlarmWatcher | None = None
        self.opened: Waiter = Waiter()
        self.closed: list[Waiter] | None = []
        self.unmatched_returns: int = 0
        protocol.token = self
        self._later: tuple[tuple[float, Callable[[], None]], ...] = ()  # what to call, and when
        self._next_tick: float | None = None  # of the heartbeats
        self._overfull: set[Receiver] | None = None
        self._waited_in_vain = False
        self._changed: anyio.Event | None = None

    # --- called by the transport -----------------------------------------------------------------------------------

    @property
    def awaiting(self) -> int:
        """Replies and confirms outstanding."""
        return self.protocol.awaiting

    def receive_data(self, data: bytes, now: float) -> None:
        """Parse a chunk and tell everybody concerned."""
        protocol = self.protocol
        protocol.receive_data(data)
        if protocol.events:
            self.dispatch()
        if protocol.out_size or protocol.acking:
            self.wrote()

    def data_to_send(self) -> bytes:
        """The bytes to send now, which are queued no more."""
        return self.protocol.data_to_send()

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is gone."""
        self.protocol.eof_received(error, monotonic())
        self.dispatch()

    def handle_timer(self, now: float) -> float | None:
        """Heartbeats, and what is to be done later."""
        if self._later:
            due = [call for when, call in self._later if when <= now]
            self._later = tuple(each for each in self._later if each[0] > now)
            for call in due:
                call()
        if self._next_tick is not None and self._next_tick <= now:
            self._next_tick = self.protocol.handle_timer(now, reading=not self.transport.is_reading_paused)
        if self.protocol.events:
            self.dispatch()
        elif self.protocol.out_size:
            self.wrote()
        moments = [when for when, _ in self._later]
        return min(moments if self._next_tick is None else [self._next_tick, *moments], default=None)

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Have it called in so many seconds, unless the connection ends before."""
        when = monotonic() + seconds
        self._later = (*self._later, (when, call))
        self.transport.start_timer(when)

    # --- beginning to wait -----------------------------------------------------------------------------------------

    def begin(self) -> Awaitable[None]:
        """What an operation that will wait awaits first: it must be on this event loop, and not be cancelled."""
        self.check_loop()
        return self.checkpoint_if_cancelled()

    def check_thread(self) -> None:
        """Raise in another thread than the event loop's, before a function that waits for nothing queues something.

        hot: who queues many asks only while nothing is `scheduled`, so once a turn at the most.
        """
        if get_ident() != self.thread:
            check_here(self.check_loop)

    # --- writing ---------------------------------------------------------------------------------------------------

    def wrote(self) -> None:
        """Something was queued that somebody waits for: have it sent."""
        transport = self.transport
        if not transport.scheduled:
            transport.send_now()
        if self._overfull:
            self._update_reading()

    def make_room(self) -> bool:
        """Whether a publish may be queued now. Sends what is queued first if that may help."""
        if self.blocked_reason is not None:
            return False
        protocol = self.protocol
        if protocol.out_size < SEND_AHEAD:
            return True
        self.transport.flush()
        return protocol.out_size < HIGH_WATER

    async def wait_room(self) -> None:
        """Return when `make_room` may be true again, or the connection has ended."""
        if self.protocol.state is not ConnectionState.OPEN:
            return
        if self.blocked_reason is not None:
            await self.wait_changed()
        else:
            await self.transport.wait_unstalled()

    async def wait_changed(self) -> None:
        """Return at the next blocked, unblocked, commit or end."""
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    async def reply(self, slot: Slot, waiter: Waiter) -> Any:
        """Wait for the reply to a request just queued. Cancelled: the slot stays, its effect is undone."""
        self.wrote()
        try:
            return await waiter.wait()
        except BaseException:
            if not waiter.is_done:
                slot.abandon()
                self.wrote_if_any()
            elif waiter.value is not None:  # cancelled in the very moment the reply came
                slot.abandon(waiter.value)
                self.wrote_if_any()
            raise

    def wrote_if_any(self) -> None:
        """After an action that may have queued something or ended a channel."""
        if self.protocol.events:
            self.dispatch()
        if self.protocol.out_size or self.protocol.acking:
            self.wrote()

    # --- reading: back-pressure ------------------------------------------------------------------------------------

    def set_overfull(self, consumer: Receiver, overfull: bool) -> None:
        """A consumer without a prefetch holds more than it should, or has room again. One that a prefetch bounds never
        stops the reading: what its prefetch allows has come at some time, and then no more does.
        """
        if overfull:
            if self._overfull is None:
                self._overfull = set()
            self._overfull.add(consumer)
        elif self._overfull is not None:
            self._overfull.discard(consumer)
        self._update_reading()

    def _update_reading(self) -> None:
        """Pause while a consumer is overfull, but never while anybody awaits a reply: it would never come."""
        if self._overfull and not self.protocol.awaiting:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    # --- events ----------------------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Hand every event to its owner."""
        protocol = self.protocol
        while protocol.events:
            batch, protocol.events = protocol.events, []
            for event in batch:
                try:
                    handler = _HANDLERS.get(type(event))
                    if handler is None:
                        event.consumer.put(event)  # a delivery
                    else:
                        handler(self, event)
                except Exception as exc:  # a defect of ours; the other events' owners must learn of them all the same
                    logger.exception("connection %s: internal error", self.name)
                    protocol.fail_internally(exc)
        if self._overfull:
            self._update_reading()

    def _on_opened(self, event: events.Opened) -> None:
        self.opened.set(True)
        if self.protocol.heartbeat:
            self._next_tick = self.protocol.next_tick(monotonic())
            self.transport.start_timer(self._next_tick)

    def _on_replied(self, event: events.Replied) -> None:
        event.token.set(event.reply)

    def _on_failed(self, event: events.Failed) -> None:
        event.token.fail(event.error)

    def _on_confirmed(self, event: events.Confirmed) -> None:
        acked = event.acked
        for confirmation in event.tokens:
            confirmation.settle(acked)

    def _on_returned(self, event: events.Returned) -> None:
        if event.token is not None:
            event.token.mark_returned(event.code, event.text)
            return
        on_return = event.on_return
        if on_return is None:
            self.unmatched_returns += 1
        else:
            on_return(event.code, event.text, event.content)

    def _on_too_large(self, event: events.TooLarge) -> None:
        event.content.consumer.refuse(event.content, event.size)

    def _on_consumer_cancelled(self, event: events.ConsumerCancelledByBroker) -> None:
        event.token.cancelled_by_broker()

    def _on_recovered(self, event: events.Recovered) -> None:
        for consumer in event.consumers:
            consumer.drop_stale()

    def _on_blocked(self, event: events.Blocked) -> None:
        is_news = self.blocked_reason is None
        self.blocked_reason = shown(event.reason) or "the broker gave no reason"
        if is_news:
            logger.warning("connection %s is blocked: %s", self.name, self.blocked_reason)
            self._alarm_changed()

    def _on_unblocked(self, event: events.Unblocked) -> None:
        if self.blocked_reason is not None:
            self.blocked_reason = None
            logger.info("connection %s is no longer blocked", self.name)
            self._alarm_changed()

    def _alarm_changed(self) -> None:
        self.notify_changed()
        if self.watcher is not None:
            self.watcher.alarm_changed(self.blocked_reason)

    def _on_channel_ended(self, event: events.ChannelEnded) -> None:
        for waiter in event.waiting:
            waiter.fail(event.error.copy())
        self._end_publishes(event)
        for consumer in event.consumers:
            consumer.channel_ended(event.error)
        self.notify_changed()  # publishes of this channel that wait for a blocked connection

    def _end_publishes(self, event: events.ChannelEnded) -> None:
        """Tell the publishes of a channel that has ended: what is known of each depends on which it was ended for."""
        error = event.error
        culprit = find_culprit(event.unknown, error) if event.unknown and event.is_alone else None
        if culprit is not None:
            assert isinstance(error, Closed)
            error.is_explained = True
        for index, confirmation in enumerate(event.unknown):
            confirmation.lose(loss(index, culprit), error)
        for confirmation in event.unsent:
            confirmation.lose("unsent", error)

    def _on_connection_ended(self, event: events.ConnectionEnded) -> None:
        self.transport.flush()  # our connection.close or close-ok
        self.transport.abort()
        for waiter in event.waiting:
            waiter.fail(event.error.copy())
        self.opened.fail(event.error)
        self._later = ()  # it holds what would hold this
        closed, self.closed = self.closed, None
        for waiter in closed or ():
            waiter.set(event.error)
        self.notify_changed()
        self.protocol.token = None  # or each ended connection would wait for the garbage collector

    def notify_changed(self) -> None:
        """Wake those that wait for a change of the connection's state."""
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()
        self.transport.wake_waiting()

    # --- closing ---------------------------------------------------------------------------------------------------

    async def wait_closed(self) -> RabbitryError:
        """Return the cause once the connection has ended."""
        if self.closed is not None:
            self.check_loop()
            waiter = Waiter()
            self.closed.append(waiter)
            try:
                await waiter.wait()
            finally:
                if self.closed is not None:
                    self.closed.remove(waiter)
        error = self.protocol.error
        assert error is not None
        return error

    def start_close(self) -> None:
        """Queue and send connection.close."""
        self.protocol.close()
        self.wrote_if_any()

    @property
    def close_bound(self) -> float:
        """Seconds to wait for the answer to a close now."""
        return CLOSE_BOUND_SILENT if self.blocked_reason is not None or self._waited_in_vain else CLOSE_BOUND

    async def wait_answered(self, waiter: Waiter) -> None:
        """Wait for the answer to a close of something on this connection: shielded, bounded, and it may have ended."""
        with anyio.move_on_after(self.close_bound, shield=True) as scope:
            try:
                await waiter.wait()
            except Closed:
                pass  # with more than was to be closed
        self._waited_in_vain = scope.cancelled_caught

    async def close(self) -> None:
        """Close with a handshake, shielded and bounded, then drop the socket. Harmless if the connection has ended."""
        if self.protocol.state is ConnectionState.CLOSED:
            return
        self.start_close()
        try:
            with anyio.move_on_after(self.close_bound, shield=True):
                await self.wait_closed()
        finally:  # asyncio's own Task.cancel passes AnyIO's shields
            self.drop()

    def drop(self) -> None:
        """End the connection without asking the broker."""
        self.protocol.abort(ConnectionClosed("the connection was closed by this program"))
        self.dispatch()
        self.transport.abort()


class _NoTransport:
    """Stands in until the socket is connected, so that nothing has to ask."""

    scheduled = True
    is_stalled = False
    is_reading_paused = False
    fd = -1

    def read_now(self) -> None: ...
    def send_now(self) -> None: ...
    def send_later(self) -> None: ...
    def flush(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def start_timer(self, when: float) -> None: ...
    def abort(self) -> None: ...
    async def wait_unstalled(self) -> None: ...
    def wake_waiting(self) -> None: ...
    def describe(self) -> str:
        return "not connected"


_HANDLERS: dict[type, Callable[[Endpoint, Any], None]] = {
    events.Opened: Endpoint._on_opened,
    events.Replied: Endpoint._on_replied,
    events.Failed: Endpoint._on_failed,
    events.Confirmed: Endpoint._on_confirmed,
    events.Returned: Endpoint._on_returned,
    events.TooLarge: Endpoint._on_too_large,
    events.ConsumerCancelledByBroker: Endpoint._on_consumer_cancelled,
    events.Blocked: Endpoint._on_blocked,
    events.Unblocked: Endpoint._on_unblocked,
    events.Recovered: Endpoint._on_recovered,
    events.ChannelEnded: Endpoint._on_channel_ended,
    events.ConnectionEnded: Endpoint._on_connection_ended,
}
