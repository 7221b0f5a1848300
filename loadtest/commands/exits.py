"""How the program can end: the fixed exit codes, and the errors that end it before there is a result."""

from __future__ import annotations

OK, FAILED, USAGE, NOT_REACHED, NO_BROKER, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


class Unreachable(Exception):
    """There is no broker to test."""


class Incomplete(Exception):
    """A worker was lost, and there is nothing to show of the run."""


class Unwritable(Exception):
    """The result could not be written where it was asked for."""
