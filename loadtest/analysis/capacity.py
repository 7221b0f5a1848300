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
from loadtest.analysis.verdict import FULL, Verdict, find_broker_limits, find_doubts, find_generator_limits

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
    generator, broker, doubts = (list(find(seen)) for find in (find_generator_limits, find_broker_limits, find_doubts))
    evidence.append(at)
    evidence += [*generator, *broker, *doubts, *tell_calibration(facts.alone_rate, rate_of_step(step))]
    if doubts:
        return Verdict("inconclusive", [*evidence, "what would help: the same run on a machine with nothing beside it"])
    if (generator and broker and facts.broker_share is not None) or _is_full(seen, generator, broker):
        used = f"{seen.machine_share * seen.cores:.2f} of the machine's {seen.cores} cores were in use"
        return Verdict("machine-bound", [*evidence, f"both ends share these cores, and {used}"])
    if broker and not generator and (near := list(find_nearness(facts.alone_rate, rate_of_step(step)))):
        return Verdict("inconclusive", [*evidence, *near])
    if generator or broker:
        return Verdict("generator-bound" if generator else "broker-bound", evidence)
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
    if failed:
        step = min(failed, key=lambda each: each["rate"])
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


def _is_full(seen: Facts, generator: list[str], broker: list[str]) -> bool:
    """Whether the machine was used up by both ends, though neither is at the limit of its own."""
    ours = seen.client_share + seen.others_share + (seen.broker_share or 0.0)
    return not (generator or broker) and ours > FULL * 0.95 * seen.cores and seen.machine_share > FULL


def _idle(step: Step, facts: Facts) -> Iterator[str]:
    """Neither end was at its limit: what then was, as far as it can be told, and what would help."""
    broker = "" if step["broker_cores"] is None else f", the broker {step['broker_cores']:.2f}"
    used = f"neither end was at its limit (this program used {step['client_cores']:.2f} cores{broker})"
    if step["consumed_rate"] and step["consumed_rate"] < step["confirmed_rate"] * 0.95:
        yield f"{used}: consumers were; what would help: more of them, more queues or a larger --prefetch"
    elif facts.all_in_flight:
        in_flight = f"at most {facts.all_in_flight:,} are in flight, and each takes its round trip"
        yield f"{used}: {in_flight}; what would help for more: more clients or a larger --window"
