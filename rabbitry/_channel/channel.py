"""`Channel`: the operations of one AMQP channel, as coroutines.

Every operation is one request queued in one step and one reply awaited; the state is the protocol's. What must stay
true: no state change straddles an `await`, and a checkpoint comes before the queueing, never after.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio

from rabbitry._channel.confirmation import Confirmation
from rabbitry._channel.consumer import Consumer, consume_arguments
from rabbitry._channel.delivery import Delivery
from rabbitry._channel.publisher import Publisher
from rabbitry._concurrency.waiting import GIVE_WAY, Waiter, checkpoint, checkpoint_if_cancelled
from rabbitry._endpoint import SEND_AHEAD, Endpoint
from rabbitry._errors import LocalProtocolError, NotConnected
from rabbitry._values.message import PERSISTENT_HEADER, Message, wire_properties
from rabbitry._values.topology import Entity, Exchange, Queue, in_order, name_of
from rabbitry.protocol.client.channel import ProtocolChannel
from rabbitry.protocol.client.states import ChannelState, Mode
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.methods import Method

if TYPE_CHECKING:
    from rabbitry._connection.connection import Connection

__all__ = ["Channel", "QueueInfo"]


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """What the broker says of a queue: its name, messages ready to be delivered, consumers."""

    name: str
    message_count: int
    consumer_count: int


class Channel:
    """A channel, made by `connection.channel(...)` and open inside its `async with` block, which any task may enter
    or leave.

    All operations raise the `ChannelClosed` or `ConnectionClosed` that ended the channel, and `NotConnected` before it
    is open. Cancelling one before its request was queued means that nothing happened; later, its reply is swallowed
    and its effect undone where it would be left behind (a consumer, a message got, a server-named queue).
    """

    __slots__ = ("_calls", "_confirm", "_connection", "_endpoint", "_prefetch", "_prefetch_sent", "_protocol")

    def __init__(self, connection: Connection, confirm: bool, prefetch: int) -> None:
        self._connection = connection
        self._endpoint: Endpoint = connection._endpoint
        self._confirm = confirm
        self._prefetch = _checked_prefetch(prefetch)
        self._prefetch_sent: int | None = None
        self._calls = 0
        self._protocol: ProtocolChannel | None = None

    def __repr__(self) -> str:
        if self._protocol is None:
            return "<Channel, not entered>"
        return f"<Channel {self._protocol.number} {self._protocol.state.value} of {self._endpoint.name!r}>"

    @property
    def _live(self) -> ProtocolChannel:
        if self._protocol is None:
            raise NotConnected("the channel is not open: enter it first, 'async with connection.channel() as channel'")
        return self._protocol

    @property
    def is_open(self) -> bool:
        """True inside the block until the channel or its connection ends."""
        return self._protocol is not None and self._protocol.state is ChannelState.OPEN

    @property
    def number(self) -> int:
        """The channel's number on its connection."""
        return self._live.number

    # --- the block -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the channel. Cancelling it closes it again."""
        if self._protocol is not None:
            raise LocalProtocolError("this channel was entered before: call connection.channel() again")
        await checkpoint_if_cancelled()
        waiter = Waiter()
        endpoint = self._endpoint
        self._protocol, slot = endpoint.protocol.open_channel(None if self._confirm else waiter)
        if self._confirm:  # both requests leave together: one round trip
            confirm = self._protocol.request(methods.ConfirmSelect(), waiter)
            try:
                await endpoint.reply(confirm, waiter)
            except BaseException:
                slot.abandon()
                endpoint.wrote_if_any()
                raise
        else:
            await endpoint.reply(slot, waiter)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        """Close with a handshake, shielded and bounded; the number is reused only after close-ok."""
        protocol, endpoint = self._protocol, self._endpoint
        if protocol is None or protocol.state is not ChannelState.OPEN:
            return  # and no checkpoint: a cancellation would mask the error in flight
        waiter = Waiter()
        protocol.close(waiter)
        endpoint.wrote_if_any()
        await endpoint.wait_answered(waiter)

    async def _call(self, method: Method) -> Any:
        """One request and its reply."""
        await checkpoint_if_cancelled()
        waiter = Waiter()
        slot = self._live.request(method, waiter)
        return await self._endpoint.reply(slot, waiter)

    # --- publishing ------------------------------------------------------------------------------------------------

    async def publish(
        self,
        message: Message | bytes,
        *,
        exchange: str | Exchange = "",
        routing_key: str = "",
        mandatory: bool = False,
    ) -> None:
        """Publish; return once the broker confirmed, on a channel with `confirm=False` once it is queued.

        Waits while the connection is blocked or its buffers are full. Raises `Nacked`, `Unroutable` (mandatory, and no
        queue bound), `OutcomeUnknown` (the channel ended first), `NotSent`, or the channel's end if it was over before.
        Cancelling it before the message was queued means: not sent; afterwards the outcome is unknown to the caller.
        """
        self._calls += 1
        if self._calls & GIVE_WAY or (self._confirm and self.is_open):
            await self._endpoint.checkpoint_if_cancelled()  # (waiting for a confirm gives way each time)
        else:
            await checkpoint()
        if type(exchange) is not str:
            exchange = name_of(exchange)
        if self._confirm:
            confirmation = Confirmation(message, exchange, routing_key)
            while not self._queue_confirmed(confirmation, mandatory):
                await self._endpoint.wait_room()
            # hot: `await confirmation.wait()` without asking again which event loop runs, 1 us less
            if confirmation.outcome == "pending":
                await confirmation.told(self._endpoint.new_signal())
            confirmation.check()
        else:
            while not self._queue_plain(message, exchange, routing_key, mandatory):
                if self._live.is_committing:
                    await self._endpoint.wait_changed()
                else:
                    await self._endpoint.wait_room()

    def publish_nowait(
        self,
        message: Message | bytes,
        *,
        exchange: str | Exchange = "",
        routing_key: str = "",
        mandatory: bool = False,
    ) -> Confirmation | None:
        """Queue a message, or raise `anyio.WouldBlock` when `publish` would have to wait. Not a coroutine.

        Gives a `Confirmation` on a confirm channel, else None. A loop of these never lets other tasks run: on
        `WouldBlock`, `await publish` the message.
        """
        if type(exchange) is not str:
            exchange = name_of(exchange)
        if self._confirm:
            confirmation = Confirmation(message, exchange, routing_key)
            if not self._queue_confirmed(confirmation, mandatory):
                raise anyio.WouldBlock
            return confirmation
        if not self._queue_plain(message, exchange, routing_key, mandatory):
            raise anyio.WouldBlock
        return None

    def _queue_plain(self, message: Message | bytes, exchange: str, routing_key: str, mandatory: bool) -> bool:
        """Queue without confirm; False if there is no room."""
        protocol, endpoint = self._protocol, self._endpoint
        if protocol is None or mandatory:
            self._refuse_publish(mandatory)
            return False
        if (
            endpoint.blocked_reason is not None or endpoint.protocol.out_size >= SEND_AHEAD
        ) and not endpoint.make_room():
            protocol.check_open()
            return False
        if protocol.held is not None:  # a commit is under way
            return False
        if type(message) is bytes:
            protocol.publish(PERSISTENT_HEADER, message, exchange, routing_key, False)
        else:
            message = _checked_message(message)
            protocol.publish(
                message._encoded or message.encoded_properties(), message.body, exchange, routing_key, False
            )
        transport = endpoint.transport
        if not transport.scheduled:
            transport.send_now()
        return True

    def _queue_confirmed(self, confirmation: Confirmation, mandatory: bool) -> bool:
        """Queue with confirm; False if there is no room."""
        protocol, endpoint = self._protocol or self._live, self._endpoint
        if (
            endpoint.blocked_reason is not None or endpoint.protocol.out_size >= SEND_AHEAD
        ) and not endpoint.make_room():
            protocol.check_open()
            return False
        message = confirmation.message
        exchange, routing_key = confirmation.exchange, confirmation.routing_key
        if mandatory:
            message = message if isinstance(message, Message) else Message(message)
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
        transport = endpoint.transport
        if not transport.scheduled:
            transport.send_now()
        if endpoint.transport.is_reading_paused:
            endpoint.wrote()
        return True

    def _refuse_publish(self, mandatory: bool) -> None:
        self._live.check_open()
        if mandatory:
            raise LocalProtocolError(
                "mandatory needs a channel with confirm=True: without confirms nobody learns of a return"
            )

    def publisher(
        self,
        *,
        exchange: str | Exchange = "",
        window: int = 1000,
        on_outcome: Callable[[Confirmation], None] | None = None,
    ) -> Publisher:
        """A `Publisher` with up to `window` unconfirmed messages; `on_outcome` is called with each `Confirmation` as
        it ends.

        `on_outcome` runs while the connection is being read: it must be quick, and not raise.
        """
        return Publisher(self, name_of(exchange), window, on_outcome)

    @property
    def _unconfirmed(self) -> int:
        """Publishes whose outcome is not known yet."""
        return len(self._live.confirms.pending)

    def _require_confirms(self, what: str) -> None:
        self._live.check_open()
        if not self._confirm:
            raise LocalProtocolError(f"{what} needs a channel opened with confirm=True")

    # --- consuming -------------------------------------------------------------------------------------------------

    def _observed(self, handler: Callable[[Delivery], Awaitable[Any]]) -> Callable[[Delivery], Awaitable[Any]]:
        """What to run for each delivery: an instrumented channel has something around the handler."""
        return handler

    def consume(
        self,
        queue: str | Queue,
        *,
        prefetch: int | None = None,
        no_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str = "",
        priority: int | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Consumer:
        """A `Consumer` of `queue`: `async with channel.consume("jobs") as deliveries: async for delivery in
        deliveries`.

        `prefetch` (0 to 65,535; the channel's unless given) bounds the deliveries not settled yet; 0 means unlimited.
        `no_ack` deliveries count as settled when they were sent. `exclusive`: no other consumer may have the queue.
        `priority` is RabbitMQ's consumer priority. The consumer tag is made here unless given.
        """
        name = name_of(queue)
        method = methods.BasicConsume(
            queue=name,
            consumer_tag=consumer_tag or f"rabbitry-{secrets.token_hex(8)}",
            no_ack=no_ack,
            exclusive=exclusive,
            arguments=consume_arguments(arguments, priority),
        )
        return Consumer(self, name, method, None if prefetch is None else _checked_prefetch(prefetch))

    async def get(self, queue: str | Queue, *, no_ack: bool = False) -> Delivery | None:
        """One message of the queue, or None if it is empty.

        Cancelled, a message that comes too late is put back; with `no_ack` it is kept for the next such get.
        """
        await checkpoint_if_cancelled()
        protocol = self._live
        queue = name_of(queue)
        kept = protocol.take_kept(queue) if no_ack else None
        if kept is not None:
            assert isinstance(kept, Delivery)
            return kept
        waiter = Waiter()
        slot = protocol.get(methods.BasicGet(queue=queue, no_ack=no_ack), waiter)
        reply = await self._endpoint.reply(slot, waiter)
        return reply if isinstance(reply, Delivery) else None

    async def qos(self, prefetch: int, *, shared: bool = False) -> None:
        """Set the prefetch of consumers started from now on; `shared=True`: one limit for the whole channel.

        `shared` is basic.qos's global flag, which RabbitMQ 4.0 deprecates; from 4.3 on, unless it is configured to
        permit it, the broker answers as ever and applies the limit to each consumer. Cancelled, it may have taken
        effect.
        """
        prefetch = _checked_prefetch(prefetch)
        await checkpoint_if_cancelled()
        waiter = Waiter()
        slot = self._live.request(methods.BasicQos(prefetch_count=prefetch, global_=shared), waiter)
        if not shared:
            self._prefetch = self._prefetch_sent = prefetch
        await self._endpoint.reply(slot, waiter)

    def _set_prefetch(self, prefetch: int | None) -> None:
        """Queue basic.qos if the next consumer needs another value; nobody waits for its reply."""
        wanted = self._prefetch if prefetch is None else prefetch
        if wanted != (self._prefetch_sent or 0):
            self._live.request(methods.BasicQos(prefetch_count=wanted), None)
            self._prefetch_sent = wanted

    async def recover(self, *, requeue: bool = True) -> None:
        """Have every delivery not settled yet put back and delivered again; those in hand become stale.

        Cancelled, it may have taken effect. `requeue=False` RabbitMQ refuses.
        """
        if not requeue:
            raise LocalProtocolError("RabbitMQ does not implement recover(requeue=False): only requeue=True")
        await checkpoint_if_cancelled()
        waiter = Waiter()
        slot = self._live.recover(waiter)
        for consumer in self._live.consumers.values():
            consumer.token.drop_stale()  # (what comes until recover-ok is dropped then)
        await self._endpoint.reply(slot, waiter)

    async def flow(self, active: bool) -> None:
        """channel.flow: only `flow(True)` exists in RabbitMQ, and does nothing. To pause deliveries use `prefetch` or
        `stop`.

        Cancelling it changes nothing.
        """
        if not active:
            raise LocalProtocolError(
                "RabbitMQ does not implement flow(False): bound deliveries by prefetch, or stop the consumer"
            )
        await self._call(methods.ChannelFlow(active=True))

    # --- exchanges -------------------------------------------------------------------------------------------------

    async def declare(self, *entities: Entity) -> None:
        """Declare these values, each of which may exist already as it is: exchanges, then queues, then bindings.

        Raises as `declare_queue`; cancelled or failed, some may have been declared.
        """
        for entity in in_order(entities):
            reply = await self._call(entity.declaration())
            if isinstance(entity, Queue):
                entity.declared_as(reply.queue)

    async def declare_exchange(
        self,
        exchange: str,
        type: str = "direct",
        *,
        durable: bool = True,
        auto_delete: bool = False,
        internal: bool = False,
        passive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Declare an exchange: "direct", "fanout", "topic", "headers" or a plugin's type. `passive` only checks that
        it exists.

        `PreconditionFailed` if it exists otherwise, `NotFound` if passive and missing. Cancelled, it may have been
        declared.
        """
        await self._call(
            methods.ExchangeDeclare(
                exchange=exchange,
                type=type,
                passive=passive,
                durable=durable,
                auto_delete=auto_delete,
                internal=internal,
                arguments=dict(arguments or {}),
            )
        )

    async def delete_exchange(self, exchange: str | Exchange, *, if_unused: bool = False) -> None:
        """Delete an exchange; one that does not exist is fine. Cancelled, it may have been deleted."""
        await self._call(methods.ExchangeDelete(exchange=name_of(exchange), if_unused=if_unused))

    async def bind_exchange(
        self,
        destination: str | Exchange,
        source: str | Exchange,
        routing_key: str = "",
        *,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Have `source` pass matching messages on to `destination`. Cancelled, it may have been bound."""
        await self._call(
            methods.ExchangeBind(
                destination=name_of(destination),
                source=name_of(source),
                routing_key=routing_key,
                arguments=dict(arguments or {}),
            )
        )

    async def unbind_exchange(
        self,
        destination: str | Exchange,
        source: str | Exchange,
        routing_key: str = "",
        *,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Remove a binding between exchanges. Cancelled, it may have been removed."""
        await self._call(
            methods.ExchangeUnbind(
                destination=name_of(destination),
                source=name_of(source),
                routing_key=routing_key,
                arguments=dict(arguments or {}),
            )
        )

    # --- queues ----------------------------------------------------------------------------------------------------

    async def declare_queue(
        self,
        queue: str = "",
        *,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> QueueInfo:
        """Declare a queue; "" has the broker choose a name. `passive` only checks that it exists.

        `PreconditionFailed` if it exists otherwise, `ResourceLocked` if it is another connection's exclusive one,
        `NotFound` if passive and missing. Cancelled, it may have been declared; a server-named one is deleted again.
        """
        reply = await self._call(
            methods.QueueDeclare(
                queue=queue,
                passive=passive,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                arguments=dict(arguments or {}),
            )
        )
        return QueueInfo(reply.queue, reply.message_count, reply.consumer_count)

    async def delete_queue(self, queue: str | Queue, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue (one that does not exist is fine) and return how many messages went with it.

        Cancelled, it may have been deleted.
        """
        reply = await self._call(methods.QueueDelete(queue=name_of(queue), if_unused=if_unused, if_empty=if_empty))
        count: int = reply.message_count
        return count

    async def purge_queue(self, queue: str | Queue) -> int:
        """Drop the messages ready in a queue and return how many there were. Cancelled, it may have been purged."""
        reply = await self._call(methods.QueuePurge(queue=name_of(queue)))
        count: int = reply.message_count
        return count

    async def bind_queue(
        self,
        queue: str | Queue,
        exchange: str | Exchange,
        routing_key: str = "",
        *,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Have `exchange` route matching messages to `queue`. Cancelled, it may have been bound."""
        await self._call(
            methods.QueueBind(
                queue=name_of(queue),
                exchange=name_of(exchange),
                routing_key=routing_key,
                arguments=dict(arguments or {}),
            )
        )

    async def unbind_queue(
        self,
        queue: str | Queue,
        exchange: str | Exchange,
        routing_key: str = "",
        *,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Remove a binding of a queue. Cancelled, it may have been removed."""
        await self._call(
            methods.QueueUnbind(
                queue=name_of(queue),
                exchange=name_of(exchange),
                routing_key=routing_key,
                arguments=dict(arguments or {}),
            )
        )

    # --- transactions ----------------------------------------------------------------------------------------------

    async def select_tx(self) -> None:
        """Put the channel into transaction mode: publishes and settlements take effect at `commit_tx`.

        Cancelled, the channel may be in transaction mode.
        """
        if self._confirm:
            raise LocalProtocolError("a confirm channel can't have transactions: open one with confirm=False")
        await self._call(methods.TxSelect())

    async def commit_tx(self) -> None:
        """Commit what was published and settled since the last commit. Cancelled, the outcome is unknown and the
        channel closes.
        """
        self._require_transaction()
        try:
            await self._call(methods.TxCommit())
        finally:
            self._endpoint.notify_changed()  # publishes that wait for it

    async def rollback_tx(self) -> None:
        """Undo it instead: published messages are gone, settled deliveries are unsettled again.

        Cancelled, it takes effect all the same.
        """
        self._require_transaction()
        await self._call(methods.TxRollback())

    def _require_transaction(self) -> None:
        if self._live.mode is not Mode.TRANSACTION:
            raise LocalProtocolError("the channel has no transaction: call select_tx() first")


def _checked_prefetch(prefetch: int) -> int:
    if not 0 <= prefetch <= 65535:
        raise LocalProtocolError(f"prefetch must be 0 (unlimited) to 65,535, not {prefetch}")
    return prefetch


def _checked_message(message: object) -> Message:
    """The message, or one made of a mutable body."""
    if isinstance(message, Message):
        return message
    return Message(message)  # type: ignore[arg-type]  # it refuses what is no body, with advice
