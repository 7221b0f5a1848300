"""Runs one measuring process at a time against a broker that has come to rest, and takes the figures it prints.

What must stay true: a process that fails, hangs or prints no figures is a failed run with its reason, never a figure
and never the end of the benchmark.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rabbitry.testing import NodeError, PrivateNode
from tests.measuring.bench.measure import Figures
from tests.measuring.bench.plan import C_CLIENT, OURS, Run

ROOT = Path(__file__).parents[3]
SOURCE = Path(__file__).with_name("reference.c")
TIMEOUT = 60.0  # seconds for a run
TIMEOUT_CONNECTIONS = 300.0
SETTLE_TIMEOUT = 60.0
SETTLE_STEP = 0.1
IDLE_SHARE = 0.2
"""Below this share of a core the broker counts as at rest: it has deleted the last run's queue or connections."""


class Unavailable(Exception):
    """A client can't be run here; says why."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run: its figures, or why there are none. `steal` is the host's share of the processors' time."""

    run: Run
    round: int
    figures: Figures | None
    failure: str = ""
    steal: float = 0.0


@dataclass(frozen=True)
class Measured:
    """What came of a process: as in an Outcome."""

    figures: Figures | None
    failure: str = ""
    steal: float = 0.0


def compile_reference(directory: Path) -> Path:
    """The C client, compiled into `directory`."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Unavailable("no C compiler here (Debian: apt-get install gcc librabbitmq-dev)")
    program = directory / "reference"
    done = subprocess.run(
        [compiler, "-O2", "-pthread", "-o", str(program), str(SOURCE), "-lrabbitmq"], capture_output=True, text=True
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[:1]
        raise Unavailable(f"it does not compile (Debian: apt-get install gcc libc6-dev librabbitmq-dev): {reason}")
    return program


class Runner:
    """Runs against one broker: a private node, or `url`. What it runs is imported from `root`, and has the `variables`
    in its environment.
    """

    def __init__(
        self,
        url: str,
        node: PrivateNode | None,
        reference: Path | None,
        root: Path = ROOT,
        *,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._url = url
        self._node = node
        self._reference = reference
        self._root = root
        self._environment = {**os.environ, **(variables or {})}

    def run(self, run: Run, round: int) -> Outcome:
        is_storm = run.job in ("connections", "clients", "opening")
        timeout = TIMEOUT_CONNECTIONS if is_storm else TIMEOUT
        if run.client == C_CLIENT:
            measured = self.measure_reference(run.job, run.count, timeout=timeout)
        elif run.client == OURS:
            words = [run.job, self._url, str(run.count), "--backend", run.backend]
            measured = self.measure_module("tests.measuring.bench.ours", words, timeout)
        else:
            words = [f"{run.client.replace('-', '_')}.{run.job}", self._url, str(run.count)]
            measured = self.measure_module("tests.measuring.bench.peers", words, timeout)
        return Outcome(run, round, measured.figures, measured.failure, measured.steal)

    @property
    def url(self) -> str:
        """The broker's."""
        return self._url

    def measure_module(self, module: str, words: Sequence[str], timeout: float) -> Measured:
        """Runs a Python module with these arguments, which prints its figures."""
        return self._measure([sys.executable, "-m", module, *words], timeout)

    def measure_reference(self, job: str, count: int, *more: int, timeout: float) -> Measured:
        """Runs the C client's job; `more` are the arguments that it may have."""
        address = urlsplit(self._url)
        host, port = address.hostname or "127.0.0.1", address.port or 5672
        return self._measure([str(self._reference), job, host, *map(str, (port, count, *more))], timeout)

    def _measure(self, command: Sequence[str], timeout: float) -> Measured:
        self._settle()
        before = _processor_ticks()
        try:
            done = subprocess.run(
                command,
                cwd=self._root,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return Measured(None, f"not done within {timeout:g} s")
        after = _processor_ticks()
        steal = (after[0] - before[0]) / max(1, after[1] - before[1])
        try:
            figures: Figures = json.loads(done.stdout)
        except ValueError:
            reason = done.stderr.strip().splitlines()[-1:] or ["no figures"]
            return Measured(None, f"status {done.returncode}: {reason[0]}", steal)
        # A client that failed after its figures, while closing, has not done its work either.
        failure = f"status {done.returncode}: {done.stderr.strip()[-300:]}" if done.returncode else ""
        return Measured(None if failure else figures, failure, steal)

    def _settle(self) -> None:
        """Waits until the broker has done with the run before."""
        if self._node is None:
            time.sleep(1.0)
            return
        deadline = time.monotonic() + SETTLE_TIMEOUT
        used = self._node.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(SETTLE_STEP)
            used, before = self._node.cpu_seconds(), used
            if used - before <= IDLE_SHARE * SETTLE_STEP:
                return


def _processor_ticks() -> tuple[int, int]:
    """Ticks of all processors so far that the host took from this machine, and all ticks. Zeros where unknown."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return ticks[7], sum(ticks)
    return 0, 0


def environment(node: PrivateNode | None, reference: Path | None) -> dict[str, str]:
    """What the figures depend on, as far as it can be told."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {
        "machine": f"{os.cpu_count()} × {_processor_name()}",
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    if node is not None:
        with contextlib.suppress(NodeError, subprocess.SubprocessError):
            found["rabbitmq"] = node.rabbitmqctl("version").strip()
    if reference is not None:
        found["librabbitmq"] = subprocess.run(
            [str(reference), "version"], capture_output=True, text=True
        ).stdout.strip()
    for package in ("rabbitry", "anyio", "trio", "uvloop", "aio-pika", "aiormq", "pika", "amqpstorm"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    with contextlib.suppress(OSError):
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip()
        if commit:
            found["commit"] = commit
    return found


def _processor_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "processor"
