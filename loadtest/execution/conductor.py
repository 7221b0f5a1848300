"""Leads a run through its phases: connect, warmup, measure, drain, close.

It alone moves the run's state on. However a run ends (time, Ctrl-C, the last client gone), producers stop first,
consumers take what is left, everybody hands back what they hold, and only then stock is taken: so the ledger closes.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from time import monotonic, monotonic_ns
from typing import Any

import anyio
from anyio.abc import TaskGroup

from loadtest.drivers.base import Administrator, Connection, Session
from loadtest.execution.caller import serve
from loadtest.execution.crowd import Crowd
from loadtest.execution.leftovers import Leftovers
from loadtest.execution.sampler import Display, Sampler
from loadtest.execution.state import Phase, Run
from loadtest.machine.environment import describe_broker
from loadtest.machine.probe import CollectorPauses, LoopProbe
from loadtest.machine.resources import Meter, Usage
from loadtest.metrics.tally import Tally
from loadtest.scenarios.schedule import NANOSECONDS

ENOUGH_TO_WEIGH = 1000
"""Connections below which this process's memory grows by its allocator's steps rather than by theirs."""
CONNECT_PATIENCE = 60.0
"""Seconds without any new connection after which those still missing count as failed."""
INTERRUPTED_DRAIN = 3.0
STALL = 2.0
"""Seconds without a delivery after which the drain asks the broker whether anything is left."""
CLOSE_BOUND = 15.0
CLOSES_PER_SECOND = 200
"""Closing may take 15 s, and a second more for each 200 connections; what is still open then is dropped."""
COLLECT_AFTER = 20_000
"""New objects after which the garbage collector looks for cycles. With Python's own 700 it took 22 to 26 % of the time
of 10,000 clients, whose thousands of messages in flight it looks through again and again; with this below 5 %.
"""
DECLARE_BOUND = 60.0
STOCK_BOUND = 60.0
ABANDONED_BOUND = 2.0
"""Seconds for what has to be done after the run, and after one that was dropped."""
QUEUE_EXPIRY_MARGIN = 600.0
"""Queues outlive their run by so many seconds at most, should it be killed."""
LONGEST_EXPIRY = 2**32 - 1
"""Milliseconds: RabbitMQ takes no more."""


@dataclass(frozen=True, slots=True)
class Interval:
    """What was used and done from one moment to another."""

    usage: tuple[Usage, Usage]
    work: tuple[dict[str, int], dict[str, int]]

    @property
    def seconds(self) -> float:
        return self.usage[1].seconds - self.usage[0].seconds

    def count(self, name: str) -> int:
        """How often something of the tally happened."""
        return self.work[1][name] - self.work[0][name]

    def used(self, name: str) -> float | None:
        """How much of a usage was added; None if it is not known."""
        before, after = getattr(self.usage[0], name), getattr(self.usage[1], name)
        return None if before is None or after is None else after - before


@dataclass(slots=True)
class Report:
    """What a run leaves behind, beside the run's own state."""

    sampler: Sampler
    probe: LoopProbe
    pauses: CollectorPauses
    meter: Meter
    broker: dict[str, Any]
    leftovers: Leftovers
    measured: Interval | None = None
    connect_seconds: float = 0.0
    bytes_per_connection: float | None = None


class QueueRefused(Exception):
    """The broker doesn't declare such a queue."""


