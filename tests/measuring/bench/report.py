"""The benchmark's results as text for the terminal, as JSON, as Markdown and as a small picture. It decides nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
    left, right, row, top = 590, 330, 22, 30
    most = max([2.0, *(_margins(check)[2] for check in shown)]) * 1.1
    least = min([0.5, *(_margins(check)[0] for check in shown)]) / 1.1

    def x(margin: float) -> float:
        return left + right * math.log(margin / least) / math.log(most / least)

    height = top + row * len(shown) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + right + 70} {height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{x(1):.0f}" y="16" text-anchor="middle" fill="#555">bound</text>',
        f'<line x1="{x(1):.1f}" y1="{top - 8}" x2="{x(1):.1f}" y2="{height - 12}" stroke="#999"/>',
    ]
    for place, check in enumerate(shown):
        low, middle, high = _margins(check)
        y = top + row * place + row / 2
        colour = "#2a7d3f" if check.holds else "#c0392b"
        reference = f", × {check.threshold.of}" if check.threshold.of else ""
        title = f"{check_title(check)}, {check.backend}{reference}".replace("`", "")
        parts += [
            f'<text x="{left - 8}" y="{y + 4:.0f}" text-anchor="end">{_escaped(title)}</text>',
            f'<line x1="{x(low):.1f}" y1="{y}" x2="{x(high):.1f}" y2="{y}" stroke="{colour}" stroke-width="2"/>',
            f'<circle cx="{x(middle):.1f}" cy="{y}" r="4" fill="{colour}"/>',
            f'<text x="{x(high) + 8:.0f}" y="{y + 4:.0f}" fill="#555">{middle:.2f} ×</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


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


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
