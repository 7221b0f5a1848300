"""A stream: messages in the order in which they came, each with an offset; consumers read it, and take nothing away.

What must stay true: an offset is never used twice; what is gone went by retention, in whole segments, the oldest first,
as in RabbitMQ. A segment's size is that of its messages about as RabbitMQ stores them, not to the octet.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from rabbitry.broker.compat import Compat
from rabbitry.broker.consumer_arguments import ConsumerOptions, Offset
from rabbitry.broker.consumers import Consumer
from rabbitry.broker.entries import Entry
from rabbitry.broker.messages import Message, message_facts, with_headers
from rabbitry.broker.queues import Queue
from rabbitry.protocol.server.refusals import Refusal
from rabbitry.protocol.wire.tables import SIZED_INTS

__all__ = ["Stream"]

_long = SIZED_INTS["l"]

OVERHEAD = 110
"""Octets that a message takes beside its properties and body: RabbitMQ's chunk and its annotations, roughly."""


class _Segment:
    """Where a segment begins, and what is in it."""

    __slots__ = ("first", "last_time", "size")

    def __init__(self, first: int) -> None:
        self.first = first
        self.size = 0
        self.last_time = 0.0


class _Reader:
    """How far a consumer is."""

    __slots__ = ("position",)

    def __init__(self, position: int) -> None:
        self.position = position


class _Stored(NamedTuple):
    """A message, and when it came: a time of day. None is what RabbitMQ begins a segment with: it takes an offset."""

    message: Message | None
    stored_at: float


