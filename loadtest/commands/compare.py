"""`compare BASE… --to NEW…`: did something become better or worse? Exit code 3 if worse beyond the tolerance, or
where so few trials can't show any difference.

A file is a result; one of several trials (`--repeat`) counts as so many. With `--vary` a file has cells, and
`FILE:CELL` takes one of them, as in ``varied.json:queue-type=quorum``. Without `--to`, the cells of one file are
compared: the first is the base.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtest.analysis.comparison import Comparison, compare
from loadtest.analysis.result import SCHEMA
from loadtest.commands.exits import FAILED, NOT_REACHED, OK, USAGE
from loadtest.commands.parsing import Parser, typed
from loadtest.output.console import make_console, silence
from loadtest.output.files import write_whole
from loadtest.output.reading import read_json
from loadtest.output.trials import render_comparison
from loadtest.scenarios.completing import refuse
from loadtest.scenarios.variations import name_cell
from loadtest.units import format_text

TOLERANCE = 0.05
Trials = list[dict[str, Any]]


def main(arguments: Sequence[str]) -> int:
    """Compares what these arguments name; returns the exit code."""
    parser = _make_parser()
    parser.words = arguments
    asked = parser.parse_args(arguments)
    errors = make_console(stderr=True)
    console = errors if asked.json == "-" else make_console()
    try:
        refuse(asked.json == "", "--json is empty")
        sides = _read_sides(asked)
        comparisons = _compare_all(sides, asked)
    except (OSError, ValueError) as error:
        errors.print(f"loadtest compare: {format_text(str(error))}", markup=False, soft_wrap=True)
        return USAGE
    unwritten = _write(comparisons, asked)
    for base, new, comparison in comparisons:
        console.print(render_comparison(comparison, base, new))
    if unwritten:
        errors.print(f"loadtest compare: {format_text(unwritten)}", markup=False, soft_wrap=True)
    if any(comparison.regressions or comparison.broken for _, _, comparison in comparisons):
        return NOT_REACHED
    if unwritten:
        return FAILED
    return NOT_REACHED if any(comparison.too_few for _, _, comparison in comparisons) else OK


def _make_parser() -> Parser:
    parser = Parser(
        prog="loadtest compare",
        usage="python -m loadtest compare BASE... [--to NEW...] [options]",
        description="Compare the trials of two load tests, in pairs: the first with the first and so on. Make them in "
        "turns (--vary), or shortly one after the other.",
        epilog="Exit codes: 0 nothing became worse beyond the tolerance, 1 the comparison could not be written, 2 "
        "wrong usage, 3 something became worse, or most trials of NEW failed and those of BASE did not, "
        "or there are too few trials to show any difference.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    text = "results, as --json and --output write them; FILE:FLAG=VALUE is one cell of a file with several"
    add("base", nargs="+", metavar="BASE", help=text)
    text = "what is compared with them (default: the other cells of BASE with its first)"
    add("--to", nargs="+", default=[], metavar="NEW", help=text)
    text = "further results of what BASE is: the noise floor is taken from both (default: from both sides compared)"
    add("--same", nargs="+", default=[], metavar="FILE", help=text)
    text = "how much worse something may become (default 5%%)"
    add("--tolerance", type=typed(_parse_share), default=TOLERANCE, metavar="SHARE", help=text)
    add("--json", metavar="FILE", help="write the comparison there; - for the standard output, and nothing else on it")
    return parser


def _parse_share(text: str) -> float:
    number, percent = text.removesuffix("%"), text.endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    refuse(not 0 <= share < 1, f"{text!r} is no share (write for example 5% or 0.05)")
    return share


# --- reading ------------------------------------------------------------------------------------------------------


def _read_sides(asked: argparse.Namespace) -> list[tuple[str, Trials, str, Trials]]:
    """Which sides are compared: the name and the trials of the base, and of the new one."""
    base = [each for text in asked.base for each in _read(text)]
    cells = _by_cell(base)
    if asked.to:
        new = [each for text in asked.to for each in _read(text)]
        return [(_one_name(cells, "base"), base, _one_name(_by_cell(new), "new"), new)]
    (name, first), *others = cells.items()
    refuse(not others, "there is nothing to compare with: say --to NEW, or give a result of several cells (--vary)")
    return [(name, first, other, trials) for other, trials in others]


def _one_name(cells: Mapping[str, Trials], side: str) -> str:
    refuse(len(cells) > 1, f"{side} has several cells: choose one as FILE:FLAG=VALUE ({'; '.join(cells)})")
    name = next(iter(cells))
    return side if name == name_cell(()) else name


def _by_cell(trials: Trials) -> dict[str, Trials]:
    cells: dict[str, Trials] = {}
    for trial in trials:
        cells.setdefault(name_cell(tuple(trial["cell"].items())), []).append(trial)
    return cells


def _read(text: str) -> Trials:
    """The trials in a file, or those of one of its cells, in the order of their rounds."""
    path, wanted = _split(text)
    try:
        result = read_json(path)
    except ValueError:
        raise ValueError(f"{path}: this is no JSON file") from None
    is_result = isinstance(result, dict) and result.get("schema") == SCHEMA and "run_id" in result
    refuse(not is_result, f"{path}: this is no result of schema {SCHEMA}")
    trials: Trials = result.get("trials") or [{**result, "cell": {}, "round": 0}]
    refuse(not _are_trials(trials), f"{path}: its trials are none")
    flags = {flag for trial in trials for flag in trial["cell"]}
    cell = dict(_read_cell(text, part) for part in _parts(wanted, flags))
    found = [trial for trial in trials if cell.items() <= trial["cell"].items()]
    refuse(not found, f"{text}: it has no such cell: {'; '.join(_by_cell(trials))}")
    asked = result.get("scenario")  # of all trials, where a trial does not say it itself
    return [{"scenario": asked, **trial} for trial in sorted(found, key=lambda trial: int(trial["round"]))]


def _split(text: str) -> tuple[Path, str | None]:
    """The file, and which of its cells, if that is said: values may have colons in them, and so may files' names."""
    ends = [number for number, sign in enumerate(text) if number and sign == ":"]
    for end in (len(text), *reversed(ends)):
        if (path := Path(text[:end])).exists():
            return path, None if end == len(text) else text[end + 1 :]
    name, colon, wanted = text.rpartition(":")
    refuse(bool(colon) and "=" not in wanted, f"{text}: there is no such file, nor is it FILE:FLAG=VALUE")
    return (Path(name), wanted) if colon else (Path(text), None)


