"""`python -m rabbitry` and the command `rabbitry`: the door to `rabbitry._cli`.

What must stay true: whoever interrupts it before it can end in order, or when it can't, sees it end at once and in
silence. The imports take a moment, in which Python would show a traceback.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Runs the command line; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a command that runs has handlers of its own
        signal.signal(number, _end_at_once)
    from rabbitry._cli.program import main as run

    return run()


def _end_at_once(*_: object) -> None:
    os._exit(130)  # nothing is lost: results are flushed as they are written


if __name__ == "__main__":
    sys.exit(main())
