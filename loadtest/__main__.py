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
        print(f"loadtest: {_what_to_do(missing)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("loadtest: interrupted before anything was measured", file=sys.stderr)
        return 130


def _what_to_do(missing: str) -> str:
    if missing not in sys.stdlib_module_names:
        return f"it needs the package {missing!r}: in a clone of rabbitry, pip install '.[loadtest]'"
    if sys.platform == "win32":
        return f"it needs Unix: this Python has no module {missing!r}"
    return (
        f"this Python ({sys.executable}) has no module {missing!r}, a part of the standard library: it was built or "
        "packaged without it, so take another, or install what is missing of this one"
    )


if __name__ == "__main__":
    sys.exit(main())
