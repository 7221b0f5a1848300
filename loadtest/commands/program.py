"""The program: its first word is a command, or there is none and it runs a load test."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from loadtest.output.console import make_legible
from loadtest.scenarios.catalogue import COMMAND

COMMANDS = {
    "clean": "loadtest.commands.clean",
    "compare": "loadtest.commands.compare",
    "merge": "loadtest.commands.merge",
    "report": "loadtest.commands.report",
    "strategies": "loadtest.commands.strategies",
    "worker": "loadtest.commands.worker",
}
"""Beside the run itself: the word, and the module whose `main` takes what follows it and returns the exit code."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the load tester with these arguments, the command line's by default; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        make_legible(stream)
    words = _as_command(list(sys.argv[1:] if arguments is None else arguments))
    if words and words[0] in COMMANDS:
        module, words = COMMANDS[words[0]], words[1:]
    else:
        module = "loadtest.commands.run"
    code: int = import_module(module).main(words)
    return code


def _as_command(words: list[str]) -> list[str]:
    """The words, with `--scenario strategies` as the command that it is."""
    if words and words[0] in COMMANDS:
        return words
    for place, word in enumerate(words):
        for spelled in ([f"--scenario={COMMAND}"], ["--scenario", COMMAND]):
            if word == spelled[0] and words[place : place + len(spelled)] == spelled:
                return [COMMAND, *words[:place], *words[place + len(spelled) :]]
    return words
