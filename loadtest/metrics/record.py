"""All that one process measured in a run, as plain values: a `Record` can be sent, kept, read back and added up.

What is added up is what can be: counts, histograms, intervals of messages. Percentiles and rates are told only when all
is added up. The record is filled while the run goes on, and complete when the conductor returns it. It knows no event
loop, no socket and no clock, and nothing of what was asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any, Self

from loadtest.metrics.histogram import Histogram
from loadtest.metrics.latencies import Latencies
from loadtest.metrics.ledger import Ledger
from loadtest.metrics.order import Order
from loadtest.metrics.scene import Scene
from loadtest.metrics.silence import Silence
from loadtest.metrics.tally import Errors, Tally
from loadtest.metrics.timeline import Row, join_timelines

FORMAT = 2
"""The format of plain records: who reads them may be of another version."""


@dataclass(slots=True)
class Phase:
    """A phase that began, in seconds since the run did, and how long it took."""

    name: str
    began: float
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Planned:
    """What the schedules of one role ask for until the measured window's end, and how much of it was never done."""

    planned: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Weighed:
    """How much this process's memory grew while it opened so many connections."""

    connections: int
    bytes: int


@dataclass(slots=True)
class Stock:
    """What was found in the queues when the run was over. Who counts them may be cut off: what is known then stays."""

    backlog: int | None = None
    """How many messages are left; None if the broker doesn't say."""
    lost: int | None = None
    """Messages that were confirmed, never arrived, and are in no queue any more; None if it can't be told."""


@dataclass(frozen=True, slots=True)
class Work:
    """What was done in the measured window: its length, and how often each thing of the tally happened in it."""

    seconds: float
    counts: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one process used, and what it saw its machine and the broker use.

    Seconds are processor time of the measured window. None is not known, or nothing was measured.
    """

    client_cpu_seconds: float | None
    client_rss_peak_bytes: int
    broker_cpu_seconds: float | None
    broker_rss_peak_bytes: int | None
    machine_busy_seconds: float | None
    machine_stolen_seconds: float | None
    machine_cores: int
    broker_cores: int
    """How many cores the broker may run on; all, if it runs elsewhere or that isn't known."""
    shared_cores: float
    """Which part of this process's own cores is the broker's, too."""
    collector_longest_ms: float
    collector_total_ms: float
    slowed_by: list[str] = field(default_factory=list)
    """What makes this process slower than it needs to be: see `loadtest.machine.selfcheck`."""
    neighbours: dict[str, float] = field(default_factory=dict)
    """The cores that the busiest of the other processes used, by ``name (pid)``: see `loadtest.machine.neighbours`."""


