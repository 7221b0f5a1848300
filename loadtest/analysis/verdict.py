"""What a run can and can't show: was the broker the limit, was the generator, or is it not to be told?

Each rule is a measurement against a threshold and leaves a sentence behind, so that a reader can judge for himself.
`generator-bound` means that the numbers say more about this program than about the broker. Pure: facts in, verdict
out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

from loadtest.analysis.facts import Facts

BUSY = 0.9
"""Share of a core from which a single-threaded process counts as busy, and of what is left of a machine."""
LATE_MS = 5.0
TIMER_MS = 2.0
"""What an event loop's timers, rounded up to a millisecond, are late by themselves."""
LAG_SHARE = 0.1
ACHIEVED = 0.99
COLLECTING = 0.05
STOLEN = 0.02
DRIFT = 0.25
ROWS_NEEDED = 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """The status, and the sentences that led to it."""

    status: str
    evidence: list[str] = field(default_factory=list)


def judge(facts: Facts | None) -> Verdict:
    """Weighs the facts; None if nothing was measured."""
    if facts is None:
        return Verdict("inconclusive", ["nothing was measured"])
    unsteady = list(_unsteady(facts))
    generator = list(_generator(facts))
    broker = list(_broker(facts))
    doubts = list(_doubts(facts))
    evidence = [*unsteady, *generator, *broker, *doubts, *_shortfall(facts)]
    if unsteady:
        return Verdict("unsteady", evidence)
    if doubts or bool(generator) == bool(broker):
        if generator and broker:
            evidence.append("both ends were at their limit: this machine is too small to tell them apart")
        elif not evidence:
            evidence.append(_neither(facts))
        return Verdict("inconclusive", evidence)
    return Verdict("generator-bound" if generator else "broker-bound", evidence)


def _generator(facts: Facts) -> Iterator[str]:
    if facts.client_share > BUSY:
        yield f"generator: its process used {facts.client_share:.0%} of a core (limit {BUSY:.0%})"
    if facts.lateness is not None and facts.lateness[1] > LATE_MS:
        percentile, late = facts.lateness
        yield f"generator: its event loop ran {late:.1f} ms late at {percentile} (limit {LATE_MS:g} ms)"
    if facts.collector_share > COLLECTING:
        share = f"{facts.collector_share:.0%} of the time (limit {COLLECTING:.0%})"
        yield f"generator: its garbage collector took {share}"
    wake, response = facts.wake_p99_ms, facts.response_p99_ms
    if wake is not None and response is not None and wake > max(TIMER_MS, LAG_SHARE * response):
        share = f"{wake / response:.0%} of the response time (limit {LAG_SHARE:.0%})"
        yield f"generator: it woke its producers {wake:.1f} ms late at p99, {share}"
    if response is not None and facts.collector_longest_ms > response:
        pause = f"a garbage collection of {facts.collector_longest_ms:.1f} ms"
        yield f"generator: {pause} exceeds the response time's p99 of {response:.1f} ms"


def _broker(facts: Facts) -> Iterator[str]:
    if facts.broker_share is not None:
        left = facts.broker_cores
        if left > 0 and facts.broker_share / left > BUSY:
            used = f"{facts.broker_share:.2f} of the {left:.2f} cores that the generator left it"
            yield f"broker: it used {used} (limit {BUSY:.0%})"
    if facts.blocked_seconds:
        yield f"broker: it blocked publishers for {facts.blocked_seconds:.1f} s (an alarm)"


def _unsteady(facts: Facts) -> Iterator[str]:
    rates = facts.rates
    if len(rates) < ROWS_NEEDED:
        return
    cut, limit = truncation_point(rates)
    if cut >= limit:
        yield f"unsteady: by MSER the first {cut} or more of {len(rates)} intervals measured are still warm-up"
    middle = len(rates) // 2
    first, second = median(rates[:middle]), median(rates[middle:])
    drift = (second - first) / max(first, second, 1e-9)
    if abs(drift) > DRIFT:
        yield f"unsteady: the second half ran at {second:,.0f} messages/s, the first at {first:,.0f} ({drift:+.0%})"


def _doubts(facts: Facts) -> Iterator[str]:
    if facts.all_dropped:
        yield "doubt: every connection was lost before the end"
    if facts.stolen_share > STOLEN:
        yield f"doubt: the hypervisor took {facts.stolen_share:.1%} of the processors (limit {STOLEN:.0%})"
    if facts.broker_share is not None:
        foreign = facts.machine_share * facts.cores - facts.client_share - facts.broker_share
        if foreign > 0.25 * facts.cores:
            yield f"doubt: other processes used {foreign:.2f} cores of {facts.cores}"


def _shortfall(facts: Facts) -> Iterator[str]:
    if facts.waiting_share is not None and facts.waiting_share > 1 - ACHIEVED:
        yield f"{facts.waiting_share:.1%} of the messages were due before there was room for them (--window)"
    if facts.planned and facts.skipped > (1 - ACHIEVED) * facts.planned:
        sent = facts.planned - facts.skipped
        yield f"the plan was not met: {sent:,} of {facts.planned:,} messages were sent ({sent / facts.planned:.1%})"


def _neither(facts: Facts) -> str:
    if facts.planned is not None:
        return "the plan was met and neither end was at its limit: this shows latency at this rate, and no capacity"
    return (
        f"neither end was at its limit: with {facts.in_flight:,} in flight the rate is what the round trips allow"
        if facts.in_flight
        else "neither end was at its limit"
    )


def truncation_point(rates: Sequence[float]) -> tuple[int, int]:
    """How many rows MSER would cut off as warm-up, and how many it looked at: half of them.

    Those rows are cut off without which the mean of the rest is told most precisely. If it would cut half of them, or
    more, there is no steady state. Rows are averaged by fives (MSER-5) where there are at least fifty.
    """
    batch = 5 if len(rates) >= 50 else 1
    means = [fmean(rates[start : start + batch]) for start in range(0, len(rates) - batch + 1, batch)]

    def imprecision(cut: int) -> float:
        rest = means[cut:]
        mean = fmean(rest)
        return sum((value - mean) ** 2 for value in rest) / len(rest) ** 2

    limit = len(means) // 2
    return min(range(limit + 1), key=imprecision) * batch, limit * batch
