"""What became of each test, as lines of JSON: of a run that is killed, too, they tell what it had done.

A line is a test's outcome and how long a part of it took, an accident that no other run of a test makes good, or how a
run ended. Only the standard library, as `.ci/run` adds up what its steps left with whatever Python is there:
`python3 tests/support/outcomes.py`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORST_FIRST = ("failed", "skipped", "passed")


@dataclass
class Run:
    """One run of pytest. Of each test it keeps the worst outcome: its fixtures, it itself and its end have one each."""

    tests: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)  # of those that failed
    seconds: Counter[str] = field(default_factory=Counter)  # of each file
    accidents: list[str] = field(default_factory=list)
    status: int | None = None  # None: it was killed

    def add(self, record: dict[str, Any]) -> None:
        if "test" in record:
            name, outcome = record["test"], record.get("outcome")
            if outcome:
                self.tests[name] = min(outcome, self.tests.get(name, outcome), key=WORST_FIRST.index)
            self.seconds[name.partition("::")[0]] += record.get("seconds", 0.0)
            if "reason" in record:
                self.reasons.setdefault(name, record["reason"])
        elif "accident" in record:
            self.accidents.append(record["accident"])
        else:
            self.status = record["status"]

    def named(self, outcome: str) -> list[str]:
        return [name for name, found in self.tests.items() if found == outcome]


def read(path: Path) -> list[Run]:
    """The runs that a file tells of: all tests, then those that failed once more. It may end in half a line."""
    runs: list[Run] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if "began" in record:
            runs.append(Run())
        else:
            runs[-1].add(record)
    return runs


def count(runs: Iterable[Run]) -> dict[str, int]:
    """Tests by outcome, the last run's where a test ran twice. Accidents are failures where no test has failed."""
    runs = list(runs)
    tests = {name: outcome for run in runs for name, outcome in run.tests.items()}
    counts = {outcome: list(tests.values()).count(outcome) for outcome in ("passed", "failed", "skipped")}
    counts["failed"] = counts["failed"] or sum(len(run.accidents) for run in runs)
    return counts


def say(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {outcome}" for outcome, number in counts.items())


def add_up(folder: Path, *, red: bool) -> str:
    """Everything that the steps of a whole check counted. A red one in which no test failed has one failure: its step,
    be it lint or one that took too long."""
    total = {"passed": 0, "failed": 0, "skipped": 0}
    for path in sorted(folder.glob("*.jsonl")):
        for outcome, number in count(read(path)).items():
            total[outcome] += number
    if red and not total["failed"]:
        total["failed"] = 1
    return say(total)


if __name__ == "__main__":
    print(add_up(Path(sys.argv[1]), red=sys.argv[2] != "0"))
