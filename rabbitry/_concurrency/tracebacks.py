"""Tracebacks in the log: an error's text may be what somebody sent, so it must not steer a terminal, nor begin lines of
its own in a log.

What must stay true: each line of a traceback begins with spaces, has no controls, and there are not too many of them.
Who reads `exc_info` of a record, as error reporters do, has the error as it is.
"""

from __future__ import annotations

import logging
from traceback import TracebackException

__all__ = ["escape_tracebacks", "shown_traceback"]

PART_AT_MOST = 10_000
"""Characters of one part of a traceback: a frame, or an error's text."""


def escape_tracebacks() -> None:
    """Have the logger "rabbitry" do so, for all handlers that go by `logging.Formatter`."""
    logging.getLogger("rabbitry").addFilter(_escape)


def _escape(record: logging.LogRecord) -> bool:
    if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
        record.exc_text = shown_traceback(record.exc_info[1])
    return True


def shown_traceback(error: BaseException) -> str:
    """The traceback of an error, with its causes, fit for a log."""
    parts = TracebackException.from_exception(error).format()
    text = "".join(part if len(part) <= PART_AT_MOST else f"{part[:PART_AT_MOST]}…\n" for part in parts)
    return "\n".join(f"  {_printable(line)}".rstrip() for line in text.rstrip("\n").split("\n"))


def _printable(line: str) -> str:
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
