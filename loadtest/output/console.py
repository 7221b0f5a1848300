"""Where this program speaks to people: the standard output, or the standard error where JSON has the former.

What must stay true: nothing that can't be shown ends a run or loses a result. What an encoding lacks is replaced by a
question mark, and once nobody listens any more (`| head`, a full disk), the rest is said to nobody.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import IO, Any

from rich.console import Console

WIDE = 200
"""Columns where there is no terminal: whoever reads a log breaks its lines himself."""


class Speaker(Console):
    """A console that falls silent instead of raising."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As `Console.print`."""
        try:
            super().print(*objects, **options)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Says nothing more; Console's own ends the program."""
        self.quiet = True
        silence(self.file)


def make_console(*, stderr: bool = False) -> Speaker:
    """A console for the standard output, or error. $COLUMNS says how wide it is where there is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="replace")
    console = Speaker(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    return console


def silence(stream: IO[str]) -> None:
    """Sends whatever is still written there nowhere, lest the interpreter complain at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
