"""What the documentation and `--help` say of the command line is so, and it stands on public names."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from rabbitry._cli.arguments import make_parser, parse

ROOT = Path(__file__).parents[2]
CLI = ROOT / "rabbitry" / "_cli"
PAGE = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")


def commands(text: str, program: str) -> list[list[str]]:
    """The words of each command line in the text, pipes taken apart, without what the shell takes for its own."""
    found = []
    for line in re.findall(
        rf"^ *(?:.*\| )?({program} .*)$", text.replace(f"| {program}", f"\n{program}"), re.MULTILINE
    ):
        words = shlex.split(re.split(r" \|| [<>] |   ", line)[0])
        found.append(words[len(program.split()) :])
    return found


def helps() -> dict[str, str]:
    """The help of each command that runs."""
    found = {}
    waiting = [make_parser()]
    while waiting:
        parser = waiting.pop()
        children = [action.choices for action in parser._actions if action.nargs == "A..." and action.choices]
        for choices in children:
            waiting += dict(choices).values()
        if not children:
            found[parser.prog] = parser.format_help()
    return found


HELPS = helps()


def test_the_pages_commands_are_its_own() -> None:
    lines = commands(PAGE, "python -m rabbitry")
    assert len(lines) == 10
    for words in lines:
        parse(words)
    named = set(re.findall(r"`([a-z]+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE))))
    assert named == {prog.split()[1] for prog in HELPS}


@pytest.mark.parametrize("prog", sorted(HELPS))
def test_the_examples_of_help_are_right(prog: str) -> None:
    examples = commands(HELPS[prog].partition("\nexamples:\n")[2], "rabbitry")
    assert any(["rabbitry", *words][: len(prog.split())] == prog.split() for words in examples)
    for words in examples:
        parse(words)


@pytest.mark.parametrize("path", sorted(CLI.rglob("*.py")), ids=lambda path: str(path.relative_to(CLI)))
def test_only_public_names_are_used(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            assert not re.match("_[a-z]", node.attr) or node.attr == "_replace", node.attr
        for name in names:
            if name.startswith("rabbitry") and not name.startswith("rabbitry._cli"):
                assert re.fullmatch("rabbitry(\\.broker)?(\\.[A-Z]\\w*)?", name), name
            assert not name.startswith("loadtest")
