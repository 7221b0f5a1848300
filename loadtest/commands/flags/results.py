"""What becomes of the result."""

from __future__ import annotations

import argparse
from pathlib import Path

from loadtest.analysis.thresholds import parse_threshold
from loadtest.commands.parsing import checked, typed


def add_results(parser: argparse.ArgumentParser) -> None:
    """Adds the group's flags."""
    add = parser.add_argument_group("results").add_argument
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="write DIR/RUN_ID.json, .md and, with the extra `report`, .html and .svg; and meanwhile RUN_ID.hlog",
    )
    text = "such as 'confirm.p99 < 50ms' or 'publish.rate >= 10k': exit code 3 if it is not reached, or not known"
    parse = typed(checked(parse_threshold))
    add("--require", type=parse, action="append", default=[], metavar="EXPR", help=f"{text} (repeatable)")
    add("--json", metavar="FILE", help="write the result there; - for the standard output, and nothing else on it")
    add("--quiet", action="store_true", help="no progress and no summary")
    add("--label", action="append", default=[], metavar="K=V", help="noted in the result (repeatable)")
