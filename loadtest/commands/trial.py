"""One of several trials, in the process that `loadtest.commands.trials` starts for it: a run as any other, but that it
is made once and writes to one file, whatever its scenario's file says of trials and of a folder for the results.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from loadtest.commands import run
from loadtest.scenarios.settings import Settings


def main(words: Sequence[str]) -> int:
    """Runs the trial that these words ask for; returns the exit code."""
    return run.main(words, adapt=make_once)


def make_once(settings: Settings) -> Settings:
    """The same load, once: how often all of it is repeated and varied is said in those settings that lead here."""
    workloads = tuple(make_once(each) for each in settings.workloads)
    return replace(settings, repeat=1, vary=(), output=None, workloads=workloads)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
