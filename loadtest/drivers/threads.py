"""The bridge to libraries that block: a thread for each client, with a connection of its own.

That is how these libraries say they are to be used. A thread does what it is asked to and posts what came of it; the
event loop, which alone keeps the ledger, takes everything that was posted in one go. So there is no lock: a deque
takes what is posted, and the loop is woken once for all that piles up until it looks. Measured: a request that does
nothing, there and back, costs 20 µs of processor time with one thread, 10 with a hundred that ask at once and share
wake-ups, 30 with a thousand. Latencies contain it. `loadtest strategies` uses the same libraries without the bridge.

A library's module fills the protocols below. All their methods are called in the connection's own thread, except those
that say otherwise. An operation that is cancelled goes on in its thread, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

import anyio

from loadtest.drivers.base import Answer, ConsumerOptions, Outcome, ProducerOptions, Receive, Settled

CLOSE_BOUND = 5.0
"""Seconds a thread may take to close what it has opened; then it is left to itself, and ends with the process."""
REST = 2.0
"""Seconds without anything to do after which a connection is looked at: for heartbeats, and whether it still lives."""

T = TypeVar("T")

Told = tuple[int, Answer, bool]
"""What is answered: the delivery tag, how, and whether that is for all before it, too."""

Handle = Callable[[bytes, bool, int], None]
"""Called with each delivery: the body, whether it was delivered before, the delivery tag."""


class BlockingProducer(Protocol):
    """A channel that publishes."""

    def publish(self, body: bytes, key: str | None) -> Outcome:
        """Publishes one message and returns how it ended. An exception means that it was certainly not sent."""
        ...

    def submit(self, body: bytes, token: object, key: str | None) -> None:
        """Publishes one message without waiting for its confirm; for drivers that can have more than one in flight."""
        ...

    def flush(self) -> None:
        """Returns once nothing submitted is in flight any more."""
        ...


class BlockingConsumer(Protocol):
    """A subscription."""

    def run(self, handle: Handle) -> None:
        """Calls `handle` with each delivery until `stop`; raises if the subscription ends otherwise."""
        ...

    def answer(self, answers: list[Told]) -> None:
        """Has them sent soon, in this order. Called in any thread, waits for nothing, never raises."""
        ...

    def ack(self, tag: int) -> None:
        """Acknowledges that delivery at once: for who handles deliveries in the connection's own thread."""
        ...

    def stop(self) -> None:
        """Ends `run` after what was answered before. Called in any thread, waits for nothing, never raises."""
        ...

    def close(self) -> None:
        """Gives back what was not answered."""
        ...


class BlockingCaller(Protocol):
    """A caller of RPC."""

    def call(self, queue: str, body: bytes, is_given_up: Callable[[], bool]) -> bytes:
        """The server's reply. It looks now and then whether anybody still waits, and returns if nobody does."""
        ...


class BlockingAdministrator(Protocol):
    """What the run itself asks the broker: as in `loadtest.drivers.base`, but blocking."""

    def declare_queue(self, name: str, arguments: Mapping[str, Any]) -> None: ...
    def declare_exchange(self, name: str, kind: str) -> None: ...
    def delete_exchange(self, name: str) -> None: ...
    def bind(self, queue: str, exchange: str, key: str) -> None: ...
    def count_messages(self, name: str) -> int | None: ...
    def delete_queue(self, name: str) -> None: ...


class BlockingConnection(Protocol):
    """An open connection. Opening it is the library's function; it raises what the library raises."""

    @property
    def server_properties(self) -> Mapping[str, Any]: ...

    @property
    def is_blocked(self) -> bool | None:
        """Whether the broker blocks publishing here; None if the library doesn't tell. Called in any thread."""
        ...

    def producer(self, queue: str, options: ProducerOptions, settled: Settled) -> BlockingProducer:
        """`settled` may be called in any thread."""
        ...

    def consumer(self, queue: str, options: ConsumerOptions) -> BlockingConsumer: ...
    def caller(self) -> BlockingCaller: ...
    def administrator(self) -> BlockingAdministrator: ...

    def server(self, queue: str) -> BlockingConsumer:
        """A subscription that answers each request itself, with the request's own body."""
        ...

    def rest(self) -> None:
        """Sees to heartbeats; raises if the connection is lost."""
        ...

    def close(self) -> None: ...


Connect = Callable[[str, str], BlockingConnection]
"""Opens a connection to a URL, under a name."""


class ConnectionLost(ConnectionError):
    """The connection or channel is of no more use."""


class ThreadsDriver:
    """A library that blocks, as `loadtest.drivers.base.Driver` asks for it."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    @asynccontextmanager
    async def open(self) -> AsyncIterator[_Session]:
        """Opens nothing but the way from the threads to the loop."""
        yield _Session(self._connect, Handover())


class Handover:
    """The way from any thread to the loop. Must be made on the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._posted: deque[Callable[[], None]] = deque()
        self._is_woken = False
        self._is_taking = False
        self._afterwards: list[Callable[[], None]] = []

    def post(self, function: Callable[[], None]) -> None:
        """Has the loop call the function soon. What one thread posts is called in its order. Never raises."""
        # A post that finds the flag set was made before the loop cleared it, and so before it empties the deque.
        self._posted.append(function)
        if not self._is_woken:
            self._is_woken = True
            try:
                self._loop.call_soon_threadsafe(self._take)
            except RuntimeError:  # the loop has ended, and nobody waits any more
                pass

    def afterwards(self, function: Callable[[], None]) -> None:
        """Has it called soon, once everything that was posted until then is dealt with. On the loop."""
        self._afterwards.append(function)
        if not self._is_taking:
            self.post(_nothing_to_do)

    def _take(self) -> None:
        self._is_woken = False
        self._is_taking = True
        posted = self._posted
        try:
            for _ in range(len(posted)):  # what comes meanwhile has woken the loop again
                posted.popleft()()
        finally:
            self._is_taking = False
            afterwards, self._afterwards = self._afterwards, []
            if posted:  # one of them raised: the others are not to wait for the next post
                self.post(_nothing_to_do)
        for function in afterwards:
            function()


