"""What a verdict is weighed from: a record and its settings, boiled down to shares, percentiles and rates.

Shares are of one core. Of several processes the busiest counts where one can be the limit, and together they are what
the broker's machine has to share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from loadtest.analysis.calibration import highest_rate
from loadtest.metrics.histogram import Histogram
from loadtest.metrics.record import Cost, Record, Work
from loadtest.metrics.timeline import STUB
from loadtest.scenarios.settings import Settings

PERCENTILES = {"p99": 0.99, "p90": 0.9, "p50": 0.5}
GROWING = 0.05
"""Share of what is confirmed by which consumers must fall behind for the backlog to count as growing."""
GROWN = 50
"""Messages by which a backlog must have grown to count as growing: fewer may be on their way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was measured. Shares are of one core; None is not known or does not apply."""

    cores: int
    client_share: float
    """What the generator's process used; of several, the busiest."""
    broker_share: float | None
    broker_cores: float
    """What the generator leaves of the cores that the broker may run on."""
    machine_share: float
    """What was used of all cores together."""
    stolen_share: float
    """What the hypervisor took of all cores together."""
    lateness: tuple[str, float] | None
    """How late the generator's event loop ran, in milliseconds, and which percentile that is."""
    collector_longest_ms: float
    collector_share: float
    """What the garbage collector took of the measured time."""
    wake_p50_ms: float | None
    wake_p99_ms: float | None
    """How late the generator woke a client that had nothing in its way."""
    waiting_share: float | None
    """How many of an open loop's messages fell due while there was no room for them in the window."""
    bunched_share: float | None
    """How many of an open loop's messages fell due while their producer slept until the one before."""
    responses: Mapping[str, float | None]
    """How long an answer took, in milliseconds: a confirm, or an RPC's reply if nobody publishes; by percentile."""
    service_p50_ms: float | None
    """The same from when the message was sent, in an open loop."""
    planned: int | None
    skipped: int
    """How many messages of the plan were never sent."""
    blocked_seconds: float | None
    all_dropped: bool
    """Whether every connection was lost before the end."""
    in_flight: int | None
    """Publishes and calls that a closed loop keeps in flight."""
    rates: Sequence[float]
    """Messages per second, one for each row of the measured phase."""
    connections: Sequence[int] = ()
    """How many connections there were at each of these rows' ends."""
    confirmed_rate: float = 0.0
    consumed_rate: float | None = None
    """Messages per second; None without consumers."""
    backlog_growth: float = 0.0
    """By how many messages per second consumers fell behind."""
    is_backlog_growing: bool = False
    """Whether they did so by more than what may be on its way."""
    processes: int = 1
    """How many processes the generator has."""
    others_share: float = 0.0
    """What those of them besides the busiest used where the broker is."""
    queues: int = 0
    prefetch: int = 0
    shared_cores: float = 1.0
    """Which part of the generator's own cores is the broker's, too; of several processes the largest."""
    all_in_flight: int = 0
    """Publishes and calls that can be in flight at once, in any loop."""
    alone_rate: float | None = None
    """What the generator reaches against a sink that does nothing, in messages per second; None if nobody asked."""
    reached_rate: float = 0.0
    """The most that it reached against the broker."""
    slowed_by: Sequence[str] = ()
    """What makes the generator slower than it needs to be."""
    neighbours: Mapping[str, float] = field(default_factory=dict)
    """The cores that the busiest of the other processes used, by their names."""


