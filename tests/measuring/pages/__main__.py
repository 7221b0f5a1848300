"""`python -m tests.measuring.pages [FOLDER]`: makes pages, pictures and the index of a folder of results anew.

For the project's own `results/` (the default) also the parts of its README and of its documentation that tell of them.
Nothing is measured. Exit codes: 0 all made, 1 some file could not be read as a result, or drawn; 2 wrong usage.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from loadtest.output.drawing import NotDrawn
from tests.measuring.pages.folder import read_folder
from tests.measuring.pages.index import render_index
from tests.measuring.pages.readme import with_parts
from tests.measuring.pages.rebuild import rebuild

ROOT = Path(__file__).parents[3]
PAGES = (ROOT / "README.md", ROOT / "docs" / "load_tester.md")
"""Those that have parts."""


def main(words: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m tests.measuring.pages", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "results", metavar="FOLDER")
    path: Path = parser.parse_args(words).folder
    if not path.is_dir():
        parser.error(f"{path} is no folder")
    folder = read_folder(path)
    problems = list(folder.problems)
    try:
        for written in rebuild(folder):
            print(f"written   {written}")
    except NotDrawn as error:
        problems.append(str(error))
    index = path / "README.md"
    index.write_text(render_index(folder), encoding="utf-8")
    print(f"written   {index}")
    if path.resolve() == ROOT / "results":
        for page in PAGES:
            page.write_text(with_parts(page.read_text(encoding="utf-8"), folder), encoding="utf-8")
            print(f"written   {page}")
    for problem in problems:
        print(f"pages: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
