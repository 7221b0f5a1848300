"""Where a run is, for all its clients in this process: what has begun, what is over, who is at work.

It holds state and decides nothing: the conductor moves it from phase to phase, clients read it, and what they count and
time goes into its record. What was asked for, the settings and the plan, doesn't change any more.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from math import ceil
from time import monotonic_ns
from typing import Protocol

import anyio

from loadtest.drivers.base import Connection, Consumer, ConsumerOptions
from loadtest.execution.barrier import Barrier
from loadtest.execution.body import Stamp
from loadtest.execution.filling import make_bodies
from loadtest.execution.hindrance import Hindrance
from loadtest.execution.leg import Leg, Schedules
from loadtest.execution.timetable import Timetable
from loadtest.metrics.latencies import NEVER, Measurement
from loadtest.metrics.ledger import Ledger
from loadtest.metrics.record import Phase, Planned, Record
from loadtest.scenarios.faults import OF_CONSUMERS, Fault
from loadtest.scenarios.plan import Plan, make_plan
from loadtest.scenarios.schedule import NANOSECONDS, Schedule
from loadtest.scenarios.settings import Role, Settings
from loadtest.scenarios.shapes import ShapedSchedule

Read = Callable[[bytes], Stamp | None]
"""How a body's stamp is read."""

MOST_POINTS = 200_000
"""How many waits of messages never sent are told apart; of more, each counts for several neighbours."""


class Timeline(Protocol):
    """The faults of a workload, as those of another see them."""

    def notice(self, fault: Fault, at: float) -> None:
        """Another workload does this fault now, `at` seconds into the measurement: it counts here, too."""
        ...


class Attendance(Protocol):
    """How a client tells that it came and goes; each does both, in this order."""

    def arrive(self) -> None:
        """The client is ready to work."""
        ...

    async def leave(self) -> None:
        """Returns when the run is over and it is the client's turn to close what it has opened."""
        ...


