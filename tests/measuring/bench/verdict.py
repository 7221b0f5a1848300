"""Holds the outcomes against the thresholds: each ratio from the pairs of its rounds, each verdict by the median.

What must stay true: a figure is only ever compared with one of the same round, and what could not be measured is
reported as such, never left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.measuring.bench.measure import Figures
from tests.measuring.bench.plan import FIGURES, OURS, THRESHOLDS, Run, Threshold, group_of
from tests.measuring.bench.runner import Outcome
from tests.measuring.bench.statistic import Estimate, estimate, unsteadiness


@dataclass(frozen=True)
class Check:
    """A threshold on a backend. `value` is what the bound is about: our figure, or its ratio to theirs."""

    threshold: Threshold
    backend: str
    value: Estimate | None
    ours: Estimate | None
    theirs: Estimate | None

    @property
    def holds(self) -> bool | None:
        return None if self.value is None else self.threshold.holds(self.value.median)

    @property
    def is_certain(self) -> bool:
        """The interval lies on one side of the bound altogether."""
        value = self.value
        return value is not None and self.threshold.holds(value.low) == self.threshold.holds(value.high)

    @property
    def verdict(self) -> str:
        if self.holds is None:
            return "not measured"
        return ("met" if self.holds else "missed") + ("" if self.is_certain else " (bound within interval)")


@dataclass(frozen=True)
class Summary:
    """A run's figures over all its rounds."""

    run: Run
    figures: dict[str, Estimate]
    least_and_most: tuple[float, float] | None
    """Of its rate."""
    unsteadiness: float | None
    """Of its rate, from round to round."""


def judge(outcomes: Sequence[Outcome], jobs: Sequence[str], backends: Sequence[str]) -> list[Check]:
    """Every threshold of these jobs on every backend where it holds."""
    return [
        _check(threshold, backend, outcomes)
        for threshold in THRESHOLDS
        for backend in group_of(threshold.job).backends(backends)
        if threshold.job in jobs and threshold.backend in (None, backend)
    ]


def summarise(outcomes: Sequence[Outcome]) -> list[Summary]:
    """One for each kind of run that gave figures, in the order of the table of groups."""
    summaries = []
    for run in dict.fromkeys(outcome.run for outcome in sorted(outcomes, key=lambda outcome: outcome.round)):
        found = [outcome.figures for outcome in outcomes if outcome.run == run and outcome.figures is not None]
        if not found:
            continue
        figures = {
            name: estimate([figure.of(one) for one in found])
            for name, figure in FIGURES.items()
            if _has(figure.of, found[0])
        }
        rates = [FIGURES["rate"].of(one) for one in found] if "rate" in figures else []
        spread = (min(rates), max(rates)) if rates else None
        summaries.append(Summary(run, figures, spread, unsteadiness(rates)))
    return summaries


def _check(threshold: Threshold, backend: str, outcomes: Sequence[Outcome]) -> Check:
    figure = FIGURES[threshold.figure].of
    ours = _by_round(outcomes, figure, lambda run: (run.client, run.job, run.backend) == (OURS, threshold.job, backend))
    if threshold.reference is None:
        value = _estimate(list(ours.values()))
        return Check(threshold, backend, value, value, None)
    if threshold.of_job is not None:
        beside = (OURS, threshold.of_job, backend)
        theirs = _by_round(outcomes, figure, lambda run: (run.client, run.job, run.backend) == beside)
    else:
        assert threshold.of is not None
        reference = group_of(threshold.job).reference(threshold.of)
        held_to = (reference.client, reference.job)
        theirs = _by_round(outcomes, figure, lambda run: (run.client, run.job) == held_to)
    shared = ours.keys() & theirs.keys()
    return Check(
        threshold,
        backend,
        _estimate([ours[round] / theirs[round] for round in sorted(shared)]),
        _estimate(list(ours.values())),
        _estimate(list(theirs.values())),
    )


def _by_round(
    outcomes: Sequence[Outcome], figure: Callable[[Figures], float], wanted: Callable[[Run], bool]
) -> dict[int, float]:
    return {
        outcome.round: figure(outcome.figures)
        for outcome in outcomes
        if outcome.figures is not None and wanted(outcome.run)
    }


def _estimate(values: list[float]) -> Estimate | None:
    return estimate(values) if values else None


def _has(figure: Callable[[Figures], float], figures: Figures) -> bool:
    try:
        figure(figures)
    except KeyError:
        return False
    return True
