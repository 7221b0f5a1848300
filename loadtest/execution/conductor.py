"""Leads a run through its phases: connect, warmup, measure, drain, close; between, if asked, it seeks its rate.

It alone moves the run's state on. However a run ends (time, Ctrl-C, the last client gone), producers stop first,
consumers take what is left, everybody hands back what they hold, and only then stock is taken: so the ledger closes.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from time import monotonic, monotonic_ns
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from loadtest.drivers.base import Connection, Session
from loadtest.execution.backlog import Backlog
from loadtest.execution.caller import serve
from loadtest.execution.churn import Churn
from loadtest.execution.company import Company
from loadtest.execution.crowd import Crowd
from loadtest.execution.ending import watch_for_end
from loadtest.execution.faults import Faults, OwnBroker
from loadtest.execution.leftovers import Leftovers
from loadtest.execution.opening import count_reconnects
from loadtest.execution.queues import Queues
from loadtest.execution.sampler import Display, Sampler
from loadtest.execution.seeking import Seeker
from loadtest.execution.state import Run
from loadtest.machine.environment import describe_broker
from loadtest.machine.neighbours import Seen, look
from loadtest.machine.probe import CollectorPauses, LoopProbe
from loadtest.machine.resources import Meter, Usage, note_cost
from loadtest.metrics.record import Record, Weighed, Work
from loadtest.scenarios.schedule import NANOSECONDS

ENOUGH_TO_WEIGH = 1000
"""Connections below which this process's memory grows by its allocator's steps rather than by theirs."""
CONNECT_PATIENCE = 60.0
"""Seconds without any new connection after which those still missing count as failed."""
SETTLING, LONGEST_SETTLING = 0.1, 1.0
"""The part of the measured time, and the seconds at most, for which a rate that was found runs before that."""
INTERRUPTED_DRAIN = 3.0
"""Seconds of draining, at most, after an interrupt."""
STALL = 2.0
"""Seconds without a delivery after which the drain asks the broker whether anything is left."""
CLOSE_BOUND = 15.0
CLOSES_PER_SECOND = 200
"""Closing may take 15 s, and a second more for each 200 connections; what is still open then is dropped."""
COLLECT_AFTER = 20_000
"""New objects after which the garbage collector looks for cycles. With Python's own 700 it took 22 to 26 % of the time
of 10,000 clients, whose thousands of messages in flight it looks through again and again; with this below 5 %.
"""
STOCK_BOUND = 60.0
ABANDONED_BOUND = 2.0
"""Seconds for what has to be done after the run, and after one that was dropped."""


class Conductor:
    """Conducts one run."""

    def __init__(
        self,
        run: Run,
        session: Session,
        urls: Sequence[str],
        meter: Meter,
        display: Display,
        *,
        is_private: bool,
        node: OwnBroker | None = None,
        company: Company | None = None,
    ) -> None:
        """`node` is there if the broker is ours, and faults may be done to it."""
        self._run = run
        self._session = session
        self._urls = urls
        self._meter = meter
        self._is_private = is_private
        self._company = company
        settings, covers = run.settings, run.measurement.covers
        longest = CONNECT_PATIENCE + settings.warmup + 4 * settings.search + settings.duration + settings.drain
        self._crowd = (Churn if settings.churn else Crowd)(run, session, urls)
        self._backlog = Backlog(run, self._open_connection)
        self._faults = Faults(run, node, urls, partial(count_reconnects, run, session), meter.sample)
        self._queues = Queues(run, self._open_connection, longest=longest)
        self._leftovers = Leftovers(run, self._open_connection)
        self._sampler = Sampler(run, meter, display)
        self._probe = LoopProbe(covers, run.record.loop_lateness)
        self._pauses = CollectorPauses(covers)
        self._seen: list[Seen] = []
        """All processes, when the work began and when it had been measured."""
        self._measured: tuple[Usage, Usage] | None = None
        """What had been used when the measurement began, and when it ended."""

    async def conduct(self) -> Record:
        """The whole run. OSError if the broker can't be reached at all, QueueRefused if it doesn't take our queues.

        Cancelled, it drops everything; the run's record then has what was measured.
        """
        if self._company is None:
            server_properties = await self._declare()
            self._run.record.broker = describe_broker(server_properties, self._is_private)
        else:
            await self._company.may_connect()
        bound, thresholds = ABANDONED_BOUND, gc.get_threshold()
        try:
            await self._perform()
            bound = STOCK_BOUND
        finally:
            gc.unfreeze()
            gc.set_threshold(*thresholds)
            with anyio.move_on_after(bound, shield=True):
                # (those of several processes are left to whoever leads)
                if self._company is None:
                    await self._take_stock()
                if self._company is None and not self._leftovers.is_silent:  # or they expire
                    await self._delete_queues()
            self._close_the_books()
        return self._run.record

    async def _perform(self) -> None:
        run = self._run
        self._begin_phase("fill" if run.settings.backlog else "connect")
        try:
            with self._pauses.watched():
                async with anyio.create_task_group() as staff:
                    for watcher in (
                        run.timetable.run,
                        self._sampler.watch,
                        self._probe.run,
                        partial(watch_for_end, run, is_alone=self._company is None),
                    ):
                        staff.start_soon(watcher)
                    for number, queue in enumerate(run.plan.server_queues):
                        staff.start_soon(serve, run, self._session, self._urls[number % len(self._urls)], queue)
                    if run.settings.backlog:
                        await self._backlog.fill()
                        staff.start_soon(self._backlog.watch)
                        self._begin_phase("connect")
                    if run.settings.faults:
                        staff.start_soon(self._faults.run)
                    async with anyio.create_task_group() as crowd:
                        await self._connect(crowd)
                        await self._look_around()
                        await self._work()
                        await self._drain()
                        self._close(crowd)
                    staff.cancel_scope.cancel()
        finally:
            run.stop()
            self._end_phase()

    # --- phases -----------------------------------------------------------------------------------------------------

    async def _connect(self, tg: TaskGroup) -> None:
        run, record = self._run, self._run.record
        before = self._meter.read()
        gc.collect()
        rss = self._meter.client_rss()
        tg.start_soon(self._crowd.gather, tg)
        await self._wait_for_arrivals()
        record.connect_seconds = run.seconds_at(self._crowd.last_arrival) - record.phases[-1].began
        note_cost(record.scene, "connect", before, self._meter.read())
        gc.collect()
        gc.freeze()  # what lives now lives to the end: the collector need not look at it again
        gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
        if record.tally.connected >= ENOUGH_TO_WEIGH:
            record.weighed = Weighed(record.tally.connected, self._meter.client_rss() - rss)
        if run.enough.is_set():
            run.stop()

    async def _wait_for_arrivals(self) -> None:
        """Returns when everyone is there or has failed; who makes no progress for too long has failed."""
        run, crowd = self._run, self._crowd
        arrived, impatient_at = -1, 0.0
        while not (crowd.everyone_arrived.is_set() or run.enough.is_set()):
            if crowd.arrived != arrived:
                arrived, impatient_at = crowd.arrived, monotonic() + CONNECT_PATIENCE
            elif monotonic() > impatient_at:
                crowd.give_up_waiting()
            await anyio.sleep(0.02)

    async def _work(self) -> None:
        """Warms up, seeks the rate if it is to, then measures."""
        run = self._run
        if run.barrier is not None:
            await run.barrier.wait()
        begun_at = monotonic_ns() if self._company is None else await self._company.may_begin()
        self._begin_phase("warmup")
        run.work_begun_at = begun_at
        run.begin.set()
        if run.settings.mode == "both":
            await self._seek()
        else:
            await self._pause(run.settings.warmup)
        if not self._run.enough.is_set():
            await self._measure()
        run.stop()

    async def _look_around(self) -> None:
        """Sees who else uses the processors: before the work and after it, as it may take a tenth of a second on a busy
        machine. (One of several processes would take the others for neighbours.)
        """
        if self._company is None:
            self._seen.append(await anyio.to_thread.run_sync(look))

    async def _seek(self) -> None:
        """Finds the rate that can be kept up, and lets all pace at the share of it that is to be measured."""
        if self._company is not None:
            return await self._company.may_measure(self._begin_phase)
        run = self._run
        seeker = Seeker(run, self._meter, self._begin_phase)
        rate = await seeker.seek()
        if not run.enough.is_set():
            self._begin_phase("settle")
            run.begin_leg(seeker.make_leg(rate, is_planned=True))
            await self._pause(min(LONGEST_SETTLING, SETTLING * run.settings.duration))

    async def _measure(self) -> None:
        run, meter = self._run, self._meter
        self._begin_phase("measure")
        meter.sample()
        before, counts = meter.read(), run.record.tally.to_plain()
        start = monotonic_ns()
        run.measurement.open(start, start + int(run.settings.duration * NANOSECONDS))
        run.sending_ends = run.measurement.end
        run.measuring.set()
        try:
            await self._pause(run.settings.duration)
        finally:
            run.measurement.close(monotonic_ns())
            after = meter.read()
            done = {name: number - counts[name] for name, number in run.record.tally.to_plain().items()}
            self._measured = before, after
            run.record.work = Work(after.seconds - before.seconds, done)
            meter.sample()

    async def _drain(self) -> None:
        """Waits until everything confirmed was received, or the queues are empty, or time is up."""
        run = self._run
        self._begin_phase("drain")
        if self._company is not None:
            return await self._company.may_close(self._is_settled)
        await self._look_around()
        began = monotonic()
        received, stalled_at = -1, began + STALL
        while not self._is_drained():
            patience = min(run.settings.drain, INTERRUPTED_DRAIN) if run.record.is_interrupted else run.settings.drain
            if (left := began + patience - monotonic()) < 0:
                return
            await anyio.sleep(min(left, 0.05))
            if run.record.tally.received != received:
                received, stalled_at = run.record.tally.received, monotonic() + STALL
            elif monotonic() > stalled_at:
                with anyio.move_on_after(left):
                    if self._is_settled() and await self._leftovers.recount() == 0:
                        return
                stalled_at = monotonic() + STALL

    def _close(self, crowd: TaskGroup) -> None:
        """Sends everybody away, in bounded time."""
        run = self._run
        self._begin_phase("close")
        run.over.set()
        for consumer in list(run.consumers):
            consumer.stop()
        bound = CLOSE_BOUND + run.settings.connections / CLOSES_PER_SECOND
        crowd.cancel_scope.deadline = anyio.current_time() + bound

    def _is_settled(self) -> bool:
        """Whether nobody sends any more, and no publish and no call is in flight."""
        if self._run.at_work:
            return False
        tally = self._run.record.tally
        answered = tally.replies + tally.rpc_timeouts + tally.rpc_errors
        return tally.settled >= tally.sent and answered >= tally.calls

    def _is_drained(self) -> bool:
        """Whether nothing is in flight, and everything confirmed has arrived, or nobody is there to take it."""
        run, record = self._run, self._run.record
        if not self._is_settled():
            return False
        if not run.consumers:
            return True
        if record.tally.unknown and run.settings.copies == 1:  # which may arrive in the place of what was confirmed
            return not record.ledger.balance().missing
        return record.ledger.unique >= run.expected

    # --- the broker -------------------------------------------------------------------------------------------------

    async def _declare(self) -> Mapping[str, Any]:
        """Declares the queues, and notes what they cost; returns what the broker says of itself."""
        scene, before, rss = self._run.record.scene, self._meter.read(), self._meter.broker_rss()
        try:
            server_properties = await self._queues.declare()
        except BaseException:  # refused, unreachable, interrupted: what is there by then is not left behind
            with anyio.move_on_after(ABANDONED_BOUND, shield=True):
                await self._delete_queues()
            raise
        note_cost(scene, "queues", before, self._meter.read())
        if rss is not None:
            scene.counts["queues.broker_bytes"] = (self._meter.broker_rss() or rss) - rss
        return server_properties

    async def _delete_queues(self) -> None:
        if not self._is_private or self._run.settings.scenario == "queues":  # else they go with the node
            await self._queues.delete()

    def _open_connection(self) -> AbstractAsyncContextManager[Connection]:
        """Opens another connection than the clients': it must work when theirs don't."""
        return self._session.connect(self._urls[0], f"{self._run.plan.prefix} administrator")

    async def _take_stock(self) -> None:
        self._count_reconnects()
        if self._run.settings.copies > 1:
            self._run.record.ledger.spread(self._run.settings.producers)
        try:
            await self._leftovers.take_stock()
        except Exception as error:
            self._run.record.errors.note(error, " (counting)")

    def _close_the_books(self) -> None:
        """Enters into the record what can be told only at the end."""
        self._run.compare_with_plan()
        self._faults.close()
        self._count_reconnects()
        before, after = self._measured or (None, None)
        self._run.record.costs = [self._meter.cost(before, after, self._pauses, self._seen)]

    def _count_reconnects(self) -> None:
        self._run.record.tally.reconnected = count_reconnects(self._run, self._session)

    # --- time -------------------------------------------------------------------------------------------------------

    def _begin_phase(self, name: str) -> None:
        self._end_phase()
        self._run.begin_phase(name)

    def _end_phase(self) -> None:
        if self._run.record.phases:
            self._run.end_phase()
            self._sampler.add_row()

    async def _pause(self, seconds: float) -> None:
        """Waits, but not after the run was interrupted."""
        with anyio.move_on_after(seconds):
            await self._run.enough.wait()
