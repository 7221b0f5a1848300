"""Messages that are in the queues before the first consumer subscribes, and how long consumers take for them.

They are accounted for as those of further producers, behind the run's own, and carry no time: how long they lay there
says nothing of a latency. A few connections beside the clients' publish them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from time import monotonic, monotonic_ns

import anyio

from loadtest.drivers.base import Connection, Outcome, ProducerOptions
from loadtest.execution.state import Run
from loadtest.metrics.ledger import Account
from loadtest.scenarios.schedule import NANOSECONDS

WINDOW = 500
"""Publishes in flight for each queue's filler."""
AT_A_TIME = 8
"""Queues that are filled at once."""
PATIENCE = 30.0
"""Seconds without a confirm after which the broker takes no more."""
LOOK = 0.05


class Backlog:
    """Fills the queues of one run, one after the other, evenly."""

    def __init__(self, run: Run, connect: Callable[[], AbstractAsyncContextManager[Connection]]) -> None:
        self._run = run
        self._connect = connect
        self._queues = run.plan.queues
        self._first = run.settings.producers
        """The first account that is not a producer's: each queue has one."""
        self._scene = run.record.scene
        self._turn = anyio.Semaphore(AT_A_TIME)

    async def fill(self) -> None:
        """Returns when all is confirmed, the broker takes no more, or the run was interrupted."""
        began = monotonic()
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._watch_progress, tg.cancel_scope)
            async with anyio.create_task_group() as fillers:
                for number, queue in enumerate(self._queues):
                    fillers.start_soon(self._fill_queue, number, queue)
            tg.cancel_scope.cancel()
        self._scene.times["backlog.build"] = monotonic() - began

    async def _watch_progress(self, scope: anyio.CancelScope) -> None:
        tally, impatient_at, confirmed = self._run.record.tally, monotonic() + PATIENCE, -1
        while monotonic() < impatient_at and not self._run.enough.is_set():
            if tally.confirmed != confirmed:
                confirmed, impatient_at = tally.confirmed, monotonic() + PATIENCE
            await anyio.sleep(LOOK)
        scope.cancel()

    async def _fill_queue(self, number: int, queue: str) -> None:
        settings, account, tally = self._run.settings, self._account(number), self._run.record.tally
        messages = settings.backlog * (number + 1) // len(self._queues) - settings.backlog * number // len(self._queues)
        in_flight = set[int]()

        def settle(token: int, outcome: Outcome) -> None:
            if token not in in_flight:
                return  # it was given up, and counted so
            in_flight.remove(token)
            tally.count_outcome(outcome)
            if outcome is Outcome.CONFIRMED:
                self._scene.counts["backlog.built"] += 1
            else:
                self._scene.counts[f"backlog.{outcome.value}"] += 1
                account.disown(token)

        options = ProducerOptions(window=WINDOW, persistent=not settings.transient, mandatory=True)
        try:
            async with self._turn, self._connect() as connection:
                async with connection.producer(queue, options, settle) as producer:
                    for _ in range(messages):
                        token = account.send()
                        tally.sent += 1
                        in_flight.add(token)
                        await producer.submit(self._run.bodies(self._first + number, token, 0), token)
                    await producer.flush()
        except Exception as error:
            self._run.record.errors.note(error, " (filling)")
        finally:
            tally.unknown += len(in_flight)
            self._scene.counts["backlog.unknown"] += len(in_flight)
            for token in in_flight:
                account.disown(token)
            in_flight.clear()

    async def watch(self) -> None:
        """Notes when consumers have all of it, counted from when they began; ends the run if nobody sends more."""
        run, built = self._run, self._scene.counts["backlog.built"]
        await run.begin.wait()
        while True:
            await anyio.sleep(LOOK)
            if self._has_arrived(built):
                break
        self._scene.times["backlog.drain"] = (monotonic_ns() - run.work_begun_at) / NANOSECONDS
        self._scene.counts["backlog.published_meanwhile"] = run.record.tally.confirmed - built
        self._scene.counts["backlog.received_meanwhile"] = run.record.tally.received
        if not run.settings.producers and not run.settings.callers:
            run.record.is_complete = True
            run.enough.set()

    def _has_arrived(self, built: int) -> bool:
        if self._run.record.ledger.unique < built:
            return False
        return self.arrived() >= built

    def arrived(self) -> int:
        """How many of the backlog's messages consumers have got."""
        return sum(len(self._account(number).arrived) for number in range(len(self._queues)))

    def _account(self, number: int) -> Account:
        return self._run.record.ledger.accounts[self._first + number]
