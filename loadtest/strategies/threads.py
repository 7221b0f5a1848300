"""Strategies with a thread for each client, which opens its connection, works and waits by itself.

No event loop is between: these are the libraries as blocking programs use them, without the drivers' bridge. The main
thread only looks on.
"""

from __future__ import annotations

import threading
from collections import deque
from time import sleep

from loadtest.drivers import load_blocking
from loadtest.drivers.base import Outcome
from loadtest.drivers.blocking import Connect
from loadtest.execution.body import BodyMaker
from loadtest.strategies.table import Strategy
from loadtest.strategies.work import TOGETHER, Book, Cell, Window


class Threads:
    """All clients of one cell, as threads. `arrived`, `failed` and `working` tell how far they are."""

    def __init__(self, cell: Cell, strategy: Strategy, window: Window, bodies: BodyMaker) -> None:
        self._cell = cell
        self._connect: Connect = load_blocking(strategy.driver)
        self._window = window
        self._opening = threading.BoundedSemaphore(TOGETHER)
        self._begin = threading.Event()
        self._arrived: deque[None] = deque()
        self._failed: deque[None] = deque()
        self._ended: deque[None] = deque()
        self.refusal: str | None = None
        """Why the system gives no more threads, if it doesn't."""
        self.books = [Book(window, bodies) for _ in range(cell.clients)]

    @property
    def arrived(self) -> int:
        """How many are connected and ready."""
        return len(self._arrived)

    @property
    def failed(self) -> int:
        """How many came to an end that nobody asked for."""
        return len(self._failed)

    @property
    def working(self) -> int:
        """How many may still send something."""
        return self._cell.producers - len(self._ended) if self._begin.is_set() else 0

    def start(self) -> None:
        """Has all be started while the caller looks on: ten thousand take half a minute."""
        threading.Thread(target=self._start_all, daemon=True).start()

    def _start_all(self) -> None:
        try:
            for number in range(self._cell.clients):
                target = self._produce if number < self._cell.producers else self._consume
                threading.Thread(target=self._run, args=(target, number), daemon=True).start()
        except RuntimeError as error:
            self.refusal = f"{error} after {threading.active_count():,} threads"

    def begin(self) -> None:
        """Has them work."""
        self._begin.set()

    def _run(self, target: object, number: int) -> None:
        assert callable(target)
        try:
            target(number, self.books[number])
        except BaseException as error:
            self.books[number].note(error)
            self._failed.append(None)

    def _produce(self, number: int, book: Book) -> None:
        try:
            with self._opening:
                connection = self._connect(self._cell.url, "loadtest strategies")
                producer = connection.producer(self._cell.queue_of(number), self._cell.publishing, ignore)
            self._arrived.append(None)
            self._begin.wait()
            while not self._window.is_stopping:
                body = book.begin(number)
                try:
                    outcome = producer.publish(body, None)
                except Exception as error:
                    book.take_back(number, error)
                    raise
                book.settle(number, outcome)
        finally:
            self._ended.append(None)
        while True:
            connection.rest()
            sleep(1.0)

    def _consume(self, number: int, book: Book) -> None:
        with self._opening:
            connection = self._connect(self._cell.url, "loadtest strategies")
            queue = self._cell.queue_of(number - self._cell.producers)
            consumer = connection.consumer(queue, self._cell.consuming)
        receive, ack = book.receive, consumer.ack

        def handle(body: bytes, redelivered: bool, tag: int) -> None:
            receive(body)
            ack(tag)

        self._arrived.append(None)
        consumer.run(handle)


def ignore(token: object, outcome: Outcome) -> None:
    """Nobody submits."""