class _Worker:
    """A thread with a connection: it does one thing after the other."""

    def __init__(self, connect: Connect, url: str, name: str, handover: Handover) -> None:
        self._connect = connect
        self._url = url
        self._name = name
        self.handover = handover
        self._jobs: SimpleQueue[Callable[[BlockingConnection], None] | None] = SimpleQueue()
        self._ended = asyncio.Event()
        self._is_over = False
        self.connection: BlockingConnection | None = None

    async def start(self) -> None:
        """Opens the connection."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        threading.Thread(target=self._run, args=(opened,), name="loadtest client", daemon=True).start()
        await opened

    async def ask(self, function: Callable[[BlockingConnection], T]) -> T:
        """What the function returns, or raises, in the thread. ConnectionLost if the connection has ended."""
        if self._is_over:
            raise ConnectionLost("the connection was lost")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # hot: twice for each message
        post = self.handover.post

        def job(connection: BlockingConnection) -> None:
            try:
                result = function(connection)
            except BaseException as error:
                post(partial(_fail, answer, error))
            else:
                post(partial(_succeed, answer, result))

        self._jobs.put(job)
        return await answer

    async def end(self) -> None:
        """Closes the connection, in bounded time."""
        self._is_over = True
        self._jobs.put(None)
        with anyio.move_on_after(CLOSE_BOUND, shield=True):
            await self._ended.wait()

    def _run(self, opened: asyncio.Future[None]) -> None:
        post = self.handover.post
        try:
            connection = self.connection = self._connect(self._url, self._name)
        except BaseException as error:
            self._is_over = True
            post(partial(_fail, opened, _as_os_error(error)))
            post(self._ended.set)
            return
        post(partial(_succeed, opened, None))
        while (job := self._next_job(connection)) is not None:
            job(connection)
        try:
            connection.close()
        except Exception:
            pass  # it was lost before, or the broker is gone
        post(self._ended.set)

    def _next_job(self, connection: BlockingConnection) -> Callable[[BlockingConnection], None] | None:
        is_alive = True
        while True:
            try:
                return self._jobs.get(timeout=REST if is_alive else None)
            except Empty:
                try:
                    connection.rest()
                except Exception:
                    is_alive = False  # whoever asks next hears of it from the library


class _Session:
    def __init__(self, connect: Connect, handover: Handover) -> None:
        self._connect = connect
        self._handover = handover

    @asynccontextmanager
    async def connect(self, url: str, name: str) -> AsyncIterator[_Connection]:
        async with _open_worker(_Worker(self._connect, url, name, self._handover)) as worker:
            yield _Connection(worker, lambda: _Worker(self._connect, url, name, self._handover))


@asynccontextmanager
async def _open_worker(worker: _Worker) -> AsyncIterator[_Worker]:
    try:
        await worker.start()
        yield worker
    finally:
        await worker.end()


class _Connection:
    """A connection as clients see it: the first has the connection's thread; more get a connection of their own."""

    def __init__(self, worker: _Worker, make_worker: Callable[[], _Worker]) -> None:
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
    async def _thread(self) -> AsyncIterator[_Worker]:
        if self._is_taken:
            async with _open_worker(self._make_worker()) as worker:
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

    def __init__(self, worker: _Worker, window: int, settled: Settled) -> None:
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
    def __init__(self, worker: _Worker, blocking: BlockingConsumer, options: ConsumerOptions) -> None:
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
    def __init__(self, worker: _Worker, blocking: BlockingCaller) -> None:
        self._worker = worker
        self._blocking = blocking

    async def call(self, queue: str, body: bytes) -> bytes:
        given_up = threading.Event()
        try:
            return await self._worker.ask(lambda _: self._blocking.call(queue, body, given_up.is_set))
        finally:
            given_up.set()


class _Administrator:
    def __init__(self, worker: _Worker, blocking: BlockingAdministrator) -> None:
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


def properties_of(options: ProducerOptions) -> dict[str, Any]:
    """The properties that all messages of a producer have, by the names that these libraries give them."""
    properties: dict[str, Any] = {"delivery_mode": 2 if options.persistent else 1}
    if options.headers:
        properties["headers"] = dict(options.headers)
    return properties


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _as_os_error(error: BaseException) -> BaseException:
    """The run knows a broker that can't be reached by OSError; libraries have errors of their own for it."""
    return error if isinstance(error, OSError) else ConnectionError(str(error) or repr(error))


def _nothing_to_do() -> None:
    """Only has the loop take what there is."""


def _nothing(body: bytes, redelivered: bool, tag: int) -> None:
    """A server's requests never come here."""
