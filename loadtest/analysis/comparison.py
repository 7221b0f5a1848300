"""Two sides of trials against each other, metric by metric: what differs, by how much, and is that for the worse?

It owns which metrics are compared, and which direction of each is better. What must stay true: a difference is told
only where chance hardly makes one, over all metrics together, and where it exceeds what the machine's own noise makes.
Pure: from the results' sections alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median
from typing import Any

from loadtest.analysis.statistics import CONFIDENCE, correct, estimate_ratio, least_pairs, noise, signed_rank
from loadtest.scenarios.brokers import recorded_kind

Sections = Mapping[str, Any]
"""What a result, or a trial of one, says: the sections of the schema."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of a result that two sides are compared by."""

    name: str
    path: tuple[str, ...]
    more_is_better: bool
    unit: str = ""
    follows_plan: bool = False
    """Whether a schedule decides it: in an open loop it says nothing."""


METRICS = (
    Metric("sustainable rate", ("capacity", "sustainable_rate"), more_is_better=True, unit="/s"),
    Metric("closed-loop rate", ("capacity", "closed_rate"), more_is_better=True, unit="/s"),
    Metric("publish rate", ("publish", "rate"), more_is_better=True, unit="/s", follows_plan=True),
    Metric("consume rate", ("consume", "rate"), more_is_better=True, unit="/s", follows_plan=True),
    Metric("RPC rate", ("rpc", "rate"), more_is_better=True, unit="/s", follows_plan=True),
    Metric("confirm p50", ("publish", "confirm_latency_ms", "p50"), more_is_better=False, unit="ms"),
    Metric("confirm p99", ("publish", "confirm_latency_ms", "p99"), more_is_better=False, unit="ms"),
    Metric("end to end p50", ("consume", "end_to_end_latency_ms", "p50"), more_is_better=False, unit="ms"),
    Metric("end to end p99", ("consume", "end_to_end_latency_ms", "p99"), more_is_better=False, unit="ms"),
    Metric("RPC p50", ("rpc", "latency_ms", "p50"), more_is_better=False, unit="ms"),
    Metric("RPC p99", ("rpc", "latency_ms", "p99"), more_is_better=False, unit="ms"),
    Metric("client CPU a message", ("resources", "client_cpu_us_per_message"), more_is_better=False, unit="us"),
    Metric("broker CPU a message", ("resources", "broker_cpu_us_per_message"), more_is_better=False, unit="us"),
    Metric("client memory", ("resources", "client_rss_peak_bytes"), more_is_better=False, unit="bytes"),
    Metric("broker memory", ("resources", "broker_rss_peak_bytes"), more_is_better=False, unit="bytes"),
    Metric("connect p50", ("connect", "latency_ms", "p50"), more_is_better=False, unit="ms"),
)
"""In the order in which they are told. Rates are messages per second."""


LOADS_SHOWN = 6
"""Of what two loads differ in, how much is told."""
_NO_LOAD = {
    *("scenario", "command", "labels", "urls", "publish_urls", "consume_urls", "vhost", "broker", "workload"),
    *("repeat", "vary", "require", "abort_on", "abort_after", "calibrate", "join_timeout", "wait_broker", "search"),
}
"""What was asked for that is no part of the load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How the new side differs from the base in one metric."""

    metric: str
    unit: str
    more_is_better: bool
    base: float
    new: float
    """Both sides' medians."""
    pairs: int
    factor: float
    low: float
    high: float
    """new / base, with its 95 % interval."""
    chance: float
    """That two equal sides differ at least as much, corrected for the number of metrics."""
    noise: float | None
    """The factor by which trials of this machine differ by themselves; None if that isn't known."""
    direction: str
    """`better`, `worse`, or `not shown` where chance would do the same."""
    is_regression: bool
    """Worse, and beyond the tolerance."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides compared."""

    differences: list[Difference]
    remarks: list[str]
    """What a reader has to know before believing it."""
    broken: str = ""
    """Why the new side is worse whatever its figures are; empty if it isn't."""
    too_few: str = ""
    """Why no difference could be shown, however large; empty if it could."""

    @property
    def regressions(self) -> list[Difference]:
        """What became worse beyond the tolerance."""
        return [difference for difference in self.differences if difference.is_regression]


