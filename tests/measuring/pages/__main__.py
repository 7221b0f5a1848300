"""`python -m tests.measuring.pages [FOLDER]`: makes pages, pictures and the index of a folder of results anew.

For the project's own `results/` (the default) also the pictures' part of its README. Nothing is measured. Exit codes: 0
all made, 1 some file could not be read as a result, or drawn; 2 wrong usage.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from loadtest.output.drawing import NotDrawn
from tests.measuring.pages.folder import read_folder
from tests.measuring.pages.index import render_index
from tests.measuring.pages.readme import with_pictures
from tests.measuring.pages.rebuild import rebuild

ROOT = Path(__file__).parents[3]


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
        readme = ROOT / "README.md"
        readme.write_text(with_pictures(readme.read_text(encoding="utf-8"), folder), encoding="utf-8")
        print(f"written   {readme}")
    for problem in problems:
        print(f"pages: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