class Run:
    """One run in this process."""

    def __init__(self, settings: Settings, plan: Plan, started_at: datetime) -> None:
        self.settings = settings
        self.plan = plan
        fillers = settings.queues if settings.backlog else 0
        self.record = Record(
            run_id=plan.run_id,
            started_at=started_at.isoformat(timespec="seconds"),
            ledger=Ledger(settings.producers * settings.copies + fillers),
            calls_made=[0] * settings.callers,
        )
        self.measurement = Measurement(
            self.record.latencies, (self.record.confirm_silence, self.record.delivery_silence)
        )
        self.bodies = make_bodies(plan.tag, replace(settings, producers=settings.producers + fillers))
        self.reading: Callable[[Read], Read] | None = None
        """What reads the stamps of messages that come from another host; None where none do."""
        self.timetable = Timetable()
        self.leg = Leg(publishing=plan.publishing, calling=plan.calling, is_planned=settings.mode != "both")
        """How clients pace now."""
        self.doing = ""
        """What is going on within the phase, for people; empty if there is nothing to add."""

        self.began_at = 0
        """When the first phase began, in nanoseconds of the monotonic clock."""
        self.work_begun_at = 0
        self.begin = anyio.Event()
        """Set once everyone is there: the work begins."""
        self.enough = anyio.Event()
        """Set when the run is to end before its time."""
        self.is_done = False
        """Whether all that was asked of this process is done, or nothing happens in it any more."""
        self.over = anyio.Event()
        """Set when everybody is to leave."""
        self.measuring = anyio.Event()
        """Set once the measurement has begun."""
        self.is_first = True
        """Whether it does what is to be done once for all workloads: faults to the broker and to sockets."""
        self.barrier: Barrier | None = None
        """What this run waits at, once everyone is there, until the other workloads are ready, too."""
        self.timelines: list[Timeline] = []
        """Those of all workloads, in one list that they share."""
        hindered = any(fault.action in OF_CONSUMERS for fault in settings.faults)
        self.hindrance = Hindrance() if hindered else None
        """What faults do to consumers; None where none does."""
        self.is_stopping = False
        """Nobody sends anything new."""
        self.sending_ends = NEVER
        """What is due from this moment on is not sent: the measured window's end, or when the run was stopped."""
        self.at_work = 0
        """How many producers and callers may still send something."""
        self.is_blocked = False
        """Whether the broker blocks publishers, as far as is known."""
        self.consumers: set[Consumer] = set()
        self.publishing: dict[int, Connection] = {}
        """The connections that publish, by the number of a producer on each."""

    def stop(self) -> None:
        """Ends all sending, unless that has happened. Who is behind its schedule leaves the rest of it undone."""
        if not self.is_stopping:
            self.is_stopping = True
            self.sending_ends = min(self.sending_ends, self.measurement.end, monotonic_ns())
            self.timetable.wake_everyone()

    def interrupt(self) -> None:
        """Asks for an early end, in order."""
        self.record.is_interrupted = True
        self.enough.set()

    def complete(self) -> None:
        """All that was asked for is done, here and in all other processes."""
        self.record.is_complete = True
        self.enough.set()

    def begin_phase(self, name: str) -> None:
        """The phase before it has ended."""
        now = monotonic_ns()
        if not self.record.phases:
            self.began_at = now if self.barrier is None else self.barrier.begin(now)
        self.record.phases.append(Phase(name, self.seconds_at(now)))

    def end_phase(self) -> None:
        """Notes how long the latest phase took."""
        phase = self.record.phases[-1]
        phase.seconds = self.seconds_at(monotonic_ns()) - phase.began

    def seconds_at(self, now: int) -> float:
        """Seconds since the run began, of a moment of the monotonic clock."""
        return (now - self.began_at) / NANOSECONDS

    def begin_leg(self, leg: Leg) -> None:
        """Changes the pace: whoever sleeps until something that was due in the leg before is woken."""
        self.leg = leg
        self.timetable.rouse()

    def start_of(self, index: int) -> int:
        """When the producer or caller of that number starts to work, in the current leg."""
        start = self.leg.start
        return self.work_begun_at + int(self.plan.offsets[index] * NANOSECONDS) if start is None else start

    @property
    def expected(self) -> int:
        """How many deliveries there are to be of what was taken: each queue's copy is one."""
        return self.record.tally.taken * self.settings.copies

    def left_to_send(self, producer: int) -> int | None:
        """How many messages that producer has yet to send; None if it sends until the run ends."""
        quota = self.plan.quota(producer)
        return None if quota is None else quota - self.record.ledger.accounts[producer].sent

    def may_send(self, producer: int) -> bool:
        """Whether that producer is connected, and has something left to send."""
        return producer in self.publishing and self.left_to_send(producer) != 0

    def ledger_shift(self, queue: int) -> int:
        """How much further on than a producer's own account that of its messages' copies in the k-th queue is."""
        return queue * self.settings.producers if self.settings.copies > 1 else 0

    def compare_with_plan(self) -> None:
        """Notes in the record how much of the schedules was done until sending ended.

        What was due and never sent has waited until then, and that is its latency: without it, percentiles would be
        those of the messages that got through. What was asked for on the way to the rate is no part of it.
        """
        record, leg, quotas = self.record, self.leg, self.plan.quotas
        sent = [account.sent for account in record.ledger.accounts[: self.settings.producers]]
        kinds = ("lag",) if self.settings.no_confirm else ("confirm", "lag")
        publishing = self._compare(Role.PRODUCER, leg.publishing, leg.sent_before, sent, kinds, quotas)
        calling = self._compare(Role.CALLER, leg.calling, leg.called_before, record.calls_made, ("rpc", "rpc_lag"))
        record.published_as_planned, record.called_as_planned = publishing, calling
        if leg.publishing and leg.is_planned:
            record.segments = self._compare_segments(leg.publishing, sent)

    def _compare(
        self,
        role: Role,
        schedules: Schedules,
        before: Sequence[int] | None,
        done: Sequence[int],
        kinds: Sequence[str],
        quotas: Sequence[int] | None = None,
    ) -> Planned | None:
        if not self.leg.is_planned:
            return Planned(0, 0)
        if schedules is None or not self.work_begun_at:
            return None
        end = self.sending_ends
        planned = skipped = 0
        points = max(1, MOST_POINTS // len(schedules)) if schedules else 1
        for index in self.plan.placed(role):  # of several processes, each has its own
            schedule, did, start = schedules[index], done[index], self.start_of(index)
            did -= before[index] if before is not None else 0
            asked = schedule.planned(start, end)
            if quotas is not None:
                asked = min(asked, quotas[index])
            planned += asked
            skipped += asked - did
            for due, number in schedule.sample(start, did, asked, points):
                latencies = self.measurement.latencies(due, end)
                for kind in kinds:
                    getattr(latencies, kind).record_many(end - due, number)
        return Planned(planned, skipped)

    def _compare_segments(self, schedules: Sequence[Schedule], done: Sequence[int]) -> list[list[float]]:
        first = schedules[0]
        if not isinstance(first, ShapedSchedule) or not self.work_begun_at:
            return []
        seconds = max(0.0, (self.sending_ends - self.work_begun_at) / NANOSECONDS)
        told: list[list[float]] = [[0.0, 0, 0] for _ in first.shape.segments]
        for number, (_, begin, end) in enumerate(first.shape.occurrences(seconds)):
            counts = first.shape.count(begin), first.shape.count(end)
            each = told[number % len(told)]
            each[0] = end
            for index in self.plan.placed(Role.PRODUCER):
                schedule, did = schedules[index], done[index]
                due, until = (max(0, ceil(count - schedule.phase)) for count in counts)
                each[1] += until - due
                each[2] += min(max(did, due), until) - due
        return told

    def consumer_options(self, *, prefetch: int, ack_every: int) -> ConsumerOptions:
        """How a queue of this run is consumed. A stream is read from its beginning: it is the run's own."""
        arguments = {"x-stream-offset": "first"} if self.settings.is_stream else {}
        return ConsumerOptions(prefetch=prefetch, ack_every=ack_every, arguments=arguments)

    def some_publishing(self, limit: int) -> Iterator[Connection]:
        """A few of the connections that publish."""
        return islice(self.publishing.values(), limit)


def start_run(settings: Settings) -> Run:
    """A run with a name of its own, that starts now."""
    now = datetime.now(UTC)
    return Run(settings, make_plan(settings, name_run(now)), now)


def start_workloads(settings: Settings) -> list[Run]:
    """A run for each workload. They start together and wait for each other; each has queues and a ledger of its own."""
    now = datetime.now(UTC)
    name, barrier = name_run(now), Barrier(len(settings.workloads))
    runs = [Run(each, make_plan(each, f"{name}.{each.workload}"), now) for each in settings.workloads]
    for run in runs:
        run.barrier, run.is_first, run.timelines = barrier, run is runs[0], runs[0].timelines
    return runs


def name_run(now: datetime) -> str:
    """A name that no other run has."""
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