def compare(
    base: Sequence[Sections], new: Sequence[Sections], *, tolerance: float, same: Sequence[Sections] = ()
) -> Comparison:
    """Compares trials in pairs, the first with the first and so on.

    `same` are trials of what the base is, from which the noise floor is taken; else it is taken from both sides.
    ValueError if there is nothing to pair, or the trials met different kinds of broker.
    """
    _refuse_mixed_kinds(base, new, same)
    pairs = list(zip(base, new, strict=False))
    if not pairs:
        raise ValueError("there are no trials to compare: each side needs one at least")
    metrics = [metric for metric in METRICS if not (metric.follows_plan and _is_open(pairs))]
    found = {metric: values for metric in metrics if (values := _paired(metric, pairs))}
    broken = "; ".join(_find_broken(base, new, metrics, pairs))
    if not found and not broken:
        raise ValueError("there is nothing to compare: no metric is known of both sides")
    gone = [metric.name for metric in metrics if metric not in found and _is_gone(metric, pairs)]
    chances = correct([signed_rank(values) for values in found.values()])
    differences = [
        _differ(metric, values, chance, _noise(metric, base, new, same, len(values)), tolerance)
        for (metric, values), chance in zip(found.items(), chances, strict=True)
    ]
    too_few = _find_too_few(len(pairs), len(found))
    return Comparison(differences, list(_remarks(base, new, gone)), broken, too_few)


def _refuse_mixed_kinds(*sides: Sequence[Sections]) -> None:
    brokers = [(sections.get("environment") or {}).get("broker") for side in sides for sections in side]
    kinds = {kind for broker in brokers if (kind := recorded_kind(broker)) is not None}
    if len(kinds) > 1:
        met = ", ".join(sorted(kinds))
        raise ValueError(f"the trials met different kinds of broker ({met}): what differs may be theirs alone")


def _paired(metric: Metric, pairs: Sequence[tuple[Sections, Sections]]) -> list[tuple[float, float]]:
    """The metric's values where both sides have one above 0; none unless most pairs have."""
    values = [(read(metric, one), read(metric, other)) for one, other in pairs]
    known = [(one, other) for one, other in values if one and other]
    return known if 2 * len(known) > len(pairs) else []


def read(metric: Metric, sections: Sections) -> float | None:
    """The metric's value in a result; None if it has none."""
    value: Any = sections
    for step in metric.path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) and isfinite(value) and value >= 0 else None


def _is_gone(metric: Metric, pairs: Sequence[tuple[Sections, Sections]]) -> bool:
    """Whether most trials of the base have the metric, and it was lost with the other side."""
    return 2 * sum(bool(read(metric, one)) for one, _ in pairs) > len(pairs)


def _find_broken(
    base: Sequence[Sections],
    new: Sequence[Sections],
    metrics: Sequence[Metric],
    pairs: Sequence[tuple[Sections, Sections]],
) -> Iterator[str]:
    """Trials that failed have figures that look well, or none: where most of the new side's did, and not the base's.
    And a rate that fell to 0 has no ratio.
    """
    before, after = (sum(map(_has_failed, side)) for side in (base, new))
    if 2 * before > len(base):
        return
    if 2 * after > len(new):
        yield f"{after} of {len(new)} new trials failed, and {before} of {len(base)} of the base's"
    for metric in metrics:
        fell = [bool(read(metric, one)) and read(metric, other) == 0 for one, other in pairs]
        if metric.more_is_better and 2 * sum(fell) > len(pairs):
            yield f"the {metric.name} is 0 in {sum(fell)} of {len(pairs)} new trials"


def _has_failed(sections: Sections) -> bool:
    """A trial has its reasons, and a run's own result the verdict."""
    return bool(sections.get("failures")) or (sections.get("verdict") or {}).get("status") == "failed"


def _is_open(pairs: Sequence[tuple[Sections, Sections]]) -> bool:
    return any(side.get("loop") == "open" for pair in pairs for side in pair)


