"""Where this program speaks to people: the standard output, or the standard error where JSON has the former.

What must stay true: nothing that can't be shown ends a run or loses a result, and nothing is shown as something else.
What an encoding lacks is written in letters that it has, or as a question mark; a name between colons is no emoji; and
once nobody listens any more (`| head`, a full disk), the rest is said to nobody.
"""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress
from functools import partial
from io import TextIOWrapper
from typing import IO, Any

from rich.console import Console
from rich.text import Text

WIDE = 200
"""Columns where there is no terminal: whoever reads a log breaks its lines himself."""

_SPELLED = {
    "✓": "ok",
    "✗": "NO",
    "×": "x",
    "±": "+-",
    "µ": "u",
    "–": "-",
    "·": "-",
    "…": "...",
    "“": '"',
    "”": '"',
    "’": "'",
}
"""The signs that this program uses, where an encoding lacks them: kept and broken must not look alike."""
_LEGIBLE = "loadtest.legible"
_SIZES = ("COLUMNS", "LINES")


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_SPELLED.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error(_LEGIBLE, _spell)


class Speaker(Console):
    """A console that falls silent instead of raising, whether a line, a picture or the cursor is to be shown."""

    def __exit__(self, *raised: Any) -> None:
        """As Console's own, at the end of each of which there is written what came together."""
        try:
            super().__exit__(*raised)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Says nothing more; Console's own ends the program."""
        self.quiet = True
        silence(self.file)


def make_console(*, stderr: bool = False) -> Speaker:
    """A console for the standard output, or error. $COLUMNS says how wide it is where there is no terminal.

    Whoever asks for colours ($FORCE_COLOR, as builds do) has them, and still no picture where there is no terminal.
    """
    stream = sys.stderr if stderr else sys.stdout
    make_legible(stream)
    environ = {name: value for name, value in os.environ.items() if name not in _SIZES or _is_size(value)}
    make = partial(Speaker, stderr=stderr, highlight=False, emoji=False, _environ=environ)
    console = make()
    if console.is_terminal and not (stream and stream.isatty()):
        console = make(force_terminal=False, color_system="standard")
    if not console.is_terminal and "COLUMNS" not in environ:
        console.width = WIDE
    return console


def make_legible(stream: IO[str] | None) -> None:
    """From now on it takes every text, with signs that its encoding lacks in letters that it has."""
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors=_LEGIBLE)


def marked(text: str) -> Text:
    """A text in rich's markup, in which a name between colons is no emoji: it may be a part of an address."""
    return Text.from_markup(text, emoji=False)


def silence(stream: IO[str]) -> None:
    """Sends whatever is still written there nowhere, lest the interpreter complain at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _is_size(text: str) -> bool:
    """Whether it is a number of columns or lines: a terminal that nobody has measured says 0."""
    return text.isdecimal() and int(text) > 0
