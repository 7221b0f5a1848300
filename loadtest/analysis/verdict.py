"""What a run can and can't show: was the broker the limit, was the generator, or is it not to be told?

Each rule is a measurement against a threshold and leaves a sentence behind, so that a reader can judge for himself.
`failed` means that the load was not put on, or not counted, and comes before all else. `generator-bound` means that the
numbers say more about this program than about the broker, `machine-bound` that both ends share the cores and have used
them up, `paced` that a schedule was met and neither end was at its limit. `inconclusive` says what would help. Pure:
facts in, verdict out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from loadtest.analysis.calibration import find_nearness, tell_calibration
from loadtest.analysis.facts import Facts
from loadtest.analysis.steadiness import find_unsteadiness

BUSY = 0.9
"""Share of a core from which a single-threaded process counts as busy, and of what is left of a machine."""
FULL = 0.95
"""Share of all its cores from which a machine counts as used up."""
LATE_MS = 5.0
"""How late an event loop may run where there is no latency to compare that with."""
TIMER_MS = 2.0
"""What an event loop's timers, rounded up to a millisecond, are late by themselves."""
LAG_SHARE = 0.1
ACHIEVED = 0.99
COLLECTING = 0.05
STOLEN = 0.02
FOREIGN = 0.15
"""Share of all cores that others may use: half a core beside a run on two is more."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The status, and the sentences that led to it."""

    status: str
    evidence: list[str] = field(default_factory=list)


def judge(facts: Facts | None, failures: Sequence[str] = ()) -> Verdict:
    """Weighs the facts, None if nothing was measured, of a run that failed for these reasons, or for none."""
    failed = [f"failed: {text}" for text in failures]
    if facts is None:
        return Verdict("failed" if failed else "inconclusive", [*failed, "nothing was measured"])
    backlog = list(_backlog(facts))
    unsteady = list(find_unsteadiness(facts.rates, facts.connections))
    generator, broker, doubts = (
        list(find_generator_limits(facts)),
        list(find_broker_limits(facts)),
        list(find_doubts(facts)),
    )
    evidence = [*failed, *backlog, *unsteady, *generator, *broker, *doubts, *_shortfall(facts), *_timers(facts)]
    evidence += tell_calibration(facts.alone_rate, facts.reached_rate)
    if failed:
        return Verdict("failed", evidence)
    if unsteady:
        return Verdict("unsteady", evidence)
    if doubts:
        return Verdict("inconclusive", [*evidence, "what would help: the same run on a machine with nothing beside it"])
    if generator and broker:
        return _both(facts, evidence)
    if broker and not generator and (near := list(find_nearness(facts.alone_rate, facts.reached_rate))):
        return Verdict("inconclusive", [*evidence, *near])
    if generator or broker:
        return Verdict("generator-bound" if generator else "broker-bound", evidence)
    if backlog:
        help_ = f"more consumers or queues, or a larger --prefetch than {facts.prefetch:,}"
        return Verdict("unsteady", [*evidence, f"neither end was at its limit; what would help: {help_}"])
    return _neither(facts, evidence)


def _backlog(facts: Facts) -> Iterator[str]:
    if facts.is_backlog_growing:
        yield (
            f"backlog: {facts.confirmed_rate:,.0f}/s were confirmed and {facts.consumed_rate:,.0f}/s consumed, so that "
            f"{facts.backlog_growth:,.0f} more each second waited in the queues: no rate that can be kept up"
        )


def find_generator_limits(facts: Facts) -> Iterator[str]:
    """In which ways this program was at its limit, in sentences."""
    if facts.slowed_by:
        yield f"generator: it is slower than it needs to be: {', '.join(facts.slowed_by)}"
    if facts.client_share > BUSY:
        yield f"generator: its process used {facts.client_share:.0%} of a core (limit {BUSY:.0%})"
    if facts.lateness is not None:
        percentile, late = facts.lateness
        response = facts.responses.get(percentile)
        limit = LATE_MS if response is None else max(TIMER_MS, LAG_SHARE * response)
        if late > limit:
            of = "" if response is None else f", {late / response:.0%} of the response time"
            yield f"generator: its event loop ran {late:.1f} ms late at {percentile}{of} (limit {limit:.1f} ms)"
    if facts.collector_share > COLLECTING:
        share = f"{facts.collector_share:.0%} of the time (limit {COLLECTING:.0%})"
        yield f"generator: its garbage collector took {share}"
    wake, response = facts.wake_p99_ms, facts.responses.get("p99")
    if wake is not None and response is not None and wake > max(TIMER_MS, LAG_SHARE * response):
        share = f"{wake / response:.0%} of the response time (limit {LAG_SHARE:.0%})"
        yield f"generator: it woke its producers {wake:.1f} ms late at p99, {share}"
    if response is not None and facts.collector_longest_ms > response:
        pause = f"a garbage collection of {facts.collector_longest_ms:.1f} ms"
        yield f"generator: {pause} exceeds the response time's p99 of {response:.1f} ms"


