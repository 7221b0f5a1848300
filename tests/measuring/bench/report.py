"""What was held to bounds, as text for the terminal, as JSON and as Markdown. It decides nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.measuring.bench.plan import FIGURES, TITLES, Run, Threshold
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
        columns(CHECK_HEADINGS, [check_row(check) for check in report.checks]) if report.checks else "",
        columns(SUMMARY_HEADINGS, [summary_row(summary) for summary in report.summaries]),
        *_remarks(report),
    ]
    return "\n\n".join(part for part in parts if part)


def markdown(report: Report) -> str:
    lines = [
        "# Held to bounds",
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
        *markdown_table(CHECK_HEADINGS, [check_row(check) for check in report.checks]),
        "",
        "## All runs, medians",
        "",
        "CPU is the client's per message, system the kernel's part of it. Steadiness is the factor by which the rate "
        "typically differs from that of the round before. With many connections, messages are confirmed publishes. "
        "In RPC, messages are calls that echo 128 bytes, each in the client's default encoding, and CPU is of caller "
        "and server together: two processes, or in C two threads.",
        "",
        *markdown_table(SUMMARY_HEADINGS, [summary_row(summary) for summary in report.summaries]),
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
            asdict(outcome.run)
            | {"round": outcome.round, "steal": round(outcome.steal, 4), "figures": outcome.figures}
            | {"failure": outcome.failure}
            for outcome in report.outcomes
        ],
    }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def write(report: Report, path: Path) -> list[Path]:
    """The JSON at `path`, and the Markdown beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_json(report), encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    return [path, path.with_suffix(".md")]


def from_json(text: str) -> Report:
    """What `as_json` wrote. ValueError, KeyError or TypeError if it did not."""
    found = json.loads(text)

    def estimate(value: dict[str, Any] | None) -> Estimate | None:
        return None if value is None else Estimate(**value)

    names = Run.__dataclass_fields__
    return Report(
        **{name: found[name] for name in ("command", "started_at", "seconds", "environment", "skipped")},
        outcomes=[
            Outcome(
                Run(**{name: run[name] for name in names}),
                **{name: run[name] for name in ("round", "figures", "failure", "steal")},
            )
            for run in found["runs"]
        ],
        checks=[
            Check(
                Threshold(**check["threshold"]),
                check["backend"],
                *(estimate(check[name]) for name in ("value", "ours", "theirs")),
            )
            for check in found["checks"]
        ],
        summaries=[
            Summary(
                Run(**summary["run"]),
                {name: Estimate(**figure) for name, figure in summary["figures"].items()},
                tuple(summary["least_and_most"]) if summary["least_and_most"] else None,
                summary["unsteadiness"],
            )
            for summary in found["summaries"]
        ],
    )


def _remarks(report: Report) -> list[str]:
    stolen = [outcome for outcome in report.outcomes if outcome.steal > 0.02]
    remarks = [f"Skipped: {reason}" for reason in report.skipped]
    remarks += [f"Failed: {failure}" for failure in report.failures]
    if stolen:
        remarks.append(f"In {len(stolen)} of {len(report.outcomes)} runs the host took over 2 % of the processors.")
    return remarks


def columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal."""
    table = [headings, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows)]
