"""`ChannelLife`: one channel from its opening to its end, and what those who share it need of it.

The channel's operations, its consumers, publishers and RPC are all given this, not one another. What must stay true:
no state change straddles an `await`, and a checkpoint comes before the queueing, never after; a message is queued
whole or not at all. Internal, so its names have no underscore.
"""

from __future__ import annotations

from typing import Any

from rabbitry._channel.confirmation import Confirmation
from rabbitry._concurrency.waiting import Waiter
from rabbitry._endpoint import SEND_AHEAD, Endpoint
from rabbitry._errors import LocalProtocolError, NotConnected
from rabbitry._values.message import PERSISTENT_HEADER, Message, wire_properties
from rabbitry._values.options import checked_prefetch
from rabbitry.protocol.client.channel import ProtocolChannel
from rabbitry.protocol.client.states import ChannelState
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.methods import Method

__all__ = ["ChannelLife"]

_OPEN = ChannelState.OPEN  # hot: to look up a member of an enum takes CPython 3.11 a third of a microsecond


class ChannelLife:
    """`protocol` is None until it is entered; `prefetch` is what a consumer has unless it asks for another, and
    `shared_prefetch` what all of them have together, 0 where that is unlimited.
    """

    __slots__ = ("confirm", "endpoint", "prefetch", "prefetch_sent", "protocol", "shared_prefetch")

    def __init__(self, endpoint: Endpoint, confirm: bool, prefetch: int) -> None:
        self.endpoint: Endpoint = endpoint
        self.confirm: bool = confirm
        self.prefetch: int = checked_prefetch(prefetch)
        self.prefetch_sent: int | None = None
        self.shared_prefetch: int = 0
        self.protocol: ProtocolChannel | None = None

    @property
    def live(self) -> ProtocolChannel:
        """The protocol's channel; `NotConnected` before there is one."""
        if self.protocol is None:
            raise NotConnected("the channel is not open: enter it first, 'async with connection.channel() as channel'")
        return self.protocol

    @property
    def is_open(self) -> bool:
        """True from when it is entered until the channel or its connection ends."""
        return self.protocol is not None and self.protocol.state is _OPEN

    # --- from one end to the other -----------------------------------------------------------------------------------

    async def enter(self) -> None:
        """Open the channel. Cancelling it closes it again."""
        if self.protocol is not None:
            raise LocalProtocolError("this channel was entered before: call connection.channel() again")
        endpoint = self.endpoint
        await endpoint.begin()
        waiter = Waiter()
        self.protocol, slot = endpoint.protocol.open_channel(None if self.confirm else waiter)
        if self.confirm:  # both requests leave together: one round trip
            confirm = self.protocol.request(methods.ConfirmSelect(), waiter)
            try:
                await endpoint.reply(confirm, waiter)
            except BaseException:
                slot.abandon()
                endpoint.wrote_if_any()
                raise
        else:
            await endpoint.reply(slot, waiter)

    async def close(self) -> None:
        """Close with a handshake, shielded and bounded; the number is reused only after close-ok."""
        protocol, endpoint = self.protocol, self.endpoint
        if protocol is None or protocol.state is not ChannelState.OPEN:
            return  # and no checkpoint: a cancellation would mask the error in flight
        endpoint.check_loop()
        waiter = Waiter()
        protocol.close(waiter)
        endpoint.wrote_if_any()
        await endpoint.wait_answered(waiter)

    async def call(self, method: Method) -> Any:
        """Send a request and return its reply. Cancelled, it may have taken effect."""
        await self.endpoint.begin()
        waiter = Waiter()
        slot = self.live.request(method, waiter)
        return await self.endpoint.reply(slot, waiter)

    def set_prefetch(self, prefetch: int | None) -> int:
        """Queue basic.qos if the next consumer needs another value; nobody waits for its reply. Gives the deliveries
        that the consumer may have unsettled, 0 where nothing bounds them.
        """
        wanted = self.prefetch if prefetch is None else prefetch
        if wanted != (self.prefetch_sent or 0):
            self.live.request(methods.BasicQos(prefetch_count=wanted), None)
            self.prefetch_sent = wanted
        return wanted or self.shared_prefetch

    # --- publishing --------------------------------------------------------------------------------------------------

    @property
    def unconfirmed(self) -> int:
        """Publishes whose outcome is not known yet."""
        return len(self.live.confirms.pending)

    def require_confirms(self, what: str) -> None:
        """Refuse `what` on a channel without confirms, or one that has ended."""
        self.live.check_open()
        if not self.confirm:
            raise LocalProtocolError(f"{what} needs a channel opened with confirm=True")

    async def publish(self, message: Message | bytes, confirmation: Confirmation, mandatory: bool) -> None:
        """Queue with confirm once there is room, and return when the broker confirmed; else raise as
        `Confirmation.wait`. The general way: `Channel.publish` does the same with fewer calls.
        """
        while not self.queue_confirmed(message, confirmation, mandatory):
            await self.endpoint.wait_room()
        await confirmation.wait()

    async def wait_ready(self) -> None:
        """Return when `queue_plain` may have room, or the channel has ended."""
        if self.live.is_committing:
            await self.endpoint.wait_changed()
        else:
            await self.endpoint.wait_room()

    # hot: both ask for the commonest types by `type(…) is`, which costs half of what `isinstance` does

    def queue_plain(self, message: Message | bytes, exchange: str, routing_key: str, mandatory: bool) -> bool:
        """Queue without confirm; False if there is no room."""
        protocol, endpoint = self.protocol, self.endpoint
        if protocol is None or mandatory:
            self.live.check_open()
            raise LocalProtocolError(
                "mandatory needs a channel with confirm=True: without confirms nobody learns of a return"
            )
        if (
            endpoint.blocked_reason is not None or endpoint.protocol.out_size >= SEND_AHEAD
        ) and not endpoint.make_room():
            protocol.check_open()
            return False
        if protocol.held is not None:  # a commit is under way
            return False
        transport = endpoint.transport
        if not transport.scheduled:
            endpoint.check_thread()
        if type(message) is bytes:
            protocol.publish(PERSISTENT_HEADER, message, exchange, routing_key, False)
        else:
            if type(message) is not Message:
                message = _checked_message(message)
            protocol.publish(
                message._encoded or message.encoded_properties(), message.body, exchange, routing_key, False
            )
        if not transport.scheduled:
            transport.send_now()
        return True

    def queue_confirmed(self, message: Message | bytes, confirmation: Confirmation, mandatory: bool) -> bool:
        """Queue with confirm; False if there is no room. `message` is what is sent, which need not be the
        `confirmation`'s: that has what the user published.
        """
        protocol, endpoint = self.protocol or self.live, self.endpoint
        if (
            endpoint.blocked_reason is not None or endpoint.protocol.out_size >= SEND_AHEAD
        ) and not endpoint.make_room():
            protocol.check_open()
            return False
        transport = endpoint.transport
        if not transport.scheduled:
            endpoint.check_thread()
        exchange, routing_key = confirmation.exchange, confirmation.routing_key
        if mandatory:
            message = _checked_message(message)
            protocol.publish_mandatory(wire_properties(message), message.body, exchange, routing_key, confirmation)
        elif type(message) is bytes:
            protocol.publish(PERSISTENT_HEADER, message, exchange, routing_key, False, confirmation)
        else:
            if type(message) is not Message:
                message = _checked_message(message)
            protocol.publish(
                message._encoded or message.encoded_properties(),
                message.body,
                exchange,
                routing_key,
                False,
                confirmation,
            )
        if not transport.scheduled:
            transport.send_now()
        if endpoint.transport.is_reading_paused:
            endpoint.wrote()
        return True


def _checked_message(message: object) -> Message:
    """The message, or one made of a body that is bytes or mutable."""
    if isinstance(message, Message):
        return message
    return Message(message)  # type: ignore[arg-type]  # it refuses what is no body, with advice
