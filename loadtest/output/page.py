"""Results as one HTML file that needs nothing else: no network, no files beside it.

It owns the document and how data gets into it. What must stay true: no text of a result is ever markup or a program.
Text is escaped where it is put in, and the charts' data cannot end the element that holds it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from loadtest.output.charts.palette import DARK, LIGHT, style_sheet
from loadtest.output.naming import name_runs, said
from loadtest.output.told import Table, findings_of, headline_of, outcome_of, setting_of, tables_of

_HERE = Path(__file__).parent
_SHAPES = {
    "circle": "M5 0A5 5 0 1 1-5 0A5 5 0 1 1 5 0Z",
    "square": "M-4.5-4.5H4.5V4.5H-4.5Z",
    "triangle-up": "M0-5.5L5.5 4.5H-5.5Z",
    "triangle-down": "M0 5.5L5.5-4.5H-5.5Z",
    "triangle-right": "M5.5 0L-4.5 5.5V-5.5Z",
    "triangle-left": "M-5.5 0L4.5 5.5V-5.5Z",
    "diamond": "M0-6L4 0L0 6L-4 0Z",
    "cross": "M-5-2H-2V-5H2V-2H5V2H2V5H-2V2H-5Z",
}
"""What the charts' shapes look like in a legend."""
_SIGNS = {"ok": "✓", "failed": "✗", "interrupted": "!", "incomplete": "!"}


@dataclass(frozen=True)
class Drawing:
    """A chart, as its Vega-Lite specification, with what is said of it."""

    name: str
    title: str
    sentence: str
    height: int
    specification: Mapping[str, Any]
    legend: Sequence[Mapping[str, Any]] = ()
    """Entries with a `name`, and a `colour`, `shape` or `dash`."""


def render_page(title: str, results: Sequence[Mapping[str, Any]], drawings: Sequence[Drawing], library: str) -> str:
    """The document. `library` is the script that defines `vegaEmbed`."""
    body = "\n".join([*_introduction(title, results), *_charts(drawings), *_tables(results)])
    data = {drawing.name: drawing.specification for drawing in drawings}
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(said(title))}</title>
<style>
:root{{{style_sheet(LIGHT)}}}
@media screen and (prefers-color-scheme:dark){{:root{{{style_sheet(DARK)}}}}}
{(_HERE / "page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
{body}
</main>
<script type="application/json" id="charts">{as_data(data)}</script>
<script>{as_script(library)}</script>
<script type="module">
{(_HERE / "page.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""


def as_data(value: Any) -> str:
    """JSON that no text in it can end before its time."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def as_script(text: str) -> str:
    """A script that may speak of scripts."""
    return re.sub(r"<(/script|!--)", r"\\x3c\1", text, flags=re.IGNORECASE)


def _introduction(title: str, results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    runs = [result for result in results if "timeline" in result]
    if len(runs) != 1:
        yield f"<header><h1>{escape(said(title))}</h1></header>"
    if findings := findings_of(results):
        yield f'<section class="verdict"><ul>{"".join(f"<li>{escape(each)}</li>" for each in findings)}</ul></section>'
    for result, name in zip(runs, name_runs(runs), strict=True):
        if len(runs) == 1:
            yield f"<header><h1>{escape(headline_of(result))}</h1>"
            yield f'<p class="soft">{escape(setting_of(result))}</p></header>'
        else:
            yield f"<h2>{escape(name)}</h2><p><b>{escape(headline_of(result))}</b></p>"
            yield f'<p class="soft">{escape(setting_of(result))}</p>'
        yield from _verdict(result)


def _verdict(result: Mapping[str, Any]) -> Iterator[str]:
    outcome, why = outcome_of(result)
    verdict = result["verdict"] or {"status": "–", "evidence": []}
    yield '<section class="verdict">'
    yield f'<p><span class="badge {outcome}">{_SIGNS[outcome]} {outcome}</span> {escape("; ".join(why))}</p>'
    yield f"<p>Verdict: <strong>{escape(said(verdict['status']))}</strong></p>"
    if verdict["evidence"]:
        yield f"<ul>{''.join(f'<li>{escape(said(each))}</li>' for each in verdict['evidence'])}</ul>"
    yield f"<pre><code>{escape(said(result['scenario'].get('command', '')))}</code></pre></section>"


def _charts(drawings: Sequence[Drawing]) -> Iterator[str]:
    if drawings:
        yield (
            '<p class="soft screen">Charts: point at a line to read it, press a name in a legend to see it alone, '
            "hold Shift to zoom with the wheel and to move.</p>"
        )
    for drawing in drawings:
        title, sentence = escape(said(drawing.title)), escape(said(drawing.sentence))
        yield (
            f'<figure><figcaption><h2>{title}</h2><p class="soft">{sentence}</p></figcaption>{_legend(drawing.legend)}'
            f'<div class="chart" data-chart="{escape(said(drawing.name))}" style="min-height:{drawing.height + 60}px" '
            f'role="img" aria-label="{title}. {sentence}"></div></figure>'
        )


def _legend(entries: Sequence[Mapping[str, Any]]) -> str:
    """Names that can be pressed, as many in a row as there is room for; what merely explains dashes can not."""
    shown = []
    for entry in entries:
        name = escape(said(entry["name"]))
        sign = _sign(str(entry.get("colour") or "currentColor"), str(entry.get("shape") or ""), entry.get("dash"))
        if entry.get("colour"):
            shown.append(f'<button type="button" data-name="{name}" aria-pressed="false">{sign}{name}</button>')
        else:
            shown.append(f'<span class="key">{sign}{name}</span>')
    return f'<div class="legend">{"".join(shown)}</div>' if shown else ""


def _sign(colour: str, shape: str, dash: Sequence[int] | None) -> str:
    dashes = f' stroke-dasharray="{dash[0]} {dash[1]}"' if dash and dash[1] else ""
    line = f'<line x1="0" y1="7" x2="26" y2="7" stroke="{escape(colour)}" stroke-width="2.5"{dashes}/>'
    mark = (
        f'<path d="{_SHAPES[shape]}" transform="translate(13 7)" fill="{escape(colour)}"/>' if shape in _SHAPES else ""
    )
    return f'<svg width="26" height="14" aria-hidden="true">{line}{mark}</svg>'


def _tables(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield '<div class="tables">'
    for table in tables_of(results):
        if table.rows:
            yield from _table(table)
    yield "</div>"


def _table(table: Table) -> Iterator[str]:
    width = " wide" if len(table.columns) > 2 else ""
    yield f'<section class="table{width}"><h2>{escape(table.title)}</h2><div class="scroll" tabindex="0"><table>'
    kinds = ["number" if table.is_number(column) else "text" for column in range(len(table.columns))]
    if any(table.columns):
        heads = "".join(
            f'<th scope="col" class="{kind}">{escape(column)}</th>'
            for kind, column in zip(kinds, table.columns, strict=True)
        )
        yield f"<thead><tr>{heads}</tr></thead>"
    yield "<tbody>"
    for first, *others in table.rows:
        cells = "".join(f'<td class="{kind}">{escape(each)}</td>' for kind, each in zip(kinds[1:], others, strict=True))
        yield f'<tr><th scope="row" class="{kinds[0]}">{escape(first)}</th>{cells}</tr>'
    note = f'<p class="soft">{escape(table.note)}</p>' if table.note else ""
    yield f"</tbody></table></div>{note}</section>"
