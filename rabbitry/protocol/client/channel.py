"""One channel: its state, the requests and publishes that this side makes, and what undoes them.

What must stay true: a request's slot stays in the order of replies until its reply came, also when nobody waits for it
any more; a message's frames and its publish tag are made in one step; after the end nothing more is queued. Its base in
`settling` queues the frames, `channel_methods` and `messages` are what the broker says. May not know tasks, time or
sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rabbitry._errors import ChannelClosed, LocalProtocolError, NotConnected, RabbitryError, RemoteProtocolError
from rabbitry.protocol.client import events
from rabbitry.protocol.client.content import PUBLISH_TAG_HEADER, Content
from rabbitry.protocol.client.delivery_tags import NO_TAGS
from rabbitry.protocol.client.life import ConnectionLife
from rabbitry.protocol.client.publish_tags import PublishTags
from rabbitry.protocol.client.settling import Settling
from rabbitry.protocol.client.slots import Slot, Slots
from rabbitry.protocol.client.states import ChannelState, Mode
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.assembly import Assembly
from rabbitry.protocol.wire.constants import FRAME_OVERHEAD, REPLY_SUCCESS, SYNTAX_ERROR
from rabbitry.protocol.wire.framing import message_frames
from rabbitry.protocol.wire.methods import Method, encode_method_frame
from rabbitry.protocol.wire.properties import Properties, encode_properties

__all__ = [
    "ProtocolChannel",
    "ProtocolConsumer",
    "method_frame",
    "octets",
]

_HEADS_KEPT = 256
"""Encoded basic.publish frames kept per channel, one for each (exchange, routing key, mandatory) lately used."""

_OPEN = ChannelState.OPEN  # hot: see `connection`


class ProtocolConsumer:
    """A consumer's entry in its channel. `discard` sends what still arrives back to the queue.

    `is_started` once consume-ok has come; until then a cancel is put off, and with it who waits for cancel-ok.
    """

    __slots__ = ("canceller", "consumer_tag", "discard", "is_started", "no_ack", "token")

    def __init__(self, consumer_tag: bytes, no_ack: bool, token: Any) -> None:
        self.consumer_tag: bytes = consumer_tag
        self.no_ack: bool = no_ack
        self.token: Any = token
        self.discard: bool = False
        self.is_started: bool = False
        self.canceller: Any = None


class ProtocolChannel(Settling):
    """One channel as a client sees it: its requests, consumers and publishes; `Settling` adds acknowledgements.

    Made by `ProtocolConnection.open_channel`. Tokens are the caller's, and come back with the events they belong to.
    """

    __slots__ = (
        "_heads",
        "_kept",
        "assembly",
        "confirms",
        "consumers",
        "mode",
        "on_return",
        "slots",
        "state",
    )

    error: RabbitryError | None

    def __init__(self, connection: ConnectionLife[Any], number: int) -> None:
        super().__init__(connection, number)
        self.state: ChannelState = ChannelState.OPENING
        self.mode: Mode = Mode.PLAIN
        # Takes what basic.return brings and no publish of this channel claims: (code, text, content).
        self.on_return: Callable[[int, str, Content], None] | None = None
        self.slots: Slots = Slots()
        self.consumers: dict[bytes, ProtocolConsumer] = {}
        # What abandoned `get(no_ack=True)`s received too late, by queue.
        self._kept: dict[str, list[Content]] | None = None
        # Publishes.
        self.confirms: PublishTags = PublishTags()
        self._heads: dict[tuple[str, str, bool], bytes] = {}
        # The message being received in pieces, None between messages.
        self.assembly: Assembly | None = None

    # --- requests ----------------------------------------------------------------------------------------------------

    def request(self, method: Method, token: Any) -> Slot:
        """Queue a synchronous method and take its place in the order of replies."""
        self.check_open()
        slot = Slot(self, method, token)
        frame = method_frame(self.number, method, self.connection.body_max)  # may refuse: before anything changes
        self.slots.append(slot)
        self.connection.awaiting += 1
        if isinstance(method, methods.ChannelClose):
            self.drop_held()  # close alone may overtake what waits for a commit
        self.queue(frame)
        if method.class_id == methods.TxSelect.class_id:
            self.mark_transaction(method)
        return slot

    def send(self, method: Method) -> None:
        """Queue a method that has no reply."""
        self.check_open()
        self.queue(method_frame(self.number, method, self.connection.body_max))

    def mark_transaction(self, method: Method) -> None:
        """What is settled after this request belongs to the next transaction, whenever the reply comes."""
        tags = self.own_tags()
        if tags.transaction is None:
            tags.transaction = []
        if not isinstance(method, methods.TxSelect):
            tags.transaction.append(0)

    def answer(self, slot: Slot, reply: Any) -> None:
        """Pass a reply on to whoever waits for it."""
        if slot.token is not None:
            self.connection.events.append(events.Replied(slot.token, reply))

    def check_open(self) -> None:
        """Raise why the channel can't be used, unless it can."""
        if self.state is not ChannelState.OPEN and self.state is not ChannelState.OPENING:
            raise self.end_error()

    def end_error(self) -> RabbitryError:
        """Why the channel can't be used, as a fresh exception."""
        if self.error is None:
            return NotConnected("the channel is not open yet")
        return self.error.copy()

    # --- closing -----------------------------------------------------------------------------------------------------

    def close(self, token: Any) -> Slot | None:
        """Queue channel.close. The number is free again only after close-ok. None if the channel has ended already."""
        if self.state in (ChannelState.CLOSED, ChannelState.CLOSING):
            return None
        slot = self.request(
            methods.ChannelClose(
                reply_code=REPLY_SUCCESS, reply_text="closed by the client", failing_class_id=0, failing_method_id=0
            ),
            token,
        )
        self.end(ChannelClosed("the channel was closed by this program"), ChannelState.CLOSING, keep=slot)
        return slot

    def end(
        self,
        error: RabbitryError,
        state: ChannelState,
        keep: Slot | None = None,
        unsent: int = 0,
        is_alone: bool = True,
    ) -> None:
        """Everything that waits learns the cause; the last `unsent` publishes never left. It `is_alone` where no other
        channel with publishes ends by the same.
        """
        if self.state is ChannelState.CLOSED:
            return
        if self.error is None:
            self.error = error
        waiting = [slot.token for slot in self.slots if slot is not keep and slot.token is not None]
        self.connection.awaiting -= len(self.slots) - (keep is not None) + len(self.confirms.pending)
        self.slots = Slots([keep] if keep is not None else [])
        self.drop_held()
        consumers = [consumer.token for consumer in self.consumers.values()]
        put_off = (each.canceller for each in self.consumers.values() if not each.is_started)
        waiting += [canceller for canceller in put_off if canceller is not None]
        self.consumers = {}
        unknown, never_sent = self.confirms.take_all(unsent)
        if self.tags is not NO_TAGS:
            self.tags.end()
        self.assembly = None
        self.on_return = None
        first = self.state is not ChannelState.CLOSING
        self.state = state
        if first:
            ended = events.ChannelEnded(self.number, self.error, waiting, consumers, unknown, never_sent, is_alone)
            self.connection.events.append(ended)
        elif waiting:
            self.connection.events.append(events.ChannelEnded(self.number, self.error, waiting, [], [], []))

    @property
    def is_publishing(self) -> bool:
        """Whether publishes still wait for their confirm."""
        return bool(self.confirms.pending)

    def connection_ended(self, error: RabbitryError, unsent: int, is_alone: bool) -> None:
        """The connection has ended, by `error`, and this channel with it; the last `unsent` publishes never left."""
        self.end(error, ChannelState.CLOSED, unsent=unsent, is_alone=is_alone)

    # --- undoing -----------------------------------------------------------------------------------------------------

    def undo(self, request: Method) -> None:
        """Take back what an abandoned request asks for, where that can't wait for its reply."""
        if self.state is not ChannelState.OPEN and self.state is not ChannelState.OPENING:
            return
        undo = _UNDO_NOW.get(type(request))
        if undo is not None:
            undo(self, request)

    def undo_late(self, request: Method, reply: Any) -> None:
        """Take back what an abandoned request did, now that its reply is here."""
        if self.state is not ChannelState.OPEN:
            return
        if isinstance(request, methods.BasicGet) and isinstance(reply, Content):
            if not request.no_ack:
                if self.is_outstanding(reply.delivery_tag):
                    self.nack(reply.delivery_tag, True)
                return
            if self._kept is None:
                self._kept = {}
            self._kept.setdefault(request.queue, []).append(reply)
        elif isinstance(request, methods.QueueDeclare) and not request.queue and not request.passive:
            # nobody will ever learn the name the broker chose
            try:
                self.send(methods.QueueDelete(queue=reply.queue, if_unused=True, if_empty=True, nowait=True))
            except ValueError:
                raise RemoteProtocolError(f"the broker named a queue {reply.queue!r}", SYNTAX_ERROR) from None

    def _undo_consume(self, request: Method) -> None:
        assert isinstance(request, methods.BasicConsume)
        consumer = self.consumers.get(octets(request.consumer_tag))
        if consumer is not None:
            self.cancel(consumer, None)

    def _undo_by_closing(self, request: Method) -> None:
        slot = self.close(None)
        if slot is not None:
            slot.abandoned = True

    # --- consuming ---------------------------------------------------------------------------------------------------

    def consume(self, method: methods.BasicConsume, token: Any, waiter: Any) -> tuple[ProtocolConsumer, Slot]:
        """Queue basic.consume. Deliveries may arrive before the reply is looked at, so the consumer is known from
        here on.
        """
        try:
            tag = octets(method.consumer_tag)
        except AttributeError:
            raise TypeError(f"a consumer tag is text, not {method.consumer_tag!r}") from None
        except UnicodeEncodeError:
            raise ValueError(f"a consumer tag is text that UTF-8 can represent, not {method.consumer_tag!r}") from None
        if not tag or tag in self.consumers:
            raise LocalProtocolError(f"consumer tag {method.consumer_tag!r} is already in use on this channel")
        slot = self.request(method, waiter)
        self.own_tags()
        consumer = self.consumers[tag] = ProtocolConsumer(tag, method.no_ack, token)
        return consumer, slot

    def cancel(self, consumer: ProtocolConsumer, waiter: Any) -> Slot | None:
        """Queue basic.cancel; what still arrives for the consumer goes back to the queue. None if it has ended
        already, or has not started: then it is queued later, and `waiter` told.
        """
        if consumer.discard or self.consumers.get(consumer.consumer_tag) is not consumer:
            return None
        consumer.discard = True
        if not consumer.is_started:
            # RabbitMQ 3.10 crashes (541) where a cancel overtakes consume-ok in its channel: it is sent then.
            consumer.canceller = waiter
            return None
        return self.request_cancel(consumer, waiter)

    def request_cancel(self, consumer: ProtocolConsumer, waiter: Any) -> Slot:
        """Queue basic.cancel for a consumer that has started; nobody awaits the reply where `waiter` is None."""
        tag = consumer.consumer_tag.decode("utf-8", "surrogateescape")
        slot = self.request(methods.BasicCancel(consumer_tag=tag, nowait=False), waiter)
        slot.abandoned = waiter is None
        return slot

    def get(self, method: methods.BasicGet, waiter: Any) -> Slot:
        """Queue basic.get; the reply is a `Content`, or the method basic.get-empty."""
        slot = self.request(method, waiter)
        self.own_tags()
        return slot

    def recover(self, token: Any) -> Slot:
        """Queue basic.recover(requeue=True): everything outstanding becomes stale now."""
        slot = self.request(methods.BasicRecover(requeue=True), token)
        self.own_tags().start_recover()
        return slot

    def take_kept(self, queue: str) -> Content | None:
        """A message that an abandoned `get(no_ack=True)` of this queue received too late: the next get has it."""
        if self._kept is None or queue not in self._kept:
            return None
        kept = self._kept[queue]
        content = kept.pop(0)
        if not kept:
            del self._kept[queue]
        return content

    @property
    def is_at_rest(self) -> bool:
        """Whether closing it loses nothing: no request is under way, nothing unsettled, and nothing kept for a get."""
        return not (self.slots or self.tags.outstanding or self._kept)

    # --- publishing --------------------------------------------------------------------------------------------------

    def publish(
        self, properties: bytes, body: bytes, exchange: str, routing_key: str, mandatory: bool, token: Any = None
    ) -> None:
        """Queue one message, whole. On a confirm channel its outcome comes as an event that carries `token`.

        `properties` are the encoded content properties. Mandatory messages on a confirm channel must come through
        `publish_mandatory`, which marks them so that a return can be matched.
        """
        if self.state is not _OPEN:
            raise self.end_error()
        try:
            head = self._heads[exchange, routing_key, mandatory]
        except (KeyError, TypeError):  # (what can't be a key is refused there)
            head = self._publish_head(exchange, routing_key, mandatory)
        if self.tags.pending or self.tags.requeued:
            self.flush_acks()
        connection = self.connection
        frame = message_frames(self.number, head, properties, body, connection.body_max)
        if token is not None:
            # hot: `confirms.add` without the call
            confirms = self.confirms
            confirms.pending[confirms.following] = token
            confirms.following += 1
            connection.awaiting += 1
        elif self.mode is Mode.CONFIRM:
            raise LocalProtocolError("a publish on a confirm channel needs a token: the broker counts it")
        if self.held is not None:  # behind a commit
            self.append(frame)
            return
        # hot: `queue` without the call
        connection.out.append(frame)
        connection.out_size += len(frame)

    def publish_mandatory(self, source: Any, body: bytes, exchange: str, routing_key: str, token: Any) -> None:
        """Publish on a confirm channel with the header that lets a basic.return be matched to this publish."""
        marked = Properties(**{name: getattr(source, name) for name in Properties.__slots__})
        marked.headers = {**(marked.headers or {}), PUBLISH_TAG_HEADER: self.confirms.mark()}
        self.publish(encode_properties(marked), body, exchange, routing_key, True, token)

    def _publish_head(self, exchange: str, routing_key: str, mandatory: bool) -> bytes:
        method = methods.BasicPublish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
        head = encode_method_frame(self.number, method)
        if len(self._heads) >= _HEADS_KEPT:
            self._heads.clear()
        self._heads[exchange, routing_key, mandatory] = head
        return head


def method_frame(number: int, method: Method, payload_max: int) -> bytes:
    """A method's frame. Only content can be cut into several (specification 4.2.6), so its size is checked here."""
    frame = encode_method_frame(number, method)
    if len(frame) - FRAME_OVERHEAD > payload_max:
        raise ValueError(f"{method.name}: its {len(frame)} bytes exceed frame_max ({payload_max + FRAME_OVERHEAD})")
    return frame


def octets(name: str) -> bytes:
    """A name as it stands on the wire."""
    return name.encode("utf-8", "surrogateescape")


_UNDO_NOW: dict[type[Method], Callable[[ProtocolChannel, Method], None]] = {
    methods.ChannelOpen: ProtocolChannel._undo_by_closing,
    methods.BasicConsume: ProtocolChannel._undo_consume,
    methods.TxCommit: ProtocolChannel._undo_by_closing,
}
"""Abandoned requests whose effect is taken back at once; a get's and a declare's wait for the late reply."""
