"""`python -m tests.measuring.bench`: rabbitry on each event loop beside other clients, on one private broker.

Takes under half an hour. `--only` asks for less, or for what is held to bounds instead (`--bounds`: all of that, in
twenty-five minutes). Exit codes: 0 done, 1 a bound was missed or something could not be measured, 2 wrong usage, 130
interrupted (with what was measured).
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shlex
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rabbitry.testing import PrivateNode
from tests.measuring.bench import plan, report
from tests.measuring.bench.comparison import page, result, tables
from tests.measuring.bench.comparison import plan as comparison
from tests.measuring.bench.comparison.rounds import Trial, format_size, measure, run_rounds
from tests.measuring.bench.plan import C_CLIENT, CONNECTIONS, FIGURES, Group
from tests.measuring.bench.runner import Outcome, Runner, Unavailable, compile_reference, environment
from tests.measuring.bench.tls import open_tls_broker
from tests.measuring.bench.verdict import judge, summarise

ROUNDS = 7
BOUND_ROUNDS = 10
MINUTES = 28.0


def parse(words: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser(prog="python -m tests.measuring.bench", description=__doc__)
    add = parser.add_argument
    rows = [*comparison.rows(), *plan.names()]
    add("--only", action="append", choices=rows, metavar="ROW", help=f"repeatable: {', '.join(rows)}")
    add("--bounds", action="store_true", help="all that is held to bounds, instead of the comparison of libraries")
    add("--rounds", type=int, metavar="N", help=f"rounds (default {ROUNDS}; {BOUND_ROUNDS} of what is held to bounds)")
    add("--scale", type=float, default=1.0, metavar="F", help="message counts times this")
    add("--quick", action="store_true", help="a smoke run: two small rounds, 200 connections")
    loops = ["asyncio", "uvloop", "trio"]
    add("--backend", action="append", choices=loops, help="repeatable; default all (bounds: asyncio and trio)")
    names = [library.name for library in comparison.LIBRARIES]
    add("--library", action="append", choices=names, metavar="NAME", help=f"repeatable: {', '.join(names)}")
    sizes = {format_size(size).replace(" ", ""): size for size in comparison.SIZES}
    add("--size", action="append", choices=sizes, metavar="SIZE", help=f"of bodies, repeatable: {', '.join(sizes)}")
    add("--minutes", type=float, default=MINUTES, metavar="N", help="begin no round that would end later (default 28)")
    add("--seed", type=int, metavar="N", help="of the order of runs (default: a new one, in the result)")
    add("--tls", action="store_true", help="libraries over TLS: without the C program, whose jobs don't speak it")
    add("--connection-rounds", type=int, default=2, metavar="N", help="of bounds: pairs with many connections (2)")
    add("--connections", type=int, default=CONNECTIONS, metavar="N", help="of bounds: how many these are (10000)")
    add("--url", default=os.environ.get("RABBITMQ_URL"), help="a running broker, with its default user")
    add("--output", type=Path, metavar="FILE", help="JSON; a page in Markdown, and its pictures, are put beside it")
    options = parser.parse_args(words)
    options.sizes = [sizes[size] for size in options.size or []]
    only = options.only or []
    compared = [row for row in only if row in comparison.rows()]
    if compared and (options.bounds or len(compared) < len(only)):
        parser.error(f"{compared[0]!r} compares libraries, the rest is held to bounds: these are two runs")
    options.bounds = options.bounds or bool(only and not compared)
    if options.bounds and (options.library or options.size):
        parser.error("--library and --size belong to the comparison of libraries")
    if options.tls and (options.bounds or options.url):
        parser.error("--tls compares libraries on a private broker: not with --bounds, nor --url (or RABBITMQ_URL)")
    if options.quick:
        options.rounds, options.connection_rounds, options.connections, options.scale = 2, 2, 200, 0.05
    if options.rounds is None:
        options.rounds = BOUND_ROUNDS if options.bounds else ROUNDS
    if min(options.rounds, options.connection_rounds, options.connections) < 1:
        parser.error("numbers of rounds and connections must be positive")
    if min(options.scale, options.minutes) <= 0:
        parser.error("the scale and the minutes must be positive")
    return options


def main(words: Sequence[str] | None = None) -> int:
    options = parse(words)
    said = words if words is not None else sys.argv[1:]
    options.command = shlex.join(["python", "-m", "tests.measuring.bench", *said])
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rabbitry-bench-")))
        skipped: list[str] = []
        program: Path | None = None
        try:
            if options.tls:
                raise Unavailable("its jobs don't speak TLS")
            program = compile_reference(directory)
        except Unavailable as reason:
            skipped.append(f"{C_CLIENT}: {reason}")
            print(f"without {skipped[0]}", flush=True)
        return (hold if options.bounds else compare)(options, program, skipped)


def compare(options: Namespace, program: Path | None, skipped: list[str]) -> int:
    """The comparison of libraries."""
    started, started_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    names = available_libraries(options.library or [], options.backend or [], program is not None, skipped)
    blocks = comparison.choose(options.only or [], names, options.sizes, options.scale) if names else []
    trials: list[Trial] = []
    found_environment: dict[str, str] = {}
    rounds, interrupted = 0, False
    try:
        # few connections, so that its sockets are as RabbitMQ has them: small buffers would stall large messages
        with ExitStack() as stack:
            variables: dict[str, str] = {}
            if options.tls:
                node, url, variables = stack.enter_context(open_tls_broker(comparison.CONNECTIONS))
            else:
                url, node = stack.enter_context(_broker(options.url, comparison.CONNECTIONS))
            found_environment = environment(node, program) | ({"transport": "TLS"} if options.tls else {})
            runner = Runner(url, node, program, variables=variables)
            rounds = run_rounds(
                partial(measure, runner),
                blocks,
                rounds=options.rounds,
                seconds=options.minutes * 60,
                seed=seed,
                take=trials.append,
                say=partial(print, flush=True),
            )
    except KeyboardInterrupt:
        interrupted = True
        rounds = max((trial.round for trial in trials), default=0)
    found = result.build(
        command=options.command,
        started_at=started_at,
        seconds=time.monotonic() - started,
        seed=seed,
        rounds=rounds,
        environment=found_environment,
        skipped=skipped,
        interrupted=interrupted,
        trials=trials,
    )
    print("\n" + tables.text(found))
    if options.output is not None and trials:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        written = [options.output, *page.write(found, options.output)]
        print("\nwritten: " + ", ".join(map(str, written)))
    if interrupted:
        return 130
    return 1 if not trials or any(cell["failures"] for cell in found["cells"]) else 0


def hold(options: Namespace, program: Path | None, skipped: list[str]) -> int:
    """What is held to bounds."""
    started, started_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    groups = list(plan.choose(options.only or [], options.scale, options.connections))
    backends = _available_backends(options.backend or ["asyncio", "trio"], skipped)
    outcomes: list[Outcome] = []
    found_environment: dict[str, str] = {}
    interrupted = False
    groups = [_runnable(group, program is not None, skipped) for group in groups]
    try:
        for many_connections, rounds in ((False, options.rounds), (True, options.connection_rounds)):
            chosen = [group for group in groups if group.many_connections == many_connections]
            if not chosen:
                continue
            with _broker(options.url, options.connections + 100 if many_connections else 100) as (url, node):
                found_environment = found_environment or environment(node, program)
                _run_pairs(Runner(url, node, program), chosen, rounds, backends, outcomes.append)
    except KeyboardInterrupt:
        interrupted = True

    jobs = [job.job for group in groups for job in group.jobs]
    found = report.Report(
        command=options.command,
        started_at=started_at,
        seconds=time.monotonic() - started,
        environment=found_environment,
        skipped=skipped,
        outcomes=outcomes,
        checks=judge(outcomes, jobs, backends),
        summaries=summarise(outcomes),
    )
    print("\n" + report.text(found))
    if options.output is not None:
        print("\nwritten: " + ", ".join(str(path) for path in report.write(found, options.output)))
    if interrupted:
        return 130
    return 0 if options.quick or all(check.holds for check in found.checks) else 1


@contextmanager
def _broker(url: str | None, connections: int) -> Iterator[tuple[str, PrivateNode | None]]:
    """The broker at `url`, or else a private node."""
    if url is not None:
        yield url, None
        return
    with PrivateNode(connections=connections) as node:
        yield node.url, node


def _run_pairs(
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


def available_libraries(
    wanted: Sequence[str], backends: Sequence[str], has_reference: bool, skipped: list[str]
) -> list[str]:
    """The names of those that are wanted and can be run here."""
    found = []
    for library in comparison.LIBRARIES:
        package = library.backend if library.module == "rabbitry" else library.package.replace("-", "_")
        if wanted and library.name not in wanted:
            continue
        if backends and library.module == "rabbitry" and library.backend not in backends:
            continue
        if library.module is None:
            if not has_reference:
                continue  # why is told already
        elif importlib.util.find_spec(package) is None:
            skipped.append(f"{library.title}: not installed (pip install {package.replace('_', '-')})")
            continue
        found.append(library.name)
    return found


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
