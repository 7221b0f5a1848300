"""A channel: what each method does, in the order in which RabbitMQ checks it; deliveries, settlements, confirms.

What must stay true: a method is carried out wholly or refused (`Refusal`) with nothing changed; a reply is queued
before what it sets off (deliveries to a new consumer, say). Queues the answers, sends nothing. What is declared and
bound is in `declaring`, so that this is the messages' way alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from struct import Struct
from typing import Any

from rabbitry.broker.arguments import check_consumer_arguments, not_here
from rabbitry.broker.consumers import Consumer
from rabbitry.broker.declaring import DECLARING, declare
from rabbitry.broker.entries import Entry
from rabbitry.broker.exchanges import Exchange
from rabbitry.broker.messages import (
    Message,
    checked_expiration,
    message_facts,
    published_message,
    with_headers,
)
from rabbitry.broker.peer import Peer
from rabbitry.broker.queues import Queue
from rabbitry.broker.unsettled import Unsettled, UnsettledDeliveries, by_queue
from rabbitry.broker.vhost import generated_name
from rabbitry.protocol.server.events import Command
from rabbitry.protocol.server.refusals import Refusal
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.methods import Method
from rabbitry.protocol.wire.properties import decode_properties, encode_properties
from rabbitry.protocol.wire.tables import SIZED_INTS, encode_shortstr

__all__ = ["REPLY_TO", "Channel"]

REPLY_TO = "amq.rabbitmq.reply-to"
_REPLY_PREFIX = REPLY_TO + "."

_pack_tag = Struct(">QB").pack
_long = SIZED_INTS["l"]


@lru_cache(4096)
def _route_octets(exchange: str, routing_key: str) -> bytes:
    """hot: the end of every basic.deliver of one route."""
    return encode_shortstr(exchange) + encode_shortstr(routing_key)


class Channel:
    """One channel of one client."""

    __slots__ = (
        "_confirmed",
        "_consumers",
        "_last_queue",
        "_limit",
        "_limited",
        "_mode",
        "_number",
        "_peer",
        "_prefetch",
        "_published",
        "_reply_name",
        "_reply_tag",
        "_tag",
        "_transaction",
        "_unsettled",
        "_writable",
    )

    def __init__(self, number: int, peer: Peer) -> None:
        self._number = number
        self._peer = peer
        self._consumers: dict[str, tuple[Consumer, Queue, bytes]] = {}  # the octets begin each basic.deliver
        self._unsettled = UnsettledDeliveries()
        self._tag = 0
        self._prefetch = 0  # of each consumer to come
        self._limit = 0  # of the channel
        self._limited = 0  # deliveries to consumers, not yet settled
        self._mode = ""  # "confirm", "tx"
        self._published = 0
        self._confirmed: list[tuple[int, bool]] = []
        self._transaction: list[Callable[[float], None] | tuple[str, list[Unsettled]]] = []
        self._writable: set[str] = set()  # exchanges this user may write to
        self._reply_name = self._reply_tag = ""
        self._last_queue = ""

    # --- what happens to it ----------------------------------------------------------------------------------------

    def handle(self, command: Command, now: float) -> None:
        """Carry out a command. Raises `Refusal`."""
        handler = _HANDLERS.get(type(command.method))
        if handler is None:
            raise Refusal(503, "unimplemented method")
        handler(self, command.method if handler is not Channel._publish else command, now)

    def release(self, now: float) -> None:
        """The channel is over: consumers go, what is not settled comes back to its queues."""
        self._peer.vhost.reply_consumers.pop(self._reply_name, None)
        queues: dict[Queue, None] = {}
        for consumer, queue, _ in self._consumers.values():
            queue.remove_consumer(consumer, now)
            queues[queue] = None
        self._consumers.clear()
        for queue, entries in by_queue(self._unsettled.take_all()).items():
            queue.requeue(entries, now, lost=True)
            queues[queue] = None
        for step in self._transaction:
            if isinstance(step, tuple):
                for queue, entries in by_queue(step[1]).items():
                    queue.requeue(entries, now, lost=True)
                    queues[queue] = None
        self._transaction.clear()
        for queue in queues:
            queue.dispatch(now)

    def _send(self, method: Method) -> None:
        self._peer.connection.send(self._number, method)

    # --- publishing ------------------------------------------------------------------------------------------------

    def _publish(self, command: Command, now: float) -> None:
        method: methods.BasicPublish = command.method  # type: ignore[assignment]
        peer = self._peer
        vhost = peer.vhost
        if method.immediate:
            raise Refusal(540, "immediate=true")
        if command.excess:
            most = peer.connection.max_message_size
            raise Refusal(406, f"message size {command.excess} is larger than configured max size {most}")
        name = method.exchange
        if name not in self._writable:
            peer.check("write", "exchange", name)
            self._writable.add(name)
        exchange = vhost.exchange(name)
        if exchange.internal:
            raise Refusal(403, f"cannot publish to internal {vhost.called('exchange', name)}")
        properties = command.properties
        facts = message_facts(properties)
        if facts.reply_to == REPLY_TO:
            properties = self._with_reply_name(properties)
            facts = message_facts(properties)
        if facts.user_id is not None and peer.compat.checks_user_id_first:
            self._check_user_id(facts.user_id)
        if facts.expiration is not None:
            checked_expiration(facts.expiration)
        if facts.user_id is not None:
            self._check_user_id(facts.user_id)
        message = published_message(name, method.routing_key, properties, command.body, facts)
        if self._mode == "tx":
            self._transaction.append(lambda then: self._route(exchange, message, method.mandatory, 0, then))
            return
        tag = 0
        if self._mode == "confirm":
            tag = self._published = self._published + 1
        self._route(exchange, message, method.mandatory, tag, now)

    def _check_user_id(self, user_id: str) -> None:
        name = self._peer.user.name
        if user_id != name:
            raise Refusal(406, f"user_id property set to '{user_id}' but authenticated user was '{name}'")

    def _route(self, exchange: Exchange, message: Message, mandatory: bool, tag: int, now: float) -> None:
        vhost = self._peer.vhost
        queues = vhost.route(exchange, message)
        is_prioritised = message.facts.priority is not None and self._peer.compat.quorum_priorities
        if is_prioritised and any(queue.is_quorum for queue in queues):
            raise not_here("priorities of quorum queues are")
        if not exchange.name and message.routing_keys[0].startswith(_REPLY_PREFIX):
            name = message.routing_keys[0]
            caller = vhost.reply_consumers.get(name)
            if caller is not None:
                caller.deliver_reply(message)
            elif vhost.stumbles_over(name):
                raise Refusal(541, "", (0, 0))
            mandatory = mandatory and not (self._peer.compat.replies_are_routed and vhost.has_made(name))
        if not queues and mandatory:
            self._return(message)
        accepted = True
        for queue in queues:
            accepted = queue.publish(message, now) and accepted
        if tag:
            self._confirmed.append((tag, accepted))

    def _return(self, message: Message) -> None:
        method = methods.BasicReturn(
            reply_code=312, reply_text="NO_ROUTE", exchange=message.exchange, routing_key=message.routing_keys[0]
        )
        self._peer.connection.send_content(self._number, method.encode(), message.properties, message.body)

    def flush_confirms(self) -> None:
        """Confirm what was published since the last time: runs of the same answer in one frame."""
        confirmed, self._confirmed = self._confirmed, []
        for index, (tag, accepted) in enumerate(confirmed):
            if index + 1 < len(confirmed) and confirmed[index + 1][1] is accepted:
                continue
            run = index
            while run and confirmed[run - 1][1] is accepted:
                run -= 1
            multiple = run < index
            if accepted:
                self._send(methods.BasicAck(delivery_tag=tag, multiple=multiple))
            else:
                self._send(methods.BasicNack(delivery_tag=tag, multiple=multiple, requeue=False))

    def _confirm_select(self, method: methods.ConfirmSelect, now: float) -> None:
        if self._mode == "tx":
            raise Refusal(406, "cannot switch from tx to confirm mode")
        self._mode = "confirm"
        if not method.nowait:
            self._send(methods.ConfirmSelectOk())

    # --- direct reply-to -------------------------------------------------------------------------------------------

    def _with_reply_name(self, properties: bytes) -> bytes:
        if not self._reply_name:
            raise Refusal(406, "fast reply consumer does not exist")
        decoded = decode_properties(properties)
        decoded.reply_to = self._reply_name
        return encode_properties(decoded)

    def deliver_reply(self, message: Message) -> None:
        """A reply to a call of this channel's."""
        tag = self._tag + 1
        if self._peer.compat.replies_are_routed:
            self._tag = tag
        method = methods.BasicDeliver(
            consumer_tag=self._reply_tag,
            delivery_tag=tag,
            exchange=message.exchange,
            routing_key=message.routing_keys[0],
        )
        self._peer.connection.send_content(self._number, method.encode(), message.properties, message.body)
        self._peer.wake()

    def _consume_replies(self, method: methods.BasicConsume) -> None:
        if method.consumer_tag and method.consumer_tag in self._consumers:
            raise Refusal(530, f"attempt to reuse consumer tag '{method.consumer_tag}'")
        if not method.no_ack:
            raise Refusal(406, "reply consumer cannot acknowledge")
        if self._reply_name:
            raise Refusal(406, "reply consumer already set")
        self._reply_tag = method.consumer_tag or generated_name("amq.ctag")
        self._reply_name = self._peer.vhost.add_reply_consumer(self)
        if not method.nowait:
            self._send(methods.BasicConsumeOk(consumer_tag=self._reply_tag))

    # --- consuming -------------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """See `Receiver`."""
        return self._peer.has_room

    @property
    def is_full(self) -> bool:
        """See `Receiver`."""
        return 0 < self._limit <= self._limited

    def _qos(self, method: methods.BasicQos, now: float) -> None:
        if method.prefetch_size:
            raise Refusal(540, f"prefetch_size!=0 ({method.prefetch_size})")
        if method.global_ and self._peer.compat.global_qos:
            self._limit = method.prefetch_count
        else:
            self._prefetch = method.prefetch_count
        self._send(methods.BasicQosOk())
        if method.global_:
            self.go_on(now)

    def _consume(self, method: methods.BasicConsume, now: float) -> None:
        if method.queue == REPLY_TO:
            self._consume_replies(method)
            return
        tag = method.consumer_tag
        if tag and tag in self._consumers:
            raise Refusal(530, f"attempt to reuse consumer tag '{tag}'")
        peer, name = self._peer, self.queue_name(method.queue)
        peer.check("read", "queue", name)
        queue = peer.vhost.queue(name, peer)
        resource = peer.vhost.called("queue", name)
        priority = check_consumer_arguments(resource, method.arguments)
        if queue.is_quorum and self._limit:
            raise Refusal(540, f"{resource} does not support global qos")
        if queue.has_exclusive_consumer or (method.exclusive and (len(queue.consumers) or queue.options.single_active)):
            raise Refusal(403, f"{resource} in exclusive use")
        tag = tag or generated_name("amq.ctag")
        consumer = Consumer(
            self,
            tag,
            no_ack=method.no_ack,
            prefetch=0 if method.no_ack else self._prefetch,
            priority=priority,
            exclusive=method.exclusive,
        )
        self._consumers[tag] = (consumer, queue, methods.BasicDeliver.key + encode_shortstr(tag))
        queue.add_consumer(consumer, now)
        if not method.nowait:
            self._send(methods.BasicConsumeOk(consumer_tag=tag))
        queue.dispatch(now)

    def _cancel(self, method: methods.BasicCancel, now: float) -> None:
        if method.consumer_tag == self._reply_tag and self._reply_name:
            self._peer.vhost.reply_consumers.pop(self._reply_name, None)
            self._reply_name = self._reply_tag = ""
        entry = self._consumers.pop(method.consumer_tag, None)
        if not method.nowait:
            self._send(methods.BasicCancelOk(consumer_tag=method.consumer_tag))
        if entry is not None:
            consumer, queue, _ = entry
            queue.remove_consumer(consumer, now)
            queue.dispatch(now)

    def lose_consumer(self, consumer: Consumer) -> None:
        """Its queue is gone."""
        self._consumers.pop(consumer.tag, None)
        if self._peer.connection.has_capability("consumer_cancel_notify"):
            self._send(methods.BasicCancel(consumer_tag=consumer.tag, nowait=True))
            self._peer.wake()

    def deliver(self, consumer: Consumer, entry: Entry) -> None:
        """See `Receiver`. hot: once for each delivery."""
        _, queue, head = self._consumers[consumer.tag]
        tag = self._tag = self._tag + 1
        if not consumer.no_ack:
            consumer.unacked += 1
            self._limited += 1
            self._unsettled.add(Unsettled(tag, entry, queue, consumer))
        message = entry.message
        method = head + _pack_tag(tag, entry.redelivered) + _route_octets(message.exchange, message.routing_keys[0])
        self._peer.connection.send_content(self._number, method, self._delivered(queue, entry), message.body)
        self._peer.wake()

    def _get(self, method: methods.BasicGet, now: float) -> None:
        peer, name = self._peer, self.queue_name(method.queue)
        peer.check("read", "queue", name)
        queue = peer.vhost.queue(name, peer)
        if queue.is_quorum and queue.options.single_active:
            raise Refusal(
                405,
                f"cannot obtain access to locked {peer.vhost.called('queue', name)}. basic.get operations are not "
                f"supported by {peer.compat.get_from_single_active} with single active consumer",
            )
        entry = queue.get(now)
        if entry is None:
            self._send(methods.BasicGetEmpty())
            return
        tag = self._tag = self._tag + 1
        if not method.no_ack:
            self._unsettled.add(Unsettled(tag, entry, queue, None))
        message = entry.message
        get_ok = methods.BasicGetOk(
            delivery_tag=tag,
            redelivered=entry.redelivered,
            exchange=message.exchange,
            routing_key=message.routing_keys[0],
            message_count=queue.count,
        )
        peer.connection.send_content(
            self._number, get_ok.encode(), self._delivered(queue, entry, is_got=True), message.body
        )

    def _delivered(self, queue: Queue, entry: Entry, *, is_got: bool = False) -> bytes:
        """The properties of a message as it is delivered."""
        message = entry.message
        counting = self._peer.compat.delivery_count
        is_counted = is_got and counting == "got"
        if not queue.is_quorum or not (entry.acquired or is_counted):
            return message.properties
        headers = dict(message.facts.headers)
        if counting == "acquired":
            headers["x-acquired-count"] = _long(entry.acquired)
        if entry.count or is_counted:
            headers["x-delivery-count"] = _long(entry.count)
        return with_headers(message.properties, headers)

    # --- settling --------------------------------------------------------------------------------------------------

    def _ack(self, method: methods.BasicAck, now: float) -> None:
        self._settle("ack", self._unsettled.take(method.delivery_tag, method.multiple), now)

    def _nack(self, method: methods.BasicNack, now: float) -> None:
        taken = self._unsettled.take(method.delivery_tag, method.multiple)
        self._settle(self._returning if method.requeue else "reject", taken, now)

    def _reject(self, method: methods.BasicReject, now: float) -> None:
        taken = self._unsettled.take(method.delivery_tag, False)
        self._settle("requeue" if method.requeue else "reject", taken, now)

    @property
    def _returning(self) -> str:
        """How messages come back that nobody rejects: whether that is a delivery that has failed."""
        return "return" if self._peer.compat.delivery_count == "acquired" else "requeue"

    def _settle(self, outcome: str, taken: list[Unsettled], now: float) -> None:
        if self._mode == "tx":
            self._transaction.append((outcome, taken))
            return
        queues: Iterable[Queue] = ()
        if outcome != "ack":
            grouped = by_queue(taken)
            queues = grouped
            alive = self._peer.vhost.queues
            for queue, entries in grouped.items():
                if alive.get(queue.name) is not queue:
                    continue
                if outcome == "reject":
                    queue.reject(entries, now)
                else:
                    queue.requeue(entries, now, failed=outcome == "requeue")
        was_full = self.is_full
        consumers: dict[Consumer, Queue] = {}
        for _, _, queue, consumer in taken:
            if consumer is not None:
                consumer.unacked -= 1
                self._limited -= 1
                consumers[consumer] = queue
        if was_full and not self.is_full:
            self.go_on(now)
        else:
            self._unblock(consumers.items(), now)
        for queue in queues:
            queue.dispatch(now)

    def _recover(self, method: methods.BasicRecover | methods.BasicRecoverAsync, now: float) -> None:
        if not method.requeue:
            raise Refusal(540, "requeue=false")
        if isinstance(method, methods.BasicRecover):
            self._send(methods.BasicRecoverOk())
        mode, self._mode = self._mode, ""
        self._settle(self._returning, self._unsettled.take_all(), now)
        self._mode = mode

    def go_on(self, now: float) -> None:
        """The channel may take more again, or the client has read what waited for it."""
        self._unblock([(consumer, queue) for consumer, queue, _ in self._consumers.values()], now)

    @staticmethod
    def _unblock(consumers: Iterable[tuple[Consumer, Queue]], now: float) -> None:
        """Let all of them back into their turns, and only then go on."""
        ready = [queue for consumer, queue in consumers if queue.consumers.unblock(consumer)]
        for queue in dict.fromkeys(ready):
            queue.dispatch(now)

    # --- transactions ----------------------------------------------------------------------------------------------

    def _tx_select(self, method: methods.TxSelect, now: float) -> None:
        if self._mode == "confirm":
            raise Refusal(406, "cannot switch from confirm to tx mode")
        self._mode = "tx"
        self._send(methods.TxSelectOk())

    def _tx_commit(self, method: methods.TxCommit, now: float) -> None:
        self._check_transactional()
        steps, self._transaction = self._transaction, []
        self._mode = ""
        for step in steps:
            if not isinstance(step, tuple):
                step(now)
        for step in steps:
            if isinstance(step, tuple):
                outcome, taken = step
                self._settle(outcome, taken, now)
        self._mode = "tx"
        self._send(methods.TxCommitOk())

    def _tx_rollback(self, method: methods.TxRollback, now: float) -> None:
        self._check_transactional()
        steps, self._transaction = self._transaction, []
        for step in steps:
            if isinstance(step, tuple):
                self._unsettled.put_back(step[1])
        self._send(methods.TxRollbackOk())

    def _check_transactional(self) -> None:
        if self._mode != "tx":
            raise Refusal(406, "channel is not transactional")

    # --- others ----------------------------------------------------------------------------------------------------

    def queue_name(self, name: str) -> str:
        """The queue that is meant: an empty name is the last one declared on this channel."""
        if name:
            return name
        if not self._last_queue:
            raise Refusal(404, "no previously declared queue")
        return self._last_queue

    def _flow(self, method: methods.ChannelFlow, now: float) -> None:
        if not method.active:
            raise Refusal(540, "active=false")
        self._send(methods.ChannelFlowOk(active=True))

    def _access(self, method: methods.AccessRequest, now: float) -> None:
        self._send(methods.AccessRequestOk(ticket=1))

    def _declaring(self, method: Method, now: float) -> None:
        reply, self._last_queue = declare(self._peer, self._last_queue, method, now)
        if not getattr(method, "nowait", False):
            self._send(reply)


_Handler = Callable[[Channel, Any, float], None]

_HANDLERS: dict[type[Method], _Handler] = {
    methods.BasicPublish: Channel._publish,
    methods.BasicAck: Channel._ack,
    methods.BasicNack: Channel._nack,
    methods.BasicReject: Channel._reject,
    methods.BasicGet: Channel._get,
    methods.BasicConsume: Channel._consume,
    methods.BasicCancel: Channel._cancel,
    methods.BasicQos: Channel._qos,
    methods.BasicRecover: Channel._recover,
    methods.BasicRecoverAsync: Channel._recover,
    methods.ConfirmSelect: Channel._confirm_select,
    methods.TxSelect: Channel._tx_select,
    methods.TxCommit: Channel._tx_commit,
    methods.TxRollback: Channel._tx_rollback,
    methods.ChannelFlow: Channel._flow,
    methods.AccessRequest: Channel._access,
    **dict.fromkeys(DECLARING, Channel._declaring),
}
