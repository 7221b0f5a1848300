"""The table of the recipes names all of them, and counts their lines truly."""

from __future__ import annotations

import ast
import re

import pytest

from tests.recipes.lines import RECIPES, code_lines, count

README = (RECIPES / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\[.*?) \| .+? \| (\d+) \| \[[\w-]+\]\((.+?)\) \| (\d+) \|$", README, re.MULTILINE)
ALONE = re.findall(r"^\| (\[[^|]*) \| [^|]+ \| (\d+) \|$", README, re.MULTILINE)
"""Those without a counterpart."""
FILES = {str(path.relative_to(RECIPES)) for path in RECIPES.rglob("*.py")}


def files_in(links: str) -> list[str]:
    return re.findall(r"\((.+?)\)", links)


@pytest.mark.parametrize(("links", "lines", "other", "others_lines"), ROWS)
def test_the_numbers_are_true(links: str, lines: str, other: str, others_lines: str) -> None:
    assert (count(*files_in(links)), count(other)) == (int(lines), int(others_lines))


@pytest.mark.parametrize(("links", "lines"), ALONE)
def test_the_numbers_of_the_others_are_true(links: str, lines: str) -> None:
    assert count(*files_in(links)) == int(lines)


def test_all_are_in_the_tables() -> None:
    named = [*(file for links, *_ in [*ROWS, *ALONE] for file in files_in(links)), *(other for _, _, other, _ in ROWS)]
    assert (len(ROWS), len(ALONE)) == (14, 3)
    assert sorted(named) == sorted(FILES)
    for links, *_ in ROWS:
        assert f"- **{files_in(links)[0].removesuffix('.py')}**: " in README, "what the other does otherwise"


@pytest.mark.parametrize("name", sorted(FILES))
def test_each_compiles_and_says_what_it_is(name: str) -> None:
    tree = ast.parse((RECIPES / name).read_text(encoding="utf-8"))
    compile(tree, name, "exec")
    text = ast.get_docstring(tree) or ""
    if not name.startswith("others") and not name.endswith("_conf.py"):
        assert "\nGuaranteed: " in text and "\nNot guaranteed: " in text
    assert text


def test_what_counts_as_a_line() -> None:
    source = """\'\'\'Module.\'\'\'

# no
x = [
    1,  # yes

    # no
]
y = \'\'\'two
lines\'\'\'


def f():
    \'\'\'Not
    this.\'\'\'
    return x
"""
    assert code_lines(source) == 7
