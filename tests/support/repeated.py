"""Run tests again and again, each time in another order: `python -m tests.support.repeated 20 pytest's words ...`.

It prints what each repetition took and what became of it. Its exit code is 0 if every test had the same outcome each
time and none failed; what differed is named, with the seed that `--shuffle` takes to see it again.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

Outcomes = dict[str, str]


def outcomes(report: Path) -> Outcomes:
    """What became of each test, as pytest's JUnit report has it."""
    found: Outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        ends = sorted({end.tag for end in case} & {"failure", "error", "skipped"})
        found[f"{case.get('classname')}.{case.get('name')}"] = " and ".join(ends) or "passed"
    return found


def repeat(seed: int, words: list[str]) -> Outcomes:
    """One repetition, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", f"--shuffle={seed}", *words]
        began, worked = time.monotonic(), cpu_seconds()
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            sys.exit(done.stdout + done.stderr)
        found = outcomes(report)
        took, worked = time.monotonic() - began, cpu_seconds() - worked
    counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(Counter(found.values()).items()))
    print(f"seed {seed:3}: {took:5.1f} s, {worked:5.1f} s of them at work: {counts}", flush=True)
    return found


def cpu_seconds() -> float:
    """Of all processes that have ended below this one."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def differences(first: Outcomes, other: Outcomes) -> list[str]:
    names = sorted(first.keys() | other.keys())
    return [
        f"{name}: {first.get(name, 'not run')}, then {other.get(name, 'not run')}"
        for name in names
        if first.get(name) != other.get(name)
    ]


def main(count: int, words: list[str]) -> int:
    repetitions = [repeat(seed, words) for seed in range(1, count + 1)]
    failed = {name for found in repetitions for name, end in found.items() if end not in ("passed", "skipped")}
    different = {seed: differences(repetitions[0], found) for seed, found in enumerate(repetitions, 1)}
    for name in sorted(failed):
        print(f"failed: {name}")
    for seed, lines in different.items():
        for line in lines:
            print(f"seed {seed}: {line}")
    identical = not any(different.values())
    print(f"{count} repetitions, {'identical' if identical else 'not identical'}, {len(failed)} tests failed")
    return int(bool(failed) or not identical)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
