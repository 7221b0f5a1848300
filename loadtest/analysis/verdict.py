"""What a run can and can't show: was the broker the limit, was the generator, or is it not to be told?

Each rule is a measurement against a threshold and leaves a sentence behind, so that a reader can judge for himself.
`failed` means that the load was not put on, or not counted, and comes before all else. `generator-bound` means that the
numbers say more about this program than about the broker, `machine-bound` that both ends share the cores and have used
them up, though neither may be at a limit of its own, `paced` that a schedule was met and neither end was at its limit.
`inconclusive` says what would help. Pure: facts in, verdict out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from loadtest.analysis.calibration import find_nearness, tell_calibration
from loadtest.analysis.facts import Facts
from loadtest.analysis.limits import (
    FULL,
    LAG_SHARE,
    find_broker_limits,
    find_doubts,
    find_generator_limits,
    find_shared_limits,
    is_squeezed,
)
from loadtest.analysis.steadiness import find_unsteadiness

ACHIEVED = 0.99
"""The part of a plan that has to be done for it to count as met."""
ALONE = "what would help: the same run on a machine with nothing beside it"
UNKNOWN = "the broker's processor time is not known"


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
    generator, broker, shared, doubts = (
        list(find(facts)) for find in (find_generator_limits, find_broker_limits, find_shared_limits, find_doubts)
    )
    evidence = [*failed, *backlog, *unsteady, *generator, *broker, *shared, *doubts, *_shortfall(facts)]
    evidence += _timers(facts)
    evidence += tell_calibration(facts.alone_rate, facts.reached_rate)
    if failed:
        return Verdict("failed", evidence)
    if unsteady:
        return Verdict("unsteady", evidence)
    if doubts:
        return Verdict("inconclusive", [*evidence, ALONE])
    if generator and (broker or is_squeezed(facts)):
        return judge_limits_of_both(facts, evidence)
    if broker and not generator and (near := list(find_nearness(facts.alone_rate, facts.reached_rate))):
        return Verdict("inconclusive", [*evidence, *near])
    if generator or broker:
        return Verdict("generator-bound" if generator else "broker-bound", evidence)
    if shared and not is_plan_met(facts):
        return Verdict("machine-bound", evidence)
    if backlog:
        help_ = f"more consumers or queues, or a larger --prefetch than {facts.prefetch:,}"
        return Verdict("unsteady", [*evidence, f"{neither(facts)} at its limit; what would help: {help_}"])
    return _neither(facts, evidence)


def _backlog(facts: Facts) -> Iterator[str]:
    if facts.is_backlog_growing:
        yield (
            f"backlog: {facts.confirmed_rate:,.0f}/s were confirmed and {facts.consumed_rate:,.0f}/s consumed, so that "
            f"{facts.backlog_growth:,.0f} more each second waited in the queues: no rate that can be kept up"
        )


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


def is_plan_met(facts: Facts) -> bool:
    """Whether there was a schedule, and nearly all of it was done."""
    return bool(facts.planned) and facts.skipped <= (1 - ACHIEVED) * (facts.planned or 0)


def neither(facts: Facts) -> str:
    """Who was not at his limit, as far as that is known: the beginning of a sentence."""
    return "neither end was" if facts.broker_share is not None else f"{UNKNOWN}, and this program was not"


def judge_limits_of_both(facts: Facts, evidence: Sequence[str]) -> Verdict:
    """Both ends were at their limit, or the broker used all that a generator at its own limit left it."""
    if facts.broker_share is None:
        help_ = "what would help: the broker's own processor time, or more generators"
        return Verdict("inconclusive", [*evidence, f"both ends were at their limit; {help_}"])
    if not facts.shared_cores:
        apart = "both ends were at their limit, each on cores of its own; what would help: more generators"
        return Verdict("inconclusive", [*evidence, apart])
    both = "both ends were at their limit, on cores that they share: this machine is too small to tell them apart"
    return Verdict("machine-bound", [*evidence, both])


def _neither(facts: Facts, evidence: list[str]) -> Verdict:
    if facts.machine_share > FULL:
        full = f"all {facts.cores} cores together were used to {facts.machine_share:.0%} (limit {FULL:.0%})"
        return Verdict("machine-bound", [*evidence, full])
    nobody = f"{neither(facts)} at its limit"
    if is_plan_met(facts):
        met = f"the plan was met and {nobody}: this shows latency at this rate, and no capacity"
        return Verdict("paced", [met, *evidence])
    unknown = "; --management URL tells what the broker uses" if facts.broker_share is None else ""
    if facts.planned is not None:
        has_waited = facts.waiting_share is not None and facts.waiting_share > 1 - ACHIEVED
        help_ = "a larger --window, or more producers" if has_waited else "a longer run"
        return Verdict("inconclusive", [*evidence, f"{nobody}; what would help: {help_}{unknown}"])
    trips = f": with {facts.in_flight:,} in flight the rate is what the round trips allow" if facts.in_flight else ""
    help_ = "more clients or a larger --window, for capacity, or --rate, for latency"
    return Verdict("inconclusive", [*evidence, f"{nobody}{trips}; what would help: {help_}{unknown}"])