class Conductor:
    """Conducts one run."""

    def __init__(
        self, run: Run, session: Session, urls: Sequence[str], meter: Meter, display: Display, *, is_private: bool
    ) -> None:
        self._run = run
        self._session = session
        self._urls = urls
        self._meter = meter
        self._is_private = is_private
        self._crowd = Crowd(run, session, urls)
        self.report = Report(
            sampler=Sampler(run, meter, display),
            probe=LoopProbe(self._is_measured),
            pauses=CollectorPauses(self._is_measured),
            meter=meter,
            broker={},
            leftovers=Leftovers(run, self._open_connection),
        )

    async def conduct(self) -> Report:
        """The whole run. OSError if the broker can't be reached at all, QueueRefused if it doesn't take our queues.

        Cancelled, it drops everything; `report` then has what was measured.
        """
        queues = (*self._run.plan.queues, *self._run.plan.server_queues)
        await self._declare(queues)
        bound, thresholds = ABANDONED_BOUND, gc.get_threshold()
        try:
            await self._perform()
            bound = STOCK_BOUND
        finally:
            gc.unfreeze()
            gc.set_threshold(*thresholds)
            with anyio.move_on_after(bound, shield=True):
                await self._take_stock()
                if not self._is_private:  # or they go with the node
                    await self._delete(queues)
        return self.report

    async def _perform(self) -> None:
        run, report = self._run, self.report
        self._begin_phase("connect")
        try:
            with report.pauses.watched():
                async with anyio.create_task_group() as staff:
                    for watcher in (run.timetable.run, report.sampler.watch, report.probe.run):
                        staff.start_soon(watcher)
                    for number, queue in enumerate(run.plan.server_queues):
                        staff.start_soon(serve, run, self._session, self._urls[number % len(self._urls)], queue)
                    async with anyio.create_task_group() as crowd:
                        await self._connect(crowd)
                        await self._work()
                        await self._drain()
                        self._close(crowd)
                    staff.cancel_scope.cancel()
        finally:
            self._end_phase()

    # --- phases -----------------------------------------------------------------------------------------------------

    async def _connect(self, tg: TaskGroup) -> None:
        gc.collect()
        rss = self._meter.client_rss()
        tg.start_soon(self._crowd.gather, tg)
        await self._wait_for_arrivals()
        self.report.connect_seconds = (self._crowd.last_arrival - self._run.phases[-1].began) / 1e9
        gc.collect()
        gc.freeze()  # what lives now lives to the end: the collector need not look at it again
        gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
        if self._run.tally.connected >= ENOUGH_TO_WEIGH:
            self.report.bytes_per_connection = (self._meter.client_rss() - rss) / self._run.tally.connected
        if self._run.enough.is_set():
            self._run.is_stopping = True

    async def _wait_for_arrivals(self) -> None:
        """Until everyone is there or has failed; who makes no progress for too long has failed."""
        run, crowd = self._run, self._crowd
        arrived, impatient_at = -1, 0.0
        while not (crowd.everyone_arrived.is_set() or run.enough.is_set()):
            if crowd.arrived != arrived:
                arrived, impatient_at = crowd.arrived, monotonic() + CONNECT_PATIENCE
            elif monotonic() > impatient_at:
                crowd.give_up_waiting()
            await anyio.sleep(0.02)

    async def _work(self) -> None:
        """Warm up, then measure."""
        run = self._run
        self._begin_phase("warmup")
        run.begun_at = monotonic_ns()
        run.begin.set()
        await self._pause(run.settings.warmup)
        if not self._run.enough.is_set():
            await self._measure()
        run.is_stopping = True
        run.timetable.wake_everyone()

    async def _measure(self) -> None:
        run, meter = self._run, self._meter
        self._begin_phase("measure")
        meter.sample()
        before = meter.read(), _copy(run.tally)
        start = monotonic_ns()
        run.window = start, start + int(run.settings.duration * NANOSECONDS)
        try:
            await self._pause(run.settings.duration)
        finally:
            run.window = start, min(run.window[1], monotonic_ns())
            after = meter.read(), _copy(run.tally)
            self.report.measured = Interval((before[0], after[0]), (before[1], after[1]))
            meter.sample()

    async def _drain(self) -> None:
        """Until everything confirmed was received, or the queues are empty, or time is up."""
        run = self._run
        self._begin_phase("drain")
        began = monotonic()
        received, stalled_at = -1, began + STALL
        while not self._is_drained():
            patience = min(run.settings.drain, INTERRUPTED_DRAIN) if run.is_interrupted else run.settings.drain
            if (left := began + patience - monotonic()) < 0:
                return
            await anyio.sleep(min(left, 0.05))
            if run.tally.received != received:
                received, stalled_at = run.tally.received, monotonic() + STALL
            elif monotonic() > stalled_at:
                with anyio.move_on_after(left):
                    if self._is_settled() and await self.report.leftovers.recount() == 0:
                        return
                stalled_at = monotonic() + STALL

    def _close(self, crowd: TaskGroup) -> None:
        """Everybody goes, in bounded time."""
        run = self._run
        self._begin_phase("close")
        run.over.set()
        for consumer in list(run.consumers):
            consumer.stop()
        bound = CLOSE_BOUND + run.settings.connections / CLOSES_PER_SECOND
        crowd.cancel_scope.deadline = anyio.current_time() + bound

    def _is_settled(self) -> bool:
        """No publish and no call is in flight."""
        tally = self._run.tally
        settled = tally.confirmed + tally.nacked + tally.returned + tally.unknown
        answered = tally.replies + tally.rpc_timeouts + tally.rpc_errors
        return settled >= tally.sent and answered >= tally.calls

    def _is_drained(self) -> bool:
        """Nothing is in flight, and everything confirmed has arrived, or nobody is there to take it."""
        run = self._run
        return self._is_settled() and (run.ledger.unique >= run.tally.confirmed or not run.consumers)

    # --- the broker -------------------------------------------------------------------------------------------------

    def _open_connection(self) -> AbstractAsyncContextManager[Connection]:
        """Another than the clients': it must work when theirs don't."""
        return self._session.connect(self._urls[0], f"{self._run.prefix} administrator")

    async def _declare(self, queues: Sequence[str]) -> None:
        with anyio.move_on_after(DECLARE_BOUND) as scope:
            try:
                async with self._open_connection() as connection:
                    self.report.broker = describe_broker(connection.server_properties, self._is_private)
                    async with connection.administrator() as administrator:
                        await self._declare_each(queues, administrator)
            except (OSError, QueueRefused):
                raise
            except Exception as error:
                raise ConnectionError(str(error) or repr(error)) from error
        if scope.cancelled_caught:
            raise TimeoutError(f"it did not answer, or not declare {len(queues)} queues, within {DECLARE_BOUND:g} s")

    async def _declare_each(self, queues: Sequence[str], administrator: Administrator) -> None:
        for queue in queues:
            try:
                await administrator.declare_queue(queue, self._queue_arguments(queue))
            except OSError:
                raise
            except Exception as error:
                raise QueueRefused(f"the broker refuses the queues: {error}") from error

    def _queue_arguments(self, queue: str) -> dict[str, Any]:
        settings = self._run.settings
        longest = CONNECT_PATIENCE + settings.warmup + settings.duration + settings.drain + QUEUE_EXPIRY_MARGIN
        arguments: dict[str, Any] = {"x-expires": min(int(longest * 1000), LONGEST_EXPIRY)}
        if queue in self._run.plan.queues:
            arguments |= {"x-queue-type": settings.queue_type, **settings.queue_arguments}
        return arguments

    async def _take_stock(self) -> None:
        try:
            await self.report.leftovers.take_stock()
        except Exception as error:
            self._run.errors.note(error, " (counting)")

    async def _delete(self, queues: Sequence[str]) -> None:
        try:
            async with self._open_connection() as connection, connection.administrator() as administrator:
                for queue in queues:
                    await administrator.delete_queue(queue)
        except Exception as error:
            self._run.errors.note(error, " (deleting queues)")

    # --- time -------------------------------------------------------------------------------------------------------

    def _is_measured(self, when: int) -> bool:
        start, end = self._run.window
        return start <= when < end

    def _begin_phase(self, name: str) -> None:
        self._end_phase()
        self._run.phases.append(Phase(name, monotonic_ns()))

    def _end_phase(self) -> None:
        if self._run.phases:
            phase = self._run.phases[-1]
            phase.seconds = (monotonic_ns() - phase.began) / 1e9
            self.report.sampler.add_row()

    async def _pause(self, seconds: float) -> None:
        """Waits, but not after the run was interrupted."""
        with anyio.move_on_after(seconds):
            await self._run.enough.wait()


def _copy(tally: Tally) -> dict[str, int]:
    return {name: getattr(tally, name) for name in Tally.__slots__}