def gather_facts(settings: Settings, record: Record) -> Facts | None:
    """The facts of a run; None if nothing was measured."""
    work = record.work
    if work is None or work.seconds <= 0 or not record.costs:
        return None
    seconds, costs, tally, planned = work.seconds, record.costs, record.tally, record.published_as_planned
    cores = max(cost.machine_cores for cost in costs)
    broker = most(cost.broker_cpu_seconds for cost in costs)
    client_shares = [(cost.client_cpu_seconds or 0.0) / seconds for cost in costs]
    sent = work.counts["sent"]
    is_paced = settings.loop == "open" and bool(settings.producers) and bool(sent)
    latencies = record.latencies
    response, service = (
        (latencies.confirm, latencies.service) if settings.producers else (latencies.rpc, latencies.rpc_service)
    )
    rows = [row for row in record.timeline if row["phase"] == "measure" and row["seconds"] > STUB]
    published = "published" if settings.no_confirm else "confirmed"
    taken = work.counts["confirmed"] + work.counts["unconfirmed"]
    growth = taken - _consumed(settings, work) if _drains(settings) else 0
    return Facts(
        cores=cores,
        client_share=max(client_shares),
        broker_share=None if broker is None else broker / seconds,
        broker_cores=max(cost.broker_cores for cost in costs) - _shared(client_shares, costs),
        machine_share=(most(cost.machine_busy_seconds for cost in costs) or 0.0) / seconds / cores,
        stolen_share=(most(cost.machine_stolen_seconds for cost in costs) or 0.0) / seconds / cores,
        lateness=_lateness(record.loop_lateness),
        collector_longest_ms=max(cost.collector_longest_ms for cost in costs),
        collector_share=max(cost.collector_total_ms for cost in costs) / 1e3 / seconds,
        wake_p50_ms=latencies.wake.percentile(0.5),
        wake_p99_ms=latencies.wake.percentile(0.99),
        waiting_share=work.counts["waited"] / sent if is_paced else None,
        bunched_share=work.counts["bunched"] / sent if is_paced else None,
        responses={name: response.percentile(fraction) for name, fraction in PERCENTILES.items()},
        service_p50_ms=service.percentile(0.5),
        planned=None if planned is None else planned.planned,
        skipped=0 if planned is None else planned.skipped,
        blocked_seconds=record.blocked_seconds.get("measure"),
        all_dropped=0 < tally.connected <= tally.dropped,
        in_flight=_in_flight(settings) if settings.loop == "closed" else None,
        rates=[]
        if settings.shape is not None  # which is meant to be unsteady
        else [(row[published] + row["consumed"] + row["rpc"]) / row["seconds"] for row in rows],
        connections=[row["connections"] for row in rows],
        confirmed_rate=taken / seconds,
        consumed_rate=_consumed(settings, work) / seconds if _drains(settings) else None,
        backlog_growth=growth / seconds,
        is_backlog_growing=growth > max(GROWN, GROWING * taken),
        processes=len(costs),
        others_share=_others(client_shares, costs),
        queues=settings.queues,
        prefetch=settings.prefetch,
        alone_rate=None if record.calibration is None else record.calibration["rate"],
        reached_rate=highest_rate(record),
        slowed_by=list(dict.fromkeys(name for cost in costs for name in cost.slowed_by)),
        neighbours=costs[0].neighbours,
        shared_cores=max(cost.shared_cores for cost in costs),
        all_in_flight=_in_flight(settings),
    )


def _in_flight(settings: Settings) -> int:
    return settings.producers * settings.window + settings.callers


def _consumed(settings: Settings, work: Work) -> float:
    """How many messages were consumed: what was put back is not, and of several copies each is a part."""
    return (work.counts["received"] - work.counts["requeued"]) / settings.copies


def _drains(settings: Settings) -> bool:
    """Whether each message that is confirmed is to be consumed once."""
    return bool(settings.producers) and bool(settings.consumers)


def most(values: Iterable[float | None]) -> float | None:
    """The largest of those that are known; None if none is. Several processes see the same broker and machine."""
    return max((value for value in values if value is not None), default=None)


def _shared(shares: Sequence[float], costs: Sequence[Cost]) -> float:
    """What the generator's processes used of the broker's cores."""
    return sum(share * cost.shared_cores for share, cost in zip(shares, costs, strict=True))


def _others(shares: Sequence[float], costs: Sequence[Cost]) -> float:
    """What the generator's processes used on the broker's machine, without the busiest of all."""
    there = sum(share for share, cost in zip(shares, costs, strict=True) if cost.shared_cores)
    return max(0.0, there - max(shares))


def _lateness(lateness: Histogram) -> tuple[str, float] | None:
    """The highest percentile that there are samples enough for: p99 from ten seconds on."""
    for name, fraction in PERCENTILES.items():
        if (found := lateness.percentile(fraction)) is not None:
            return name, found
    return None
