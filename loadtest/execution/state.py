"""What all clients of a run share: its settings and plan, its counters, and where in its phases it is.

It holds state and decides nothing: the conductor moves it from phase to phase, clients read it and count into it. A
sample belongs to the measurement if any of its life, from when it was intended to when it ended, lies in the measured
window: a stall at either edge is not hidden, nor is a backlog that an impossible rate has built up.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from random import Random
from time import monotonic_ns
from typing import Protocol

import anyio

from loadtest.drivers.base import Connection, Consumer, ConsumerOptions, ProducerOptions
from loadtest.execution.body import BodyMaker
from loadtest.execution.timetable import Timetable
from loadtest.metrics.histogram import Histogram
from loadtest.metrics.ledger import Ledger
from loadtest.metrics.tally import Errors, Tally
from loadtest.scenarios.plan import make_plan
from loadtest.scenarios.schedule import NANOSECONDS, Schedule, make_schedules
from loadtest.scenarios.settings import Settings

_NEVER = 2**63


@dataclass(frozen=True, slots=True)
class Latencies:
    """One histogram for each kind of latency.

    Of a publish: `confirm` from the intended time to the confirm, `service` from the actual one, `lag` between the two;
    of a call `rpc` and `rpc_service`. `wake` is what of all this is the program's own: how late it woke clients that
    had nothing in their way. A call without a reply counts with the time that it was waited for.
    """

    connect: Histogram = field(default_factory=Histogram)
    confirm: Histogram = field(default_factory=Histogram)
    service: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)
    wake: Histogram = field(default_factory=Histogram)
    end_to_end: Histogram = field(default_factory=Histogram)
    rpc: Histogram = field(default_factory=Histogram)
    rpc_service: Histogram = field(default_factory=Histogram)


@dataclass(slots=True)
class Phase:
    """A phase that began, and how long it took."""

    name: str
    began: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Planned:
    """What the schedules of one role ask for until the measured window's end, and how much of it was never done."""

    planned: int
    skipped: int


class Attendance(Protocol):
    """How a client tells that it came and goes; each does both, in this order."""

    def arrive(self) -> None:
        """The client is ready to work."""
        ...

    async def leave(self) -> None:
        """Returns when the run is over and it is the client's turn to close what it has opened."""
        ...


class Run:
    """The state of one run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started_at = datetime.now(UTC)
        self.run_id = f"{self.started_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        self.prefix = f"loadtest.{self.run_id}"
        self.tag = secrets.randbits(32)
        self.random = Random(settings.seed)
        self.plan = make_plan(
            settings.shares,
            queues=settings.queues,
            servers=settings.servers,
            connections=settings.connections,
            prefix=self.prefix,
        )
        self.schedules = self._make_schedules(settings.producers)
        self.call_schedules = self._make_schedules(settings.callers)
        self.calls_made = [0] * settings.callers
        self.offsets = [self.random.uniform(0, settings.ramp) for _ in range(max(settings.producers, settings.callers))]
        self.make_body = BodyMaker(self.tag, settings.size)
        self.producer_options = ProducerOptions(
            window=settings.window, persistent=not settings.transient, mandatory=settings.mandatory
        )
        self.consumer_options = ConsumerOptions(prefetch=settings.prefetch, ack_every=settings.ack_every)

        self.ledger = Ledger(settings.producers)
        self.tally = Tally()
        self.errors = Errors()
        self.measured = Latencies()
        self.unmeasured = Latencies()
        self.timetable = Timetable()
        self.phases: list[Phase] = []

        self.begin = anyio.Event()
        self.enough = anyio.Event()
        self.over = anyio.Event()
        self.begun_at = 0
        self.is_stopping = False
        self.is_interrupted = False
        self.window: tuple[int, int] = (_NEVER, _NEVER)
        self.consumers: set[Consumer] = set()
        self.publishing: dict[int, Connection] = {}

    def _make_schedules(self, clients: int) -> list[Schedule] | None:
        each = self.settings.rate_each
        return None if each is None else make_schedules(clients, each, self.random)

    def interrupt(self) -> None:
        """Asks for an early end, in order."""
        self.is_interrupted = True
        self.enough.set()

    def latencies(self, intended: int, ended: int) -> Latencies:
        """Where a sample belongs that was intended and ended then."""
        start, end = self.window
        return self.measured if intended < end and ended >= start else self.unmeasured

    def start_of(self, index: int) -> int:
        """When the producer or caller of that number starts to work."""
        return self.begun_at + int(self.offsets[index] * NANOSECONDS)

    @property
    def published_as_planned(self) -> Planned | None:
        """The messages that schedules ask for; None in a closed loop."""
        return self._compare(self.schedules, [account.sent for account in self.ledger.accounts])

    @property
    def called_as_planned(self) -> Planned | None:
        """The same of calls."""
        return self._compare(self.call_schedules, self.calls_made)

    def _compare(self, schedules: list[Schedule] | None, done: Sequence[int]) -> Planned | None:
        if schedules is None or not self.begun_at:
            return None
        end = min(self.window[1], monotonic_ns())  # (stopped before it was measured)
        planned = [schedule.planned(self.start_of(index), end) for index, schedule in enumerate(schedules)]
        return Planned(sum(planned), sum(max(0, asked - did) for asked, did in zip(planned, done, strict=True)))

    def some_publishing(self, limit: int) -> Iterator[Connection]:
        """A few of the connections that publish."""
        return islice(self.publishing.values(), limit)
