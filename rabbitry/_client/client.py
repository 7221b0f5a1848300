"""`Client`: publishing, consuming, RPC and topology that span reconnects. What belongs to one life stays in it.

What must stay true: two connections, so that a blocked publisher never stops what is consumed; topology is declared on
the consuming connection, and put back there before that life is handed out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from functools import partial
from signal import Signals
from typing import Any, ClassVar, Unpack

import anyio
from anyio.abc import TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream

from rabbitry._channel.channel import Channel, QueueInfo, life_of
from rabbitry._channel.confirmation import Confirmation
from rabbitry._channel.delivery import Delivery, DeliveryHandler, OnError
from rabbitry._client.changes import Change
from rabbitry._client.delays import Delays
from rabbitry._client.getting import Getting, purge
from rabbitry._client.handlers import STREAM_HAS_NO_RETRY, OnStale, Processing, asynchronous
from rabbitry._client.outcomes import Attempts, check_policies, in_a_life
from rabbitry._client.publisher import ClientPublisher
from rabbitry._client.readiness import blocked_reason_of, state_of, wait_ready
from rabbitry._client.replies import ClientReplies
from rabbitry._client.retrying import Retrying
from rabbitry._client.rpc import ClientRPC, opened
from rabbitry._client.running import Running
from rabbitry._client.senders import Send, Senders, open_channel
from rabbitry._client.subscription import Subscription
from rabbitry._concurrency.waiting import call_soon_from_anywhere, checkpoint_if_cancelled
from rabbitry._connection.connection import Connection
from rabbitry._errors import Closed, ConnectionClosed, LocalProtocolError, NotFound, PublishFailed, RabbitryError
from rabbitry._rpc.answering import Answering, Handler
from rabbitry._rpc.destinations import Destinations
from rabbitry._rpc.requests import RequestCounts
from rabbitry._transport import Transport
from rabbitry._values import converting
from rabbitry._values.annotations import typed
from rabbitry._values.arguments import merged, stream_filter, table_of
from rabbitry._values.codecs import Codec
from rabbitry._values.converting import Convert
from rabbitry._values.durations import seconds
from rabbitry._values.message import Message
from rabbitry._values.nothing import NOTHING
from rabbitry._values.options import (
    CLOCK_SKEW,
    ConsumeOptions,
    Offset,
    OnUnknown,
    ReplyTo,
    ReplyToAllowed,
    State,
    WhileDown,
    check_on_outcome,
    check_options,
    check_window,
    checked_prefetch,
)
from rabbitry._values.retry import Retry, checked_delay
from rabbitry._values.signals import FirstSignal
from rabbitry._values.stopping import Stop, told
from rabbitry._values.topology import Entity, Exchange, Queue, in_order, name_of

__all__ = ["Client"]


class Client:
    """Made by `open_client`, usable by any task inside its block."""

    __slots__ = (
        "_consuming",
        "_delays",
        "_getting",
        "_publishing",
        "_registry",
        "_requests",
        "_running",
        "_senders",
        "_while_down",
    )

    _publisher_type: ClassVar[type[ClientPublisher]] = ClientPublisher

    def __init__(self, running: Running, while_down: WhileDown) -> None:
        self._running = running
        self._publishing = running.publishing
        self._consuming = running.consuming
        self._registry = running.registry
        self._senders = Senders(running.publishing)
        self._while_down: WhileDown = while_down
        self._delays: Delays | None = None  # made with the first
        self._requests = RequestCounts()
        self._getting: Getting | None = None

    def __repr__(self) -> str:
        return f"<Client publishing={self._publishing.state} consuming={self._consuming.state}>"

    # --- publishing ---------------------------------------------------------------------------------------------------

    async def publish(
        self,
        message: Message | bytes,
        *,
        exchange: str | Exchange = "",
        routing_key: str = "",
        mandatory: bool = False,
        delay: float | timedelta | None = None,
        while_down: WhileDown | None = None,
        on_unknown: OnUnknown = "raise",
    ) -> None:
        """Publish, and return once the broker confirmed.

        While the connection is down it waits, or with `while_down="fail"` raises `NotConnected`. A message that was
        certainly not taken is sent again: it had not left when the connection ended, or came behind one that the broker
        refused. For one that was under way it raises `OutcomeUnknown`, or with `on_unknown="republish"` sends it again:
        it arrives at least once, so there may be duplicates. While the broker has blocked the connection it waits, too,
        or raises `ConnectionBlocked`. Otherwise raises as `Channel.publish`, and cancelling means the same.

        With a `delay` (seconds or timedelta, to 48 days) the broker holds the message so long, and up to a tenth longer
        (50 ms at least), and then routes it as if it was published then. The queue that the routing key means, or the
        exchange, must exist now: else it raises `Unroutable`, or `Refused`. `mandatory`, and the message's own
        `expiration`, are `ValueError`s then; what a user may not declare raises `AccessRefused`. The guide "Consuming",
        "Try again later", says what becomes of what.
        """
        if delay is not None:
            return await self._publish_later(
                message, exchange, routing_key, mandatory, delay, while_down or self._while_down, on_unknown
            )
        if type(exchange) is not str:
            exchange = name_of(exchange, Exchange)
        policy = while_down or self._while_down
        if on_unknown != "raise" or policy != "wait":
            check_policies(policy, on_unknown)
        attempts = None
        channel = self._senders.ready(exchange)
        # hot: the first attempt, with which nearly all are done, without the calls that `Senders.publish` takes
        if channel is not None and (policy == "wait" or life_of(channel).endpoint.blocked_reason is None):
            try:
                return await channel.publish(message, exchange=exchange, routing_key=routing_key, mandatory=mandatory)
            except (PublishFailed, Closed) as error:
                attempts = self._attempts_after(error, channel, on_unknown)
        send = _sending(message, exchange, routing_key, mandatory)
        await self._senders.publish(send, exchange, policy, attempts or self._senders.attempts(on_unknown))

    def _attempts_after(self, error: RabbitryError, channel: Channel, on_unknown: OnUnknown) -> Attempts:
        """The attempts of a message whose first one, on this channel, has failed so; raises that where it is final."""
        attempts = self._senders.attempts(on_unknown)
        if not self._senders.may_go_on(attempts, channel, error):
            raise error
        return attempts

    def _publish_nowait(
        self,
        message: Message | bytes,
        exchange: str | Exchange,
        routing_key: str,
        mandatory: bool,
        delay: float | timedelta | None,
        while_down: WhileDown | None,
        on_unknown: OnUnknown,
    ) -> tuple[Confirmation, Transport, Callable[[RabbitryError], Awaitable[None]]] | None:
        """What `publish` does with nearly all messages, for who waits without a task: queue the first attempt. Its
        confirmation, where that comes from, and what goes on where it fails, or raises that; None, or an error, where
        nothing was queued: then it is `publish` that does it, or raises.
        """
        if delay is not None:
            return None
        if type(exchange) is not str:
            exchange = name_of(exchange, Exchange)
        if on_unknown != "raise" or while_down is not None:
            check_policies(while_down or "wait", on_unknown)
        channel = self._senders.ready(exchange)
        if type(channel) is not Channel:  # none, or an instrumented one
            return None
        life = life_of(channel)
        confirmation = Confirmation(message, exchange, routing_key)
        if not life.queue_confirmed(message, confirmation, mandatory):
            return None

        async def go_on(error: RabbitryError) -> None:
            attempts = self._attempts_after(error, channel, on_unknown)
            send = _sending(message, exchange, routing_key, mandatory)
            await self._senders.publish(send, exchange, while_down or self._while_down, attempts)

        return confirmation, life.endpoint.transport, go_on

    async def _publish_later(
        self,
        message: Message | bytes,
        exchange: str | Exchange,
        routing_key: str,
        mandatory: bool,
        delay: float | timedelta,
        while_down: WhileDown,
        on_unknown: OnUnknown,
    ) -> None:
        if not checked_delay(delay):
            return await self.publish(
                message,
                exchange=exchange,
                routing_key=routing_key,
                mandatory=mandatory,
                while_down=while_down,
                on_unknown=on_unknown,
            )
        await self._have_delays().publish(
            message,
            delay,
            exchange=name_of(exchange, Exchange),
            routing_key=routing_key,
            mandatory=mandatory,
            while_down=while_down,
            on_unknown=on_unknown,
        )

    async def _publish_after(
        self,
        before: Callable[[], Awaitable[None]] | None,
        message: Message | bytes,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        while_down: WhileDown,
        on_unknown: OnUnknown,
    ) -> None:
        """Publish, and await `before` ahead of each attempt, in the life that it is made in."""
        send = _sending(message, exchange, routing_key, mandatory)
        await self._senders.publish(send, exchange, while_down, self._senders.attempts(on_unknown), before)

    def _have_delays(self) -> Delays:
        if self._delays is None:
            self._delays = Delays(self._publish_after, self._publishing)
        return self._delays

    @asynccontextmanager
    async def publisher(
        self,
        *,
        exchange: str | Exchange = "",
        window: int = 1000,
        on_outcome: Callable[[Confirmation], None] | None = None,
        while_down: WhileDown | None = None,
        on_unknown: OnUnknown = "raise",
    ) -> AsyncIterator[ClientPublisher]:
        """`async with client.publisher() as publisher`: a `Publisher` through all lives, with a channel of its own.

        `window`, `on_outcome` as for `Channel.publisher`; `while_down` and `on_unknown` as for `publish`. Entering
        waits for a connection.
        """
        policy, name = while_down or self._while_down, name_of(exchange, Exchange)
        check_policies(policy, on_unknown)
        check_window(window)
        check_on_outcome(on_outcome)
        channel = await open_channel(self._publishing, policy)
        publisher = self._publisher_type(
            life_of(channel), self._publishing, name, window, on_outcome, policy, on_unknown
        )
        async with self._running.publishers.opened(publisher):
            yield publisher

    # --- consuming ----------------------------------------------------------------------------------------------------

    def consume(
        self,
        queue: str | Queue,
        *,
        prefetch: int = 100,
        no_ack: bool = False,
        exclusive: bool = False,
        priority: int | None = None,
        consumer_tag: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        offset: Offset | None = None,
        filter: str | Sequence[str] | Set[str] | None = None,
        match_unfiltered: bool = False,
    ) -> Subscription:
        """A `Subscription`: `async with client.consume("jobs") as deliveries: async for delivery in deliveries`.

        `prefetch`, `no_ack`, `exclusive`, `priority` as for `Channel.consume`. `consumer_tag` (1 to 255 bytes; one is
        made unless given) is the consumer's name at the broker in each life, and one subscription's at a time. `offset`
        is where to begin in a stream: "first", "last" (its last chunk), "next" (what comes from now on, the default),
        an offset, a datetime, or a timedelta into the past; after a loss it goes on at the first delivery not settled.
        `TypeError` or `ValueError` for what is none of these, or where the queue is known to be no stream.

        `filter` is of streams, too, from RabbitMQ 3.13 on: only chunks that hold messages published with one of these
        values in their header "x-stream-filter-value" come, and with `match_unfiltered` also those without. A chunk
        comes whole, and the broker may err towards too much: look at the header of what comes. 3.10 silently ignores
        it; on another queue newer ones refuse it.

        Without a bound (`prefetch=0` or `no_ack`), what is not iterated in time stops the reading of all that this
        client consumes.
        """
        return self._subscription(
            queue,
            prefetch=prefetch,
            no_ack=no_ack,
            exclusive=exclusive,
            priority=priority,
            consumer_tag=consumer_tag,
            arguments=arguments,
            offset=offset,
            filter=filter,
            match_unfiltered=match_unfiltered,
        )

    async def get(self, queue: str | Queue, *, no_ack: bool = False) -> Delivery | None:
        """One message of the queue; None if it is empty. It is settled as any delivery, for as long as the connection
        lives that it came on; then the broker puts it back, and settling it raises `StaleDelivery`.

        It waits for a connection, and asks again in the next life where that is lost meanwhile. Raises as
        `Channel.get`, `ConnectionClosed` where the queue is a stream, and `ConsumingStopped` after `stop_consuming()`.
        Cancelled, a message that comes too late is put back. With `no_ack=True` the broker forgets a message as it
        sends it: one that comes too late is the next such get's of this queue, one that was under way as the
        connection was lost is lost. To take more than a few, `consume` or `process` cost a tenth.
        """
        if self._getting is None:
            self._getting = Getting(self._consuming, self._registry, self._running.subscriptions)
        return await self._getting.get(queue, no_ack)

    async def process(
        self,
        queue: str | Queue,
        handler: Callable[..., Any],
        *,
        concurrency: int = 1,
        prefetch: int | None = None,
        on_error: OnError = "requeue",
        retry: Retry | None = None,
        on_stale: OnStale = "finish",
        drain: float | timedelta = 0.0,
        convert: Convert | None = None,
        stop: Stop | None = None,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
        **options: Unpack[ConsumeOptions],
    ) -> None:
        """Run `await handler(delivery)` for each delivery, up to `concurrency` at once, until stopped or cancelled.

        A handler that is no coroutine function runs in a worker thread, up to `concurrency` of them; what it returns is
        awaited in the event loop if that can be (a lambda may return what a coroutine function gave), and from then on
        the handler is called there, too. It is not abandoned: cancelling waits for it to return
        (`anyio.from_thread.check_cancelled()` in it raises then). It settles its delivery by returning or raising. What
        else it needs of the client it calls by way of the event loop, `anyio.from_thread.run(client.publish, b"…")` or
        `anyio.from_thread.run_sync(delivery.reject)`: called there as it is, `delivery.reject()` raises
        `LocalProtocolError` where that is noticed.

        A delivery is settled by how its handler ends, as `delivery.process(on_error)` does: acknowledged when it
        returns, put back when it is cancelled; what it settled itself stays so. What is put back for an error
        ("requeue") and was redelivered before is put back after a pause, of 0.1 s at first and 30 s in the end; it
        occupies no worker meanwhile, and goes back at once when this ends. With `on_error="raise"` its error ends this,
        and is raised. A stream takes nothing back: there `on_error` must be "reject", which goes on with the next
        message, or "raise". `on_stale="cancel"` cancels the handlers of deliveries that a lost connection has made
        stale; else they finish, and what the broker delivers again of them waits for that. `prefetch` (0 to 65,535) is
        2 × concurrency unless given, and then rises while handlers are quicker than a round trip; `options` are those
        of `consume`. With `no_ack=True` there is nothing to settle: what was sent to a handler is gone, whatever
        becomes of it.

        With `convert` the handler gets what the body stands for instead: `handler(payload)`, or `handler(payload,
        delivery)` where it has a second parameter without a default, or one named "delivery". The body is decoded by
        its content type (`delivery.decode()`), and is what the first parameter's annotation says, by
        `convert(annotation, value)`: `rabbitry.convert` knows dataclasses, datetimes, enums and the like, and
        `lambda annotation, value: msgspec.convert(value, annotation)` whatever msgspec does. What can't be decoded or
        converted fails with a `DecodeError`, by `on_error`, but is rejected where that is "requeue", as it would never
        fit: dead-lettered where the queue says so, else dropped. A function `on_error` decides.

        After `stop.set()` or `client.stop_consuming()`, or when the queue is gone, the handlers at work finish, and
        then it returns or raises; begun after `stop_consuming()`, it raises `ConsumingStopped`. Cancelled, or when a
        handler's error ends it, it takes no more deliveries, and the handlers at work have `drain` seconds (0 unless
        given) to finish before they are cancelled, too. In a nursery, `await tg.start(client.process, queue, handler)`
        returns once it consumes. Raises `TypeError` for what can't be a handler.

        With `retry`, a `Retry`, a message that its handler fails on waits at the broker, for one delay after the other,
        and comes again, to whoever processes the queue then; its handler reads which attempt it is in
        `delivery.attempt`. After the last it goes to the dead queue. Each time it is acknowledged once its copy is
        confirmed: it is never lost, and may come twice where a connection was lost meanwhile, or this was cancelled.
        What can't be handed over stays unacknowledged, occupies its worker, and is tried again after 0.1 to 5 s. It
        can't be had with another `on_error`, `no_ack`, a stream or an exclusive queue (`ValueError`), nor without the
        dead queue (`NotFound`) or the permissions to declare (`AccessRefused`), as this raises when it begins.
        """
        check_options(options, ConsumeOptions, "Client.process")
        if convert is not None:
            handler = typed(handler, convert)
        processing = Processing(
            self._observed(asynchronous(handler, concurrency)),
            concurrency=concurrency,
            prefetch=prefetch,
            on_error=on_error,
            on_stale=on_stale,
            drain=seconds(drain),
            retrying=None if retry is None else self._retrying(queue, retry, options),
        )
        subscription = self._subscription(queue, prefetch=processing.prefetch, on_loss=processing.on_loss, **options)
        with self._running.at_work(), told(stop, subscription.stop):
            await processing.run(subscription, task_status)

    def stop_consuming(self) -> None:
        """Take no more deliveries, for good: the way to end on SIGTERM. Not a coroutine; awaiting it is harmless.

        Consumers are cancelled at the broker and what no handler took goes back. Handlers at work finish, and may
        publish; then `process` and `serve` return, and iterators end. Nothing that consuming takes is waited for any
        more: `declare`, `delete` and `inspect` raise `ConsumingStopped` while the consuming connection is down, also
        those that wait for it now, and so does what would consume later. To end one `process` or `serve` alone, give it
        a `Stop`.
        """
        self._publishing.check_thread()
        self._running.stop_consuming()
        return NOTHING  # type: ignore[no-any-return]

    def stop_on(self, *signals: int) -> AbstractContextManager[None, bool]:
        """`with client.stop_on(signal.SIGTERM, signal.SIGINT): await client.process(…)`: the first of these signals
        (these two unless given) calls `stop_consuming()`, and each one after it does what it did before the block:
        SIGTERM ends the program, SIGINT raises `KeyboardInterrupt`, as a rule. The `ConsumingStopped` of what
        would wait for a broker in order to consume then ends the block, and goes no further. A plain `with`, under
        asyncio and trio.

        `LocalProtocolError` in another thread than the main one, in which Python handles signals; `TypeError`,
        `ValueError` for what is no signal, or can't be handled. Leaving the block gives each signal back to what
        handled it before. Of blocks inside each other one signal stops all the clients. What a program gave to
        `loop.add_signal_handler` is called by asyncio all the same, at the first signal, too.
        It is for programs of their own: a web server that handles these signals to end would not hear of the first; in
        its application, call `stop_consuming()` where that ends.
        """
        self._publishing.check_loop()
        call_soon = call_soon_from_anywhere()

        def heed(number: Signals) -> None:
            with suppress(RuntimeError):  # the event loop has ended
                call_soon(partial(self._running.stop_for, number.name))

        return FirstSignal(signals, heed)

    # --- RPC ----------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def rpc(
        self,
        *,
        codec: str | Codec = "msgpack",
        reply_to: ReplyTo = "direct",
        while_down: WhileDown | None = None,
    ) -> AsyncIterator[ClientRPC]:
        """`async with client.rpc() as rpc: await rpc.call("double", 21)`: a `ClientRPC`.

        Payloads are in `codec`: "msgpack", "json", "text", "raw", or a `Codec`; replies are decoded by their content
        type. `reply_to` is the way of the replies: "direct" (RabbitMQ's direct reply-to, which needs no queue),
        "exclusive" (a queue of its own), or an `Exchange`, which is declared, and to which such a queue is bound with a
        key unique to this RPC; a new queue in each life. A server that does not list that exchange in its
        `reply_exchanges` replies to the queue.

        Where a reply queue was created once for each exchange that requests go to, keep one RPC for all of them, which
        does just that: each exchange that is called through it has one channel and, with "exclusive", one reply queue,
        from the first call on:

            async with client.rpc(reply_to="exclusive") as rpc:
                with anyio.fail_after(timeout):
                    reply = await rpc.call(routing_key, body, exchange=exchange, raw=True)
        """
        rpc = ClientRPC(self._publishing, codec, while_down or self._while_down, reply_to)
        async with opened(rpc):
            yield rpc

    async def serve(
        self,
        queue: str | Queue,
        handler: Handler,
        *,
        concurrency: int = 10,
        prefetch: int | None = None,
        codec: str | Codec = "msgpack",
        raw: bool = False,
        send_traceback: bool = False,
        clock_skew: float | None = CLOCK_SKEW,
        drain: float | timedelta = 0.0,
        consumer_tag: str | None = None,
        stop: Stop | None = None,
        reply_exchanges: Collection[str | Exchange] = (),
        reply_to_allowed: ReplyToAllowed = "any",
        expected_errors: tuple[type[Exception], ...] = (),
        convert: Convert | None = converting.convert,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer the requests in `queue` with `await handler(payload)`, up to `concurrency` at once, until stopped or
        cancelled.

        `raw=True` passes the `Delivery` instead. A `Service`, or a list of functions, is called by the name in the
        request. A handler that is no coroutine function runs in a worker thread, up to `concurrency` of them. It is not
        abandoned: its deadline, or cancelling, waits for it to return (`anyio.from_thread.check_cancelled()` in it
        raises then). A handler's exception goes to the caller as `RemoteError`, with its traceback if `send_traceback`.
        It is logged as an error, with its traceback, unless it is one of the classes in `expected_errors`: those are
        answers as any, told at level DEBUG.

        The payload is what the handler's parameter is annotated with, by `convert(annotation, value)`:
        `rabbitry.convert` unless given, which knows dataclasses, datetimes, enums and the like. One that does not fit
        is answered by a `DecodeError`, and the handler is not called. Without an annotation, or with `Any`, and with
        `convert=None`, it is as it was decoded. A `Service` has a `convert` of its own. `TypeError` for an annotation
        that can't be evaluated, or that `rabbitry.convert` makes nothing of. A result may be a dataclass, or have them
        in it.

        Requests are decoded by `codec` and nothing else. One that says it is of another content type, or is compressed,
        is answered by a `DecodeError`; serve with `raw=True` and use `delivery.decode()` to take several.

        The reply goes where the request says, and it is this server that publishes it: a caller might reach places
        where it could not publish itself. An exchange that a request names (`rpc(reply_to=Exchange(…))`) is one of
        `reply_exchanges`, or the reply goes to the queue. `reply_to_allowed` says which queues it may go to, beside the
        addresses of direct reply-to: "any" (the default, as there are callers with all kinds of queues), "generated",
        those that the broker has named, or a function that is given the name and returns whether it may. A request that
        asks for another is rejected, and counted as refused, without being worked on; so is one that is larger than
        `max_message_size`.

        A request whose caller's time is up is not begun, and its handler is cancelled when it is; both are counted
        (`statistics`), without a reply. The caller tells the time it has left, which counts from the request's arrival
        here, and the moment of its deadline, which ends it `clock_skew` seconds later by this machine's clock (0.5
        unless given; None where clocks are further apart), whichever is first. A request that comes from the future by
        more than that shows that the clocks differ, and its moment is not used.

        Replies leave on the publishing connection, in this life or the next. A request is acknowledged once its reply
        is confirmed or can't be delivered, which is counted, and rejected where it can't be answered, or asks for no
        answer and its handler failed. One that comes again after it was answered here is not worked on again; by
        another server it is. A reply to a direct address that is none of the broker's is lost; one whose node is not
        known yet (of a cluster's other nodes, or forged) goes by a connection of its own, which is opened for it, and
        its request is acknowledged before. The rest, `stop` and `consumer_tag` too, is as for `process`, and so is what
        cancelling it means.
        """
        name = queue if isinstance(queue, str) else queue.name or "(temporary)"
        replies = ClientReplies(self.publish, self._publishing, self._requests, name)
        answering = Answering(
            name,
            handler,
            replies,
            self._requests,
            concurrency=concurrency,
            codec=codec,
            raw=raw,
            convert=convert,
            send_traceback=send_traceback,
            clock_skew=clock_skew,
            destinations=Destinations(reply_to_allowed, reply_exchanges),
            expected_errors=expected_errors,
        )
        processing = Processing(
            self._observed(answering),
            concurrency=concurrency,
            prefetch=prefetch,
            on_error="reject",
            on_stale="finish",
            drain=seconds(drain),
        )

        def lost() -> None:
            answering.arrivals.clear()
            processing.on_loss()

        requests = self._subscription(
            queue,
            prefetch=processing.prefetch,
            on_arrival=answering.arrivals.note,
            on_loss=lost,
            on_too_large=answering.refuse,
            consumer_tag=consumer_tag,
        )
        with self._running.at_work(), told(stop, requests.stop):
            async with replies:
                await processing.run(requests, task_status)

    # --- topology -----------------------------------------------------------------------------------------------------

    async def declare(self, *entities: Entity) -> None:
        """Declare exchanges, queues and bindings, now and again in each life to come.

        Raises as `Channel.declare`, and `ConnectionClosed` for what the broker closes the connection over; then none of
        them is remembered that was not before. One declared before is replaced by what the broker took under its name.
        If the broker refuses one later, when it is declared again, the client's scope raises that. It waits for a
        connection, and for a queue that the broker still holds for its former one, until `stop_consuming()`. Cancelled,
        some may have been declared.
        """
        in_order(entities)  # refuses what is none, whether or not there is a connection
        await checkpoint_if_cancelled()
        registry = self._registry
        may_be_ours = False

        def is_awaited() -> bool:
            return self._consuming.is_awaited

        async def declared(connection: Connection) -> None:
            nonlocal may_be_ours
            try:
                await registry.declare(connection, entities, may_be_ours=may_be_ours, is_awaited=is_awaited)
            except ConnectionClosed:
                may_be_ours = True
                raise

        trial = partial(registry.try_to_declare, entities=entities)
        try:
            await in_a_life(self._consuming, "wait", declared, trial=trial)
        finally:
            self._bind_delays_again(entities)

    async def delete(self, *entities: Entity) -> None:
        """Delete exchanges, queues (with what is in them) and bindings, and declare them no more.

        Queues and exchanges go by their names; one that does not exist is fine. What the broker removes with them is
        forgotten, too. Cancelled, some may have been deleted; none of them is declared again.
        """
        deletions = self._registry.take_all(entities)
        await checkpoint_if_cancelled()
        deleted = partial(self._registry.delete, requests=deletions)
        try:
            await in_a_life(self._consuming, "wait", deleted, trial=deleted)
        finally:
            self._bind_delays_again(entities)

    def forget(self, *entities: Entity) -> None:
        """Declare exchanges, queues and bindings no more, and leave them at the broker as they are. Not a coroutine,
        though awaiting it is harmless.

        Queues and exchanges go by their names, and with them the bindings that were declared of them. What was not
        declared here is fine. It is for what somebody else deletes, or declares otherwise from now on: to declare it in
        the next life as it was would end the client.
        """
        self._registry.forget_all(entities)
        return NOTHING  # type: ignore[no-any-return]

    async def purge(self, queue: str | Queue) -> int:
        """Drop what is ready in a queue, and return how many messages that were. What consumers hold unsettled stays.

        It waits for a connection, and is done again in the next life where that is lost meanwhile: then the messages
        that came between are gone as well, and those of the first time not counted. Raises as `Channel.purge_queue`,
        and `ConnectionClosed` where the queue is a stream. Cancelled, it may have been purged.
        """
        return await purge(self._consuming, self._registry, queue)

    async def inspect(self, queue: str | Queue) -> QueueInfo | None:
        """What the broker says of a queue; None if there is no such queue. Cancelling it changes nothing."""
        await checkpoint_if_cancelled()

        async def asked(connection: Connection) -> QueueInfo:
            async with connection.channel(confirm=False) as channel:
                return await channel.declare_queue(self._registry.name_of(queue), passive=True)

        try:
            return await in_a_life(self._consuming, "wait", asked, trial=asked)
        except NotFound:
            return None

    @asynccontextmanager
    async def channel(
        self, *, confirm: bool = True, prefetch: int = 100, consuming: bool = False
    ) -> AsyncIterator[Channel]:
        """`async with client.channel() as channel`: a raw `Channel` of the publishing connection's present life, which
        raises when that ends; with `consuming` of the consuming connection's. Only the latter reaches what the client
        has declared as exclusive, temporary queues included: to the other, RabbitMQ says RESOURCE_LOCKED.

        Entering waits for a connection, or by the client's `while_down` raises `NotConnected`.
        """
        checked_prefetch(prefetch)
        link = self._consuming if consuming else self._publishing
        connection = await link.connection(self._while_down)
        async with connection.channel(confirm=confirm, prefetch=prefetch) as channel:
            yield channel

    # --- what it tells ------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The worse of its two connections' states: "closed", "recovering", "connecting" or "connected"; "idle" where
        none was needed so far.
        """
        return state_of(self._running.links)

    @property
    def is_ready(self) -> bool:
        """Whether it is connected now, by each connection that was needed so far, of which there is one at least: False
        until the first operation or `wait_ready` has reached the broker. It waits for nothing and connects nothing, so
        it is what a probe asks. An alarm that blocks publishing does not change it: see `blocked_reason`.
        """
        return self.state == "connected"

    async def wait_ready(self) -> None:
        """Open both connections and return once they are: `is_ready` tells from then on how it is. Later operations do
        not have to connect first.

        However long the broker is away it waits (`anyio.fail_after` bounds that). Raises what ends the client, as
        waiting does not mend it: `AuthenticationFailed`, `ConnectFailed` where `reconnect` gives up, a declared entity
        that is refused; `NotConnected` where the client was left, `ConsumingStopped` where `stop_consuming()` was
        called and there is no connection. Cancelled, they are opened all the same.
        """
        await wait_ready(self._running)

    @property
    def blocked_reason(self) -> str | None:
        """Why the broker takes no publishes now (a memory or disk alarm), in its words; None where it does. The broker
        tells a connection of an alarm when something is next published on it, and not before.
        """
        return blocked_reason_of(self._running.links)

    @property
    def last_error(self) -> Exception | None:
        """What last ended a connection, or kept one from being opened: the publishing one's if that had any."""
        return next((link.last_error for link in self._running.links if link.last_error is not None), None)

    def statistics(self) -> Mapping[str, int]:
        """Counts, of now: how many lives each connection has had, entities that are declared again in each,
        subscriptions and publishers there are; and since the client began: messages sent again because their outcome
        was unknown, replies that could not be delivered, requests that were not begun, or stopped, because their
        caller's time was up, those that came again after they had been answered, and those that were rejected because
        of where their reply was to go, or of their size.
        """
        return {
            "publishing_lives": self._publishing.lives,
            "consuming_lives": self._consuming.lives,
            "declared": len(self._registry),
            "subscriptions": len(self._running.subscriptions),
            "publishers": len(self._running.publishers),
            "republished": self._senders.republished + self._running.publishers.republished,
            "undeliverable_replies": self._requests.undeliverable_replies,
            "expired_requests": self._requests.expired,
            "stopped_requests": self._requests.stopped,
            "duplicate_requests": self._requests.duplicates,
            "refused_requests": self._requests.refused,
        }

    @contextmanager
    def changes(self) -> Iterator[MemoryObjectReceiveStream[Change]]:
        """`with client.changes() as changes: async for change in changes`: each new state of either connection, and
        each alarm that blocks or unblocks one (`Change.is_alarm`).

        Who falls behind by more than 100 misses what follows. The stream ends with the client.
        """
        with self._running.changes.subscribed() as changes:
            yield changes

    async def wait_closed(self) -> None:
        """Return when the client was left or closed; raise the cause when something else ended it.

        Cancelling it stops the waiting only.
        """
        if not self._running.closed.is_set():
            self._publishing.check_loop()
            await self._running.closed.wait()
        if (failure := self._running.fate.failure) is not None:
            raise failure

    async def aclose(self) -> None:
        """End a client that `start_client` made, as leaving the block of `open_client` does: in bounded time, in which
        cancelling it has no effect (asyncio's own `Task.cancel` ends the waiting). Harmless when it has ended already.
        """
        if self._running.host is None:
            raise LocalProtocolError("open_client's client ends with its block; aclose() is for start_client's")
        if self._running.closed.is_set():
            return
        await self._running.host.end()

    # --- its parts ----------------------------------------------------------------------------------------------------

    def _subscription(
        self,
        queue: str | Queue,
        *,
        prefetch: int,
        on_arrival: Callable[[Delivery], None] | None = None,
        on_loss: Callable[[], None] | None = None,
        on_too_large: Callable[[Delivery, int], None] | None = None,
        **options: Unpack[ConsumeOptions],
    ) -> Subscription:
        filtering = stream_filter(options.pop("filter", None), options.pop("match_unfiltered", False))
        if filtering:
            if self._registry.type_of(queue) not in ("stream", None):
                raise ValueError(f"filter= is for streams, and {queue!r} is none")
            if options.get("offset") is None:  # it is a stream, then
                options["offset"] = "next"
            options["arguments"] = merged(table_of(options.get("arguments")), filtering)
        return Subscription(
            self._consuming,
            self._registry,
            self._running.subscriptions,
            queue,
            options,
            prefetch=checked_prefetch(prefetch),
            on_arrival=on_arrival,
            on_loss=on_loss,
            on_too_large=on_too_large,
        )

    def _retrying(self, queue: str | Queue, retry: Retry, options: ConsumeOptions) -> Retrying:
        if not isinstance(retry, Retry):
            raise TypeError(f"retry is a rabbitry.Retry, not {retry!r:.100}")
        if options.get("no_ack"):
            raise ValueError("with no_ack a message is gone once it was sent to its handler: there is nothing to retry")
        if self._registry.type_of(queue) == "stream" or options.get("offset") is not None:
            raise ValueError(STREAM_HAS_NO_RETRY)
        if isinstance(queue, Queue) and queue.exclusive:
            raise ValueError("an exclusive queue goes with its connection: what waits to be retried would not find it")
        return Retrying(retry, name_of(queue, Queue), self._have_delays(), self.publish, self._publishing)

    def _bind_delays_again(self, entities: Iterable[Entity]) -> None:
        """Have delays to these bound when they are next needed."""
        if self._delays is not None:
            self._delays.forget(*entities)

    def _observed(self, handler: DeliveryHandler) -> DeliveryHandler:
        """What to run for each delivery: an instrumented client has something around the handler."""
        return handler


def _sending(message: Message | bytes, exchange: str, routing_key: str, mandatory: bool) -> Send:
    # hot: `publish` itself must not have a closure, or each argument would be a cell, made anew for each message
    return lambda channel: channel.publish(message, exchange=exchange, routing_key=routing_key, mandatory=mandatory)
