"""`python -m loadtest report FILE…`: pages, pictures and tables of results that are there already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.commands.exits import FAILED, OK, USAGE
from loadtest.commands.parsing import Parser, typed
from loadtest.output.console import make_console
from loadtest.output.drawing import DRAWN, INSTALL, NotDrawn, can_draw, draw
from loadtest.output.files import write_whole
from loadtest.output.junit import render_junit
from loadtest.output.markdown import render_markdown
from loadtest.output.reading import NoResult, read_result
from loadtest.units import format_text

FORMATS = {"html": ".html", "md": ".md", "svg": ".svg", "png": ".png", "junit": ".xml"}
"""What can be made, and how its file's name ends."""


def main(arguments: Sequence[str]) -> int:
    """Makes the report that these arguments ask for; returns the exit code."""
    parser = _parser()
    parser.words = arguments
    asked = parser.parse_args(arguments)
    errors, console = make_console(stderr=True), make_console()
    try:
        results = [read_result(path) for path in asked.file]
        places = _places(parser, asked.file, asked.output, asked.format, results)
        written, problems = _write(results, places)
    except NoResult as error:
        errors.print(f"loadtest report: {format_text(str(error))}", markup=False, soft_wrap=True)
        return USAGE
    for path in written:
        console.print(f"written   {format_text(str(path))}", markup=False, soft_wrap=True)
    for problem in problems:
        errors.print(f"loadtest report: {format_text(problem)}", markup=False, soft_wrap=True)
    return FAILED if problems else OK


def _parser() -> Parser:
    parser = Parser(
        prog="loadtest report",
        usage="python -m loadtest report FILE… [--format html,md,svg,png,junit] [--output DIR|FILE]",
        description="Make a report of results: one page that opens offline, Markdown, pictures, or JUnit's XML. "
        "Several results are shown in one report, over each other.",
        epilog=f"Pages and pictures need the extra `report`: {INSTALL}. Exit codes: 0 all made, 1 some could not be "
        "made, 2 wrong usage, or a file that is no result.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("file", nargs="+", type=Path, metavar="FILE", help="a result, as --output and --json of a run write it")
    add("--format", type=typed(_formats), metavar="F,…", help=f"of {', '.join(FORMATS)} (default html, or FILE's)")
    text = "a folder, or the one file to write (default: beside the first FILE)"
    add("--output", type=Path, metavar="DIR|FILE", help=text)
    return parser


def _formats(text: str) -> list[str]:
    found = list(dict.fromkeys(each.strip() for each in text.split(",")))
    for each in found:
        if each not in FORMATS:
            raise ValueError(f"there is no format {each!r}: there are {', '.join(FORMATS)}")
    return found


def _places(
    parser: Parser, files: Sequence[Path], output: Path | None, formats: list[str] | None, results: Sequence[Any]
) -> dict[str, Path]:
    """The file for each format. Ends the program where they can't be written."""
    by_ending = {ending: name for name, ending in FORMATS.items()}
    if output is not None and output.suffix in by_ending and not output.is_dir():
        formats = formats or [by_ending[output.suffix]]
        if len(formats) > 1 or FORMATS[formats[0]] != output.suffix:
            parser.error(f"--output {output} is one file, and --format asks for {', '.join(formats)}: name a folder")
        places = {formats[0]: output}
    else:
        if output is not None and output.suffix[1:].isalpha() and not output.exists():
            known = ", ".join(FORMATS.values())
            parser.error(f"--output {output} is no folder that is there, and ends in none of {known}")
        folder = output or files[0].parent
        stem = files[0].stem if len(files) == 1 else "report"
        places = {name: folder / f"{stem}{FORMATS[name]}" for name in formats or ["html"]}
    wanted = [name for name in places if name in DRAWN]
    if wanted and not can_draw():
        parser.error(f"{', '.join(wanted)} needs the extra `report`: {INSTALL} (md and junit do not)")
    given = {path.resolve() for path in files}
    for path in places.values():
        if path.resolve() in given:
            parser.error(f"{path} is a result: it would be overwritten")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--output: {error}")
    return places


def _write(results: list[dict[str, Any]], places: dict[str, Path]) -> tuple[list[Path], list[str]]:
    """The files written, text first, and what could not be."""
    written, problems = list[Path](), list[str]()
    picture = places["svg"].name if "svg" in places else None
    for name, path in places.items():
        if name in DRAWN:
            continue
        text = render_junit(results) if name == "junit" else render_markdown(results, picture)
        try:
            write_whole(path, text)
            written.append(path)
        except OSError as error:
            problems.append(f"{path} could not be written: {error.strerror or error}")
    if drawn := {name: path for name, path in places.items() if name in DRAWN}:
        try:
            written += draw(results, drawn)
        except NotDrawn as error:
            problems.append(str(error))
    return written, problems
