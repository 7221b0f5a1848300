"""Several trials of one load test, some flags varied: which trials there are, and in which order they take turns.

Each round has one trial of every cell, in an order of its own, so that whatever drifts while they run meets all cells
alike. The same seed makes the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from random import Random

from loadtest.scenarios.completing import refuse

Cell = tuple[tuple[str, str], ...]
"""One value for each flag that is varied: its name without dashes, and the value as it is written."""

YES, NO = "yes", "no"


@dataclass(frozen=True, slots=True)
class Variation:
    """A flag and the values it takes in turn."""

    flag: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a cell."""

    round: int
    cell: Cell


def parse_variation(text: str) -> Variation:
    """What `--vary` was given: ``queue-type=classic,quorum``, or with semicolons between values that have commas.

    ValueError if it is something else.
    """
    flag, equals, values = text.partition("=")
    flag, separator = flag.strip().removeprefix("--"), ";" if ";" in values else ","
    found = tuple(value.strip() for value in values.split(separator))
    example = "write it as FLAG=a,b, such as queue-type=classic,quorum"
    refuse(not (flag and equals and all(found)), f"--vary {text!r}: {example}")
    refuse(len(found) < 2, f"--vary {text!r}: one value is no variation; give two or more, with commas between")
    refuse(len(set(found)) < len(found), f"--vary {text!r}: a value stands there twice")
    return Variation(flag, found)


def make_cells(variations: Sequence[Variation]) -> list[Cell]:
    """Every combination; one cell that varies nothing if there are none. ValueError if a flag is varied twice."""
    flags = [variation.flag for variation in variations]
    refuse(len(set(flags)) < len(flags), "--vary: a flag is varied twice; give all its values at once")
    return [tuple(zip(flags, values, strict=True)) for values in product(*(each.values for each in variations))]


def order_trials(cells: Sequence[Cell], rounds: int, seed: int) -> list[Trial]:
    """All trials in the order in which they run: round after round, the cells shuffled in each."""
    chance, found = Random(seed), list[Trial]()
    for number in range(rounds):
        found += [Trial(number, cell) for cell in chance.sample(cells, len(cells))]
    return found


def name_cell(cell: Cell) -> str:
    """The cell as people read it."""
    return ", ".join(f"{flag} {value}" for flag, value in cell) or "as asked"


def write_cell(cell: Cell, switches: set[str]) -> list[str]:
    """The cell as words of a command line, where `switches` are the flags that take no value but are there or not.

    ValueError if one of them is given another value than yes or no.
    """
    words: list[str] = []
    for flag, value in cell:
        if flag not in switches:
            words += [f"--{flag}", value]
            continue
        refuse(value not in (YES, NO), f"--vary {flag}: it is there or not, so vary it as {flag}=yes,no")
        negative = [f"--no-{flag}"] if f"no-{flag}" in switches else []
        words += [f"--{flag}"] if value == YES else negative
    return words


def drop_flags(words: Sequence[str], flags: set[str], switches: set[str]) -> list[str]:
    """A command line without these flags and their values."""
    kept, skip = list[str](), False
    for word in words:
        if skip:
            skip = False
            continue
        name = word.partition("=")[0].removeprefix("--") if word.startswith("--") else None
        if name in flags:
            skip = "=" not in word and name not in switches
        else:
            kept.append(word)
    return kept
