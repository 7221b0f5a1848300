"""What a channel consumes and gets: its consumers, its prefetch, its deliveries and what is settled of them.

What must stay true: each delivery that needs an acknowledgement is remembered until it is settled or the channel is
over, and then is back in its queue; a reply is queued before what it sets off. Queues the answers, sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, Literal, TypeAlias

from rabbitry.broker.consumer_arguments import consumer_options
from rabbitry.broker.consumers import Consumer
from rabbitry.broker.deliveries import deliver_head, deliver_method, delivered_properties
from rabbitry.broker.entries import Entry
from rabbitry.broker.messages import Message
from rabbitry.broker.names import generated_name
from rabbitry.broker.overdue import due, held_too_long
from rabbitry.broker.peer import Peer
from rabbitry.broker.queues import Queue
from rabbitry.broker.unsettled import Unsettled, UnsettledDeliveries, by_queue, in_turn
from rabbitry.protocol.server.refusals import Refusal
from rabbitry.protocol.wire import methods

__all__ = ["Consuming", "Outcome"]

Outcome: TypeAlias = Literal["ack", "reject", "requeue", "return"]
"""What a settlement means. Two ways of coming back: "requeue" is a delivery that has failed, "return" is none."""

_tag = attrgetter("tag")
LOOK_SECONDS = 1.0
"""How often a delivery that is overdue is looked at while an older one keeps it from counting."""


class Consuming:
    """The consumer's side of one channel: what its queues see of it (`Receiver`)."""

    __slots__ = (
        "_arrivals",
        "_consumers",
        "_limit",
        "_limited",
        "_number",
        "_peer",
        "_prefetch",
        "_tag",
        "_unsettled",
        "_watched",
    )

    def __init__(self, number: int, peer: Peer) -> None:
        self._number = number
        self._peer = peer
        self._consumers: dict[str, tuple[Consumer, Queue, bytes]] = {}  # the octets begin each basic.deliver
        self._arrivals = 0  # of consumers, ever
        self._unsettled = UnsettledDeliveries()
        self._tag = 0
        self._prefetch = 0  # of each consumer to come
        self._limit = 0  # of the channel
        self._limited = 0  # what counts towards it: below zero, too, as in RabbitMQ
        self._watched: float | None = None  # when it is looked for deliveries that are held too long

    def release(self, held: Iterable[Unsettled], now: float) -> None:
        """The channel is over: consumers go, what is not settled (and what was `held` until a commit) comes back."""
        queues: dict[Queue, None] = {}
        for consumer, queue, _ in self._consumers.values():
            queue.remove_consumer(consumer, now)
            queues[queue] = None
        self._consumers.clear()
        back = sorted((*self._unsettled.take_all(), *held), key=self._return_rank)
        for each in back:
            if each.consumer is not None:
                each.consumer.unacked = 0
            elif each.queue is not None:
                each.queue.got -= 1
        for queue, entries in by_queue(back).items():
            queue.requeue(entries, now, lost=True)
            queues[queue] = None
        for queue in queues:
            queue.dispatch(now)

    def _return_rank(self, unsettled: Unsettled) -> tuple[int, str, int]:
        """Where a delivery stands among those that come back as their channel ends, which shows with quorum queues."""
        tag, _, _, consumer, _ = unsettled
        if consumer is None:
            return (self._arrivals, str(tag), tag)
        if self._peer.compat.returns_by == "tag":
            return (self._arrivals, consumer.tag, tag)
        return (consumer.arrival, "", tag)

    @property
    def held(self) -> Iterable[Unsettled]:
        """The deliveries that are not settled, the oldest first."""
        return self._unsettled

    # --- what a queue may do with it -------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """See `Receiver`."""
        return self._peer.has_room

    @property
    def is_full(self) -> bool:
        """See `Receiver`."""
        return 0 < self._limit <= self._limited

    def deliver(self, consumer: Consumer, entry: Entry, now: float) -> None:
        """See `Receiver`. hot: once for each delivery."""
        _, queue, head = self._consumers[consumer.tag]
        tag = self._tag = self._tag + 1
        if not consumer.no_ack:
            consumer.unacked += 1
            self._limited += 1
            self._remember(Unsettled(tag, entry, queue, consumer, now))
        message, peer = entry.message, self._peer
        method = deliver_method(head, tag, entry.redelivered, message)
        properties = delivered_properties(queue, entry, peer.compat) if queue.is_quorum else message.properties
        peer.connection.send_content(self._number, method, properties, message.body)
        peer.wake()
        if peer.world.faults.is_armed and peer.world.faults.take_duplicate():
            self._deliver_again(consumer, entry, now)

    def _deliver_again(self, consumer: Consumer, entry: Entry, now: float) -> None:
        """The same message, as if it had come back. Settling this delivery has no effect."""
        _, queue, head = self._consumers[consumer.tag]
        tag = self._tag = self._tag + 1
        if not consumer.no_ack:
            self._remember(Unsettled(tag, entry, None, None, now))
        message = entry.message
        method = deliver_method(head, tag, True, message)
        properties = delivered_properties(queue, entry, self._peer.compat)
        self._peer.connection.send_content(self._number, method, properties, message.body)

    def _remember(self, unsettled: Unsettled) -> None:
        self._unsettled.add(unsettled)
        queue, consumer = unsettled.queue, unsettled.consumer
        has_own = queue is None or queue.options.consumer_timeout is not None
        if self._watched is not None and not (has_own or (consumer is not None and consumer.options.timeout)):
            return  # hot: by the broker's measure, an older delivery is due before
        moment = self._due(unsettled)
        if moment is not None and (self._watched is None or moment < self._watched):
            self._watched = moment
            self._peer.watch(moment)

    def lose_consumer(self, consumer: Consumer) -> None:
        """See `Receiver`."""
        self._consumers.pop(consumer.tag, None)
        if self._peer.connection.has_capability("consumer_cancel_notify"):
            self._peer.connection.send(self._number, methods.BasicCancel(consumer_tag=consumer.tag, nowait=True))
            self._peer.wake()

    # --- consumers -------------------------------------------------------------------------------------------------

    def qos(self, method: methods.BasicQos, now: float) -> None:
        if method.prefetch_size:
            raise Refusal(540, f"prefetch_size!=0 ({method.prefetch_size})")
        was_full = self.is_full
        if method.global_ and self._peer.compat.global_qos:
            if not self._limit:  # from now on only what consumers are given counts; of this, what was got, too
                self._limited = len(self._unsettled)
            self._limit = method.prefetch_count
        else:
            self._prefetch = method.prefetch_count
            self._limit = 0  # one takes away the other, in RabbitMQ
        self._peer.connection.send(self._number, methods.BasicQosOk())
        if was_full and not self.is_full:
            self.go_on(now)

    def check_tag(self, tag: str) -> None:
        """Raise the `Refusal` of a consumer tag that is in use."""
        if tag and tag in self._consumers:
            raise Refusal(530, f"attempt to reuse consumer tag '{tag}'")

    def consume(self, name: str, method: methods.BasicConsume, now: float) -> None:
        """A consumer of the queue with this name. Raises `Refusal`."""
        peer = self._peer
        self.check_tag(method.consumer_tag)
        peer.check("read", "queue", name)
        queue = peer.vhost.queue(name, peer)
        resource = peer.vhost.called("queue", name)
        options = consumer_options(resource, queue.kind, method.arguments, peer.compat)
        queue.check_consumer(
            resource,
            options,
            no_ack=method.no_ack,
            exclusive=method.exclusive,
            prefetch=self._prefetch,
            is_limited=bool(self._limit),
        )
        tag = method.consumer_tag or generated_name("amq.ctag")
        terms: dict[str, Any] = {
            "no_ack": method.no_ack,
            "prefetch": 0 if method.no_ack else self._prefetch,
            "exclusive": method.exclusive,
            "options": options,
        }
        earlier = queue.find_leaving(self, tag)
        if earlier is None:
            consumer = Consumer(self, tag, self._arrivals, **terms)
            self._arrivals += 1
        else:
            consumer = earlier
            consumer.renew(**terms)
        self._consumers[tag] = (consumer, queue, deliver_head(tag))
        queue.add_consumer(consumer, now)
        if not method.nowait:
            peer.connection.send(self._number, methods.BasicConsumeOk(consumer_tag=tag))
        queue.dispatch(now)

    def cancel(self, method: methods.BasicCancel, now: float) -> None:
        """A consumer goes, if it is there; what it was given stays."""
        entry = self._consumers.pop(method.consumer_tag, None)
        if not method.nowait:
            self._peer.connection.send(self._number, methods.BasicCancelOk(consumer_tag=method.consumer_tag))
        if entry is not None:
            consumer, queue, _ = entry
            queue.remove_consumer(consumer, now)
            queue.dispatch(now)

    # --- getting ---------------------------------------------------------------------------------------------------

    def get(self, name: str, method: methods.BasicGet, now: float) -> None:
        """The next message of the queue with this name. Raises `Refusal`."""
        peer = self._peer
        peer.check("read", "queue", name)
        queue = peer.vhost.queue(name, peer)
        queue.check_get(peer.vhost.called("queue", name), peer.compat)
        entry = queue.get(now, no_ack=method.no_ack)
        if entry is None:
            peer.connection.send(self._number, methods.BasicGetEmpty())
            return
        tag = self._tag = self._tag + 1
        if not method.no_ack:
            queue.got += 1
            self._remember(Unsettled(tag, entry, queue, None, now))
        message = entry.message
        get_ok = methods.BasicGetOk(
            delivery_tag=tag,
            redelivered=entry.redelivered,
            exchange=message.exchange,
            routing_key=message.routing_keys[0],
            message_count=queue.count,
        )
        properties = delivered_properties(queue, entry, peer.compat, is_got=True)
        peer.connection.send_content(self._number, get_ok.encode(), properties, message.body)

    def deliver_reply(self, consumer_tag: str, message: Message) -> None:
        """A reply to a call of this channel's. It needs no acknowledgement."""
        tag = self._tag + 1
        if self._peer.compat.replies_are_routed:
            self._tag = tag
        method = methods.BasicDeliver(
            consumer_tag=consumer_tag,
            delivery_tag=tag,
            exchange=message.exchange,
            routing_key=message.routing_keys[0],
        )
        self._peer.connection.send_content(self._number, method.encode(), message.properties, message.body)
        self._peer.wake()

    # --- settling --------------------------------------------------------------------------------------------------

    def take(self, tag: int, multiple: bool, outcome: Outcome) -> list[Unsettled]:
        """The deliveries that a settlement means. Raises `Refusal`, with none taken."""
        taken = self._unsettled.take(tag, multiple)
        self._check_settlement(taken, outcome)
        return taken

    def take_all(self, outcome: Outcome) -> list[Unsettled]:
        """All deliveries that are not settled. Raises `Refusal`, with none taken."""
        taken = self._unsettled.take_all()
        try:
            self._check_settlement(taken, outcome)
        except Refusal:  # the version that refuses a nack stumbles here
            raise Refusal(541, "", (0, 0)) from None
        return taken

    def _check_settlement(self, taken: list[Unsettled], outcome: Outcome) -> None:
        if outcome != "ack":
            try:
                for queue in by_queue(taken):
                    queue.check_settlement(self._peer.vhost.called("queue", queue.name))
            except Refusal:
                self._unsettled.put_back(taken)
                raise

    def put_back(self, taken: Iterable[Unsettled]) -> None:
        """They are not settled after all."""
        self._unsettled.put_back(taken)

    @property
    def returning(self) -> Outcome:
        """How messages come back that nobody rejects: whether that is a delivery that has failed."""
        return "return" if self._peer.compat.delivery_count == "acquired" else "requeue"

    def settle(self, outcome: Outcome, taken: list[Unsettled], now: float) -> None:
        """Deliveries that were taken are done with, and whoever can take more gets it. They count towards the channel's
        own limit until all of them are settled.
        """
        is_counted = self._limited != 0
        for group in in_turn(taken):
            self._settle_group(outcome, group, now)
        was_full = self.is_full
        if is_counted:
            self._limited -= sum(each.consumer is not None and each.queue is not None for each in taken)
        if was_full and not self.is_full:
            self.go_on(now)

    def _settle_group(self, outcome: Outcome, group: Sequence[Unsettled], now: float) -> None:
        """Deliveries of one consumer, or one message that was got."""
        queues: Iterable[Queue] = ()
        spent: list[Entry] = []
        if outcome != "ack":
            queues = grouped = by_queue(group)
            alive = self._peer.vhost.queues
            for queue, entries in grouped.items():
                if alive.get(queue.name) is not queue:
                    continue
                if outcome == "reject":
                    queue.reject(entries, now)
                else:
                    spent += queue.requeue(entries, now, failed=outcome == "requeue")
        consumer = group[0].consumer
        origin: Queue | None = None
        for each in group:
            origin = each.queue or origin
            if consumer is None:
                if each.queue is not None:
                    each.queue.got -= 1
            elif each.queue is not None:
                consumer.unacked -= 1
            else:
                consumer.overdue -= 1
        if consumer is not None:
            if origin is None and consumer.tag in self._consumers:
                _, origin, _ = self._consumers[consumer.tag]
            if spent and self._peer.compat.limit_widens_prefetch:
                _widen(group, spent)
            if origin is not None:
                if origin.consumers.may_stall:
                    origin.consumers.settle(consumer, is_done=outcome in ("ack", "reject"))
                self._unblock([(consumer, origin)], now)
        for queue in queues:
            queue.dispatch(now)

    def go_on(self, now: float) -> None:
        """The channel may take more again, or the client has read what waited for it."""
        self._unblock([(consumer, queue) for consumer, queue, _ in self._consumers.values()], now)

    @staticmethod
    def _unblock(consumers: Iterable[tuple[Consumer, Queue]], now: float) -> None:
        """Let all of them back into their turns, and only then go on."""
        ready = [queue for consumer, queue in consumers if queue.unblock(consumer)]
        for queue in dict.fromkeys(ready):
            queue.dispatch(now)

    # --- held too long ---------------------------------------------------------------------------------------------

    def _due(self, unsettled: Unsettled) -> float | None:
        return due(unsettled, self._peer.world.consumer_timeout, self._peer.compat)

    def look_at_time(self, now: float) -> float | None:
        """When to be called next; None for not before the next delivery. Raises the `Refusal` of a delivery that was
        held too long, where that ends the channel."""
        if self._peer.compat.consumer_timeout == "quorum":
            self._return_overdue(now)
        deadlines = [each for each in map(self._due, self._unsettled) if each is not None]
        self._watched = max(min(deadlines), now + LOOK_SECONDS) if deadlines else None
        oldest = next(iter(self._unsettled), None)
        if oldest is None:
            return None
        first = self._due(oldest)  # of the others none counts before it is the oldest
        if first is not None and first <= now:
            raise held_too_long(self._number, first - oldest.since, self._peer.compat)
        if deadlines and min(deadlines) > now:
            self._watched = min(deadlines)
        return self._watched

    def _return_overdue(self, now: float) -> None:
        """As quorum queues of 4.3 do: what is held too long goes back. Its consumer is told that it is none any more,
        and gets nothing before it has settled what it had; a client that can't be told is refused."""
        entries: dict[Queue, list[Entry]] = {}
        consumers: dict[Consumer | None, None] = {}
        for each in list(self._unsettled):
            moment = self._due(each)
            if moment is None or moment > now or each.queue is None:
                continue
            entries.setdefault(each.queue, []).append(each.entry)
            self._unsettled.detach(each)
            consumers[each.consumer] = None
            if each.consumer is not None:
                each.consumer.unacked -= 1
                each.consumer.overdue += 1
                self._limited -= 1
            else:
                each.queue.got -= 1
        for consumer in consumers:
            if consumer is not None and self._peer.connection.has_capability("consumer_cancel_notify"):
                cancel = methods.BasicCancel(consumer_tag=consumer.tag, nowait=True)
                self._peer.connection.send(self._number, cancel)
        for queue, back in entries.items():
            queue.requeue(back, now, failed=False)
            queue.dispatch(now)
        if None in consumers or (entries and not self._peer.connection.has_capability("consumer_cancel_notify")):
            raise held_too_long(self._number, 0.0, self._peer.compat)


def _widen(taken: Iterable[Unsettled], spent: Iterable[Entry]) -> None:
    """Who gave back what has come back too often may hold one more from now on."""
    gone = set(map(id, spent))
    for each in taken:
        if each.consumer is not None and each.consumer.prefetch and id(each.entry) in gone:
            each.consumer.prefetch += 1
