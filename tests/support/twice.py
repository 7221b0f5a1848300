"""Run tests side by side, and once more alone what failed so: `python -m tests.support.twice FILE pytest's words ...`.

On two processors that four workers and their brokers share, a test may wait for seconds where it reckoned with less.
What passes alone then is no fault of the code, but is counted and named in the closing line, for it needs mending; and
more than a few of them are a fault. Nothing else gets a second try: what could not be collected, a worker that died
or pytest's own failure is red at once. FILE has what became of each test (outcomes.py).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from tests.support.outcomes import Run, count, read, say

TOLERATED = 3  # as many may need to run alone
WORTH_TRYING = 20  # where more failed, no wait was too short

SLOWEST = 12  # files, which are told: what makes the whole take as long as it does

REASON = 400  # characters

ALONE = "--alone"


def reason(report: pytest.TestReport) -> str:
    """Where it failed and the beginning of what it says there: enough to tell why without its traceback."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return str(report.longrepr)[-REASON:]
    return f"{Path(crash.path).name}:{crash.lineno}: {crash.message[:REASON]}"


class Recorder:
    """A plugin of pytest that writes what happens to a file, at once; in the process that workers report to."""

    def __init__(self, path: Path, *, mode: str) -> None:
        self._file = path.open(mode, encoding="utf-8", buffering=1)
        self._write({"began": True})

    def _write(self, record: dict[str, Any]) -> None:
        print(json.dumps(record), file=self._file)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        record = {"test": report.nodeid, "seconds": round(report.duration, 3)}
        if report.when == "call" or report.outcome != "passed":
            record["outcome"] = report.outcome
        if report.failed:
            record["reason"] = reason(report)
        self._write(record)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write({"accident": f"{report.nodeid} was not collected"})

    def pytest_internalerror(self, excrepr: object) -> None:
        self._write({"accident": "pytest itself failed"})

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        if error:
            self._write({"accident": f"worker {node.gateway.id} died"})

    def end(self, status: int) -> None:
        self._write({"status": int(status)})


def worth_trying(run: Run) -> list[str]:
    """The tests to run once more: all that failed, if that is all that went wrong."""
    failed = run.named("failed")
    only_tests_failed = run.status == pytest.ExitCode.TESTS_FAILED and not run.accidents
    return failed if only_tests_failed and len(failed) <= WORTH_TRYING else []


def conclude(runs: list[Run]) -> tuple[str, int]:
    """The closing line, and the exit code."""
    first, *second = runs
    line = say(count(runs))
    if not second:
        return "; ".join([line, *first.accidents]), int(first.status or bool(first.accidents))

    tried, alone = first.named("failed"), second[0]
    mended = [name for name in tried if alone.tests.get(name) == "passed"]
    remaining = [name for name in tried if name not in mended]
    if mended:
        tests = "1 test" if len(mended) == 1 else f"{len(mended)} tests"
        line += f"; {tests} passed only when run alone: {', '.join(mended)}"
    if len(mended) > TOLERATED:
        line += f" (red, as these are more than {TOLERATED})"
    if remaining:
        line += f"; alone, too, did not pass: {', '.join(remaining)}"
    return "; ".join([line, *alone.accidents]), int(bool(alone.status or remaining or len(mended) > TOLERATED))


def main(path: Path, words: list[str]) -> int:
    alone = words[:1] == [ALONE]
    path.parent.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(path, mode="a" if alone else "w")
    recorder.end(pytest.main(words[1:] if alone else words, plugins=[recorder]))
    runs = read(path)
    if not alone:
        print("\nThe slowest files, by a worker's time:")
        print(
            *(f"{seconds:7.1f} s  {file}" for file, seconds in runs[0].seconds.most_common(SLOWEST)),
            sep="\n",
            flush=True,
        )
    again = worth_trying(runs[0])
    if again and not alone:
        tests = "1 test" if len(again) == 1 else f"{len(again)} tests"
        print(f"\n{tests} failed side by side. Once more, alone:", *again, sep="\n  ", flush=True)
        # in the place of this process, so that a signal finds it, and with nothing imported that the first run left
        os.execv(sys.executable, [sys.executable, "-m", "tests.support.twice", str(path), ALONE, *again])
    for name in again:
        print(f"\n{name} failed side by side:", indent(runs[0].reasons.get(name, "?"), "    "), sep="\n")
    line, status = conclude(runs)
    print(line, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