def _parts(wanted: str | None, flags: Iterable[str]) -> list[str]:
    """FLAG=VALUE for each of several flags, with commas between; there may be commas in values, too."""
    if wanted is None:
        return []
    names = "|".join(map(re.escape, flags))
    return re.split(rf",(?=\s*(?:--)?(?:{names})=)", wanted) if names else [wanted]


def _are_trials(trials: Any) -> bool:
    return isinstance(trials, list) and all(
        isinstance(each, dict) and isinstance(each.get("cell"), dict) and isinstance(each.get("round"), int)
        for each in trials
    )


def _read_cell(text: str, part: str) -> tuple[str, str]:
    flag, equals, value = part.partition("=")
    refuse(not equals, f"{text}: there is no such file, nor is it FILE:FLAG=VALUE")
    return flag.strip().removeprefix("--"), value.strip()


# --- telling ------------------------------------------------------------------------------------------------------


def _compare_all(
    sides: Sequence[tuple[str, Trials, str, Trials]], asked: argparse.Namespace
) -> list[tuple[str, str, Comparison]]:
    same = [each for text in asked.same for each in _read(text)]
    return [(name, other, compare(base, new, tolerance=asked.tolerance, same=same)) for name, base, other, new in sides]


def _write(comparisons: Sequence[tuple[str, str, Comparison]], asked: argparse.Namespace) -> str:
    """Writes the comparisons where that was asked for; returns why it could not, or nothing."""
    plain = [
        {
            "base": base,
            "new": new,
            "tolerance": asked.tolerance,
            "differences": [asdict(each) for each in comparison.differences],
            "remarks": comparison.remarks,
            "broken": comparison.broken or None,
            "too_few": comparison.too_few or None,
        }
        for base, new, comparison in comparisons
    ]
    text = json.dumps({"schema": SCHEMA, "comparisons": plain}, indent=1) + "\n"
    try:
        if asked.json == "-":
            sys.stdout.write(text)
            sys.stdout.flush()
        elif asked.json is not None:
            write_whole(Path(asked.json), text)
    except OSError as error:
        if asked.json == "-":
            silence(sys.stdout)
        return f"the comparison could not be written: {error}"
    return ""
