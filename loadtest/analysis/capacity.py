"""How much could be kept up, and who was the limit there: the `capacity` section, and its part in the verdict.

Who was the limit is asked just above the rate that was kept up: in the lowest step that was not held, or in the closed
loop where all were. Who was at its limit there is the finding; a latency on a schedule below it has a verdict of its
own, and both are told. Pure: facts and what a search noted in, sentences out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from loadtest.analysis.calibration import find_nearness, rate_of_step, tell_calibration
from loadtest.analysis.facts import Facts
from loadtest.analysis.limits import (
    find_broker_limits,
    find_doubts,
    find_generator_limits,
    find_shared_limits,
    is_squeezed,
)
from loadtest.analysis.verdict import ALONE, UNKNOWN, Verdict, judge_limits_of_both

FREE = 2.0
"""By how many times what round trips allow must exceed what was done before they are no longer called the limit."""

Capacity = Mapping[str, Any]
Step = Mapping[str, Any]


def judge_both(capacity: Capacity, facts: Facts | None, paced: Verdict) -> tuple[dict[str, Any], Verdict]:
    """The section of the result, with the verdicts on capacity and latency apart; and the one that they make together.

    ``paced`` is the verdict on the schedule on which latency was measured.
    """
    verdict = judge_capacity(capacity, facts)
    section = {**capacity, "verdict": asdict(verdict), "latency_verdict": asdict(paced)}
    return section, join_verdicts(verdict, paced, capacity)


def judge_capacity(capacity: Capacity, facts: Facts | None) -> Verdict:
    """Who was the limit at the rate that can be kept up; `inconclusive` where that isn't told, with what would help."""
    evidence = [_found(capacity)]
    limit = find_limit(capacity)
    if facts is None or limit is None:
        return Verdict(
            "inconclusive", [*evidence, "nothing shows who was the limit; what would help: a longer --search"]
        )
    at, step = limit
    seen = _facts_at(facts, step)
    generator, broker, shared, doubts = (
        list(find(seen)) for find in (find_generator_limits, find_broker_limits, find_shared_limits, find_doubts)
    )
    reached = max(rate_of_step(step), facts.reached_rate)
    evidence += [at, *generator, *broker, *shared, *doubts, *tell_calibration(facts.alone_rate, reached)]
    if doubts:
        return Verdict("inconclusive", [*evidence, ALONE])
    if step.get("stalled"):
        pause = "hardly anything was done in it for a while: the broker, or this machine, stood still"
        return Verdict("inconclusive", [*evidence, f"{pause}; {ALONE}"])
    if generator and (broker or is_squeezed(seen)):
        return judge_limits_of_both(seen, evidence)
    if broker and not generator and (near := list(find_nearness(facts.alone_rate, reached))):
        return Verdict("inconclusive", [*evidence, *near])
    if generator or broker:
        return Verdict("generator-bound" if generator else "broker-bound", evidence)
    if shared:
        return Verdict("machine-bound", evidence)
    return Verdict("inconclusive", [*evidence, *_idle(step, facts)])


def join_verdicts(capacity: Verdict, paced: Verdict, capacity_section: Capacity) -> Verdict:
    """One verdict of a run that had both: who was the limit, unless the latency says nothing; and what each says."""
    failed = [text for text in paced.evidence if text.startswith("failed: ")]
    once = [text for text in capacity.evidence if text not in paced.evidence]  # such as what would help with both
    others = [text for text in paced.evidence if text not in failed]
    evidence = [*failed, *(f"capacity: {text}" for text in once), *(f"latency: {text}" for text in others)]
    if failed:
        return Verdict("failed", evidence)
    if capacity_section["sustainable_rate"] is None:
        return Verdict("inconclusive", evidence)
    if paced.status in ("unsteady", "inconclusive"):
        return Verdict(paced.status, evidence)
    return Verdict(paced.status if capacity.status == "inconclusive" else capacity.status, evidence)


