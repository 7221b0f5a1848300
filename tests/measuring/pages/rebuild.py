"""Makes the page and the pictures of each result of a folder anew, from its JSON alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from loadtest.output.charts.rendering import to_svg, write_in_both
from loadtest.output.charts.strategies import strategies_picture
from loadtest.output.drawing import draw
from loadtest.output.markdown import render_markdown
from loadtest.output.strategies import render_page
from tests.measuring.bench import report
from tests.measuring.bench.comparison import page
from tests.measuring.bench.comparison.page import show_picture
from tests.measuring.pages.brief import brief_path, libraries_brief, run_brief, strategies_brief
from tests.measuring.pages.folder import File, Folder

STRATEGIES_ALTERNATIVE = "Messages a second, waits and memory for each way to serve many clients"


def rebuild(folder: Folder) -> Iterator[Path]:
    """Gives each file as it is written."""
    makers: tuple[tuple[list[File], Callable[[File], list[Path]]], ...] = (
        ([*folder.answers, *folder.runs], _run),
        (folder.strategies, _strategies),
        (folder.comparisons, lambda file: page.write(file.result, file.path)),
        (folder.bounds, _bounds),
    )
    for files, make in makers:
        for file in files:
            yield from make(file)
    yield from _briefs(folder)


def strategies_picture_path(file: File) -> Path:
    return file.path.with_name(f"{file.path.stem}-bars.svg")


def _briefs(folder: Folder) -> Iterator[Path]:
    """The pictures of the README, of the latest result of each kind."""
    for file in folder.comparisons[-1:]:
        yield from write_in_both(libraries_brief(file.result), brief_path(file.path))
    for file in folder.strategies[-1:]:
        yield from write_in_both(strategies_brief(file.result), brief_path(file.path))
    if run := folder.default_run:
        picture = brief_path(run.path)
        picture.write_text(to_svg(run_brief(run.result)), encoding="utf-8")
        yield picture


def _run(file: File) -> list[Path]:
    drawn = draw([file.result], {"svg": file.path.with_suffix(".svg")})
    file.page.write_text(render_markdown([file.result], drawn[0].name), encoding="utf-8")
    return [file.page, *drawn]


def _bounds(file: File) -> list[Path]:
    held = report.from_json(file.path.read_text(encoding="utf-8"))
    file.page.write_text(report.markdown(held), encoding="utf-8")
    return [file.page]


def _strategies(file: File) -> list[Path]:
    drawn = write_in_both(strategies_picture(file.result), strategies_picture_path(file))
    drawn += draw([file.result], {"svg": file.path.with_suffix(".svg")})
    title, rest = render_page(file.result).split("\n", 1)
    shown = show_picture(drawn[0], STRATEGIES_ALTERNATIVE)
    lines = f"The same over the number of clients, and processor time: [{drawn[-1].name}]({drawn[-1].name})."
    file.page.write_text(f"{title}\n\n{shown}\n\n{lines}\n{rest}", encoding="utf-8")
    return [file.page, *drawn]
