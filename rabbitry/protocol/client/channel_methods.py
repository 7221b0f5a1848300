"""What the broker says to a channel, and what that changes.

Three tables say what is legal when: unasked methods, those that still count after our close, and the replies that
change the channel's own state; everything else must answer a request. What must stay true: an illegal method raises
`RemoteProtocolError`, which ends the connection. Functions of a channel.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

from rabbitry._errors import CHANNEL_ERRORS, ChannelClosed, RemoteProtocolError
from rabbitry.protocol.client import events
from rabbitry.protocol.client.channel import ProtocolChannel, octets
from rabbitry.protocol.client.slots import Slot
from rabbitry.protocol.client.states import ChannelState, Mode
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.assembly import Assembly
from rabbitry.protocol.wire.constants import COMMAND_INVALID, FRAME_END, UNEXPECTED_FRAME
from rabbitry.protocol.wire.methods import Method, encode_method_frame

__all__ = ["receive_acks", "receive_channel_method"]

_unpack_ack = Struct(">QB").unpack_from
_ACK_SIZE = 21
"""Octets of a basic.ack's frame: a head of eleven, up to the method's id, the delivery tag, the bits and frame-end."""


def receive_channel_method(channel: ProtocolChannel, method: Method) -> None:
    """One method from the broker. Illegal ones raise `RemoteProtocolError`, which ends the connection."""
    if channel.assembly is not None:
        raise RemoteProtocolError(
            f"{method.name} on channel {channel.number} amid the content of another message", UNEXPECTED_FRAME
        )
    if channel.state is ChannelState.CLOSING:
        # After channel.close everything but close and close-ok is discarded (specification 1.5.2.5).
        handler = _CLOSING.get(type(method))
        if handler is not None:
            handler(channel, method)
        return
    handler = _UNASKED.get(type(method))
    if handler is not None:
        handler(channel, method)
    else:
        _on_reply(channel, method)


def _on_reply(channel: ProtocolChannel, method: Method) -> None:
    index = channel.slots.answered_by(method, channel.number)
    if method.has_content:
        channel.assembly = Assembly(method)
        return
    slot = channel.slots.pop(index)
    channel.connection.awaiting -= 1
    effect = _EFFECTS.get(type(method))
    if effect is not None:
        effect(channel, slot, method)
    channel.answer(slot, method)


def _on_open_ok(channel: ProtocolChannel, slot: Slot, method: Method) -> None:
    channel.state = ChannelState.OPEN


def _on_consume_ok(channel: ProtocolChannel, slot: Slot, method: Method) -> None:
    assert isinstance(slot.request, methods.BasicConsume)
    consumer = channel.consumers.get(octets(slot.request.consumer_tag))
    if consumer is not None:
        consumer.is_started = True
        if consumer.discard:  # abandoned or stopped meanwhile
            channel.request_cancel(consumer, consumer.canceller)


def _on_cancel_ok(channel: ProtocolChannel, slot: Slot, method: Method) -> None:
    assert isinstance(slot.request, methods.BasicCancel)
    channel.consumers.pop(octets(slot.request.consumer_tag), None)


def _on_confirm_ok(channel: ProtocolChannel, slot: Slot, method: Method) -> None:
    channel.mode = Mode.CONFIRM


def _on_tx_select_ok(channel: ProtocolChannel, slot: Slot, method: Method) -> None:
    channel.mode = Mode.TRANSACTION


def _on_commit_ok(channel: ProtocolChannel, slot: Slot, method: Method) -> None:
    channel.own_tags().finish_transaction()
    channel.release_held()


def _on_rollback_ok(channel: ProtocolChannel, slot: Slot, method: Method) -> None:
    for tag in channel.own_tags().rollback():
        if channel.is_outstanding(tag):  # not put back by a recover that is on its way
            channel.requeue(tag)


def _on_recover_ok(channel: ProtocolChannel, slot: Slot, method: Method) -> None:
    """The broker requeued every outstanding delivery, also those on their way since: all are stale."""
    if not any(isinstance(later.request, methods.BasicRecover) for later in channel.slots):
        channel.own_tags().finish_recover()
        consumers = [consumer.token for consumer in channel.consumers.values()]
        channel.connection.events.append(events.Recovered(channel.number, consumers))


def _on_declare_ok(channel: ProtocolChannel, slot: Slot, method: Method) -> None:
    if slot.abandoned:
        channel.undo_late(slot.request, method)


def _on_close(channel: ProtocolChannel, method: Method) -> None:
    assert isinstance(method, methods.ChannelClose)
    channel.connection.queue(encode_method_frame(channel.number, methods.ChannelCloseOk()))
    cls = CHANNEL_ERRORS.get(method.reply_code, ChannelClosed)
    channel.end(
        cls(
            method.reply_text,
            code=method.reply_code,
            method=methods.method_name(method.failing_class_id, method.failing_method_id),
        ),
        ChannelState.CLOSED,
    )
    channel.connection.release(channel)


def _on_close_while_closing(channel: ProtocolChannel, method: Method) -> None:
    """Both sides closed at once: answer, and wait on for the reply to ours, which frees the number."""
    channel.connection.queue_answer(encode_method_frame(channel.number, methods.ChannelCloseOk()))
    for slot in channel.slots:
        channel.answer(slot, method)
        slot.token = None


def _on_close_ok(channel: ProtocolChannel, method: Method) -> None:
    if not channel.slots:
        raise RemoteProtocolError(f"unexpected {method.name} on channel {channel.number}", COMMAND_INVALID)
    slot = channel.slots.pop()
    channel.connection.awaiting -= 1
    channel.answer(slot, method)
    channel.state = ChannelState.CLOSED
    channel.connection.release(channel)


def _on_ack(channel: ProtocolChannel, method: Method) -> None:
    assert isinstance(method, methods.BasicAck)
    settle_confirms(channel, method.delivery_tag, method.multiple, True)


def _on_nack(channel: ProtocolChannel, method: Method) -> None:
    assert isinstance(method, methods.BasicNack)
    settle_confirms(channel, method.delivery_tag, method.multiple, False)


def receive_acks(channel: ProtocolChannel, data: bytes, start: int) -> int:
    """The basic.ack whose whole frame is at `start`, and those of the same channel that follow it; where they end.

    hot: RabbitMQ confirms most publishes one by one, and many such frames come together: they are read without a
    `Method` object (0.6 us against 3), and told of as one, which takes a third less for each.
    """
    head, confirms = data[start : start + 11], channel.confirms
    pending, tokens, whole = confirms.pending, [], len(data) - _ACK_SIZE
    while True:
        tag, multiple = _unpack_ack(data, start + 11)
        start += _ACK_SIZE
        if multiple & 1:
            tokens += confirms.settle(tag, True)
        elif (token := pending.pop(tag, None)) is not None:
            confirms.singles += 1
            tokens.append(token)
        if start > whole or data[start : start + 11] != head or data[start + 20] != FRAME_END:
            break
    if tokens:
        channel.connection.awaiting -= len(tokens)
        channel.connection.events.append(events.Confirmed(tokens, True))
    return start


def settle_confirms(channel: ProtocolChannel, tag: int, multiple: bool, acked: bool) -> None:
    """The broker confirmed (or refused) a publish, or all up to it. Unknown tags are the broker's fault, and
    harmless.
    """
    tokens = channel.confirms.settle(tag, multiple)
    if not tokens:
        return
    channel.connection.awaiting -= len(tokens)
    channel.connection.events.append(events.Confirmed(tokens, acked))


def _on_broker_cancel(channel: ProtocolChannel, method: Method) -> None:
    assert isinstance(method, methods.BasicCancel)
    tag = octets(method.consumer_tag)
    consumer = channel.consumers.get(tag)
    if consumer is not None and not consumer.discard:  # else our cancel has crossed it, and cancel-ok follows
        del channel.consumers[tag]
        consumer.discard = True
        channel.connection.events.append(events.ConsumerCancelledByBroker(consumer.token))


def _on_flow(channel: ProtocolChannel, method: Method) -> None:
    """RabbitMQ never sends channel.flow (it blocks connections instead); answered, as the specification wants."""
    assert isinstance(method, methods.ChannelFlow)
    channel.flush_acks()
    channel.connection.queue_answer(encode_method_frame(channel.number, methods.ChannelFlowOk(active=method.active)))


def _on_content_method(channel: ProtocolChannel, method: Method) -> None:
    channel.assembly = Assembly(method)


_UNASKED: dict[type[Method], Callable[[ProtocolChannel, Any], None]] = {
    methods.BasicAck: _on_ack,
    methods.BasicNack: _on_nack,
    methods.BasicDeliver: _on_content_method,
    methods.BasicReturn: _on_content_method,
    methods.BasicCancel: _on_broker_cancel,
    methods.ChannelClose: _on_close,
    methods.ChannelFlow: _on_flow,
}
"""What the broker may send without being asked; everything else must answer a request."""

_CLOSING: dict[type[Method], Callable[[ProtocolChannel, Any], None]] = {
    methods.ChannelClose: _on_close_while_closing,
    methods.ChannelCloseOk: _on_close_ok,
}
"""What still counts after our channel.close."""

_EFFECTS: dict[type[Method], Callable[[ProtocolChannel, Slot, Method], None]] = {
    methods.ChannelOpenOk: _on_open_ok,
    methods.BasicConsumeOk: _on_consume_ok,
    methods.BasicCancelOk: _on_cancel_ok,
    methods.ConfirmSelectOk: _on_confirm_ok,
    methods.TxSelectOk: _on_tx_select_ok,
    methods.TxCommitOk: _on_commit_ok,
    methods.TxRollbackOk: _on_rollback_ok,
    methods.BasicRecoverOk: _on_recover_ok,
    methods.QueueDeclareOk: _on_declare_ok,
}
"""Replies that change the channel's own state, whether or not anybody waits for them."""
