"""The benchmark's results as text for the terminal, as JSON, as Markdown and as a small picture. It decides nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import altair as alt

from loadtest.output.charts.lines import NUMBERS, chart_of
from loadtest.output.charts.over_time import Panel
from loadtest.output.charts.palette import ALARM, LINES, SOFT
from loadtest.output.charts.panels import for_picture
from loadtest.output.charts.rendering import to_svg
from tests.measuring.bench.plan import FIGURES, TITLES
from tests.measuring.bench.runner import Outcome
from tests.measuring.bench.statistic import Estimate
from tests.measuring.bench.verdict import Check, Summary

SCHEMA = 1


@dataclass(frozen=True)
class Report:
    """All that a benchmark gave. `skipped` says what could not be run here and why."""

    command: str
    started_at: str
    seconds: float
    environment: dict[str, str]
    skipped: list[str]
    outcomes: Sequence[Outcome]
    checks: Sequence[Check]
    summaries: Sequence[Summary]

    @property
    def failures(self) -> list[str]:
        return [
            f"round {outcome.round + 1}, {outcome.run.label}, {outcome.run.job}: {outcome.failure}"
            for outcome in self.outcomes
            if outcome.figures is None
        ]


# --- rows of words ----------------------------------------------------------------------------------------------------

CHECK_HEADINGS = ["what", "backend", "measured", "95 % interval", "bound", "verdict", "rabbitry", "reference", "n"]
SUMMARY_HEADINGS = ["job", "client", "messages/s", "least – most", "CPU µs", "system", "p50"]
SUMMARY_HEADINGS += ["connect", "KB each", "steadiness"]


def check_row(check: Check) -> list[str]:
    threshold, value = check.threshold, check.value
    figure = FIGURES[threshold.figure]
    relation = "≥" if threshold.at_least is not None else "≤"
    unit = f" × {threshold.reference}" if threshold.reference else f" {figure.unit}"
    return [
        check_title(check),
        check.backend,
        f"{number(value.median)}{unit}" if value else "–",
        f"{number(value.low)} – {number(value.high)}" if value else "–",
        f"{relation} {threshold.bound:g}",
        check.verdict,
        _figure(check.ours, figure.unit),
        _figure(check.theirs, figure.unit),
        str(value.count if value else 0),
    ]


def check_title(check: Check) -> str:
    return f"{TITLES[check.threshold.job]}: {FIGURES[check.threshold.figure].title}"


def summary_row(summary: Summary) -> list[str]:
    figures = summary.figures

    def show(name: str, unit: str = "") -> str:
        return f"{number(figures[name].median)}{unit}" if name in figures else "–"

    least_and_most = summary.least_and_most
    return [
        TITLES[summary.run.job],
        summary.run.label,
        show("rate"),
        f"{number(least_and_most[0])} – {number(least_and_most[1])}" if least_and_most else "–",
        show("cpu_us"),
        show("system_us"),
        show("p50_us", " µs"),
        show("connect_seconds", " s"),
        show("kilobytes"),
        f"× {summary.unsteadiness:.2f}" if summary.unsteadiness else "–",
    ]


def number(value: float) -> str:
    """Three digits that matter."""
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0.0005 else "0"


def _figure(estimate: Estimate | None, unit: str) -> str:
    return f"{number(estimate.median)} {unit}" if estimate else "–"


# --- the forms --------------------------------------------------------------------------------------------------------


def text(report: Report) -> str:
    """Two tables in columns, and what went wrong."""
    parts = [
        _columns(CHECK_HEADINGS, [check_row(check) for check in report.checks]) if report.checks else "",
        _columns(SUMMARY_HEADINGS, [summary_row(summary) for summary in report.summaries]),
        *_remarks(report),
    ]
    return "\n\n".join(part for part in parts if part)


def markdown(report: Report, picture: str) -> str:
    lines = [
        "# Benchmark",
        "",
        f"`{report.command}`, {report.started_at}, {report.seconds / 60:.0f} minutes.",
        "",
        "Every run is a process of its own. The runs of a round follow each other on one broker beside them, in the "
        "opposite order every other round, the first of them made twice, as the broker still has other work to "
        "forget. Ratios are of rabbitry's figure to the reference's of the same round, the "
        "median over all rounds; intervals are bootstrapped.",
        "",
        ", ".join(f"{name} {value}" for name, value in report.environment.items()) + ".",
        "",
        f"![How far each figure is from its bound]({picture})",
        "",
        *_markdown_table(CHECK_HEADINGS, [check_row(check) for check in report.checks]),
        "",
        "## All runs, medians",
        "",
        "CPU is the client's per message, system the kernel's part of it. Steadiness is the factor by which the rate "
        "typically differs from that of the round before. With many connections, messages are confirmed publishes. "
        "In RPC, messages are calls that echo 128 bytes, each in the client's default encoding, and CPU is of caller "
        "and server together: two processes, or in C two threads.",
        "",
        *_markdown_table(SUMMARY_HEADINGS, [summary_row(summary) for summary in report.summaries]),
    ]
    for remark in _remarks(report):
        lines += ["", remark]
    return "\n".join(lines) + "\n"


def as_json(report: Report) -> str:
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "command": report.command,
        "started_at": report.started_at,
        "seconds": round(report.seconds, 1),
        "environment": report.environment,
        "skipped": report.skipped,
        "failures": report.failures,
        "checks": [
            asdict(check) | {"holds": check.holds, "is_certain": check.is_certain, "verdict": check.verdict}
            for check in report.checks
        ],
        "summaries": [asdict(summary) for summary in report.summaries],
        "runs": [
            asdict(outcome.run) | {"round": outcome.round, "steal": round(outcome.steal, 4), "figures": outcome.figures}
            for outcome in report.outcomes
        ],
    }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def picture(checks: Sequence[Check]) -> str:
    """An SVG: each check's margin over its bound, with its interval, logarithmic. Right of the line it is met."""
    shown = [check for check in checks if check.value is not None]
    rows = []
    for check in shown:
        low, middle, high = _margins(check)
        reference = f", × {check.threshold.of}" if check.threshold.of else ""
        title = f"{check_title(check)}, {check.backend}{reference}".replace("`", "")
        kept = "kept" if check.holds else "not kept"
        rows.append(
            {"check": title, "low": low, "high": high, "middle": middle, "bound": kept, "told": f"{middle:.2f} ×"}
        )
    scale = alt.Scale(type="log", nice=False, padding=12)
    y = alt.Y("check:N", title=None, sort=None, axis=alt.Axis(labelLimit=600))
    colour = alt.Color("bound:N", scale=alt.Scale(domain=["kept", "not kept"], range=[LINES[2], ALARM]))
    base = chart_of(rows).encode(y=y)
    chart = alt.layer(
        chart_of([{"bound": 1}]).mark_rule(color=SOFT).encode(x=alt.X("bound:Q", scale=scale)),
        base.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", scale=scale, title="margin over the bound (×)", axis=alt.Axis(format=NUMBERS)),
            x2="high:Q",
            color=colour,
        ),
        base.mark_point(filled=True, size=60, opacity=1).encode(
            x="middle:Q",
            color=colour,
            shape=alt.Shape("bound:N", scale=alt.Scale(domain=["kept", "not kept"], range=["circle", "cross"])),
        ),
        base.mark_text(align="left", dx=8, color=SOFT).encode(x="high:Q", text="told:N"),
    )
    sentence = "The median of the rounds with its interval; right of the line at 1 the bound is kept."
    panel = Panel("checks", "How far each figure is from its bound", sentence, chart, max(1, len(shown)) * 22)
    return to_svg(for_picture("Benchmark", [panel]))


def write(report: Report, path: Path) -> list[Path]:
    """The JSON at `path`, and the Markdown and the picture beside it."""
    drawing = path.with_suffix(".svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_json(report))
    drawing.write_text(picture(report.checks))
    path.with_suffix(".md").write_text(markdown(report, drawing.name))
    return [path, path.with_suffix(".md"), drawing]


def _margins(check: Check) -> tuple[float, float, float]:
    value, margin = check.value, check.threshold.margin
    assert value is not None
    low, high = sorted((margin(value.low), margin(value.high)))
    return low, margin(value.median), high


def _remarks(report: Report) -> list[str]:
    stolen = [outcome for outcome in report.outcomes if outcome.steal > 0.02]
    remarks = [f"Skipped: {reason}" for reason in report.skipped]
    remarks += [f"Failed: {failure}" for failure in report.failures]
    if stolen:
        remarks.append(f"In {len(stolen)} of {len(report.outcomes)} runs the host took over 2 % of the processors.")
    return remarks


def _columns(headings: list[str], rows: list[list[str]]) -> str:
    table = [headings, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join(line.rstrip() for line in lines)


def _markdown_table(headings: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows)]