def find_limit(capacity: Capacity) -> tuple[str, Step] | None:
    """Where a limit shows: the lowest step above the rate that was kept up and not held; or the closed loop."""
    rate = capacity["sustainable_rate"] or 0.0
    failed = [step for step in capacity["steps"] if not step["held"] and step["rate"] > rate]
    if failed:  # (a step in which all stood still for a while shows it only where there is no other)
        step = min(failed, key=lambda each: (bool(each.get("stalled")), each["rate"]))
        return f"{step['rate']:,.0f}/s could not be kept up: {step['reason']}", step
    closed = capacity["closed"]
    if closed["confirmed_rate"] or closed["reply_rate"]:
        return "no rate that was tried failed; this is how busy both ends were in the closed loop", closed
    return None


def _found(capacity: Capacity) -> str:
    rate, closed, steps = capacity["sustainable_rate"], capacity["closed_rate"], len(capacity["steps"])
    if rate is None:
        help_ = "what would help: a longer --search, a machine with nothing beside it, or fewer clients"
        return f"no rate was kept up in {steps} steps (a closed loop did {closed:,.0f}/s); {help_}"
    return f"{rate:,.0f}/s were kept up, found in {steps} steps (a closed loop did {closed:,.0f}/s)"


def _facts_at(facts: Facts, step: Step) -> Facts:
    """The facts of one step: who used how much. What else was measured is of the phase that is judged by itself."""
    broker = step["broker_cores"]
    # what the generator takes of the broker's cores was subtracted with its share of the measured phase
    measured = facts.client_share + facts.others_share
    broker_cores = facts.broker_cores + (measured - step["client_cores"]) * facts.shared_cores
    each = step["client_cores"] / facts.processes  # of several processes: they have equal parts of the load
    return replace(
        facts,
        client_share=each,
        others_share=step["client_cores"] - each,
        broker_share=broker,
        broker_cores=broker_cores,
        machine_share=step["machine_cores"] / facts.cores,
        stolen_share=(step["stolen_cores"] or 0.0) / facts.cores,
        lateness=None,
        collector_longest_ms=0.0,
        collector_share=0.0,
        wake_p50_ms=None,
        wake_p99_ms=None,
        responses={},
        blocked_seconds=None,
        is_backlog_growing=step["consumed_rate"] < step["confirmed_rate"] * 0.95,
    )


def _idle(step: Step, facts: Facts) -> Iterator[str]:
    """Neither end was at its limit: what then was, as far as it can be told, and what would help."""
    is_known = step["broker_cores"] is not None
    used = f"this program used {step['client_cores']:.2f} cores"
    used += f", the broker {step['broker_cores']:.2f}" if is_known else f"; {UNKNOWN}"
    used = f"{'neither end was' if is_known else 'this program was not'} at its limit ({used})"
    if step["consumed_rate"] and step["consumed_rate"] < step["confirmed_rate"] * 0.95:
        yield f"{used}: consumers were; what would help: more of them, more queues or a larger --prefetch"
    elif (trips := _round_trips(facts)) is not None and trips < FREE * _rate_of_sends(step):
        in_flight = f"with {facts.all_in_flight:,} in flight at most, round trips allow about {trips:,.0f} each second"
        yield f"{used}: {in_flight}; what would help for more: more clients or a larger --window"
    else:
        elsewhere, help_ = "it may be the broker, or the way to it", "--management URL tells what the broker uses"
        if is_known:
            elsewhere, help_ = "what held it up may be the broker's disk, or one of its processes", "more queues"
        yield f"{used}: {elsewhere}; what would help: {help_}, and a longer --search"


def _round_trips(facts: Facts) -> float | None:
    """How many messages and calls could be sent each second if each took what it took at the rate that was measured."""
    took = facts.service_p50_ms or facts.responses.get("p50")
    return facts.all_in_flight / took * 1000 if facts.all_in_flight and took else None


def _rate_of_sends(step: Step) -> float:
    """How many messages and calls were answered each second of a step."""
    return (step["confirmed_rate"] or 0.0) + (step["reply_rate"] or 0.0)
