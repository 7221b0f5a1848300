"""Thousands of random sequences, in slices: `python -m tests.broker.conformance.survey FOLDER --seconds 110`.

It may be stopped at any time, and goes on with the next seed when it is called again: FOLDER has a file for each
version of RabbitMQ, a line for each seed that is done, with the commit, the number of sequences and each difference:
what was sent up to it and what both brokers showed. `--root` names an unpacked RabbitMQ as RABBITRY_RABBITMQ_ROOT does,
"" is the installed one; each of several has a process of its own.

A seed is some sequences, as Hypothesis makes them: it has them vary, and each seed begins with the same one, which is
next to nothing. A difference is noted and not shortened: `RABBITRY_SEED` has `test_sequences` do that. Sequences share
the broker's virtual host, by names of their own; to make a virtual host takes longer than most sequences.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from rabbitry.testing import PrivateNode
from rabbitry.testing.rabbitmq.installation import ROOT_VARIABLE
from tests.broker.conformance.pair import MONITOR, Difference, Pair
from tests.broker.conformance.test_sequences import Sequences
from tests.support.helpers import version_of

OF_A_SEED = 50
"""Sequences."""
LONGEST = 20_000
"""Characters that are kept of what both showed."""


class Stopped(BaseException):
    """No further sequence is begun. No `Exception`, as those are findings."""


class NotingPair(Pair):
    """One that notes a difference, and goes no further."""

    def __init__(self, host: str, port: int, version: str, found: list[dict[str, Any]]) -> None:
        super().__init__(host, port, version)
        self._found = found

    def note(self, shown: str) -> None:
        self._found.append({"shown": shown[:LONGEST], "sent": self.ours.told(MONITOR - 1)})

    def _agree(self) -> None:
        try:
            super()._agree()
        except Difference as difference:
            self.note(str(difference).replace(self.theirs.prefix, ""))
            hypothesis.reject()


class Survey:
    """The sequences with one version of RabbitMQ."""

    def __init__(self, url: str, folder: Path, goal: int, deadline: float = float("inf")) -> None:
        host, port = url.rpartition("@")[2].partition("/")[0].rsplit(":", 1)
        self._address = host, int(port)
        self._version = ".".join(map(str, version_of(url)[:2]))
        self._goal = goal
        self._deadline = deadline
        self._commit = _commit()
        self._file = folder / f"{self._version}.jsonl"
        lines = self._file.read_text("utf-8").splitlines() if self._file.exists() else []
        done = [json.loads(line) for line in lines]
        self._seed = max((each["seed"] for each in done), default=0)
        self._before = sum(each["sequences"] for each in done)
        self._differences = sum(len(each["differences"]) for each in done)
        self._steps: list[int] = []  # of each sequence of this seed
        self._is_stopped = False
        self._begun = self._told = time.monotonic()
        self._in_this_slice = 0

    def stop(self, *_: object) -> None:
        """End after this sequence."""
        self._is_stopped = True

    def run(self) -> None:
        """Seed by seed, until there are enough or the time is up."""
        while self._before < self._goal and not self._is_stopped:
            self._run_seed()
        self._tell()

    def _run_seed(self) -> None:
        self._seed += 1
        self._steps.clear()
        found = list[dict[str, Any]]()
        begun = time.monotonic()
        pairs = list[NotingPair]()

        def start() -> Sequences:
            now = time.monotonic()
            self._is_stopped |= now > self._deadline
            if self._is_stopped:
                raise Stopped
            if now > self._told + 60:
                self._tell()
            pairs.clear()
            pairs.append(NotingPair(*self._address, self._version, found))
            return Sequences(pairs[0], self._steps)

        try:
            run_state_machine_as_test(hypothesis.seed(self._seed)(start), settings=_settings(self._left))
        except (Stopped, Exception):
            if not self._is_stopped:  # else it complains that what came before went on
                if not pairs:
                    raise  # nobody answers
                pairs[0].note(traceback.format_exc())
        self._write(found, time.monotonic() - begun)

    @property
    def _left(self) -> int:
        return min(OF_A_SEED, self._goal - self._before)

    def _write(self, found: list[dict[str, Any]], seconds: float) -> None:
        self._before += len(self._steps)
        self._in_this_slice += len(self._steps)
        self._differences += len(found)
        line = {
            "seed": self._seed,
            "commit": self._commit,
            "sequences": len(self._steps),
            "operations": sum(self._steps),
            "seconds": round(seconds, 1),
            "differences": found,
        }
        self._steps = []
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _tell(self) -> None:
        self._told = time.monotonic()
        new = self._in_this_slice + len(self._steps)
        done = self._before + len(self._steps)
        rate = 60 * new / max(1.0, self._told - self._begun)
        print(
            f"{self._version}: {done} of {self._goal} sequences, {self._differences} differences; "
            f"{rate:.0f} a minute, now at seed {self._seed}",
            flush=True,
        )


def _settings(count: int) -> settings:
    return settings(
        max_examples=count,
        stateful_step_count=100,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _each_by_itself(roots: Sequence[str], arguments: Sequence[str]) -> int:
    """One process for each root; the worst of their exit codes."""
    command = [sys.executable, "-m", "tests.broker.conformance.survey", *arguments]
    processes = [subprocess.Popen([*command, "--root", root]) for root in roots]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: [process.send_signal(number) for process in processes])
    return max(process.wait() for process in processes)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.broker.conformance.survey")
    parser.add_argument("folder", type=Path, help="where the files are, or will be")
    parser.add_argument("--sequences", type=int, default=5000, help="in the end, by default 5000")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long this slice may take")
    parser.add_argument("--root", action="append", help="an unpacked RabbitMQ; any number of them")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.root and len(options.root) > 1:
        common = [str(options.folder), "--sequences", str(options.sequences), "--seconds", str(options.seconds)]
        return _each_by_itself(options.root, common)
    if options.root and options.root[0]:
        os.environ[ROOT_VARIABLE] = options.root[0]
    elif options.root:
        os.environ.pop(ROOT_VARIABLE, None)
    deadline = time.monotonic() + options.seconds
    with PrivateNode() as node:
        survey = Survey(node.url, options.folder, options.sequences, deadline)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, survey.stop)
        survey.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
