"""What several trials have in common, and how cells differ, as a table a person can read; and two sides compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from loadtest.analysis.comparison import METRICS, Comparison, Difference, Metric, read
from loadtest.output.console import marked
from loadtest.scenarios.brokers import NOT_RABBITMQ
from loadtest.scenarios.variations import name_cell
from loadtest.units import format_bytes, format_count, format_milliseconds, format_text

Result = Mapping[str, Any]
Cells = dict[str, list[Mapping[str, Any]]]
"""The trials of each cell, by its name."""

_NAMES, _EACH = 24, 34
"""Columns that the names of metrics need, and those that each cell does."""
_COMPARED = 90
"""Columns that a comparison needs with the noise in it."""
_TIGHT = 76
"""Columns below which the names of metrics are broken."""

_UNITS = {
    "/s": lambda value: f"{format_count(value)}/s",
    "ms": format_milliseconds,
    "us": lambda value: f"{value:.1f} µs",
    "bytes": format_bytes,
}


def format_value(value: float, unit: str) -> str:
    """A metric's value as people read it."""
    text: str = _UNITS[unit](value)
    return text


def render_trials(result: Result, failures: Sequence[str]) -> RenderableType:
    """Each cell's metrics, as the median of its trials and their range."""
    return _Trials(result, failures, _by_cell(result["trials"]))


