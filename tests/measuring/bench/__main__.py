"""`python -m tests.measuring.bench`: rabbitry beside other clients on one broker, held against the thresholds.

Takes about twenty-five minutes. Exit codes: 0 all met, 1 a threshold was missed or could not be measured, 2 wrong
usage, 130 interrupted (with what was measured).
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rabbitry.testing import PrivateNode
from tests.measuring.bench import plan, report
from tests.measuring.bench.plan import C_CLIENT, CONNECTIONS, FIGURES, Group
from tests.measuring.bench.runner import Outcome, Runner, Unavailable, compile_reference, environment
from tests.measuring.bench.verdict import judge, summarise


def parse(words: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser(prog="python -m tests.measuring.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="pairs of each kind (default 10)")
    parser.add_argument(
        "--connection-rounds", type=int, default=2, metavar="N", help="pairs with many connections (default 2)"
    )
    parser.add_argument("--connections", type=int, default=CONNECTIONS, metavar="N", help="how many (default 10000)")
    parser.add_argument(
        "--only", action="append", choices=plan.names(), metavar="ROW", help=f"repeatable: {', '.join(plan.names())}"
    )
    parser.add_argument(
        "--backend",
        action="append",
        choices=["asyncio", "uvloop", "trio"],
        help="repeatable; default asyncio and trio",
    )
    parser.add_argument("--scale", type=float, default=1.0, metavar="F", help="message counts times this")
    parser.add_argument("--quick", action="store_true", help="a smoke run: two small rounds, 200 connections")
    parser.add_argument("--url", default=os.environ.get("RABBITMQ_URL"), help="a running broker, with its default user")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON; Markdown and a picture are put beside it")
    options = parser.parse_args(words)
    if options.quick:
        options.rounds, options.connection_rounds, options.connections, options.scale = 2, 2, 200, 0.05
    if min(options.rounds, options.connection_rounds, options.connections) < 1 or options.scale <= 0:
        parser.error("numbers of rounds and connections, and the scale, must be positive")
    return options


def main(words: Sequence[str] | None = None) -> int:
    options = parse(words)
    started, started_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    skipped: list[str] = []
    groups = list(plan.choose(options.only or [], options.scale, options.connections))
    backends = _available_backends(options.backend or ["asyncio", "trio"], skipped)
    outcomes: list[Outcome] = []
    found_environment: dict[str, str] = {}
    interrupted = False

    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rabbitry-bench-")))
        program: Path | None = None
        try:
            program = compile_reference(directory)
        except Unavailable as reason:
            skipped.append(f"{C_CLIENT}: {reason}")
        groups = [_runnable(group, program is not None, skipped) for group in groups]
        try:
            for many_connections, rounds in ((False, options.rounds), (True, options.connection_rounds)):
                chosen = [group for group in groups if group.many_connections == many_connections]
                if not chosen:
                    continue
                with _broker(options.url, options.connections if many_connections else 0) as (url, node):
                    found_environment = found_environment or environment(node, program)
                    _run_rounds(Runner(url, node, program), chosen, rounds, backends, outcomes.append)
        except KeyboardInterrupt:
            interrupted = True

    jobs = [job.job for group in groups for job in group.jobs]
    result = report.Report(
        command=shlex.join(["python", "-m", "tests.measuring.bench", *(words if words is not None else sys.argv[1:])]),
        started_at=started_at,
        seconds=time.monotonic() - started,
        environment=found_environment,
        skipped=skipped,
        outcomes=outcomes,
        checks=judge(outcomes, jobs, backends),
        summaries=summarise(outcomes),
    )
    print("\n" + report.text(result))
    if options.output is not None:
        print("\nwritten: " + ", ".join(str(path) for path in report.write(result, options.output)))
    if interrupted:
        return 130
    return 0 if options.quick or all(check.holds for check in result.checks) else 1


@contextmanager
def _broker(url: str | None, connections: int) -> Iterator[tuple[str, PrivateNode | None]]:
    """The broker at `url`, or else a private node."""
    if url is not None:
        yield url, None
        return
    with PrivateNode(connections=connections + 100) as node:
        yield node.url, node


def _run_rounds(
    runner: Runner, groups: Sequence[Group], rounds: int, backends: Sequence[str], take: Callable[[Outcome], None]
) -> None:
    """Every group once a round, backwards in odd rounds, with a line of progress for each.

    What a job reaches depends on what ran before it: a broker that has just deleted another kind of queue gives its
    memory back and takes it anew, and the first job of a kind was up to a fifth slower. So each group's first run is
    made twice and counts the second time.
    """
    started = time.monotonic()
    steps = rounds * len(groups)
    for step in range(steps):
        round, place = divmod(step, len(groups))
        group = groups[place]
        order = group.in_order(backends)[:: 1 if round % 2 == 0 else -1]
        if not group.many_connections:
            runner.run(order[0], round)
        shown = []
        for run in order:
            outcome = runner.run(run, round)
            take(outcome)
            shown.append(f"{run.backend or run.client} {run.job} {_in_brief(outcome)}")
        left = (time.monotonic() - started) / (step + 1) * (steps - step - 1)
        print(f"[{round + 1}/{rounds}, {left / 60:.1f} min left] {group.name}: {' · '.join(shown)}", flush=True)


def _in_brief(outcome: Outcome) -> str:
    figures = outcome.figures
    if figures is None:
        return f"FAILED ({outcome.failure})"
    found = []
    if "connect_seconds" in figures:
        found += [f"{figures['connect_seconds']:.1f} s", f"{FIGURES['kilobytes'].of(figures):.1f} KB"]
    if "messages" in figures:
        found += [f"{FIGURES['rate'].of(figures) / 1000:.1f}k/s", f"{FIGURES['cpu_us'].of(figures):.2f} µs"]
    return " ".join(found)


def _runnable(group: Group, has_reference: bool, skipped: list[str]) -> Group:
    """Without the references that can't be run here."""
    kept = []
    for run in group.references:
        module = run.client.replace("-", "_")
        if run.client == C_CLIENT:
            if has_reference:
                kept.append(run)
        elif importlib.util.find_spec(module) is not None:
            kept.append(run)
        elif (reason := f"{run.client}: not installed (pip install {run.client})") not in skipped:
            skipped.append(reason)
    return replace(group, references=tuple(kept))


def _available_backends(wanted: Sequence[str], skipped: list[str]) -> list[str]:
    found = []
    for backend in dict.fromkeys(wanted):
        if importlib.util.find_spec(backend) is None:
            skipped.append(f"{backend}: not installed (pip install {backend})")
        else:
            found.append(backend)
    return found


if __name__ == "__main__":
    sys.exit(main())
