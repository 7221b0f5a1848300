"""`python -m loadtest merge FILE…`: a run of several processes, from the files that each of them wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loadtest.analysis.failures import failures
from loadtest.commands.exits import FAILED, INCOMPLETE, INTERRUPTED, NOT_REACHED, OK, USAGE
from loadtest.commands.leading import fleet_result
from loadtest.commands.parsing import Parser
from loadtest.fleet.parts import CoordinatorPart, PartRefused, WorkerPart, read_part
from loadtest.fleet.sharing import read_shared
from loadtest.output.console import make_console
from loadtest.output.files import write_result
from loadtest.output.summary import render_summary
from loadtest.scenarios.completing import refuse
from loadtest.units import format_text


def make_parser() -> Parser:
    """The parser behind `merge --help`."""
    parser = Parser(
        prog="loadtest merge",
        usage="python -m loadtest merge FILE… [options]",
        description="Puts the parts of one run together: the same result as the run's own, if all of them are there. "
        "Without the coordinator's, it isn't known what was left in the queues.",
        epilog="Exit codes are those of a run: 5 if a worker's part is missing or the worker was lost.",
        allow_abbrev=False,
    )
    text = "the parts, as workers and --output write; of a directory all *.part in it"
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=text)
    parser.add_argument("--output", type=Path, metavar="DIR", help="write DIR/RUN_ID.json and what goes with it")
    parser.add_argument("--json", metavar="FILE", help="write the result there; - for the standard output")
    parser.add_argument("--quiet", action="store_true", help="no summary")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Merges the files; returns the exit code."""
    given = make_parser().parse_args(arguments)
    errors = make_console(stderr=True)
    console = errors if given.json == "-" else make_console()
    try:
        refuse(given.json == "", "--json is empty")
        parts = [read_part(path) for path in _files(given.files)]
        workers = [part for part in parts if isinstance(part, WorkerPart)]
        own = [part for part in parts if isinstance(part, CoordinatorPart)]
        if any(part != own[0] for part in own):
            raise PartRefused("there are parts of two coordinators")
        if not workers:
            raise PartRefused("there is no worker's part among the files")
        leader = own[0] if own else None
        asked = read_shared((leader or workers[0]).settings)
        result = fleet_result(asked, workers, leader)
    except (PartRefused, ValueError) as error:
        errors.print(f"loadtest merge: {format_text(str(error))}", markup=False, soft_wrap=True)
        return USAGE
    found = failures(result)
    destinations = replace(asked, output=given.output, json=given.json)
    try:
        written = write_result(result, destinations)
    except OSError as error:
        errors.print(f"loadtest merge: the result could not be written: {error}", markup=False, soft_wrap=True)
        return FAILED
    if not given.quiet:
        console.print(render_summary(result, found))
        for path in written:
            console.print(f"written   {path}", markup=False, soft_wrap=True)
    if result["interrupted"]:
        return INTERRUPTED
    if result["incomplete"]:
        return INCOMPLETE
    if found:
        return FAILED
    return OK if all(each["holds"] for each in result["requirements"]) else NOT_REACHED


def _files(paths: Sequence[Path]) -> list[Path]:
    """The files themselves. PartRefused for a directory that has no part."""
    found = list[Path]()
    for path in paths:
        inside = sorted(path.glob("*.part")) if path.is_dir() else [path]
        if not inside:
            raise PartRefused(f"{path}: there is no *.part in it")
        found += inside
    return found