def find_broker_limits(facts: Facts) -> Iterator[str]:
    """In which ways the broker was at its limit."""
    if facts.broker_share is not None:
        left, queues = facts.broker_cores, facts.queues
        used = f"{facts.broker_share:.2f} of the {left:.2f} cores that the generator left it"
        if left > 0 and facts.broker_share / left > BUSY:
            yield f"broker: it used {used} (limit {BUSY:.0%})"
        elif facts.is_backlog_growing and 0 < queues < left and facts.broker_share > BUSY * queues:
            few = "the queue is one process, which uses one core" if queues == 1 else f"{queues} queues use as many"
            yield f"broker: it used {used}; {few} at most"
    if facts.blocked_seconds:
        yield f"broker: it blocked publishers for {facts.blocked_seconds:.1f} s (an alarm)"


def find_doubts(facts: Facts) -> Iterator[str]:
    """What leaves it open who was the limit."""
    if facts.all_dropped:
        yield "doubt: every connection was lost before the end"
    if facts.stolen_share > STOLEN:
        yield f"doubt: the hypervisor took {facts.stolen_share:.1%} of the processors (limit {STOLEN:.0%})"
    if facts.broker_share is not None:
        ours = facts.client_share + facts.others_share
        foreign = facts.machine_share * facts.cores - ours - facts.broker_share
        if foreign > FOREIGN * facts.cores:
            yield f"doubt: other processes used {foreign:.2f} cores of {facts.cores}"


def _shortfall(facts: Facts) -> Iterator[str]:
    if facts.waiting_share is not None and facts.waiting_share > 1 - ACHIEVED:
        yield f"{facts.waiting_share:.1%} of the messages fell due before there was room for them (--window)"
    if facts.bunched_share is not None and facts.bunched_share > 1 - ACHIEVED:
        yield (
            f"generator: its timers are coarser than the plan: {facts.bunched_share:.1%} of the messages left together "
            "with the one before (more producers at a lower rate each would spread them)"
        )
    if facts.planned and facts.skipped > (1 - ACHIEVED) * facts.planned:
        sent = facts.planned - facts.skipped
        yield f"the plan was not met: {sent:,} of {facts.planned:,} messages were sent ({sent / facts.planned:.1%})"


def _timers(facts: Facts) -> Iterator[str]:
    """How much of a latency on a schedule is not the broker's, but the time by which this program woke too late."""
    wake, response, service = facts.wake_p50_ms, facts.responses.get("p50"), facts.service_p50_ms
    if wake is not None and response and service is not None and wake > LAG_SHARE * response:
        yield (
            f"generator: of the {response:.2f} ms from when a message was due to its answer, at p50, its timers are "
            f"about {wake:.2f} ms ({wake / response:.0%}); once sent, it took {service:.2f} ms"
        )


def _both(facts: Facts, evidence: list[str]) -> Verdict:
    if facts.broker_share is None:
        help_ = "what would help: the broker's own processor time, or more generators"
        return Verdict("inconclusive", [*evidence, f"both ends were at their limit; {help_}"])
    both = "both ends were at their limit, on cores that they share: this machine is too small to tell them apart"
    return Verdict("machine-bound", [*evidence, both])


def _neither(facts: Facts, evidence: list[str]) -> Verdict:
    if facts.machine_share > FULL:
        full = f"all {facts.cores} cores together were used to {facts.machine_share:.0%} (limit {FULL:.0%})"
        return Verdict("machine-bound", [*evidence, full])
    if facts.planned and facts.skipped <= (1 - ACHIEVED) * facts.planned:
        met = "the plan was met and neither end was at its limit: this shows latency at this rate, and no capacity"
        return Verdict("paced", [met, *evidence])
    if facts.planned is not None:
        return Verdict("inconclusive", [*evidence, "neither end was at its limit; what would help: a longer run"])
    trips = f"with {facts.in_flight:,} in flight the rate is what the round trips allow" if facts.in_flight else ""
    help_ = "what would help: more clients or a larger --window, for capacity, or --rate, for latency"
    return Verdict("inconclusive", [*evidence, f"neither end was at its limit{': ' if trips else ''}{trips}; {help_}"])
