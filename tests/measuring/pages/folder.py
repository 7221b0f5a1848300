"""Which results a folder has: each JSON file by what it says it is, and the pages that programs write themselves.

A file that can't be read as a result is a problem, told by its name; it never passes for one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.analysis.strategies import SCHEMA as STRATEGIES
from loadtest.analysis.strategies import VERSION as STRATEGIES_VERSION
from loadtest.output.reading import NoResult, read_result
from tests.measuring.bench import report
from tests.measuring.bench.comparison import result as comparison

Result = Mapping[str, Any]


@dataclass(frozen=True)
class File:
    """A result with the file it stands in."""

    path: Path
    result: Result

    @property
    def page(self) -> Path:
        return self.path.with_suffix(".md")


@dataclass(frozen=True)
class Page:
    """A page that a measuring program has written."""

    path: Path
    text: str

    @property
    def title(self) -> str:
        """Its first heading."""
        return _heading(self.text, "#") or self.path.stem

    @property
    def subtitle(self) -> str:
        """Its first heading of the second rank: most say there what was measured."""
        return _heading(self.text, "##")

    @property
    def faults(self) -> list[str]:
        """Of the table of faults: each of them."""
        return re.findall(r"^## (.+)$", self.text, re.MULTILINE)

    @property
    def operations(self) -> list[str]:
        """Of the table of faults: what each of them meets."""
        rows = re.findall(r"^\| (\w[\w ]*) \| .* \|$", self.text, re.MULTILINE)
        return [name for name in dict.fromkeys(rows) if name != "operation"]

    def cell(self, label: str, column: int = 1) -> str:
        """The cell of a table's row that begins with this label; empty where there is none."""
        for line in self.text.splitlines():
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if line.startswith("|") and cells[0] == label and len(cells) > column:
                return cells[column]
        return ""


@dataclass
class Folder:
    """All results of a folder, each kind by the time it was made."""

    path: Path
    answers: list[File] = field(default_factory=list)
    """Load tests that sought the rate that can be kept up."""
    runs: list[File] = field(default_factory=list)
    """Other load tests."""
    strategies: list[File] = field(default_factory=list)
    comparisons: list[File] = field(default_factory=list)
    bounds: list[File] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[File]:
        return [*self.answers, *self.runs, *self.strategies, *self.comparisons, *self.bounds]

    @property
    def default_run(self) -> File | None:
        """The latest that `python -m loadtest --clients N` has made: rabbitry on asyncio, without another scenario."""
        default = {"scenario": "c10k", "driver": "rabbitry", "backend": "asyncio"}
        runs = [file for file in self.answers if default.items() <= file.result["scenario"].items()]
        return runs[-1] if runs else None

    def pages_named(self, start: str) -> list[Page]:
        """The pages of a program, by how their names begin."""
        return [page for page in self.pages if page.path.stem == start or page.path.stem.startswith(f"{start}-")]


def read_folder(path: Path) -> Folder:
    """Looks at every JSON and Markdown file of the folder; the index itself is none of them."""
    found = Folder(path)
    for each in sorted(path.glob("*.json")):
        try:
            _add(found, each)
        except (NoResult, comparison.NoComparison) as error:
            found.problems.append(str(error))
    for files in (found.answers, found.runs, found.strategies, found.comparisons, found.bounds):
        files.sort(key=lambda file: (str(file.result["started_at"]), file.path.name))
    made = {file.page for file in found.files}
    for each in sorted(path.glob("*.md")):
        if each.name != "README.md" and each not in made:
            found.pages.append(Page(each, each.read_text(encoding="utf-8")))
    return found


def _add(folder: Folder, path: Path) -> None:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NoResult(f"{path}: {error}") from None
    if not isinstance(result, dict):
        raise NoResult(f"{path}: it is no result")
    if result.get("kind") == comparison.KIND:
        folder.comparisons.append(File(path, comparison.read(path)))
    elif result.get("kind") == STRATEGIES:
        if result.get("schema") != STRATEGIES_VERSION:
            raise NoResult(f"{path}: strategies of schema {result.get('schema')!r}, not {STRATEGIES_VERSION}")
        folder.strategies.append(File(path, read_result(path)))
    elif "checks" in result and "summaries" in result:
        try:
            report.markdown(report.from_json(json.dumps(result)))
        except (ValueError, KeyError, TypeError) as error:
            raise NoResult(f"{path}: it is no whole benchmark: {type(error).__name__}: {error}") from None
        folder.bounds.append(File(path, result))
    else:
        read = read_result(path)
        (folder.answers if read.get("capacity") else folder.runs).append(File(path, read))


def _heading(text: str, rank: str) -> str:
    found = re.search(rf"^{rank} (.+)$", text, re.MULTILINE)
    return found[1].strip() if found else ""
