"""A queue: messages in, deliveries out, under its limits. Classic and quorum queues in what can be seen of them.

What must stay true: a message is ready, or it was given to somebody who has not settled it, or it is gone: then it was
acknowledged, dropped or dead-lettered, once. Nothing waits: whoever calls brings the time (`now`, in seconds), and what
is due later is left with the timers. Knows channels as receivers, and the virtual host as what takes the dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from rabbitry.broker.admission import Admission
from rabbitry.broker.arguments import QueueOptions
from rabbitry.broker.compat import Compat
from rabbitry.broker.consumer_arguments import ConsumerOptions
from rabbitry.broker.consumers import Consumer, Consumers, Receiver, Succession
from rabbitry.broker.discards import Discards
from rabbitry.broker.entries import Entry, InPlace, ReturnsFirst
from rabbitry.broker.exchanges import Binding
from rabbitry.broker.messages import Message
from rabbitry.broker.timers import Timers
from rabbitry.protocol.server.refusals import Refusal

__all__ = ["Bury", "Queue"]

Bury: TypeAlias = Callable[[Entry, "Queue", str, float], None]
"""Takes a message that has died in a queue, the reason ("rejected", "expired", "maxlen", …), and the time."""


class Queue:
    """One queue. `owner` is the connection that alone may use it, if any."""

    __slots__ = (
        "_admission",
        "_bury",
        "_bytes",
        "_content",
        "_expiring",
        "_has_priorities",
        "_leaving",
        "_places",
        "_ready",
        "_requeues_behind",
        "_timers",
        "_used",
        "_wakes_at",
        "arguments",
        "auto_delete",
        "consumers",
        "count",
        "discards",
        "durable",
        "got",
        "incoming",
        "is_limited",
        "is_quorum",
        "kind",
        "name",
        "on_unused",
        "options",
        "owner",
    )

    def __init__(
        self,
        name: str,
        options: QueueOptions,
        *,
        bury: Bury,
        timers: Timers,
        now: float,
        durable: bool = False,
        auto_delete: bool = False,
        owner: object = None,
        arguments: Mapping[str, Any] | None = None,
        requeues_behind: bool = False,
        succession: Succession = "priority",
        on_unused: Callable[[Queue, float], None] = lambda queue, now: None,
    ) -> None:
        self.name: str = name
        self.options: QueueOptions = options
        self.durable: bool = durable
        self.auto_delete: bool = auto_delete
        self.owner: object = owner
        self.arguments: Mapping[str, Any] = arguments or {}
        self.incoming: dict[Binding, None] = {}  # of which it is the destination
        self.consumers: Consumers = Consumers(
            options.single_active,
            leaves_at_once=options.kind == "quorum",
            succession=succession if options.kind == "quorum" else "priority",
        )
        self._leaving: list[Consumer] = []
        """Those of a quorum queue that were cancelled, and have not settled everything yet."""
        self.kind: str = options.kind
        self.is_quorum: bool = options.kind == "quorum"
        self._has_priorities = bool(options.max_priority) and not self.is_quorum
        self.is_limited: bool = options.max_length is not None or options.max_bytes is not None
        self.on_unused: Callable[[Queue, float], None] = on_unused
        self._requeues_behind = requeues_behind and self.is_quorum and options.delivery_limit is None
        self.count: int = 0
        """Messages that are ready."""
        self.got: int = 0
        """Messages that were got, and are not settled."""
        self._bytes = 0  # of bodies, as limits count them
        self._content = 0  # of properties, too
        self._ready: InPlace | ReturnsFirst = ReturnsFirst() if self.is_quorum else InPlace(options.max_priority)
        self._places = 0
        self._expiring = 0  # of those that are ready
        self._admission: Admission | None = None
        if self.is_quorum and self.is_limited and options.overflow == "reject-publish":
            self._admission = Admission(options.max_length, options.max_bytes)
        self.discards: Discards | None = Discards() if options.at_least_once else None
        """The dead messages that not all of their queues have taken yet, where none may be lost."""
        self._bury = bury
        self._timers = timers
        self._wakes_at: float | None = None
        self._used = now
        self.touch(now)
        if options.expires is not None:
            timers.schedule(now + options.expires / 1000, self._look_whether_used)

    # --- messages in -----------------------------------------------------------------------------------------------

    def publish(self, message: Message, now: float, publisher: object = None) -> bool:
        """Take a message. False if it is rejected, as the queue is full. A quorum queue tells publishers apart."""
        options = self.options
        if self.is_limited and options.overflow != "drop-head":
            self.expire(now)
            if self._admission is not None:
                if publisher is not None and not self._admission.admits(publisher, self.total, self.octets):
                    return False
            elif self._is_over(self.count + 1, self._bytes + len(message.body)):
                if options.overflow == "reject-publish-dlx":
                    self._bury(Entry(message, 0, 0, None), self, "maxlen", now)
                return False
        level = min(message.facts.priority or 0, options.max_priority) if options.max_priority else 0
        entry = Entry(message, self._places, level, self._expiry(message, now))
        if message.counts is not None:
            entry.count = message.counts.begin
            entry.redelivered |= self.is_quorum
        self._places += 1
        self._ready.append(entry)
        self._count(entry)
        self._hand_out(now)
        self._after(now, is_published=True)
        return True

    def _expiry(self, message: Message, now: float) -> float | None:
        ttl, own = self.options.ttl, message.facts.expiration
        if own is not None:
            ttl = int(own) if ttl is None else min(ttl, int(own))
        return None if ttl is None else now + ttl / 1000

    def _count(self, entry: Entry) -> None:
        self.count += 1
        self._bytes += len(entry.message.body)
        self._content += entry.message.octets
        if entry.expires is not None:
            self._expiring += 1

    def _discount(self, entry: Entry) -> None:
        self.count -= 1
        self._bytes -= len(entry.message.body)
        self._content -= entry.message.octets
        if entry.expires is not None:
            self._expiring -= 1
        if self._admission is not None:
            self._admission.shrink(self.total, self.octets)

    def _after(self, now: float, *, is_published: bool = False) -> None:
        """What limits say, once nobody takes more: first of length, then of time."""
        is_head_known = is_published and self._has_priorities and self.count > 1
        if self.is_limited and self.options.overflow == "drop-head":  # what comes back where others are refused, stays
            while self.count and self._is_over(self.count, self._bytes):
                entry = self._ready.pop()
                assert entry is not None
                self._discount(entry)
                self._bury(entry, self, "maxlen", now)
                is_head_known = False
        if self._expiring and not is_head_known:  # as RabbitMQ takes it for, even if the new one goes ahead of it
            self.expire(now)
        if self._admission is not None:
            self._admission.grow(self.total, self.octets)

    def recount(self) -> None:
        """What is held for dead-lettering has become more, or less."""
        if self._admission is not None:
            self._admission.grow(self.total, self.octets)
            self._admission.shrink(self.total, self.octets)

    def _is_over(self, count: int, octets: int) -> bool:
        options = self.options
        if options.max_length is not None and count > options.max_length:
            return True
        return options.max_bytes is not None and octets > options.max_bytes

    # --- messages out ----------------------------------------------------------------------------------------------

    def dispatch(self, now: float) -> None:
        """Deliver what is ready to those who can take it."""
        self._hand_out(now)
        if self.is_quorum:
            self._after(now)

    def _hand_out(self, now: float) -> None:
        while self.count and len(self.consumers):
            consumer = self.consumers.next()
            if consumer is None:
                return
            entry = self._take(now)
            if entry is None:  # what was left had expired
                self.consumers.take_back_turn(consumer)
                return
            consumer.channel.deliver(consumer, entry, now)

    def get(self, now: float, *, no_ack: bool = True) -> Entry | None:
        """Take the next message."""
        self.touch(now)
        self.catch_up(now)
        entry = self._take(now)
        if self.is_quorum and not no_ack:  # what is next now is looked at a moment later, and counted in the answer
            self._timers.schedule(now, self.expire)
        else:
            self.expire(now)
        return entry

    def _take(self, now: float) -> Entry | None:
        while (entry := self._ready.pop()) is not None:
            self._discount(entry)
            if self._has_priorities:
                self.expire(now)  # of the next one; this one was looked at when it became the head, or was not
                return entry
            if entry.expires is None or entry.expires >= now:  # a message of no time at all may go out at once
                return entry
            self._bury(entry, self, "expired", now)
        return None

    def requeue(
        self, entries: Sequence[Entry], now: float, *, failed: bool = True, lost: bool = False
    ) -> Sequence[Entry]:
        """Messages come back that were given out; `failed`: as a delivery that counts towards the limit, `lost`: as
        whoever had them is gone. Nothing is delivered yet: see `dispatch`. Those that failed too often, and are dead.
        """
        limit = self.options.delivery_limit
        returned: list[Entry] = []
        spent: list[Entry] = []
        for entry in entries:
            entry.redelivered = True
            entry.acquired += 1
            entry.count += failed
            if self.is_quorum and limit is not None and entry.count > limit:
                self._bury(entry, self, "delivery_limit", now)
                spent.append(entry)
                continue
            returned.append(entry)
            self._count(entry)
        if self._requeues_behind and not lost:
            for entry in returned:
                self._ready.append(entry)
        else:
            self._ready.put_back(returned)
        if not self.is_quorum:
            self._after(now)  # ahead of any delivery: the first to go may be what has just come back
        return spent

    def reject(self, entries: Sequence[Entry], now: float) -> None:
        """Messages that were given out are not wanted."""
        for entry in entries:
            self._bury(entry, self, "rejected", now)

    def purge(self) -> int:
        """Drop what is ready; how many that were."""
        count, self.count, self._bytes, self._content, self._expiring = self.count, 0, 0, 0, 0
        self._ready.clear()
        if self._admission is not None:
            self._admission.shrink(self.total, self.octets)
        return count

    def purge_dead(self) -> int:
        """Drop the dead that not all of their queues have taken yet; how many that were."""
        if self.discards is None:
            return 0
        count = self.discards.count
        self.discards.clear()
        self.recount()
        return count

    def ready(self) -> Iterable[Entry]:
        """The messages that are ready, in the order in which they are delivered."""
        return self._ready

    # --- what a client may ask of it -------------------------------------------------------------------------------

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
        """Raise the `Refusal` of a consumer that can't be; `resource` is the queue in RabbitMQ's words, `is_limited`
        whether its channel has a prefetch of its own."""
        if self.is_quorum and is_limited:
            raise Refusal(540, f"{resource} does not support global qos")
        if self.is_quorum:
            return  # it passes over who wants to be alone
        if self.has_exclusive_consumer or (exclusive and (len(self.consumers) or self.options.single_active)):
            raise Refusal(403, f"{resource} in exclusive use")

    def check_get(self, resource: str, compat: Compat) -> None:
        """Raise the `Refusal` of a get."""
        if self.is_quorum and self.options.single_active:
            raise Refusal(
                405,
                f"cannot obtain access to locked {resource}. basic.get operations are not supported by "
                f"{compat.get_from_single_active} with single active consumer",
            )

    def check_purge(self, resource: str) -> None:
        """Raise the `Refusal` of a purge."""

    def check_delete(self, resource: str, *, if_unused: bool, if_empty: bool) -> None:
        """Raise the `Refusal` of a deletion."""
        for is_set, name in ((if_unused, "if-unused"), (if_empty, "if-empty")):
            if is_set and self.is_quorum:
                raise Refusal(
                    540,
                    f"cannot delete {resource}. queue.delete operations with {name} flag set are not supported by "
                    "quorum queues",
                )
        if if_empty and self.count:
            raise Refusal(406, f"{resource} not empty")
        if if_unused and len(self.consumers):
            raise Refusal(406, f"{resource} in use")

    def check_settlement(self, resource: str) -> None:
        """Raise the `Refusal` of a settlement that is no acknowledgement."""

    # --- consumers -------------------------------------------------------------------------------------------------

    def add_consumer(self, consumer: Consumer, now: float) -> None:
        """Nothing is delivered yet: see `dispatch`."""
        self.touch(now)
        self.consumers.add(consumer)

    def remove_consumer(self, consumer: Consumer, now: float) -> None:
        """It is gone, and with its last consumer an auto-delete queue (`on_unused`). Another may be the active one now:
        see `dispatch`."""
        if consumer not in self.consumers:
            return
        self.consumers.remove(consumer)
        if self.is_quorum:
            self._leaving = [each for each in dict.fromkeys((*self._leaving, consumer)) if self._is_leaving(each)]
        self.touch(now)
        if self.auto_delete and not len(self.consumers):
            self.on_unused(self, now)

    def find_leaving(self, channel: Receiver, tag: str) -> Consumer | None:
        """The consumer with this tag that was cancelled, and is known to a quorum queue still."""
        mine = (each for each in self._leaving if each.channel is channel and each.tag == tag)
        return next((each for each in mine if self._is_leaving(each)), None)

    def _is_leaving(self, consumer: Consumer) -> bool:
        return consumer.unacked > 0 and consumer not in self.consumers

    def go_on(self, now: float) -> None:
        """A channel has ended that has published here: where no consumer is the active one though there are some, one
        is from now on."""
        if self.consumers.is_stalled:
            self.consumers.is_stalled = False
            self.dispatch(now)

    def drop_consumers(self) -> list[Consumer]:
        """All go, as the queue does; who they were."""
        gone = list(self.consumers)
        for consumer in gone:
            self.consumers.remove(consumer)
        return gone

    def unblock(self, consumer: Consumer) -> bool:
        """Let a consumer back into the turn if it can take a message again. True if it came back: see `dispatch`."""
        return self.consumers.unblock(consumer)

    @property
    def consumer_count(self) -> int:
        """How many consumers clients are told of: by a quorum queue, all who get or hold its messages."""
        if not self.is_quorum:
            return len(self.consumers)
        active = len(self.consumers)
        if self.options.single_active:
            active = 0 if self.consumers.is_stalled else min(1, active)
        return active + self.got + sum(1 for each in self._leaving if self._is_leaving(each))

    @property
    def total(self) -> int:
        """Messages that are ready, or dead and not yet elsewhere: what counts towards its length."""
        return self.count if self.discards is None else self.count + self.discards.count

    @property
    def octets(self) -> int:
        """Of the bodies of those."""
        return self._bytes if self.discards is None else self._bytes + self.discards.octets

    @property
    def content_octets(self) -> int:
        """What those take, whatever limits count."""
        return self._content if self.discards is None else self._content + self.discards.content_octets

    @property
    def has_exclusive_consumer(self) -> bool:
        """Whether one consumer wants to be alone."""
        return any(consumer.exclusive for consumer in self.consumers)

    # --- time ------------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Bury the messages at the head whose time is over, and see to it that this happens again."""
        if not self._expiring:
            return
        soonest: float | None = None
        for waiting in self._ready.heads():
            while waiting and waiting[0].expires is not None and waiting[0].expires <= now:
                entry = waiting.popleft()
                self._discount(entry)
                self._bury(entry, self, "expired", now)
            if waiting and waiting[0].expires is not None:
                soonest = waiting[0].expires if soonest is None else min(soonest, waiting[0].expires)
        if soonest is not None and (self._wakes_at is None or soonest < self._wakes_at):
            self._wakes_at = soonest
            self._timers.schedule(soonest, self._wake)

    def catch_up(self, now: float) -> None:
        """Bury what would have been buried by now if the timer had been on time."""
        if self.is_quorum or (self._wakes_at is not None and self._wakes_at <= now):
            self.expire(now)

    def _wake(self, now: float) -> None:
        self._wakes_at = None
        self.expire(now)

    def touch(self, now: float) -> None:
        """The queue was used, which puts off its own expiry."""
        self._used = now

    def _look_whether_used(self, now: float) -> None:
        assert self.options.expires is not None
        due = (now if len(self.consumers) else self._used) + self.options.expires / 1000
        if due <= now:
            self.on_unused(self, now)
        else:
            self._timers.schedule(due, self._look_whether_used)
