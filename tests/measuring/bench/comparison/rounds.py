"""Runs all cells, round after round, within a time that was said beforehand, and shows how far it is.

What must stay true: a round that would not be done in time is not begun, and what was measured until then stays; a cell
that fails is a failure with its reason, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.measuring.bench.comparison.plan import TIMEOUT, Cell, library_of, shuffled
from tests.measuring.bench.measure import Figures
from tests.measuring.bench.runner import Measured, Runner


@dataclass(frozen=True)
class Trial:
    """What came of a cell in a round."""

    cell: Cell
    round: int
    figures: Figures | None
    failure: str = ""
    steal: float = 0.0


def measure(runner: Runner, cell: Cell) -> Measured:
    """Runs one cell in a process of its own."""
    library = library_of(cell.library)
    if library.module is None:
        more = () if cell.job == "connections" else (cell.size, cell.ahead)
        return runner.measure_reference(cell.c_job, cell.count, *more, timeout=TIMEOUT)
    options = {"--size": cell.size, "--ahead": cell.ahead, "--backend": library.backend}
    words = [library.module, cell.job, runner.url, str(cell.count)]
    words += [str(word) for pair in options.items() for word in pair]
    return runner.measure_module("tests.measuring.bench.comparison.libraries", words, TIMEOUT)


def run_rounds(
    measure: Callable[[Cell], Measured],
    blocks: Sequence[Sequence[Cell]],
    *,
    rounds: int,
    seconds: float,
    seed: int,
    take: Callable[[Trial], None],
    say: Callable[[str], None],
    now: Callable[[], float] = time.monotonic,
) -> int:
    """Gives each trial to `take`, and lines of progress to `say`; returns how many rounds were done.

    The first cell of each block is run twice and counts the second time: a broker that did other work before still has
    that to forget.
    """
    blocks = [block for block in blocks if block]
    began, longest = now(), 0.0
    for round in range(rounds):
        if round and now() - began + longest > seconds:
            say(f"{round} of {rounds} rounds: another one would take it beyond {seconds / 60:.0f} minutes")
            return round
        round_began = now()
        for number, block in enumerate(shuffled(blocks, seed, round), 1):
            measure(block[0])
            shown = []
            for cell in block:
                found = measure(cell)
                take(Trial(cell, round, found.figures, found.failure, found.steal))
                shown.append(f"{cell.library} {in_brief(found)}")
            done = round * len(blocks) + number
            left = (now() - began) / done * (rounds * len(blocks) - done)
            left = min(left, max(0.0, seconds - (now() - began)))
            say(
                f"[round {round + 1} of {rounds}, {number} of {len(blocks)}, {left / 60:.1f} min left at most] "
                f"{block[0].job} {format_size(block[0].size)}: {' · '.join(shown)}"
            )
        longest = max(longest, now() - round_began)
    return rounds


def in_brief(found: Measured) -> str:
    figures = found.figures
    if figures is None:
        return f"FAILED ({found.failure})"
    if "bytes_per_connection" in figures:
        return f"{figures['bytes_per_connection'] / 1024:.1f} KiB"
    rate = figures["messages"] / figures["seconds"]
    return f"{rate / 1000:.1f}k/s" if rate >= 1000 else f"{rate:.0f}/s"


def format_size(size: int) -> str:
    """128 B, 4 KiB, 1 MiB."""
    for unit, factor in (("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:g} {unit}"
    return f"{size} B"
