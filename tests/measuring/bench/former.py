"""`python -m tests.measuring.bench.former TREE`: this checkout's client beside that of another one, job by job.

For a change that should cost nothing: `git worktree add TREE REVISION` first. Both do the work of `ours.py` in turn on
one node, so that a drift of the machine meets both. What must stay true: the two differ in `rabbitry` alone, so the
work is this checkout's for both, done with public names that both must have.

Exit codes: 0 every job's ratio lies below the bound with its whole interval, 1 not all do, 2 wrong usage.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rabbitry.testing import PrivateNode
from tests.measuring.bench import plan
from tests.measuring.bench.measure import Figures
from tests.measuring.bench.plan import OURS, Figure, Run
from tests.measuring.bench.runner import ROOT, Runner
from tests.measuring.bench.statistic import Estimate, estimate

BOUND = 1.03
"""What the upper end of a ratio's 95 % interval may be."""

FIGURES: Mapping[str, Figure] = {
    **{name: plan.FIGURES[name] for name in ("cpu_us", "rate", "p50_us", "kilobytes")},
    "connect_cpu_us": Figure(
        "CPU per connection opened", "µs", lambda figures: figures["connect_cpu_seconds"] / figures["connections"] * 1e6
    ),
}
HELD = ("cpu_us", "connect_cpu_us")
"""The figures that the bound is about; the others are shown."""


@dataclass(frozen=True)
class Comparison:
    """A figure of a job on a backend in both trees, and the ratio of now to then, pair by pair."""

    run: Run
    figure: str
    then: Estimate
    now: Estimate
    ratio: Estimate

    @property
    def is_held(self) -> bool:
        return self.figure in HELD

    @property
    def row(self) -> str:
        verdict = ("" if self.ratio.high <= BOUND else "  ABOVE THE BOUND") if self.is_held else ""
        return (
            f"{self.run.job:18} {self.run.backend:8} {FIGURES[self.figure].title:26}"
            f"{self.then.median:12,.2f} → {self.now.median:12,.2f} {FIGURES[self.figure].unit:3}"
            f"{self.ratio.median:8.3f} [{self.ratio.low:.3f} – {self.ratio.high:.3f}] n={self.ratio.count}{verdict}"
        )


def compare(run: Run, pairs: Sequence[tuple[Figures, Figures]]) -> list[Comparison]:
    """Of pairs of then and now, each figure that the job has."""
    found = []
    for name, figure in FIGURES.items():
        try:
            values = [(figure.of(then), figure.of(now)) for then, now in pairs]
        except KeyError:
            continue
        then, now = zip(*values, strict=True)
        ratio = estimate([later / earlier for earlier, later in values])
        found.append(Comparison(run, name, estimate(then), estimate(now), ratio))
    return found


def tree_with(client: Path, directory: Path) -> Path:
    """A folder from which Python imports that client, and this checkout's benchmark."""
    directory.mkdir()
    (directory / "rabbitry").symlink_to(client.resolve() / "rabbitry")
    (directory / "tests").symlink_to(ROOT / "tests")
    return directory


def main(words: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m tests.measuring.bench.former", description=__doc__)
    parser.add_argument("tree", type=Path, help="another checkout")
    parser.add_argument("--pairs", type=int, default=20, metavar="N", help="of each kind (default 20)")
    parser.add_argument("--only", action="append", choices=plan.names(), metavar="ROW", help="repeatable")
    parser.add_argument("--backend", action="append", choices=["asyncio", "uvloop", "trio"], help="repeatable")
    parser.add_argument("--scale", type=float, default=0.5, metavar="F", help="message counts times this (0.5)")
    parser.add_argument("--connections", type=int, default=2000, metavar="N", help="where there are many (2000)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON")
    options = parser.parse_args(words)
    if not (options.tree / "rabbitry" / "__init__.py").exists():
        parser.error(f"{options.tree} is no checkout of rabbitry")
    if min(options.pairs, options.connections) < 1 or options.scale <= 0:
        parser.error("numbers of pairs and connections, and the scale, must be positive")
    groups = plan.choose(options.only or [], options.scale, options.connections)
    jobs = [
        replace(job, backend=backend)
        for group in groups
        for job in group.jobs
        for backend in group.backends(options.backend or ["asyncio", "trio"])
    ]
    with (
        tempfile.TemporaryDirectory(prefix="rabbitry-bench-") as folder,
        PrivateNode(connections=options.connections + 100) as node,
    ):
        trees = [tree_with(options.tree, Path(folder) / "then"), tree_with(ROOT, Path(folder) / "now")]
        for tree, wanted in zip(trees, (options.tree.resolve(), ROOT), strict=True):
            script = "import pathlib, rabbitry; print(pathlib.Path(rabbitry.__file__).resolve().parents[1])"
            imported = subprocess.run([sys.executable, "-c", script], cwd=tree, capture_output=True, text=True).stdout
            assert imported.strip() == str(wanted), f"{imported} where {wanted} was to be measured"
        comparisons = measure([Runner(node.url, node, None, tree) for tree in trees], jobs, options.pairs)
    for comparison in comparisons:
        print(comparison.row)
    if options.output is not None:
        found = [
            {"job": each.run.job, "backend": each.run.backend, "figure": each.figure}
            | {name: vars(getattr(each, name)) for name in ("then", "now", "ratio")}
            for each in comparisons
        ]
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if comparisons and all(each.ratio.high <= BOUND for each in comparisons if each.is_held) else 1


def measure(runners: Sequence[Runner], jobs: Sequence[Run], pairs: int) -> list[Comparison]:
    """All pairs, with a line of progress for each round. A run that fails ends this: there is nothing to compare."""
    found: dict[Run, list[tuple[Figures, Figures]]] = {job: [] for job in jobs}
    began = time.monotonic()
    for round in range(pairs):
        for job in jobs:
            figures: dict[Runner, Figures] = {}
            for runner in runners if round % 2 == 0 else reversed(runners):
                outcome = runner.run(job, round)
                if outcome.figures is None:
                    raise SystemExit(f"{OURS} {job.backend} {job.job}: {outcome.failure}")
                figures[runner] = outcome.figures
            then, now = (figures[runner] for runner in runners)
            found[job].append((then, now))
        left = (time.monotonic() - began) / (round + 1) * (pairs - round - 1)
        print(f"[{round + 1}/{pairs}, {left / 60:.1f} min left]", file=sys.stderr, flush=True)
    return [comparison for job in jobs for comparison in compare(job, found[job])]


if __name__ == "__main__":
    sys.exit(main())
