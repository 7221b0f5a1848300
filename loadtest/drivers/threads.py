"""The bridge to libraries that block: a thread for each client, with a connection of its own.

That is how these libraries say they are to be used. What they do in their threads is `loadtest.drivers.blocking`'s, and
how it comes to the event loop `loadtest.drivers.worker`'s; here it becomes what `loadtest.drivers.base` asks for.
Latencies contain the way. `loadtest strategies` uses the same libraries without the bridge.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio

from loadtest.drivers.base import Answer, ConsumerOptions, Outcome, ProducerOptions, Receive, Settled
from loadtest.drivers.blocking import (
    BlockingAdministrator,
    BlockingCaller,
    BlockingConnection,
    BlockingConsumer,
    BlockingProducer,
    Connect,
    Told,
)
from loadtest.drivers.worker import CLOSE_BOUND, Handover, Worker, open_worker


class ThreadsDriver:
    """A library that blocks, as `loadtest.drivers.base.Driver` asks for it."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    @asynccontextmanager
    async def open(self) -> AsyncIterator[_Session]:
        """Opens nothing but the way from the threads to the loop."""
        yield _Session(self._connect, Handover())


class _Session:
    def __init__(self, connect: Connect, handover: Handover) -> None:
        self._connect = connect
        self._handover = handover

    @asynccontextmanager
    async def connect(self, url: str, name: str) -> AsyncIterator[_Connection]:
        async with open_worker(Worker(self._connect, url, name, self._handover)) as worker:
            yield _Connection(worker, lambda: Worker(self._connect, url, name, self._handover))


class _Connection:
    """A connection as clients see it: the first has the connection's thread; more get a connection of their own."""

    def __init__(self, worker: Worker, make_worker: Callable[[], Worker]) -> None:
        self._worker = worker
        self._make_worker = make_worker
        self._is_taken = False

    @property
    def _blocking(self) -> BlockingConnection:
        assert self._worker.connection is not None
        return self._worker.connection

    @property
    def server_properties(self) -> Mapping[str, Any]:
        return self._blocking.server_properties

    @property
    def is_blocked(self) -> bool | None:
        return self._blocking.is_blocked

    @asynccontextmanager
    async def _thread(self) -> AsyncIterator[Worker]:
        if self._is_taken:
            async with open_worker(self._make_worker()) as worker:
                yield worker
            return
        self._is_taken = True
        try:
            yield self._worker
        finally:
            self._is_taken = False

    @asynccontextmanager
    async def producer(self, queue: str, options: ProducerOptions, settled: Settled) -> AsyncIterator[_Producer]:
        async with self._thread() as worker:
            post = worker.handover.post
            producer = _Producer(worker, options.window, settled)
            told = producer.settle

            def tell(token: object, outcome: Outcome) -> None:
                post(partial(told, token, outcome))

            producer.blocking = await worker.ask(lambda connection: connection.producer(queue, options, tell))
            yield producer

    @asynccontextmanager
    async def consumer(self, queue: str, options: ConsumerOptions) -> AsyncIterator[_Consumer]:
        async with self._thread() as worker:
            blocking = await worker.ask(lambda connection: connection.consumer(queue, options))
            consumer = _Consumer(worker, blocking, options)
            try:
                yield consumer
            finally:
                consumer.stop()
                with anyio.move_on_after(CLOSE_BOUND, shield=True):
                    try:
                        await worker.ask(lambda _: blocking.close())
                    except Exception:
                        pass  # the connection's end gives everything back, too

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[_Caller]:
        async with self._thread() as worker:
            yield _Caller(worker, await worker.ask(lambda connection: connection.caller()))

    @asynccontextmanager
    async def administrator(self) -> AsyncIterator[_Administrator]:
        async with self._thread() as worker:
            yield _Administrator(worker, await worker.ask(lambda connection: connection.administrator()))

    async def serve(self, queue: str) -> None:
        async with self._thread() as worker:
            blocking = await worker.ask(lambda connection: connection.server(queue))
            try:
                await worker.ask(lambda _: blocking.run(_nothing))
            finally:
                blocking.stop()


class _Producer:
    blocking: BlockingProducer

    def __init__(self, worker: Worker, window: int, settled: Settled) -> None:
        self._worker = worker
        self._window = asyncio.Semaphore(window)
        self._settled = settled

    async def publish(self, body: bytes, key: str | None = None) -> Outcome:
        publish = self.blocking.publish
        return await self._worker.ask(lambda _: publish(body, key))

    async def submit(self, body: bytes, token: object, key: str | None = None) -> None:
        await self._window.acquire()
        submit = self.blocking.submit
        try:
            await self._worker.ask(lambda _: submit(body, token, key))
        except Exception:
            self._window.release()
            raise

    async def flush(self) -> None:
        flush = self.blocking.flush
        await self._worker.ask(lambda _: flush())

    def settle(self, token: object, outcome: Outcome) -> None:
        """A submitted message's outcome is known. On the loop."""
        self._window.release()
        self._settled(token, outcome)