def _find_too_few(pairs: int, metrics: int) -> str:
    if not metrics or pairs >= (needed := least_pairs(metrics)):
        return ""
    told = "1 pair" if pairs == 1 else f"{pairs} pairs"
    return f"{told} can't show any difference among {metrics} metrics: at least {needed} are needed (--repeat)"


def _noise(
    metric: Metric, base: Sequence[Sections], new: Sequence[Sections], same: Sequence[Sections], pairs: int
) -> float | None:
    if same:
        return noise(list(_values(metric, (*base, *same))), pairs)
    known = [found for side in (base, new) if (found := noise(list(_values(metric, side)), pairs)) is not None]
    return max(known, default=None)


def _values(metric: Metric, side: Sequence[Sections]) -> Iterator[float]:
    for sections in side:
        if value := read(metric, sections):
            yield value


def _differ(
    metric: Metric, pairs: Sequence[tuple[float, float]], chance: float, floor: float | None, tolerance: float
) -> Difference:
    ratio = estimate_ratio(pairs)
    size = max(ratio.factor, 1 / ratio.factor)
    is_shown = chance < 1 - CONFIDENCE and (floor is None or size > floor)
    is_better = (ratio.factor > 1) == metric.more_is_better
    return Difference(
        metric=metric.name,
        unit=metric.unit,
        more_is_better=metric.more_is_better,
        base=median(one for one, _ in pairs),
        new=median(other for _, other in pairs),
        pairs=len(pairs),
        factor=ratio.factor,
        low=ratio.low,
        high=ratio.high,
        chance=chance,
        noise=floor,
        direction="not shown" if not is_shown else "better" if is_better else "worse",
        is_regression=is_shown and not is_better and size > 1 + tolerance,
    )


def _remarks(base: Sequence[Sections], new: Sequence[Sections], gone: Sequence[str]) -> Iterator[str]:
    if differing := list(_differing_loads(base[0], new[0])):
        more = f" and {len(differing) - LOADS_SHOWN} more" if len(differing) > LOADS_SHOWN else ""
        yield f"the loads are not the same: {', '.join(differing[:LOADS_SHOWN])}{more}"
    pairs = min(len(base), len(new))
    if len(base) != len(new):
        yield f"{len(base)} trials against {len(new)}: the first {pairs} of each are compared"
    if gone:
        yield f"not known of the new side, and so not compared: {', '.join(gone)}"
    for what, number in (
        ("failed", sum(map(_has_failed, (*base, *new)))),
        ("were interrupted", sum(bool(sections.get("interrupted")) for sections in (*base, *new))),
    ):
        if number:
            yield f"{number} of {len(base) + len(new)} trials {what}"
    for what, values in (
        ("loops", _loops(base, new)),
        ("brokers", _brokers(base, new)),
        ("machines", _cpus(base, new)),
    ):
        if len(values) > 1:
            yield f"the trials are of different {what}: {', '.join(sorted(values))}"


def _differing_loads(one: Sections, other: Sections) -> Iterator[str]:
    """What the runs were asked for that is not the same in both; nothing of cells, which differ in what they say."""
    asked, other_asked = one.get("scenario"), other.get("scenario")
    if one.get("cell") or other.get("cell") or not isinstance(asked, Mapping) or not isinstance(other_asked, Mapping):
        return
    for name, value in asked.items():
        if name in other_asked and name not in _NO_LOAD and other_asked[name] != value:
            yield f"{name} {_tell(value)} against {_tell(other_asked[name])}"


def _tell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "", [], {}) else f"{value:,}" if isinstance(value, int | float) else str(value)


def _loops(*sides: Sequence[Sections]) -> set[str]:
    return {str(sections.get("loop")) for side in sides for sections in side}


def _brokers(*sides: Sequence[Sections]) -> set[str]:
    brokers = [(sections.get("environment") or {}).get("broker") or {} for side in sides for sections in side]
    return {f"{broker.get('product')} {broker.get('version')}" for broker in brokers if broker.get("product")}


def _cpus(*sides: Sequence[Sections]) -> set[str]:
    found = [sections.get("environment") or {} for side in sides for sections in side]
    return {f"{each.get('cores')} × {each.get('cpu')}" for each in found if each.get("cpu")}