@dataclass(slots=True, kw_only=True)
class Record:
    """One process's measurements of one run, or several processes' once they are merged."""

    run_id: str
    started_at: str
    """ISO 8601, UTC."""
    is_interrupted: bool = False
    is_complete: bool = False
    """Whether it ended before its time because all was done that was asked for."""
    broker: dict[str, Any] = field(default_factory=dict)
    """What the broker says of itself."""
    phases: list[Phase] = field(default_factory=list)
    connect_seconds: float = 0.0
    """How long it took until the last connection was ready, or had failed."""
    weighed: Weighed | None = None
    """What connections weigh; None if there were too few to tell."""
    tally: Tally = field(default_factory=Tally)
    errors: Errors = field(default_factory=Errors)
    ledger: Ledger = field(default_factory=lambda: Ledger(0))
    calls_made: list[int] = field(default_factory=list)
    """How many calls each caller made, by its number."""
    published_as_planned: Planned | None = None
    """How the messages compare with their schedules; None in a closed loop."""
    called_as_planned: Planned | None = None
    """How the calls compare with their schedules; None in a closed loop."""
    segments: list[list[float]] = field(default_factory=list)
    """For each segment of a changing rate: until when, in seconds of the work; what was due; what of it was sent."""
    stock: Stock | None = None
    """What is left in the queues; None if this process did not look."""
    latencies: Latencies = field(default_factory=Latencies)
    """What was timed in the measured window; connecting is timed before it."""
    loop_lateness: Histogram = field(default_factory=Histogram)
    """How late the event loop ran, in the measured window."""
    confirm_silence: Silence = field(default_factory=Silence)
    """The longest time without a confirm."""
    delivery_silence: Silence = field(default_factory=Silence)
    """The longest time without a delivery."""
    confirm_sizes: Counter[int] = field(default_factory=Counter)
    """How many of the broker's confirms answered so many publishes each; empty if the driver doesn't tell."""
    blocked_seconds: dict[str, float] = field(default_factory=dict)
    """How long the broker blocked publishers, by phase; empty if the driver doesn't tell."""
    work: Work | None = None
    """What was done in the measured window; None if the run ended before it."""
    costs: list[Cost] = field(default_factory=list)
    """What each process used: on which machine it ran, and so which costs may be added up, is not known here."""
    timeline: list[Row] = field(default_factory=list)
    aborted: dict[str, Any] | None = None
    """What ended the run before its time: see `loadtest.commands.aborting`."""
    calibration: dict[str, Any] | None = None
    """What the generator alone reaches: see `loadtest.commands.calibrating`."""
    capacity: dict[str, Any] | None = None
    """The rate that can be kept up and the steps that led to it, as the result has them; None if it was not sought."""
    management: dict[str, Any] | None = None
    """What the broker's management API said: see `loadtest.execution.remote`."""
    scene: Scene = field(default_factory=Scene)
    """What the scenario has beside the traffic."""

    def merge(self, other: Record) -> None:
        """Adds what another process measured in the same run, at the same time. ValueError if it is another run."""
        if other.run_id != self.run_id:
            raise ValueError(f"records of two runs don't add up: {self.run_id} and {other.run_id}")
        self.started_at = min(self.started_at, other.started_at)
        self.is_interrupted |= other.is_interrupted
        self.is_complete |= other.is_complete
        self.broker = self.broker or dict(other.broker)
        self.phases = _join_phases(self.phases, other.phases)
        self.connect_seconds = max(self.connect_seconds, other.connect_seconds)
        self.weighed = _add_weighed(self.weighed, other.weighed)
        self.tally.merge(other.tally)
        self.errors.merge(other.errors)
        self.ledger.merge(other.ledger)
        self.calls_made = [
            mine + theirs for mine, theirs in zip_longest(self.calls_made, other.calls_made, fillvalue=0)
        ]
        self.published_as_planned = _add_planned(self.published_as_planned, other.published_as_planned)
        self.called_as_planned = _add_planned(self.called_as_planned, other.called_as_planned)
        self.segments = _add_segments(self.segments, other.segments)
        self.stock = _add_stock(self.stock, other.stock)
        self.latencies.merge(other.latencies)
        self.loop_lateness.merge(other.loop_lateness)
        self.confirm_silence.merge(other.confirm_silence)
        self.delivery_silence.merge(other.delivery_silence)
        self.confirm_sizes.update(other.confirm_sizes)
        self.aborted = self.aborted or other.aborted
        self.calibration = self.calibration or other.calibration
        self.management = self.management or other.management
        for phase, seconds in other.blocked_seconds.items():  # an alarm blocks all at once
            self.blocked_seconds[phase] = max(self.blocked_seconds.get(phase, 0.0), seconds)
        self.work = _add_work(self.work, other.work)
        self.costs = [*self.costs, *other.costs]
        self.timeline = join_timelines(self.timeline, other.timeline)
        self.capacity = self.capacity or other.capacity
        self.scene.merge(other.scene)

    def to_plain(self) -> dict[str, Any]:
        """Everything as dictionaries, lists, text and numbers: JSON and msgpack take it as it is."""
        return {
            "format": FORMAT,
            "run_id": self.run_id,
            "started_at": self.started_at,
            "is_interrupted": self.is_interrupted,
            "is_complete": self.is_complete,
            "broker": dict(self.broker),
            "phases": [asdict(phase) for phase in self.phases],
            "connect_seconds": self.connect_seconds,
            "weighed": _plain(self.weighed),
            "tally": self.tally.to_plain(),
            "errors": self.errors.to_plain(),
            "ledger": self.ledger.to_plain(),
            "order": self.ledger.order.to_plain(),
            "calls_made": list(self.calls_made),
            "published_as_planned": _plain(self.published_as_planned),
            "called_as_planned": _plain(self.called_as_planned),
            "segments": [list(each) for each in self.segments],
            "stock": _plain(self.stock),
            "latencies": self.latencies.to_plain(),
            "loop_lateness": self.loop_lateness.to_plain(),
            "confirm_silence": self.confirm_silence.to_plain(),
            "delivery_silence": self.delivery_silence.to_plain(),
            "confirm_sizes": [number for pair in sorted(self.confirm_sizes.items()) for number in pair],
            "aborted": self.aborted,
            "calibration": self.calibration,
            "management": self.management,
            "blocked_seconds": dict(self.blocked_seconds),
            "work": _plain(self.work),
            "costs": [asdict(cost) for cost in self.costs],
            "timeline": [dict(row) for row in self.timeline],
            "capacity": self.capacity,
            "scene": self.scene.to_plain(),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The record that `to_plain` was asked of. ValueError if another version wrote it."""
        if plain.get("format") != FORMAT:
            raise ValueError(f"a record of format {plain.get('format')!r}, and this program reads {FORMAT}")
        values = {name: value for name, value in plain.items() if name not in ("format", "order")}
        read = {name: reader(values[name]) for name, reader in _READERS.items() if values.get(name) is not None}
        record = cls(**values | read)
        record.ledger.order = Order.from_plain(plain.get("order", {}))
        return record


_READERS: dict[str, Callable[[Any], Any]] = {
    "phases": lambda plain: [Phase(**each) for each in plain],
    "weighed": lambda plain: Weighed(**plain),
    "tally": Tally.from_plain,
    "errors": Errors.from_plain,
    "ledger": Ledger.from_plain,
    "published_as_planned": lambda plain: Planned(**plain),
    "called_as_planned": lambda plain: Planned(**plain),
    "stock": lambda plain: Stock(**plain),
    "latencies": Latencies.from_plain,
    "loop_lateness": Histogram.from_plain,
    "confirm_silence": Silence.from_plain,
    "delivery_silence": Silence.from_plain,
    "confirm_sizes": lambda plain: Counter(dict(zip(plain[::2], plain[1::2], strict=True))),
    "work": lambda plain: Work(**plain),
    "scene": Scene.from_plain,
    "costs": lambda plain: [Cost(**each) for each in plain],
}
"""How those values are read back that are not plain themselves."""


def _plain(value: Weighed | Planned | Stock | Work | None) -> dict[str, Any] | None:
    return None if value is None else asdict(value)


def _join_phases(phases: list[Phase], others: list[Phase]) -> list[Phase]:
    """Both processes' phases, each from when the first process began it until the last one ended it."""
    joined: dict[str, Phase] = {}
    for phase in (*phases, *others):
        known = joined.get(phase.name, phase)
        began = min(known.began, phase.began)
        ended = max(known.began + known.seconds, phase.began + phase.seconds)
        joined[phase.name] = Phase(phase.name, began, ended - began)
    return sorted(joined.values(), key=lambda phase: phase.began)


def _add_weighed(one: Weighed | None, other: Weighed | None) -> Weighed | None:
    if one is None or other is None:
        return one or other
    return Weighed(one.connections + other.connections, one.bytes + other.bytes)


def _add_planned(one: Planned | None, other: Planned | None) -> Planned | None:
    if one is None or other is None:
        return one or other
    return Planned(one.planned + other.planned, one.skipped + other.skipped)


def _add_segments(ones: list[list[float]], others: list[list[float]]) -> list[list[float]]:
    if not ones or not others:
        return ones or others
    return [
        [max(one[0], other[0]), one[1] + other[1], one[2] + other[2]] for one, other in zip(ones, others, strict=True)
    ]


def _add_stock(one: Stock | None, other: Stock | None) -> Stock | None:
    """Both have looked into queues of their own; what one of them couldn't tell, the sum can't."""
    if one is None or other is None:
        return one or other
    return Stock(_add_known(one.backlog, other.backlog), _add_known(one.lost, other.lost))


def _add_known(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _add_work(one: Work | None, other: Work | None) -> Work | None:
    if one is None or other is None:
        return one or other
    counts = {name: one.counts[name] + other.counts[name] for name in one.counts}
    return Work(max(one.seconds, other.seconds), counts)
