"""What the commands print: records as text or as JSON lines, tables, progress, and everything that is no result.

What must stay true: stdout has results and nothing else; a peer's text reaches a terminal without control characters,
which could steer it, and without line breaks, by which it would say something in our name.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

OK, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130

PROGRESS_INTERVAL = 0.25


class CommandError(Exception):
    """What ends a command with a message and this exit code."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.code = code


def say(text: str) -> None:
    """A line on stderr."""
    print(f"rabbitry: {printable(text)}", file=sys.stderr, flush=True)


def as_json(record: Any) -> str:
    """One line of JSON, all ASCII where some of its characters would steer a terminal. Surrogates that stand alone,
    which JSON's readers need not take, are replaced.
    """
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    if text.isprintable():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        record = json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return json.dumps(record, separators=(",", ":"))


def emit(record: dict[str, Any], text: str, *, as_line_of_json: bool) -> None:
    """One result on stdout."""
    print(as_json(record) if as_line_of_json else printable(text), flush=True)


def printable(text: str, but: str = "") -> str:
    """The text with whatever is no letter, sign or space escaped, but for those given: line breaks, controls, marks of
    direction, lone surrogates. Alike in errors of the library; a test holds that.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in but else ascii(c)[1:-1] for c in text)


def print_table(rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> None:
    """The rows, the first of which is the heading, in columns; those named in `numbers` are aligned to the right."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = [
            cell.rjust(width) if index in numbers else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def format_bytes(value: int | None) -> str:
    """`1.4 GiB`, `5.3 KiB`; a dash for None."""
    if value is None:
        return "-"
    amount = float(value)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def plural(count: int, noun: str) -> str:
    """`1 message`, `1,200 messages`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class Progress:
    """A line on stderr that counts along, on a terminal only."""

    def __init__(self, describe: Callable[[], str]) -> None:
        self._describe = describe
        self._is_shown = sys.stderr.isatty()
        self._next = time.monotonic() + 2 * PROGRESS_INTERVAL  # what is over at once needs none
        self._width = 0

    def tick(self) -> None:
        """Something was done; cheap enough for each message."""
        if self._is_shown and time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_INTERVAL
            line = self._describe()
            sys.stderr.write("\r" + line.ljust(self._width))
            sys.stderr.flush()
            self._width = len(line)

    def clear(self) -> None:
        """Remove the line."""
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0
