"""`Client`: what spans reconnects, for threads. Where a program without async begins.

What must stay true: what each operation does across a lost connection is the async client's doing. An operation here is
handed over to the loop as it is, and the functions that it is to call go to threads.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence, Set
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import Any, TypedDict, Unpack, overload

import anyio.to_thread

import rabbitry
from rabbitry import Backoff, Codec, Credentials, Exchange, Instrumentation, Message, Queue, QueueInfo, Retry, Stop
from rabbitry._secrets import Secret, hidden_if_given
from rabbitry._values import converting
from rabbitry._values.address import DEFAULT_URL
from rabbitry._values.annotations import typed
from rabbitry._values.converting import Convert
from rabbitry._values.handlers import check_handler
from rabbitry._values.options import (
    CLOCK_SKEW,
    DEFAULT_DRAIN,
    DEFAULT_MAX_MESSAGE_SIZE,
    ConsumeOptions,
    Offset,
    OnUnknown,
    ReplyTo,
    ReplyToAllowed,
    State,
    WhileDown,
    check_options,
)
from rabbitry._values.signals import FirstSignal
from rabbitry._values.topology import Entity
from rabbitry.blocking.changes import Changes
from rabbitry.blocking.channel import Channel, put_back
from rabbitry.blocking.consumer import Consumer
from rabbitry.blocking.delivery import Delivery
from rabbitry.blocking.hosting import Hosted, start
from rabbitry.blocking.pool import PublisherOptions, Publishers
from rabbitry.blocking.portal import Timeout
from rabbitry.blocking.publisher import OnOutcome, Publisher, with_portal
from rabbitry.blocking.publishing import ByKey, Several, publish_all, with_keys
from rabbitry.blocking.rpc import RPC
from rabbitry.blocking.sending import Queued
from rabbitry.blocking.threads import Handler, OnError, Threads, caught, on_the_loop

__all__ = ["Client", "ClientOptions", "open_client", "start_client"]

logger: logging.Logger = logging.getLogger("rabbitry")

HANDLERS_DRAIN = 5.0
"""Seconds that the handlers of an interrupted `process` or `serve` have to finish. The async ones have none, and are
cancelled; these run in threads, which nothing can cancel.
"""


class Client(Hosted[rabbitry.Client]):
    """A client that spans reconnects, made by `open_client`, and usable by any thread inside its `with` block."""

    _what = "the client"
    _how = "with rabbitry.blocking.open_client(url) as client"

    def __init__(self, manager: AbstractAsyncContextManager[rabbitry.Client]) -> None:
        super().__init__()
        self._opening = manager
        self._publishers = Publishers()
        self._has_stopped = False  # consuming

    def __repr__(self) -> str:
        return f"<blocking {self._value!r}>" if self._value is not None else "<blocking Client, not entered>"

    def _manager(self) -> AbstractAsyncContextManager[rabbitry.Client]:
        return self._publishers.with_client(self._opening, self._portal)

    # --- publishing ---------------------------------------------------------------------------------------------------

    def publish(
        self,
        message: Message | bytes,
        *,
        exchange: str | Exchange = "",
        routing_key: str = "",
        mandatory: bool = False,
        delay: float | timedelta | None = None,
        while_down: WhileDown | None = None,
        on_unknown: OnUnknown = "raise",
        timeout: Timeout = None,
    ) -> None:
        """Publish, and return once the broker confirmed; as `rabbitry.Client.publish`.

        Many messages are published much faster by `publish_many`.
        """
        portal, client = self._opened

        def publish() -> Awaitable[None]:
            return client.publish(
                message,
                exchange=exchange,
                routing_key=routing_key,
                mandatory=mandatory,
                delay=delay,
                while_down=while_down,
                on_unknown=on_unknown,
            )

        def queue() -> Queued | None:
            return client._publish_nowait(message, exchange, routing_key, mandatory, delay, while_down, on_unknown)

        portal.send(queue, publish, timeout)

    @overload
    def publish_many(
        self,
        messages: Several,
        *,
        routing_key: str = ...,
        exchange: str | Exchange = ...,
        mandatory: bool = ...,
        window: int = ...,
        while_down: WhileDown | None = ...,
        on_unknown: OnUnknown = ...,
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
        while_down: WhileDown | None = ...,
        on_unknown: OnUnknown = ...,
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
        while_down: WhileDown | None = None,
        on_unknown: OnUnknown = "raise",
        timeout: Timeout = None,
    ) -> int:
        """Publish an iterable of messages to `routing_key`, or a mapping of routing keys, each to a message or to
        several; return how many there were, once all are confirmed.

        Up to `window` are under way at once. What certainly was not sent when a connection was lost is sent in the next
        life; `while_down` and `on_unknown` as for `publish`. Raises `PublishesFailed`, which lists those that failed.
        Timed out or interrupted, some may have arrived.
        """
        keyed = with_keys(messages, routing_key)
        options: PublisherOptions = (while_down, on_unknown)
        return publish_all(
            self._portal, lambda: self._publishers.one(window, options), keyed, exchange, mandatory, timeout
        )

    def publisher(
        self,
        *,
        exchange: str | Exchange = "",
        window: int = 1000,
        on_outcome: OnOutcome | None = None,
        while_down: WhileDown | None = None,
        on_unknown: OnUnknown = "raise",
        timeout: Timeout = None,
    ) -> Publisher:
        """`with client.publisher() as publisher: publisher.submit(b"...", routing_key="jobs")`: a `Publisher` through
        all lives, with a channel of its own, for messages as they come.

        The arguments are those of the async `publisher`. `on_outcome` is called by the event loop, in any thread: it
        must be quick, not raise, and not wait for the broker. Entering waits for a connection, within `timeout`.
        """
        client, told = self._async, with_portal(on_outcome, self._portal)
        return Publisher(
            self._portal,
            lambda: client.publisher(
                exchange=exchange, window=window, on_outcome=told, while_down=while_down, on_unknown=on_unknown
            ),
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
        prefetch: int = 100,
        no_ack: bool = False,
        exclusive: bool = False,
        priority: int | None = None,
        consumer_tag: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        offset: Offset | None = None,
        filter: str | Sequence[str] | Set[str] | None = None,
        match_unfiltered: bool = False,
        inactivity_timeout: Timeout = None,
        timeout: Timeout = None,
    ) -> Consumer:
        """A `Consumer` of `queue`, through all lives: `with client.consume("jobs") as deliveries: for delivery in
        deliveries`.

        The arguments are those of `rabbitry.Client.consume`. Iteration ends when nothing came for `inactivity_timeout`
        (None: it waits). `timeout` is for entering.
        """
        client = self._async
        return Consumer(
            self._portal,
            lambda: client.consume(
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
            ),
            prefetch,
            inactivity_timeout,
            timeout,
        )

    def get(self, queue: str | Queue, *, no_ack: bool = False, timeout: Timeout = None) -> Delivery | None:
        """One message of the queue, or None if it is empty; as `rabbitry.Client.get`."""
        client = self._async
        delivery = self._portal.run(lambda: client.get(queue, no_ack=no_ack), timeout, undo=put_back)
        return None if delivery is None else Delivery(delivery, self._portal)

    def process(
        self,
        queue: str | Queue,
        handler: Callable[[Delivery], Any] | Callable[..., Any],
        *,
        concurrency: int = 1,
        prefetch: int | None = None,
        on_error: OnError = "requeue",
        retry: Retry | None = None,
        drain: float | timedelta = HANDLERS_DRAIN,
        convert: Convert | None = None,
        stop: Stop | None = None,
        timeout: Timeout = None,
        **options: Unpack[ConsumeOptions],
    ) -> None:
        """Run `handler(delivery)` for each delivery, in up to `concurrency` threads at once, until stopped, interrupted
        or timed out; the rest as `rabbitry.Client.process`. With a concurrency of 1 it is one thread, which is not the
        calling one: it handles one after the other, without waiting for the event loop where the handler is quick.

        After `stop.set()` or `stop_consuming()`, in any thread or in the handler itself, the handlers at work finish
        and this returns; begun after `stop_consuming()`, it raises `ConsumingStopped`. Interrupted (Ctrl-C) or timed
        out, it takes no more deliveries, and the handlers at work have `drain` seconds (5) to finish. Then their
        messages are put back, though a thread can't be stopped and runs on. A second Ctrl-C does not wait.

        With `convert`, `handler(payload)` or `handler(payload, delivery)` is called, as there; the payload is decoded
        and converted in its thread.

        `on_error`, where it is a function, is called by the event loop, in any thread: it must be quick, and not wait
        for the broker.
        """
        if convert is not None:
            handler = typed(handler, convert)
        check_handler(handler)
        portal, client = self._opened

        async def process() -> None:
            threads = Threads(portal, concurrency)
            guarded = threads.guarded(on_error)
            handle = threads.handling(
                handler, lambda: self._has_stopped or (stop is not None and stop.is_set()), guarded
            )
            with on_the_loop(stop, portal) as stopped:
                await threads.run(
                    lambda: client.process(
                        queue,
                        handle,
                        concurrency=concurrency,
                        prefetch=prefetch,
                        on_error=guarded,
                        retry=retry,
                        drain=drain,
                        stop=stopped,
                        **options,
                    )
                )

        portal.run(process, timeout, is_patient=True)

    def stop_consuming(self) -> None:
        """Take no more deliveries, for good: the way to end on SIGTERM, also in a signal handler. Does not wait. What
        would wait for a broker that is away in order to consume (`declare`, say) raises `ConsumingStopped`, at once.
        """
        portal, client = self._opened
        self._has_stopped = True
        portal.submit(client.stop_consuming)

    def stop_on(self, *signals: int) -> AbstractContextManager[None, bool]:
        """`with client.stop_on(signal.SIGTERM, signal.SIGINT): client.process(...)`: the first of these signals (these
        two unless given) calls `stop_consuming()`, and each one after it does what it did before the block. In the main
        thread; in another, it raises `LocalProtocolError`. The rest as `rabbitry.Client.stop_on`.
        """
        portal, client = self._opened
        return FirstSignal(signals, lambda number: portal.submit_if_open(partial(_stop_for, client, number.name)))

    # --- RPC ----------------------------------------------------------------------------------------------------------

    def rpc(
        self,
        *,
        codec: str | Codec = "msgpack",
        reply_to: ReplyTo = "direct",
        while_down: WhileDown | None = None,
        timeout: Timeout = None,
    ) -> RPC:
        """`with client.rpc() as rpc: rpc.call("double", 21, timeout=2)`; the arguments are those of the async `rpc`.
        `timeout` is for entering.
        """
        client = self._async
        return RPC(self._portal, lambda: client.rpc(codec=codec, reply_to=reply_to, while_down=while_down), timeout)

    def serve(
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
        reply_exchanges: Collection[str | Exchange] = (),
        reply_to_allowed: ReplyToAllowed = "any",
        expected_errors: tuple[type[Exception], ...] = (),
        convert: Convert | None = converting.convert,
        drain: float | timedelta = HANDLERS_DRAIN,
        consumer_tag: str | None = None,
        stop: Stop | None = None,
        timeout: Timeout = None,
    ) -> None:
        """Answer the requests in `queue` with `handler(payload)`, in up to `concurrency` threads at once, until
        stopped, interrupted or timed out. The functions of a `Service`, or of a list, are called by name, in threads,
        too. The other arguments are those of the async `serve`. Ends as `process` does.
        """
        portal, client = self._opened

        async def serve() -> None:
            threads = Threads(portal, concurrency)
            answer = threads.asynchronous(handler, convert)
            with on_the_loop(stop, portal) as stopped:
                await threads.run(
                    lambda: client.serve(
                        queue,
                        answer,
                        concurrency=concurrency,
                        prefetch=prefetch,
                        codec=codec,
                        raw=raw,
                        send_traceback=send_traceback,
                        clock_skew=clock_skew,
                        reply_exchanges=reply_exchanges,
                        reply_to_allowed=reply_to_allowed,
                        expected_errors=expected_errors,
                        convert=convert,
                        drain=drain,
                        consumer_tag=consumer_tag,
                        stop=stopped,
                    )
                )

        portal.run(serve, timeout, is_patient=True)

    # --- topology -----------------------------------------------------------------------------------------------------

    def declare(self, *entities: Entity, timeout: Timeout = None) -> None:
        """Declare exchanges, queues and bindings, now and again in each life to come."""
        client = self._async
        self._portal.run(lambda: client.declare(*entities), timeout)

    def delete(self, *entities: Entity, timeout: Timeout = None) -> None:
        """Delete exchanges, queues (with what is in them) and bindings, and declare them no more."""
        client = self._async
        self._portal.run(lambda: client.delete(*entities), timeout)

    def forget(self, *entities: Entity) -> None:
        """Declare exchanges, queues and bindings no more, and leave them at the broker as they are."""
        client = self._async

        async def forget() -> None:
            client.forget(*entities)

        self._portal.run(forget)

    def purge(self, queue: str | Queue, *, timeout: Timeout = None) -> int:
        """Drop what is ready in a queue, and return how many messages that were."""
        client = self._async
        return self._portal.run(lambda: client.purge(queue), timeout)

    def inspect(self, queue: str | Queue, *, timeout: Timeout = None) -> QueueInfo | None:
        """What the broker says of a queue; None if there is no such queue."""
        client = self._async
        return self._portal.run(lambda: client.inspect(queue), timeout)

    def channel(
        self, *, confirm: bool = True, prefetch: int = 100, consuming: bool = False, timeout: Timeout = None
    ) -> Channel:
        """A raw channel of the publishing connection's present life: it raises when that ends. With `consuming`, of the
        consuming connection, which alone reaches the client's own exclusive queues. `timeout` is for entering.
        """
        client = self._async
        return Channel(
            self._portal,
            lambda: client.channel(confirm=confirm, prefetch=prefetch, consuming=consuming),
            confirm,
            prefetch,
            timeout,
        )

    # --- what it tells ------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The worse of the client's two connections' states; one that was never needed does not count."""
        return self._async.state

    @property
    def is_ready(self) -> bool:
        """Whether it is connected now, by each connection that was needed so far, of which there is one at least."""
        return self._async.is_ready

    def wait_ready(self, *, timeout: Timeout = None) -> None:
        """Open both connections, and return once they are; raises what ends the client, as `rabbitry.Client`'s."""
        client = self._async
        self._portal.run(client.wait_ready, timeout)

    @property
    def blocked_reason(self) -> str | None:
        """Why the broker takes no publishes now (a memory or disk alarm), in its words; None where it does."""
        return self._async.blocked_reason

    def changes(self) -> Changes:
        """`with client.changes() as changes: for change in changes`: each new state of either connection, and each
        alarm that blocks or unblocks one. Who falls behind by more than 100 misses what follows.
        """
        return Changes(self._portal, self._async)

    @property
    def last_error(self) -> Exception | None:
        """What last ended a connection, or kept one from being opened."""
        return self._async.last_error

    def statistics(self) -> Mapping[str, int]:
        """Counts, as `rabbitry.Client.statistics` gives them."""
        client = self._async

        async def ask() -> Mapping[str, int]:
            return client.statistics()

        return self._portal.run(ask)

    def wait_closed(self, *, timeout: Timeout = None) -> None:
        """Return when the client was left; raise the cause when something else ended it."""
        if not self._is_left:
            self._portal.run(self._async.wait_closed, timeout)
        elif self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End a client that `start_client` made, as leaving the block of `open_client` does: within `drain` and 5 s.
        Harmless when it has ended already, and in the child of a fork; what ended it `wait_closed` raises, not this.
        """
        self._close()


def _stop_for(client: rabbitry.Client, signal: str) -> None:
    logger.info("%s: no more deliveries are taken; the next one is handled as ever", signal)
    client.stop_consuming()


def open_client(
    urls: str | Sequence[str] = DEFAULT_URL,
    *,
    host: str | None = None,
    port: int | None = None,
    user: str | None = None,
    password: str | None = None,
    virtual_host: str | None = None,
    tls: bool | None = None,
    name: str | None = None,
    reconnect: Backoff | None = None,
    while_down: WhileDown = "wait",
    credentials: Callable[[], Credentials] | None = None,
    heartbeat: float | timedelta | None = None,
    connect_timeout: float | timedelta | None = None,
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    client_properties: Mapping[str, Any] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    drain: float | timedelta = DEFAULT_DRAIN,
    instrumentation: Instrumentation | None = None,
) -> Client:
    """A client that spans reconnects: `with blocking.open_client("amqp://host") as client: ...`

    The arguments are those of `rabbitry.open_client`; `credentials` is an ordinary function here, called in a thread of
    its own, and `instrumentation` is called by the event loop, in any thread. It connects when a connection is first
    needed.

    What waiting does not mend (refused credentials, `reconnect` giving up, a declared entity that the broker refuses to
    have again) ends the client: operations raise `NotConnected`, `wait_closed` the cause, and so does leaving the block
    unless that raises something else. Leaving waits for handlers and publishers of other threads, up to `drain` seconds
    (5), and closes within 5 s.
    """
    hidden, secret = Secret(urls), hidden_if_given(password)
    del urls, password

    async def ask() -> Credentials:
        assert credentials is not None
        return await anyio.to_thread.run_sync(caught, credentials, abandon_on_cancel=True)

    return Client(
        rabbitry.open_client(
            hidden.reveal(),
            host=host,
            port=port,
            user=user,
            password=None if secret is None else secret.reveal(),
            virtual_host=virtual_host,
            tls=tls,
            name=name,
            reconnect=reconnect,
            while_down=while_down,
            credentials=None if credentials is None else ask,
            heartbeat=heartbeat,
            connect_timeout=connect_timeout,
            max_message_size=max_message_size,
            client_properties=client_properties,
            ssl_context=ssl_context,
            drain=drain,
            instrumentation=instrumentation,
        )
    )


class ClientOptions(TypedDict, total=False):
    """The arguments of `open_client` beside the URLs."""

    host: str | None
    port: int | None
    user: str | None
    password: str | None
    virtual_host: str | None
    tls: bool | None
    name: str | None
    reconnect: Backoff | None
    while_down: WhileDown
    credentials: Callable[[], Credentials] | None
    heartbeat: float | timedelta | None
    connect_timeout: float | timedelta | None
    max_message_size: int
    client_properties: Mapping[str, Any] | None
    ssl_context: ssl.SSLContext | None
    drain: float | timedelta
    instrumentation: Instrumentation | None


def start_client(urls: str | Sequence[str] = DEFAULT_URL, **options: Unpack[ClientOptions]) -> Client:
    """A client without a `with` block, for programs whose start and stop are different functions (a web framework's
    hooks, a worker's): end it with `client.close()`.

    The arguments are those of `open_client`, and so is what it does: it connects when a connection is first needed.
    Open it in the process that uses it, after a fork. One that is dropped is closed in the background, with a
    `ResourceWarning`; one that is open as the program ends does not hold that up (see `rabbitry.blocking`).
    """
    hidden, secret = Secret(urls), Secret(options.pop("password", None))
    del urls
    check_options(options, ClientOptions, "start_client")
    client = partial(open_client, **options)(hidden.reveal(), password=secret.reveal())
    start(client)
    return client
