"""rabbitry's other way: a `Client` in the place of a connection, which goes on in the next life when one is lost.

Publishing waits while there is no connection, and what was under way then is published again: it arrives at least once.
Calls are made again, too: the servers only echo. Who administers the run still has a plain connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import anyio

import rabbitry
from loadtest.drivers.base import (
    Answer,
    ConsumerCancelled,
    ConsumerOptions,
    LastingDriver,
    Outcome,
    ProducerOptions,
    Receive,
    Settled,
)
from loadtest.drivers.rabbitry import OUTCOMES, Session, answer, echo, make_maker

_SOON = rabbitry.Backoff(initial=0.1, maximum=2.0)
"""How long to wait between attempts: a run is to see how soon a broker is back, and not how patient we are."""


class LastingRabbitryDriver:
    """rabbitry's clients, as `loadtest.drivers.base.LastingDriver` asks for them."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[_Session]:
        """Opens the one reactor that all clients share."""
        async with rabbitry.open_reactor() as reactor:
            yield _Session(reactor)


DRIVER: LastingDriver = LastingRabbitryDriver()


class _Session(Session):
    def __init__(self, reactor: rabbitry.Reactor) -> None:
        super().__init__(reactor)
        self._reactor = reactor
        self._clients: set[rabbitry.Client] = set()
        self._gone = 0
        """Reconnects of clients that were closed."""

    def connect_lasting(self, url: str, name: str, *, consuming: bool) -> AbstractAsyncContextManager[_Client]:
        return self._open(url, name, consuming)

    @property
    def reconnects(self) -> int:
        return self._gone + sum(map(_reconnects, self._clients))

    @asynccontextmanager
    async def _open(self, url: str, name: str, consuming: bool) -> AsyncIterator[_Client]:
        async with self._reactor.open_client(url, name=name, reconnect=_SOON) as client:
            self._clients.add(client)
            try:
                async with client.channel(confirm=False, consuming=consuming):
                    pass  # a client connects when it first has to, and here it shall now
                yield _Client(client)
            finally:
                self._clients.discard(client)
                self._gone += _reconnects(client)


def _reconnects(client: rabbitry.Client) -> int:
    lives = client.statistics()
    return sum(max(0, lives[name] - 1) for name in ("publishing_lives", "consuming_lives"))


class _Client:
    def __init__(self, client: rabbitry.Client) -> None:
        self._client = client

    @property
    def server_properties(self) -> Mapping[str, Any]:
        return {}

    @property
    def is_blocked(self) -> bool | None:
        return self._client.blocked_reason is not None

    @asynccontextmanager
    async def producer(self, queue: str, options: ProducerOptions, settled: Settled) -> AsyncIterator[_Producer]:
        if options.window == 1:
            yield _Producer(self._client, queue, options, None)
            return

        def on_outcome(confirmation: rabbitry.Confirmation) -> None:
            settled(confirmation.tag, OUTCOMES[confirmation.outcome])

        window = self._client.publisher(
            exchange=options.exchange, window=options.window, on_outcome=on_outcome, on_unknown="republish"
        )
        async with window as publisher:
            yield _Producer(self._client, queue, options, publisher)

    @asynccontextmanager
    async def consumer(self, queue: str, options: ConsumerOptions) -> AsyncIterator[_Consumer]:
        subscription = self._client.consume(
            queue, prefetch=options.prefetch, no_ack=options.auto_ack, arguments=options.arguments or None
        )
        async with subscription as deliveries:
            yield _Consumer(deliveries, options)

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[_Caller]:
        async with self._client.rpc() as rpc:
            yield _Caller(rpc)

    def administrator(self) -> AbstractAsyncContextManager[Any]:
        raise NotImplementedError("who administers the run has a plain connection")

    async def serve(self, queue: str) -> None:
        await self._client.serve(queue, echo, concurrency=100)


class _Producer:
    def __init__(
        self, client: rabbitry.Client, queue: str, options: ProducerOptions, publisher: rabbitry.Publisher | None
    ) -> None:
        self._client = client
        self._exchange = options.exchange
        self._queue = queue
        self._mandatory = options.mandatory
        self._make = make_maker(options)
        self._publisher = publisher

    async def publish(self, body: bytes, key: str | None = None) -> Outcome:
        try:
            await self._client.publish(
                body if self._make is None else self._make(body),
                exchange=self._exchange,
                routing_key=self._queue if key is None else key,
                mandatory=self._mandatory,
                on_unknown="republish",
            )
        except (rabbitry.Nacked, rabbitry.Refused):
            return Outcome.NACKED
        except rabbitry.Unroutable:
            return Outcome.RETURNED
        except rabbitry.OutcomeUnknown:
            return Outcome.UNKNOWN
        return Outcome.CONFIRMED

    async def submit(self, body: bytes, token: object, key: str | None = None) -> None:
        assert self._publisher is not None
        await self._publisher.submit(
            body if self._make is None else self._make(body),
            routing_key=self._queue if key is None else key,
            mandatory=self._mandatory,
            tag=token,
        )

    async def flush(self) -> None:
        if self._publisher is not None:
            await self._publisher.flush()


class _Consumer:
    """What was delivered in a life that is over can't be answered any more: it comes again."""

    def __init__(self, deliveries: rabbitry.Subscription, options: ConsumerOptions) -> None:
        self._deliveries = deliveries
        self._options = options

    async def run(self, receive: Receive) -> None:
        options, held = self._options, list[rabbitry.Delivery]()
        try:
            async for delivery in self._deliveries:
                said = receive(delivery.body, delivery.redelivered)
                if options.work is not None:
                    await anyio.sleep(options.work())
                if options.auto_ack:
                    continue
                if said is Answer.ACK and options.ack_every > 1:
                    held.append(delivery)
                    if len(held) < options.ack_every:
                        continue
                    _answer_all(held)
                else:
                    with suppress(rabbitry.StaleDelivery):
                        answer(delivery, said)
            _answer_all(held)
        except rabbitry.ConsumerCancelled as error:
            raise ConsumerCancelled(str(error)) from error

    def stop(self) -> None:
        self._deliveries.stop()


class _Caller:
    def __init__(self, rpc: rabbitry.ClientRPC) -> None:
        self._rpc = rpc

    async def call(self, queue: str, body: bytes) -> bytes:
        reply: bytes = await self._rpc.call(queue, body, idempotent=True)
        return reply


def _answer_all(held: list[rabbitry.Delivery]) -> None:
    for delivery in held:
        with suppress(rabbitry.StaleDelivery):
            delivery.ack()
    held.clear()
