"""The comparison's page, in Markdown: what was found, the pictures, the tables, how each library was used. It is made
from the result alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtest.output.charts.rendering import write_in_both
from tests.measuring.bench.comparison.pictures import pictures
from tests.measuring.bench.comparison.result import Result, cell_of, sizes_of
from tests.measuring.bench.comparison.rounds import format_size
from tests.measuring.bench.comparison.tables import remarks, tables
from tests.measuring.bench.report import markdown_table, number

ALTERNATIVES = {
    "messages": "Messages a second for each library",
    "cpu": "Processor time a message for each library",
    "memory": "Memory a connection for each library",
}


def write(result: Result, path: Path) -> list[Path]:
    """Draws the pictures of the result in the file `path`, and writes its page beside it; returns the files."""
    written = []
    for name, specification in pictures(result).items():
        written += write_in_both(specification, picture_path(path, name))
    page = path.with_suffix(".md")
    page.write_text(render(result, path), encoding="utf-8")
    return [page, *written]


def picture_path(path: Path, name: str) -> Path:
    """Where the light form of a result's picture is."""
    return path.with_name(f"{path.stem}-{name}.svg")


def show_picture(path: Path, alternative: str, folder: str = "") -> str:
    """The HTML by which GitHub, and any browser, shows the form of a picture that fits the page."""
    dark = path.with_name(f"{path.stem}-dark{path.suffix}")
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{folder}{dark.name}">'
        f'<img alt="{alternative}" src="{folder}{path.name}"></picture>'
    )


def render(result: Result, path: Path) -> str:
    """The page of the result in the file `path`."""
    return "\n".join(_lines(result, path)) + "\n"


def _lines(result: Result, path: Path) -> Iterator[str]:
    yield "# rabbitry beside other clients"
    yield ""
    yield f"`{result['command']}`, {result['started_at']}, {result['rounds']} rounds in {_minutes(result)}."
    yield ""
    yield (
        "The same work for every library, each in the way its documentation shows: transient messages to one durable "
        "classic queue on one broker beside the client, a confirm for each publish, an acknowledgement for each "
        f"delivery; {_ahead(result)} without a confirm or an acknowledgement at a time, where a library can. Each "
        "run is a process of its own. Every round has an order of its own, drawn by lot, in which libraries follow "
        "each other at the same work. Figures are medians over the rounds, with bootstrapped 95 % intervals; CPU is "
        "that of the client's process, all of its threads, in user and system. A rate is what both ends together got "
        "through on the cores they share."
    )
    yield ""
    yield ", ".join(f"{name} {value}" for name, value in result["environment"].items()) + "."
    for sentence in findings(result):
        yield ""
        yield f"- {sentence}"
    for name in pictures(result):
        yield ""
        yield show_picture(picture_path(path, name), ALTERNATIVES[name])
    for table in tables(result):
        yield ""
        yield f"## {table.title}"
        yield ""
        yield from markdown_table(table.headings, table.rows)
    yield ""
    yield "## How each is used"
    yield ""
    rows = [
        [each["title"], each["ways"]["publish"], each["ways"]["consume"], each["source"]]
        for each in result["libraries"].values()
    ]
    yield from markdown_table(["library", "publishing", "consuming", "documented"], rows)
    for remark in remarks(result):
        yield ""
        yield remark


def _minutes(result: Result) -> str:
    minutes = result["seconds"] / 60
    return f"{minutes:.0f} minutes" if minutes >= 1.5 else f"{result['seconds']:.0f} s"


def _ahead(result: Result) -> str:
    sizes: dict[int, list[str]] = {}
    for size, ahead in result["ahead"].items():
        sizes.setdefault(ahead, []).append(format_size(int(size)))
    return ", ".join(f"{ahead} of {' and '.join(names)}" for ahead, names in sizes.items())


# --- in sentences -----------------------------------------------------------------------------------------------------


def findings(result: Result) -> Iterator[str]:
    """What the figures say of rabbitry and the others, a sentence for each job and size."""
    for job, verb in (("publish", "published and confirmed"), ("consume", "consumed and acknowledged")):
        for size in sizes_of(result, job):
            yield from _rates(result, job, size, verb)
    for size in sizes_of(result, "connections"):
        found = _measured(result, "connections", size, "connection_bytes")
        if found:
            told = (f"{title} {number(value / 1024)} KiB" for title, value in _ascending(found))
            yield f"Memory a connection: {', '.join(told)}."


def _rates(result: Result, job: str, size: int, verb: str) -> Iterator[str]:
    rates, costs = (_measured(result, job, size, figure) for figure in ("rate", "cpu_us"))
    if rates:
        told = ", ".join(
            f"{title} {number(rate)} ({number(costs[title])} µs of CPU each)" for title, rate in _ascending(rates)[::-1]
        )
        yield f"{format_size(size)}, {verb} a second: {told}."


def _measured(result: Result, job: str, size: int, figure: str) -> Mapping[str, float]:
    cells: list[tuple[str, Any]] = [
        (library["title"], cell_of(result, name, job, size)) for name, library in result["libraries"].items()
    ]
    return {title: cell[figure]["median"] for title, cell in cells if cell and figure in cell}


def _ascending(found: Mapping[str, float]) -> Sequence[tuple[str, float]]:
    return sorted(found.items(), key=lambda item: item[1])
