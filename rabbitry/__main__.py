"""`python -m rabbitry` and the command `rabbitry`: the door to `rabbitry.cli`.

It exists because the imports take a moment, in which somebody may interrupt them.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the command line; returns the exit code."""
    try:
        from rabbitry.cli.program import main as run

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