class Stream(Queue):
    """A queue of the type stream."""

    __slots__ = ("_compat", "_first", "_readers", "_segments", "_stored", "_total")

    count: int

    def __init__(self, *args: Any, compat: Compat, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self._compat = compat
        self._stored: list[_Stored] = []
        self._first = 0  # the offset of the first that is kept
        self._total = 0  # octets, as in segments
        self._segments: deque[_Segment] = deque((_Segment(0),))
        self._readers: dict[Consumer, _Reader] = {}

    # --- messages in -----------------------------------------------------------------------------------------------

    def publish(self, message: Message, now: float, publisher: object = None) -> bool:
        """Append a message."""
        time = now + self._timers.wall_offset
        is_full = self._segments[-1].size >= self.options.segment_bytes
        if is_full:
            self._segments.append(_Segment(self._first + len(self._stored)))
            self._stored.append(_Stored(None, time))
        segment = self._segments[-1]
        size = OVERHEAD + len(message.properties) + len(message.body)
        segment.size += size
        segment.last_time = time
        self._total += size
        self._stored.append(_Stored(self._numbered(message), time))
        self.count += 1
        self._bytes += len(message.body)
        self._content += message.octets
        if is_full:
            self._retain(time)
        self.dispatch(now)
        return True

    def _numbered(self, message: Message) -> Message:
        """The message with its offset in its headers."""
        keeps_deaths = message.deaths and not self._compat.streams_lose_dead_letters
        headers = {
            name: value
            for name, value in message.facts.headers.items()
            # arrays and tables have no place in what RabbitMQ stores; its own account of deaths has
            if not isinstance(value, (list, tuple, Mapping)) or (name == "x-death" and keeps_deaths)
        }
        headers["x-stream-offset"] = _long(self._first + len(self._stored))
        properties = with_headers(
            message.properties,
            headers,
            default_delivery_mode=1 if self._compat.streams_set_delivery_mode else None,
            drop_undecoded=True,  # without its offset a client would take it for a queue's, and reject it
        )
        return Message(
            message.exchange, message.routing_keys, properties, message.body, message_facts(properties), message.deaths
        )

    def _retain(self, time: float) -> None:
        """A segment has begun: those that are too many or too old go."""
        options = self.options
        while len(self._segments) > 1:
            oldest = self._segments[0]
            is_too_much = options.max_bytes is not None and self._total > options.max_bytes
            is_too_old = options.max_age is not None and oldest.last_time < time - options.max_age / 1000
            if not (is_too_much or is_too_old):
                return
            self._segments.popleft()
            self._total -= oldest.size
            gone = self._segments[0].first - self._first
            messages = [each.message for each in self._stored[:gone] if each.message is not None]
            del self._stored[:gone]
            self._first += gone
            self._bytes -= sum(len(message.body) for message in messages)
            self._content -= sum(message.octets for message in messages)
            self.count -= len(messages)

    # --- messages out ----------------------------------------------------------------------------------------------

    def add_consumer(self, consumer: Consumer, now: float) -> None:
        """Nothing is delivered yet: see `dispatch`."""
        super().add_consumer(consumer, now)
        self._readers[consumer] = _Reader(self._position(consumer.options.offset, now + self._timers.wall_offset))

    def _position(self, offset: Offset, time: float) -> int:
        """The first offset that a consumer gets, if it is there (or when it will be)."""
        end = self._first + len(self._stored)
        if isinstance(offset, (datetime, timedelta)):
            since = offset.timestamp() if isinstance(offset, datetime) else time - offset.total_seconds()
            return self._first + bisect_left(self._stored, since, key=lambda each: each.stored_at)
        if isinstance(offset, int):
            return max(offset, self._first)
        return {"first": self._first, "last": max(self._first, end - 1), "next": end}[offset]

    def remove_consumer(self, consumer: Consumer, now: float) -> None:
        """It reads no more."""
        self._readers.pop(consumer, None)
        super().remove_consumer(consumer, now)

    def drop_consumers(self) -> list[Consumer]:
        """See `Queue`."""
        self._readers.clear()
        return super().drop_consumers()

    def dispatch(self, now: float) -> None:
        """Deliver to each consumer what comes next for it."""
        for consumer, reader in list(self._readers.items()):
            reader.position = max(reader.position, self._first)
            while reader.position < self._first + len(self._stored) and consumer.can_take:
                offset = reader.position
                message = self._stored[offset - self._first].message
                reader.position += 1
                if message is not None and _matches(message, consumer.options):
                    consumer.channel.deliver(consumer, Entry(message, offset, 0, None), now)

    def unblock(self, consumer: Consumer) -> bool:
        """See `Queue`."""
        return consumer in self._readers and consumer.can_take

    def requeue(
        self, entries: Sequence[Entry], now: float, *, failed: bool = True, lost: bool = False
    ) -> Sequence[Entry]:
        """Nothing comes back: it has never left."""
        return ()

    def reject(self, entries: Sequence[Entry], now: float) -> None:
        """Nothing goes."""

    def purge(self) -> int:
        """Nobody can, but who deletes it: it tells of no messages then."""
        return 0

    def ready(self) -> Iterable[Entry]:
        """All messages that are kept."""
        for index, (message, _) in enumerate(self._stored):
            if message is not None:
                yield Entry(message, self._first + index, 0, None)

    # --- what a client may ask of it -------------------------------------------------------------------------------

    @property
    def consumer_count(self) -> int:
        """RabbitMQ tells of none."""
        return 0

    def check_consumer(
        self,
        resource: str,
        options: ConsumerOptions,
        *,
        no_ack: bool,
        exclusive: bool,
        prefetch: int,
        is_limited: bool,
    ) -> None:
        """See `Queue`."""
        words = self._compat.stream_words
        if not prefetch:
            called = f"'{resource}'" if words == "stream queues" else f"{words} {resource}"
            raise Refusal(406, f"consumer prefetch count is not set for {called}")
        if no_ack:
            raise Refusal(540, f"automatic acknowledgement not supported by {words} {resource}")
        if is_limited:
            raise Refusal(540, f"{resource} does not support global qos")

    def check_get(self, resource: str, compat: Compat) -> None:
        """See `Queue`."""
        raise Refusal(540, f"basic.get not supported by stream queues {resource}")

    def check_purge(self, resource: str) -> None:
        """See `Queue`."""
        raise Refusal(540, f"queue.purge not supported by stream queues {resource}")

    def check_delete(self, resource: str, *, if_unused: bool, if_empty: bool) -> None:
        """See `Queue`. No condition is looked at."""

    def check_settlement(self, resource: str) -> None:
        """See `Queue`."""
        if self._compat.streams_refuse_nacks:
            raise Refusal(540, f"basic.nack and basic.reject not supported by stream queues {resource}")


def _matches(message: Message, options: ConsumerOptions) -> bool:
    if options.filters is None:
        return True
    value = message.facts.headers.get("x-stream-filter-value")
    if not isinstance(value, str):
        return options.matches_unfiltered
    return value in options.filters
