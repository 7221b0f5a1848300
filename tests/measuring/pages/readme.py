"""What the README, and pages of the documentation, show of `results/`: parts between two marks, each made of results.

What must stay true: every figure of a part is read from a result or from a page that a measuring program has written; a
part whose result is not there is empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from textwrap import fill
from typing import Any

from rich.text import Text

from loadtest.output.answer import describe_answer
from loadtest.output.markdown import escape
from loadtest.output.naming import said
from loadtest.units import format_count
from tests.measuring.bench.comparison.page import show_picture
from tests.measuring.bench.comparison.result import cell_of
from tests.measuring.bench.report import number
from tests.measuring.pages.brief import (
    LIBRARIES_ALTERNATIVE,
    RUN_ALTERNATIVE,
    STRATEGIES_ALTERNATIVE,
    brief_path,
)
from tests.measuring.pages.folder import Folder, Page

Result = Mapping[str, Any]

TOLD = "written by `nox -s report`, from results/"


class NoPlace(Exception):
    """A page does not have the marks that it should have."""


def begin(name: str) -> str:
    return f"<!-- {name}: {TOLD} -->"


def end(name: str) -> str:
    return f"<!-- end of {name} -->"


def with_parts(page: str, folder: Folder) -> str:
    """The page with what the latest results say between each pair of its marks."""
    names = re.findall(rf"^<!-- ([\w ]+): {re.escape(TOLD)} -->$", page, re.MULTILINE)
    if not names or not set(names) <= PARTS.keys():
        raise NoPlace(f"no part, or one that is not known: {', '.join(names) or 'none'}; there are {', '.join(PARTS)}")
    for name in names:
        head, opening, rest = page.partition(begin(name))
        _, closing, tail = rest.partition(end(name))
        if not closing:
            raise NoPlace(f"{begin(name)!r} without {end(name)!r}")
        page = head + "\n\n".join([opening, *PARTS[name](folder), closing]) + tail
    return page


# --- parts ------------------------------------------------------------------------------------------------------------


def _libraries(folder: Folder) -> Iterator[str]:
    """What one client costs, beside others."""
    if not folder.comparisons:
        return
    latest, place = folder.comparisons[-1], _place(folder)
    if sentences := [*_in_figures(latest.result)]:
        yield _paragraph(*sentences)
    yield show_picture(brief_path(latest.path), LIBRARIES_ALTERNATIVE, place)
    ahead = latest.result["ahead"]
    most = ahead[min(ahead, key=int)]
    yield _paragraph(
        "The same work for each library, in the way its documentation shows: transient messages, "
        f"{most} ahead of their confirms where it can have so many, on one broker beside it. "
        f"[All sizes and figures]({place}{latest.page.name}); `nox -s bench` measures it again."
    )


def _in_figures(result: Result) -> Iterator[str]:
    """Rate, processor time and memory, of rabbitry and of another async library; only what was measured."""
    rates, costs = _medians(result, "publish", "rate"), _medians(result, "publish", "cpu_us")
    if told := [
        f"{number(rates[name])} by {_title(result, name)} ({number(costs[name])} µs of CPU each)"
        for name in _NAMED
        if name in rates and name in costs
    ]:
        size = min(cell["size"] for cell in result["cells"] if cell["job"] == "publish")
        yield f"Bodies of {size} bytes, published and confirmed a second: {', '.join(told)}."
    memory = _medians(result, "connections", "connection_bytes")
    if told := [f"{number(memory[name] / 1024)} KiB with {_title(result, name)}" for name in _NAMED if name in memory]:
        yield f"An open connection with its channel takes {', '.join(told)}."


_NAMED = ("rabbitry-asyncio", "rabbitry-trio", "aio-pika")


def _medians(result: Result, job: str, figure: str) -> Mapping[str, float]:
    size = min((cell["size"] for cell in result["cells"] if cell["job"] == job), default=0)
    cells = {name: cell_of(result, name, job, size) for name in result["libraries"]}
    return {name: cell[figure]["median"] for name, cell in cells.items() if cell and cell.get(figure)}


def _title(result: Result, name: str) -> str:
    return str(result["libraries"][name]["title"])


def _strategies(folder: Folder) -> Iterator[str]:
    """What becomes of the ways to serve thousands of clients."""
    if not folder.strategies:
        return
    latest, place = folder.strategies[-1], _place(folder)
    most = f"{max(latest.result['plan']['clients']):,} clients: the most "
    for finding in latest.result["findings"]:
        if finding.startswith(most):
            yield _paragraph(f"With {escape(said(finding)).replace(':', ',', 1)}")
    yield show_picture(brief_path(latest.path), STRATEGIES_ALTERNATIVE, place)
    yield _paragraph(
        f"[Fewer clients, and all figures]({place}{latest.page.name}); `python -m loadtest strategies` measures it "
        "again."
    )


def _faults(folder: Folder) -> Iterator[str]:
    """What was survived."""
    place, told = _place(folder), []
    for page in folder.pages_named("faults"):
        faults, operations = page.faults, page.operations
        if faults and operations:
            told.append(
                f"[The table of faults]({place}{page.path.name}) has what became of {len(operations)} operations under "
                f"each of {len(faults)} faults, from “{faults[0]}” to “{faults[-1]}”."
            )
    if soaks := [page for page in folder.pages_named("soak") if _confirmed(page) and page.cell(_LOST)]:
        confirmed, lost = sum(map(_confirmed, soaks)), sum(int(_digits(page.cell(_LOST))) for page in soaks)
        pages = " and ".join(f"[{page.path.stem.partition('-')[2]}]({place}{page.path.name})" for page in soaks)
        told.append(
            f"Of {confirmed:,} messages confirmed by a cluster whose connections and nodes were killed meanwhile, "
            f"**{lost:,}** were lost (soaks on {pages})."
        )
    if told:
        yield _paragraph(*told)


_LOST = "confirmed, but never delivered"


def _confirmed(page: Page) -> int:
    found = re.match(r"([\d,]+) confirmed", page.cell("publishes"))
    return int(_digits(found[1])) if found else 0


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _answer(folder: Folder) -> Iterator[str]:
    """The headline of the load tester's default run."""
    if run := folder.default_run:
        scenario, cores = run.result["scenario"], run.result["environment"]["cores"]
        seconds = sum(phase["seconds"] for phase in run.result["phases"])
        lines = (f"{label:10}{Text.from_markup(value).plain}" for label, value in describe_answer(run.result))
        yield _paragraph(
            f"The headline of a run of {seconds:.0f} seconds, `python -m loadtest --clients {scenario['clients']}`: "
            f"{format_count(scenario['clients'])} clients beside their broker on {cores} cores."
        )
        yield "\n".join(["```text", *lines, "```"])


def _run(folder: Folder) -> Iterator[str]:
    """A picture of the same run."""
    if run := folder.default_run:
        place = _place(folder)
        yield f"![{RUN_ALTERNATIVE}]({place}{brief_path(run.path).name})"
        yield f"The picture is a part of [its report]({place}{run.page.name})."


PARTS: Mapping[str, Callable[[Folder], Iterator[str]]] = {
    "libraries": _libraries,
    "strategies": _strategies,
    "faults": _faults,
    "answer": _answer,
    "run": _run,
}


def _paragraph(*sentences: str) -> str:
    return fill(" ".join(sentences), 120, break_long_words=False, break_on_hyphens=False)


def _place(folder: Folder) -> str:
    return f"{folder.path.name}/"
