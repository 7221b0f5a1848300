"""`Channel`: the operations of one AMQP channel, as coroutines.

Every operation is one request queued in one step and one reply awaited; the state is the protocol's, and what a
channel shares with its consumers and publishers is its `ChannelLife`. What must stay true: as there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import anyio

from rabbitry._channel.confirmation import Confirmation
from rabbitry._channel.consumer import Consumer, consume_method
from rabbitry._channel.declaring import Declaring, QueueInfo
from rabbitry._channel.delivery import Delivery
from rabbitry._channel.life import ChannelLife
from rabbitry._channel.publisher import Publisher
from rabbitry._concurrency.waiting import GIVE_WAY, Waiter, checkpoint
from rabbitry._errors import LocalProtocolError, RabbitryError
from rabbitry._transport import Transport
from rabbitry._values.message import Message
from rabbitry._values.options import checked_prefetch
from rabbitry._values.topology import Exchange, Queue, name_of
from rabbitry.protocol.client.states import ChannelState, Mode
from rabbitry.protocol.wire import methods

__all__ = ["Channel", "QueueInfo", "life_of", "new_consumer"]

_OPEN = ChannelState.OPEN  # hot: to look up a member of an enum takes CPython 3.11 a third of a microsecond


class Channel(Declaring):
    """A channel, made by `connection.channel(...)` and open inside its `async with` block, which any task may enter
    or leave.

    All operations raise the `ChannelClosed` or `ConnectionClosed` that ended the channel, and `NotConnected` before it
    is open. Cancelling one before its request was queued means that nothing happened; later, its reply is swallowed
    and its effect undone where it would be left behind (a consumer, a message got, a server-named queue).
    """

    __slots__ = ("_calls",)

    def __init__(self, life: ChannelLife) -> None:
        super().__init__(life)
        self._calls = 0

    def __repr__(self) -> str:
        protocol = self._life.protocol
        if protocol is None:
            return "<Channel, not entered>"
        return f"<Channel {protocol.number} {protocol.state.value} of {self._life.endpoint.name!r}>"

    @property
    def is_open(self) -> bool:
        """True inside the block until the channel or its connection ends."""
        # hot: `life.is_open` without the call; a client asks for each message
        protocol = self._life.protocol
        return protocol is not None and protocol.state is _OPEN

    @property
    def number(self) -> int:
        """The channel's number on its connection."""
        return self._life.live.number

    def confirm_sizes(self) -> dict[int, int]:
        """How the broker confirmed what was published here: how many of its confirms answered so many publishes each,
        such as ``{1: 950, 7: 3}``. To be asked inside the block, or after it.
        """
        protocol = self._life.protocol
        return {} if protocol is None else protocol.confirms.sizes()

    # --- the block -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the channel. Cancelling it closes it again."""
        await self._life.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._life.close()

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
        queue bound), `Refused` (the broker ended the channel over this message), `OutcomeUnknown` (the channel ended
        first), `NotSent` (it ended over a message before this one), or the channel's end if it was over before.
        Cancelling it before the message was queued means: not sent; afterwards the outcome is unknown to the caller.
        """
        life = self._life
        if not life.endpoint.transport.scheduled:  # hot: so once a turn; who comes from another loop finds none
            life.endpoint.check_loop()
        self._calls = calls = self._calls + 1
        if calls & GIVE_WAY or (life.confirm and (protocol := life.protocol) is not None and protocol.state is _OPEN):
            await life.endpoint.checkpoint_if_cancelled()  # (waiting for a confirm gives way each time)
        else:
            await checkpoint()
        if type(exchange) is not str:
            exchange = name_of(exchange, Exchange)
        if life.confirm:
            confirmation = Confirmation(message, exchange, routing_key)
            while not life.queue_confirmed(message, confirmation, mandatory):
                await life.endpoint.wait_room()
            # hot: `await confirmation.wait()` without asking again which event loop runs, 1 us less
            if confirmation.outcome == "pending":
                await confirmation.told(life.endpoint.new_signal())
            confirmation.check()
        else:
            while not life.queue_plain(message, exchange, routing_key, mandatory):
                await life.wait_ready()

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
        life = self._life
        if type(exchange) is not str:
            exchange = name_of(exchange, Exchange)
        if life.confirm:
            confirmation = Confirmation(message, exchange, routing_key)
            if not life.queue_confirmed(message, confirmation, mandatory):
                raise anyio.WouldBlock
            return confirmation
        if not life.queue_plain(message, exchange, routing_key, mandatory):
            raise anyio.WouldBlock
        return None

    def _publish_nowait(
        self, message: Message | bytes, exchange: str | Exchange, routing_key: str, mandatory: bool
    ) -> tuple[Confirmation | None, Transport]:
        """`publish_nowait`, for who waits without a task, and where the confirm comes from."""
        confirmation = self.publish_nowait(message, exchange=exchange, routing_key=routing_key, mandatory=mandatory)
        return confirmation, self._life.endpoint.transport

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
        return Publisher(self._life, name_of(exchange, Exchange), window, on_outcome)

    # --- consuming -------------------------------------------------------------------------------------------------

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
        method = consume_method(
            name_of(queue, Queue),
            consumer_tag=consumer_tag,
            no_ack=no_ack,
            exclusive=exclusive,
            priority=priority,
            arguments=arguments,
        )
        return self._new_consumer(method, None if prefetch is None else checked_prefetch(prefetch))

    def _new_consumer(
        self,
        method: methods.BasicConsume,
        prefetch: int | None = None,
        *,
        on_arrival: Callable[[Delivery], None] | None = None,
        on_end: Callable[[RabbitryError | None], None] | None = None,
    ) -> Consumer:
        return Consumer(self._life, method, prefetch, on_arrival, on_end)

    async def get(self, queue: str | Queue, *, no_ack: bool = False) -> Delivery | None:
        """One message of the queue, or None if it is empty.

        Cancelled, a message that comes too late is put back; with `no_ack` it is kept for the next such get.
        """
        await self._life.endpoint.begin()
        protocol = self._life.live
        queue = name_of(queue, Queue)
        kept = protocol.take_kept(queue) if no_ack else None
        if kept is not None:
            assert isinstance(kept, Delivery)
            return kept
        waiter = Waiter()
        slot = protocol.get(methods.BasicGet(queue=queue, no_ack=no_ack), waiter)
        reply = await self._life.endpoint.reply(slot, waiter)
        if not isinstance(reply, Delivery) and no_ack:  # what a cancelled get was sent may have come just before
            reply = protocol.take_kept(queue)
        return reply if isinstance(reply, Delivery) else None

    async def qos(self, prefetch: int, *, shared: bool = False) -> None:
        """Set the prefetch of consumers started from now on; `shared=True`: one limit for the whole channel.

        `shared` is basic.qos's global flag, which RabbitMQ 4.0 deprecates; from 4.3 on, unless it is configured to
        permit it, the broker answers as ever and applies the limit to each consumer. Cancelled, it may have taken
        effect.
        """
        prefetch = checked_prefetch(prefetch)
        await self._life.endpoint.begin()
        waiter = Waiter()
        slot = self._life.live.request(methods.BasicQos(prefetch_count=prefetch, global_=shared), waiter)
        if shared:
            self._life.shared_prefetch = prefetch
        else:
            self._life.prefetch = self._life.prefetch_sent = prefetch
        await self._life.endpoint.reply(slot, waiter)

    async def recover(self, *, requeue: bool = True) -> None:
        """Have every delivery not settled yet put back and delivered again; those in hand become stale.

        Cancelled, it may have taken effect. `requeue=False` RabbitMQ refuses.
        """
        if not requeue:
            raise ValueError("RabbitMQ does not implement recover(requeue=False): only requeue=True")
        await self._life.endpoint.begin()
        waiter = Waiter()
        slot = self._life.live.recover(waiter)
        for consumer in self._life.live.consumers.values():
            consumer.token.drop_stale()  # (what comes until recover-ok is dropped then)
        await self._life.endpoint.reply(slot, waiter)

    async def flow(self, active: bool) -> None:
        """channel.flow: only `flow(True)` exists in RabbitMQ, and does nothing. To pause deliveries use `prefetch` or
        `stop`.

        Cancelling it changes nothing.
        """
        if not active:
            raise ValueError(
                "RabbitMQ does not implement flow(False): bound deliveries by prefetch, or stop the consumer"
            )
        await self._life.call(methods.ChannelFlow(active=True))

    # --- transactions ----------------------------------------------------------------------------------------------

    async def select_tx(self) -> None:
        """Put the channel into transaction mode: publishes and settlements take effect at `commit_tx`.

        Cancelled, the channel may be in transaction mode.
        """
        if self._life.confirm:
            raise LocalProtocolError("a confirm channel can't have transactions: open one with confirm=False")
        await self._life.call(methods.TxSelect())

    async def commit_tx(self) -> None:
        """Commit what was published and settled since the last commit. Cancelled, the outcome is unknown and the
        channel closes.
        """
        self._require_transaction()
        try:
            await self._life.call(methods.TxCommit())
        finally:
            self._life.endpoint.notify_changed()  # publishes that wait for it

    async def rollback_tx(self) -> None:
        """Undo it instead: published messages are gone, settled deliveries are unsettled again.

        Cancelled, it takes effect all the same.
        """
        self._require_transaction()
        await self._life.call(methods.TxRollback())

    def _require_transaction(self) -> None:
        if self._life.live.mode is not Mode.TRANSACTION:
            raise LocalProtocolError("the channel has no transaction: call select_tx() first")


def life_of(channel: Channel) -> ChannelLife:
    """What this library's other parts need of a channel beside its operations."""
    return channel._life


def new_consumer(
    channel: Channel,
    method: methods.BasicConsume,
    *,
    on_arrival: Callable[[Delivery], None] | None = None,
    on_end: Callable[[RabbitryError | None], None] | None = None,
) -> Consumer:
    """A consumer of the channel's kind, complete as it is: `on_arrival` is called with each delivery, `on_end` once
    with what ended it (None: it was stopped), both while reading.
    """
    return channel._new_consumer(method, None, on_arrival=on_arrival, on_end=on_end)