class _Consumer:
    def __init__(self, worker: Worker, blocking: BlockingConsumer, options: ConsumerOptions) -> None:
        self._worker = worker
        self._blocking = blocking
        self._ack_every = options.ack_every
        self._auto_ack = options.auto_ack
        self._work = options.work
        self._working: asyncio.Task[None] | None = None
        self._pending: deque[tuple[bytes, bool, int]] = deque()
        self._receive: Receive | None = None
        self._is_stopped = False
        self._held = 0
        self._last = 0
        self._answers: list[Told] = []

    async def run(self, receive: Receive) -> None:
        self._receive = receive
        post = self._worker.handover.post
        take = self._take if self._work is None else self._take_in_turn

        def handle(body: bytes, redelivered: bool, tag: int) -> None:
            post(partial(take, body, redelivered, tag))

        try:
            await self._worker.ask(lambda _: self._blocking.run(handle))
        finally:
            if self._working is not None:
                self._working.cancel()
            self.stop()

    def stop(self) -> None:
        if not self._is_stopped:
            self._is_stopped = True
            if self._working is None:
                self._end()

    def _end(self) -> None:
        if self._held:
            self._answers.append((self._last, Answer.ACK, True))
        self._send_answers()
        self._blocking.stop()

    def _take(self, body: bytes, redelivered: bool, tag: int) -> None:
        if self._is_stopped or self._receive is None:
            return  # closing puts it back
        self._note(tag, self._receive(body, redelivered))

    def _take_in_turn(self, body: bytes, redelivered: bool, tag: int) -> None:
        self._pending.append((body, redelivered, tag))
        if self._working is None and not self._is_stopped:
            self._working = asyncio.create_task(self._work_through())

    async def _work_through(self) -> None:
        """Works on one delivery after the other: on the loop, so that the thread can see to its connection."""
        assert self._work is not None and self._receive is not None
        try:
            while self._pending and not self._is_stopped:
                body, redelivered, tag = self._pending.popleft()
                answer = self._receive(body, redelivered)
                await asyncio.sleep(self._work())
                self._note(tag, answer)
        finally:
            self._working = None
            if self._is_stopped:
                self._end()

    def _note(self, tag: int, answer: Answer) -> None:
        if self._auto_ack:
            return
        if not self._answers:
            self._worker.handover.afterwards(self._send_answers)
        if answer is not Answer.ACK:
            self._answers.append((tag, answer, False))
            return
        self._held, self._last = self._held + 1, tag
        if self._held == self._ack_every:
            self._held = 0
            self._answers.append((tag, answer, self._ack_every > 1))

    def _send_answers(self) -> None:
        if self._answers:
            answers, self._answers = self._answers, []
            self._blocking.answer(answers)


class _Caller:
    def __init__(self, worker: Worker, blocking: BlockingCaller) -> None:
        self._worker = worker
        self._blocking = blocking

    async def call(self, queue: str, body: bytes) -> bytes:
        given_up, seconds = threading.Event(), anyio.current_effective_deadline() - anyio.current_time()
        try:
            return await self._worker.ask(lambda _: self._blocking.call(queue, body, given_up.is_set, seconds))
        finally:
            given_up.set()


class _Administrator:
    def __init__(self, worker: Worker, blocking: BlockingAdministrator) -> None:
        self._worker = worker
        self._blocking = blocking

    async def declare_queue(self, name: str, arguments: Mapping[str, Any]) -> None:
        await self._worker.ask(lambda _: self._blocking.declare_queue(name, arguments))

    async def declare_exchange(self, name: str, kind: str) -> None:
        await self._worker.ask(lambda _: self._blocking.declare_exchange(name, kind))

    async def delete_exchange(self, name: str) -> None:
        await self._worker.ask(lambda _: self._blocking.delete_exchange(name))

    async def bind(self, queue: str, exchange: str, key: str) -> None:
        await self._worker.ask(lambda _: self._blocking.bind(queue, exchange, key))

    async def count_messages(self, name: str) -> int | None:
        return await self._worker.ask(lambda _: self._blocking.count_messages(name))

    async def delete_queue(self, name: str) -> None:
        await self._worker.ask(lambda _: self._blocking.delete_queue(name))


def _nothing(body: bytes, redelivered: bool, tag: int) -> None:
    """A server's requests never come here."""
