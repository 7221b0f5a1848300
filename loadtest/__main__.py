"""`python -m loadtest` and `rabbitry-loadtest`: the door to `loadtest.commands.program`.

It exists because the program's imports take a moment, in which somebody may interrupt it, and may be missing.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the load tester with the command line's arguments; returns the exit code."""
    try:
        from loadtest.commands import program

        return program.main()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("loadtest", "rabbitry"):
            raise
        if missing in sys.stdlib_module_names:
            print(f"loadtest: it needs Unix: this Python has no module {missing!r}", file=sys.stderr)
            return 2
        print(f"loadtest: it needs the package {error.name!r}: pip install 'rabbitry[loadtest]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("loadtest: interrupted before anything was measured", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
