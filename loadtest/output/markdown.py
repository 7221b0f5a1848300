"""Results as Markdown: for a pull request, a wiki, a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from loadtest.output.naming import name_runs, said
from loadtest.output.told import Table, findings_of, headline_of, outcome_of, setting_of, tables_of, title_of

_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~&!])")


def render_markdown(results: Sequence[Mapping[str, Any]], picture: str | None = None) -> str:
    """One document of all results; `picture` is the name of a file beside it that shows their charts."""
    shown = [f"![the charts of the run]({quote(picture, errors='surrogateescape')})"] if picture else []
    blocks = [*_introduction(results), *shown, *_tables(results)]
    return "\n\n".join(blocks) + "\n"


def _introduction(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    runs = [result for result in results if "timeline" in result]
    yield f"# {escape(title_of(results))}"
    if findings := findings_of(results):
        yield "\n".join(f"- {escape(each)}" for each in findings)
    for result, name in zip(runs, name_runs(runs), strict=True):
        if len(runs) > 1:
            yield f"## {escape(name)}: {escape(headline_of(result))}"
        yield escape(setting_of(result))
        outcome, why = outcome_of(result)
        verdict = result["verdict"] or {"status": "–", "evidence": []}
        lines = [f"- **{outcome}**{': ' if why else ''}{'; '.join(map(escape, why))}"]
        lines.append(f"- verdict: **{escape(said(verdict['status']))}**")
        lines += [f"  - {escape(said(each))}" for each in verdict["evidence"]]
        yield "\n".join(lines)
        yield _code(said(result["scenario"].get("command", "")))


def _tables(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for table in tables_of(results):
        if table.rows:
            yield f"## {escape(table.title)}"
            yield _grid(table)
            if table.note:
                yield escape(table.note)


def _grid(table: Table) -> str:
    marks = ("---:" if table.is_number(column) else "---" for column in range(len(table.columns)))
    head = [" | ".join(map(escape, table.columns)), " | ".join(marks)]
    return "\n".join(f"| {row} |" for row in [*head, *(" | ".join(map(escape, row)) for row in table.rows)])


def _code(text: str) -> str:
    """The text as a block of code, fenced by more backticks than there are in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}sh\n{text}\n{fence}"


def escape(text: str) -> str:
    """The text as Markdown that shows it and nothing else. A line that begins like a list is none within one."""
    return _MARKS.sub(r"\\\1", text)