def tell_cells(trials: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The same as plain text: what the cells are called, and a row for each metric, which begins with its name."""
    cells = _by_cell(trials)
    rows = [[metric.name, *map("".join, found)] for metric, found in _rows(cells)]
    return [f"{name} ({len(each)})" for name, each in cells.items()], rows


def _by_cell(trials: Sequence[Mapping[str, Any]]) -> Cells:
    cells: Cells = {}
    for trial in sorted(trials, key=lambda trial: trial["round"]):
        cells.setdefault(name_cell(tuple(trial["cell"].items())), []).append(trial)
    return cells


def _rows(cells: Cells) -> Iterator[tuple[Metric, list[tuple[str, str]]]]:
    """Each metric that is known of any trial: for each cell the median, and what is told beside it."""
    for metric in METRICS:
        found = [[value for trial in trials if (value := read(metric, trial)) is not None] for trials in cells.values()]
        if any(found):
            yield metric, [_spread(values, metric.unit) for values in found]


class _Trials:
    """The cells side by side where there is room, or else one below the other."""

    def __init__(self, result: Result, failures: Sequence[str], cells: Cells) -> None:
        self._result = result
        self._failures = failures
        self._cells = cells

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        cells = self._cells
        yield from _headline(self._result, self._failures)
        is_wide = options.max_width >= _NAMES + _EACH * len(cells)
        for shown in [cells] if is_wide else [{name: trials} for name, trials in cells.items()]:
            yield Text()
            yield _table(shown)
        yield Text()
        yield from (*_lost(cells), *_verdicts(cells), *_brokers(self._result), *_missed(self._result))


def _headline(result: Result, failures: Sequence[str]) -> Iterator[RenderableType]:
    trials = result["trials"]
    yield marked(f"[bold]{len(trials)} trials[/], the median of each cell's and their range")
    if result["interrupted"]:
        yield marked("[bold yellow]interrupted[/]: this is what was measured until then")
    for text in result.get("incomplete") or ():
        yield marked(f"[bold red]incomplete[/]: {escape(format_text(text))}")
    for text in failures:
        yield marked(f"[bold red]failed[/]: {escape(text)}")


def _table(cells: Cells) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", style="bold", no_wrap=True)
    for name, trials in cells.items():
        table.add_column(Text(f"{name} ({len(trials)})"), justify="right")
    for metric, found in _rows(cells):
        table.add_row(metric.name, *(marked(f"{middle}[dim]{spread}[/]") for middle, spread in found))
    return table


def _spread(values: Sequence[float], unit: str) -> tuple[str, str]:
    """The median, and the range of several."""
    if not values:
        return "–", ""
    told = format_value(median(values), unit)
    if len(values) == 1:
        return told, ""
    return told, f" ({format_value(min(values), unit)} – {format_value(max(values), unit)})"


def _lost(cells: Cells) -> Iterator[RenderableType]:
    for name, trials in cells.items():
        lost = [(trial.get("consume") or {}).get("lost", 0) for trial in trials]
        told = "unknown" if None in lost else format_count(sum(lost))
        yield marked(f"[bold]{told} lost[/] with {escape(name)}")


def _verdicts(cells: Cells) -> Iterator[RenderableType]:
    for name, trials in cells.items():
        statuses = [str(trial["verdict"]["status"]) for trial in trials]
        told = ", ".join(f"{statuses.count(each)} × {each}" for each in dict.fromkeys(statuses))
        yield marked(f"verdicts with {escape(name)}: {escape(told)}")


def _brokers(result: Result) -> Iterator[RenderableType]:
    """The broker, where its kind is to be told with every figure."""
    for text in result["verdict"]["evidence"]:
        if text.endswith(NOT_RABBITMQ):
            yield Text(text)


def _missed(result: Result) -> Iterator[RenderableType]:
    for finding in result["requirements"]:
        if not finding["holds"]:
            text = f"{finding['requirement']} ({finding['note']})"
            yield marked(f"required: [red]✗[/] {escape(text)}")


def render_comparison(comparison: Comparison, base: str, new: str) -> RenderableType:
    """What differs between two sides, which differences are shown by the trials, and which are not."""
    return _Compared(comparison, base, new)


class _Compared:
    """A row a metric, without the noise where there is no room for it."""

    def __init__(self, comparison: Comparison, base: str, new: str) -> None:
        self._comparison = comparison
        self._sides = (base, new)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        has_room, is_tight = options.max_width >= _COMPARED, options.max_width < _TIGHT
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("", style="bold", no_wrap=not is_tight, overflow="fold")  # which loses no digit
        for heading in self._sides:
            table.add_column(Text(heading), justify="right", overflow="fold")
        table.add_column(Text("change [95 %]"), justify="right", no_wrap=not is_tight, overflow="fold")
        if has_room:
            table.add_column("noise", justify="right", no_wrap=True)
        table.add_column("", no_wrap=not is_tight)
        for difference in self._comparison.differences:
            table.add_row(*_cells(difference, has_noise=has_room))
        yield table
        yield Text()
        yield from (marked(f"[yellow]note[/]: {escape(text)}") for text in self._comparison.remarks)
        yield from _findings(self._comparison)


def _cells(difference: Difference, *, has_noise: bool) -> Iterator[RenderableType]:
    yield Text(difference.metric)
    yield Text(format_value(difference.base, difference.unit))
    yield Text(format_value(difference.new, difference.unit))
    low, high = ((factor - 1) * 100 for factor in (difference.low, difference.high))
    yield Text(f"{_change(difference.factor)} [{low:+.1f}, {high:+.1f}]")
    if has_noise:
        yield Text("?" if difference.noise is None else f"±{(difference.noise - 1) * 100:.1f} %")
    colour = {"better": "green", "worse": "red"}.get(difference.direction, "dim")
    yield marked(f"[{colour}]{difference.direction}[/]")


def _change(factor: float) -> str:
    return f"{(factor - 1) * 100:+.1f} %"


def _findings(comparison: Comparison) -> Iterator[RenderableType]:
    if comparison.broken:
        yield marked(f"[bold red]worse[/]: {escape(comparison.broken)}")
    shown = [each for each in comparison.differences if each.direction != "not shown"]
    if comparison.too_few:
        yield marked(f"[bold yellow]too few trials[/]: {escape(comparison.too_few)}")
    elif not shown:
        yield Text("no difference is shown: what there is, chance makes as well")
    for difference in shown:
        colour = "green" if difference.direction == "better" else "red"
        better = "more" if difference.more_is_better else "less"
        beyond = ", beyond the tolerance" if difference.is_regression else ""
        yield marked(
            f"[bold {colour}]{difference.direction}[/]: {difference.metric} {_change(difference.factor)} ({better} is "
            f"better){beyond}; equal sides differ so in {difference.chance:.2%} of cases"
        )
