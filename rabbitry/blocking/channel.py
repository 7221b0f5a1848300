"""`Channel`: the operations of one AMQP channel, as calls that wait.

What must stay true: each does what the coroutine of the same name does, takes what it takes and `timeout`, and raises
what it raises; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, overload

import rabbitry
from rabbitry import Exchange, Message, NotConnected, Queue, QueueInfo
from rabbitry._values.options import checked_prefetch
from rabbitry._values.topology import Entity
from rabbitry.blocking.block import Block
from rabbitry.blocking.consumer import Consumer
from rabbitry.blocking.delivery import Delivery
from rabbitry.blocking.portal import Portal, Timeout
from rabbitry.blocking.publisher import OnOutcome, Publisher, with_portal
from rabbitry.blocking.publishing import ByKey, Several, publish_all, unconfirmed, with_keys
from rabbitry.blocking.sending import Queued

__all__ = ["Channel", "put_back"]

T = TypeVar("T")


class Channel(Block[rabbitry.Channel]):
    """A channel, open inside its `with` block; made by `connection.channel(...)` or `client.channel(...)`.

    Each operation is the async one of the same name, with `timeout`: when it is up, the operation is cancelled, with
    what cancelling that one means, and `TimeoutError` is raised.
    """

    _what = "the channel"
    _call = "channel()"

    def __init__(
        self,
        portal: Portal,
        make: Callable[[], AbstractAsyncContextManager[rabbitry.Channel]],
        confirm: bool,
        prefetch: int,
        timeout: Timeout,
    ) -> None:
        super().__init__(portal, make, timeout)
        self._confirm = confirm
        self._prefetch = checked_prefetch(prefetch)

    @property
    def _channel(self) -> rabbitry.Channel:
        if self._entered is None:
            raise NotConnected("the channel is not open: enter it first, 'with connection.channel() as channel'")
        return self._entered

    @property
    def is_open(self) -> bool:
        """True inside the block until the channel or its connection ends."""
        return self._entered is not None and self._entered.is_open and not self._portal.is_forked

    @property
    def number(self) -> int:
        """The channel's number on its connection."""
        return self._channel.number

    def _run(self, function: Callable[[], Awaitable[T]], timeout: Timeout) -> T:
        return self._portal.run(function, timeout)

    # --- publishing ---------------------------------------------------------------------------------------------------

    def publish(
        self,
        message: Message | bytes,
        *,
        exchange: str | Exchange = "",
        routing_key: str = "",
        mandatory: bool = False,
        timeout: Timeout = None,
    ) -> None:
        """Publish; return once the broker confirmed, on a channel with `confirm=False` once it is queued.

        Many messages are published much faster by `publish_many`.
        """
        channel = self._channel

        def publish() -> Awaitable[None]:
            return channel.publish(message, exchange=exchange, routing_key=routing_key, mandatory=mandatory)

        def queue() -> Queued | None:
            if type(channel) is not rabbitry.Channel:  # an instrumented one
                return None
            return *channel._publish_nowait(message, exchange, routing_key, mandatory), None

        self._portal.send(queue, publish, timeout)

    @overload
    def publish_many(
        self,
        messages: Several,
        *,
        routing_key: str = ...,
        exchange: str | Exchange = ...,
        mandatory: bool = ...,
        window: int = ...,
        timeout: Timeout = ...,
    ) -> int: ...

    @overload
    def publish_many(
        self,
        messages: ByKey,
        *,
        exchange: str | Exchange = ...,
        mandatory: bool = ...,
        window: int = ...,
        timeout: Timeout = ...,
    ) -> int: ...

    def publish_many(
        self,
        messages: Several | ByKey,
        *,
        routing_key: str | None = None,
        exchange: str | Exchange = "",
        mandatory: bool = False,
        window: int = 1000,
        timeout: Timeout = None,
    ) -> int:
        """Publish an iterable of messages to `routing_key`, or a mapping of routing keys, each to a message or to
        several; return how many there were, once all are confirmed (with `confirm=False`: queued).

        Up to `window` are under way at once. Raises `PublishesFailed`, which lists those that failed, or the channel's
        end. Timed out or interrupted, some may have arrived.
        """
        keyed, channel = with_keys(messages, routing_key), self._channel
        if self._confirm:
            return publish_all(
                self._portal, lambda: channel.publisher(window=window), keyed, exchange, mandatory, timeout
            )
        return publish_all(self._portal, lambda: unconfirmed(channel), keyed, exchange, mandatory, timeout)

    def publisher(
        self,
        *,
        exchange: str | Exchange = "",
        window: int = 1000,
        on_outcome: OnOutcome | None = None,
        timeout: Timeout = None,
    ) -> Publisher:
        """A `Publisher` with up to `window` unconfirmed messages, to be entered, which `timeout` bounds; `on_outcome`
        is called with each `Confirmation` as it ends.

        The event loop calls `on_outcome`, in any thread: it must be quick, not raise, and not wait for the broker.
        """
        channel, told = self._channel, with_portal(on_outcome, self._portal)
        return Publisher(
            self._portal,
            lambda: channel.publisher(exchange=exchange, window=window, on_outcome=told),
            timeout,
            exchange=exchange,
            window=window,
            on_outcome=told,
        )

    # --- consuming ----------------------------------------------------------------------------------------------------

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
        inactivity_timeout: Timeout = None,
        timeout: Timeout = None,
    ) -> Consumer:
        """A `Consumer` of `queue`: `with channel.consume("jobs") as deliveries: for delivery in deliveries`.

        Iteration ends when nothing came for `inactivity_timeout` (None: it waits). `timeout` is for entering.
        """
        channel = self._channel
        return Consumer(
            self._portal,
            lambda: channel.consume(
                queue,
                prefetch=prefetch,
                no_ack=no_ack,
                exclusive=exclusive,
                consumer_tag=consumer_tag,
                priority=priority,
                arguments=arguments,
            ),
            self._prefetch if prefetch is None else prefetch,
            inactivity_timeout,
            timeout,
        )

    def get(self, queue: str | Queue, *, no_ack: bool = False, timeout: Timeout = None) -> Delivery | None:
        """One message of the queue, or None if it is empty."""
        delivery = self._portal.run(lambda: self._channel.get(queue, no_ack=no_ack), timeout, undo=put_back)
        return None if delivery is None else Delivery(delivery, self._portal)

    def qos(self, prefetch: int, *, shared: bool = False, timeout: Timeout = None) -> None:
        """Set the prefetch of consumers started from now on; `shared=True`: one limit for the whole channel."""
        self._run(lambda: self._channel.qos(prefetch, shared=shared), timeout)

    def recover(self, *, requeue: bool = True, timeout: Timeout = None) -> None:
        """Have every delivery not settled yet put back and delivered again; those in hand become stale."""
        self._run(lambda: self._channel.recover(requeue=requeue), timeout)

    def flow(self, active: bool, *, timeout: Timeout = None) -> None:
        """channel.flow: only `flow(True)` exists in RabbitMQ, and does nothing."""
        self._run(lambda: self._channel.flow(active), timeout)

    def declare(self, *entities: Entity, timeout: Timeout = None) -> None:
        """Declare these values, each of which may exist already as it is: exchanges, then queues, then bindings."""
        self._run(lambda: self._channel.declare(*entities), timeout)

    def declare_exchange(
        self,
        exchange: str,
        type: str = "direct",
        *,
        durable: bool = True,
        auto_delete: bool = False,
        internal: bool = False,
        passive: bool = False,
        arguments: Mapping[str, Any] | None = None,
        timeout: Timeout = None,
    ) -> None:
        """Declare an exchange: "direct", "fanout", "topic", "headers" or a plugin's type. `passive` only checks that
        it exists.
        """
        self._run(
            lambda: self._channel.declare_exchange(
                exchange,
                type,
                durable=durable,
                auto_delete=auto_delete,
                internal=internal,
                passive=passive,
                arguments=arguments,
            ),
            timeout,
        )

    def delete_exchange(self, exchange: str | Exchange, *, if_unused: bool = False, timeout: Timeout = None) -> None:
        """Delete an exchange; one that does not exist is fine. Timed out, it may have been deleted."""
        self._run(lambda: self._channel.delete_exchange(exchange, if_unused=if_unused), timeout)

    def bind_exchange(
        self,
        destination: str | Exchange,
        source: str | Exchange,
        routing_key: str = "",
        *,
        arguments: Mapping[str, Any] | None = None,
        timeout: Timeout = None,
    ) -> None:
        """Have `source` pass matching messages on to `destination`. Timed out, it may have been bound."""
        self._run(lambda: self._channel.bind_exchange(destination, source, routing_key, arguments=arguments), timeout)

    def unbind_exchange(
        self,
        destination: str | Exchange,
        source: str | Exchange,
        routing_key: str = "",
        *,
        arguments: Mapping[str, Any] | None = None,
        timeout: Timeout = None,
    ) -> None:
        """Remove a binding between exchanges. Timed out, it may have been removed."""
        self._run(lambda: self._channel.unbind_exchange(destination, source, routing_key, arguments=arguments), timeout)

    def declare_queue(
        self,
        queue: str = "",
        *,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Mapping[str, Any] | None = None,
        timeout: Timeout = None,
    ) -> QueueInfo:
        """Declare a queue; "" has the broker choose a name. `passive` only checks that it exists."""
        return self._run(
            lambda: self._channel.declare_queue(
                queue,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                passive=passive,
                arguments=arguments,
            ),
            timeout,
        )

    def delete_queue(
        self, queue: str | Queue, *, if_unused: bool = False, if_empty: bool = False, timeout: Timeout = None
    ) -> int:
        """Delete a queue (one that does not exist is fine) and return how many messages went with it."""
        return self._run(lambda: self._channel.delete_queue(queue, if_unused=if_unused, if_empty=if_empty), timeout)

    def purge_queue(self, queue: str | Queue, *, timeout: Timeout = None) -> int:
        """Drop the messages ready in a queue and return how many there were. Timed out, it may have been purged."""
        return self._run(lambda: self._channel.purge_queue(queue), timeout)

    def bind_queue(
        self,
        queue: str | Queue,
        exchange: str | Exchange,
        routing_key: str = "",
        *,
        arguments: Mapping[str, Any] | None = None,
        timeout: Timeout = None,
    ) -> None:
        """Have `exchange` route matching messages to `queue`. Timed out, it may have been bound."""
        self._run(lambda: self._channel.bind_queue(queue, exchange, routing_key, arguments=arguments), timeout)

    def unbind_queue(
        self,
        queue: str | Queue,
        exchange: str | Exchange,
        routing_key: str = "",
        *,
        arguments: Mapping[str, Any] | None = None,
        timeout: Timeout = None,
    ) -> None:
        """Remove a binding of a queue. Timed out, it may have been removed."""
        self._run(lambda: self._channel.unbind_queue(queue, exchange, routing_key, arguments=arguments), timeout)

    def select_tx(self, *, timeout: Timeout = None) -> None:
        """Put the channel into transaction mode: publishes and settlements take effect at `commit_tx`."""
        self._run(lambda: self._channel.select_tx(), timeout)

    def commit_tx(self, *, timeout: Timeout = None) -> None:
        """Commit what was published and settled since the last commit. Timed out, the outcome is unknown and the
        channel closes.
        """
        self._run(lambda: self._channel.commit_tx(), timeout)

    def rollback_tx(self, *, timeout: Timeout = None) -> None:
        """Undo what a commit would make final: published messages are gone, settled deliveries are unsettled again."""
        self._run(lambda: self._channel.rollback_tx(), timeout)


def put_back(delivery: rabbitry.Delivery | None) -> None:
    """Undo a `get` that was interrupted: the delivery goes back into its queue."""
    if delivery is not None and not delivery.is_settled and not delivery.is_stale:
        delivery.nack()
