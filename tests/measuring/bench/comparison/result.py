"""The comparison's result: one value with everything, which its table, its page and its pictures are made of.

{"kind": KIND, "schema": 1, "command", "started_at", "seconds", "seed", "rounds", "environment": {…}, "skipped": […],
"interrupted", "ahead", "libraries": {name: {"title", "is_ours", "ways", "source"}}, "cells": [{"library", "job",
"size", "count", "trials", "failures": […], "rate": ESTIMATE, …}], "trials": […]}. An ESTIMATE is a median with its 95 %
interval: {"median", "low", "high", "count"}; a cell has those of FIGURES that its job gives. Units are in the names.
Keys are added, never renamed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.measuring.bench.comparison.plan import AHEAD, LIBRARIES, Cell
from tests.measuring.bench.comparison.rounds import Trial
from tests.measuring.bench.measure import Figures
from tests.measuring.bench.statistic import estimate

KIND = "rabbitry-bench-libraries"
SCHEMA = 1

Result = Mapping[str, Any]

FIGURES: Mapping[str, Callable[[Figures], float]] = {
    "rate": lambda figures: figures["messages"] / figures["seconds"],
    "cpu_us": lambda figures: figures["cpu_seconds"] / figures["messages"] * 1e6,
    "system_us": lambda figures: figures["system_seconds"] / figures["messages"] * 1e6,
    "p50_us": lambda figures: figures["p50_us"],
    "p99_us": lambda figures: figures["p99_us"],
    "connection_bytes": lambda figures: figures["bytes_per_connection"],
    "connect_cpu_us": lambda figures: figures["connect_cpu_seconds"] / figures["connections"] * 1e6,
}
"""What is told of a cell: messages a second, processor time of the client's process a message (and the kernel's part of
it), latencies of a publish with its confirm, memory a connection, and processor time of opening one."""


class NoComparison(Exception):
    """A file has no result of this comparison; the message says why."""


def build(
    *,
    command: str,
    started_at: str,
    seconds: float,
    seed: int,
    rounds: int,
    environment: Mapping[str, str],
    skipped: Sequence[str],
    interrupted: bool,
    trials: Sequence[Trial],
) -> dict[str, Any]:
    """The whole value."""
    seen = {trial.cell.library for trial in trials}
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "command": command,
        "started_at": started_at,
        "seconds": round(seconds, 1),
        "seed": seed,
        "rounds": rounds,
        "interrupted": interrupted,
        "environment": dict(environment),
        "skipped": list(skipped),
        "ahead": {str(size): ahead for size, ahead in AHEAD.items()},
        "libraries": {
            library.name: {
                "title": library.title,
                "is_ours": library.is_ours,
                "ways": library.ways,
                "source": library.source,
            }
            for library in LIBRARIES
            if library.name in seen
        },
        "cells": [_summarise(cell, trials) for cell in _in_order(trials)],
        "trials": [
            asdict(trial.cell)
            | {"round": trial.round, "steal": round(trial.steal, 4), "failure": trial.failure, "figures": trial.figures}
            for trial in trials
        ],
    }


def _in_order(trials: Sequence[Trial]) -> list[Cell]:
    """Each cell once: as the tables of the plan have them, not as they were run."""
    names = [library.name for library in LIBRARIES]
    jobs = ("publish", "consume", "publish_one", "connections")
    cells = dict.fromkeys(trial.cell for trial in trials)
    return sorted(cells, key=lambda cell: (jobs.index(cell.job), cell.size, names.index(cell.library)))


def _summarise(cell: Cell, trials: Sequence[Trial]) -> dict[str, Any]:
    mine = [trial for trial in trials if trial.cell == cell]
    good = [trial.figures for trial in mine if trial.figures is not None]
    found: dict[str, Any] = {
        **asdict(cell),
        "trials": len(mine),
        "failures": [trial.failure for trial in mine if trial.figures is None],
    }
    for name, figure in FIGURES.items():
        try:
            values = [figure(figures) for figures in good]
        except KeyError:
            continue
        if values:
            found[name] = asdict(estimate(values))
    return found


def cell_of(result: Result, library: str, job: str, size: int) -> Mapping[str, Any] | None:
    """What is told of a library in a job; None where it was not run."""
    for cell in result["cells"]:
        if (cell["library"], cell["job"], cell["size"]) == (library, job, size):
            found: Mapping[str, Any] = cell
            return found
    return None


def sizes_of(result: Result, job: str) -> list[int]:
    """The sizes of bodies for which this job was run."""
    return sorted({cell["size"] for cell in result["cells"] if cell["job"] == job})


def read(path: Path) -> dict[str, Any]:
    """The result in a file. NoComparison if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NoComparison(f"{path}: {error}") from None
    if not isinstance(found, dict) or (found.get("kind"), found.get("schema")) != (KIND, SCHEMA):
        raise NoComparison(f"{path}: it is no comparison of libraries, schema {SCHEMA}")
    return found
