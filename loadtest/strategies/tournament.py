"""All cells, one after the other: the order, fresh queues and a process for each, and who is given up.

Numbers of clients ascend, so that a strategy given up with fewer clients is not tried with more. Within one number all
trials of all strategies are in an order drawn from the seed: what drifts on the machine meets all of them alike.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import psutil

from loadtest.strategies.ground import Ground, count_messages
from loadtest.strategies.table import CONNECT_BOUND
from loadtest.strategies.work import Cell
from loadtest.urls import redact_in

MARGIN = 30.0
"""Seconds that a cell's process may take beside its connecting, its work and its drain."""
REST_BOUND = 10.0
"""Seconds, at most, for the broker to come to rest between two cells."""
RESTS_BELOW = 0.25
"""Of a core: a broker that takes no more is at rest."""
AROUND = 4.0
"""Seconds that a cell takes beside connecting and measuring, as a rule: Python's start, virtual host, drain, rest."""
CONNECTS_PER_SECOND = 400
"""What an average client manages, for the estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be compared, and how."""

    strategies: Sequence[str]
    clients: Sequence[int]
    trials: int
    seconds: float
    warmup: float
    size: int
    prefetch: int
    memory_bound: int
    seed: int

    def orders(self) -> list[list[tuple[str, int, int]]]:
        """For each number of clients its cells in their order: strategy, clients, trial."""
        random = Random(self.seed)
        orders = []
        for clients in sorted(self.clients):
            cells = [(name, clients, trial) for trial in range(self.trials) for name in self.strategies]
            random.shuffle(cells)
            orders.append(cells)
        return orders

    def estimate(self) -> float:
        """Seconds that all take, unless many are given up."""
        each = self.seconds + self.warmup + AROUND
        return sum(
            (each + clients / CONNECTS_PER_SECOND) * len(self.strategies) * self.trials for clients in self.clients
        )

    def bound(self) -> float:
        """Seconds after which a cell's process is over."""
        return CONNECT_BOUND + self.warmup + self.seconds + 20.0 + MARGIN


@dataclass(slots=True)
class Tournament:
    """The cells done so far."""

    plan: Plan
    ground: Ground
    say: Callable[[str], None]
    cells: list[dict[str, Any]] = field(default_factory=list)
    not_tried: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> None:
        """Performs all cells. Interrupted, or where the broker is gone, what was done by then stays in `cells`.

        RabbitryError, OSError or NodeError if the broker doesn't go on.
        """
        orders = self.plan.orders()
        number, total = 0, sum(map(len, orders))
        given_up: dict[str, dict[str, Any]] = {}
        for order in orders:
            for strategy, clients, trial in order:
                number += 1
                if strategy in given_up:
                    self._skip(strategy, clients, given_up[strategy])
                    continue
                began = time.monotonic()
                cell = self._perform(strategy, clients, trial)
                cell["order"] = number
                self.cells.append(cell)
                self.say(f"{number:>3} of {total}  {describe_cell(cell)}  ({time.monotonic() - began:.0f} s)")
            given_up |= self._find_given_up(order, given_up)

    def _skip(self, strategy: str, clients: int, reason: Mapping[str, Any]) -> None:
        if not any(each["strategy"] == strategy and each["clients"] == clients for each in self.not_tried):
            self.not_tried.append({"strategy": strategy, "clients": clients, "because": dict(reason)})

    def _find_given_up(
        self, order: Sequence[tuple[str, int, int]], known: Mapping[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """Who was given up in every trial of these."""
        clients = order[0][1]
        found = {}
        for strategy in {each[0] for each in order} - set(known):
            trials = [cell for cell in self.cells if cell["strategy"] == strategy and cell["clients"] == clients]
            if trials and all(cell["gave_up"] for cell in trials):
                found[strategy] = {"clients": clients, **trials[0]["gave_up"]}
        return found

    def _perform(self, strategy: str, clients: int, trial: int) -> dict[str, Any]:
        plan, number = self.plan, len(self.cells)
        cell = Cell(
            strategy=strategy,
            clients=clients,
            trial=trial,
            url=self.ground.url,
            prefix=self.ground.prefix_of(number),
            broker_pid=self.ground.pid,
            seconds=plan.seconds,
            warmup=plan.warmup,
            size=plan.size,
            prefetch=plan.prefetch,
            memory_bound=plan.memory_bound,
            bound=plan.bound(),
        )
        try:
            with self.ground.lay(number, cell.queues, cell.bound) as url:
                result = run_process(replace(cell, url=url))
                result["consume"]["lost"] = self._find_lost(result, url, cell.queues)
                if result["consume"]["lost"]:
                    lost = result["consume"]["lost"]
                    result["gave_up"] = {"reason": "lost", "text": f"{lost:,} messages were lost", "number": lost}
                return result
        finally:
            self._rest()

    def _find_lost(self, result: Mapping[str, Any], url: str, queues: Sequence[str]) -> int | None:
        """Confirmed messages that never arrived and are in no queue; None if that can't be told."""
        missing: int | None = result["consume"]["missing"]
        if not missing:
            return None if missing is None else 0
        end = time.monotonic() + REST_BOUND  # what the cell's process held goes back when its connections are gone
        while (left := count_messages(url, queues)) < missing and time.monotonic() < end:
            time.sleep(0.5)
        return max(0, missing - left)

    def _rest(self) -> None:
        """Returns when the broker is at rest, or after a bound; at once if it can't be seen."""
        if (pid := self.ground.pid) is None:
            return
        with suppress(psutil.Error):
            broker, end = psutil.Process(pid), time.monotonic() + REST_BOUND
            broker.cpu_percent()
            while time.monotonic() < end:
                time.sleep(0.25)
                if broker.cpu_percent() < RESTS_BELOW * 100:
                    return


def run_process(cell: Cell) -> dict[str, Any]:
    """Performs a cell in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest.strategies.cell"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,  # Ctrl-C is for us, who then end it
    )
    try:
        output, errors = process.communicate(json.dumps(asdict(cell)), timeout=cell.bound + 5)
    except subprocess.TimeoutExpired:
        return _ended_early(cell, "bound", f"its process was not over after {cell.bound:.0f} s")
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    try:
        result: dict[str, Any] = json.loads(output)
    except ValueError:
        if process.returncode == -signal.SIGALRM:
            return _ended_early(cell, "bound", f"its process was not over after {cell.bound:.0f} s")
        last = (errors.strip().splitlines() or ["it said nothing"])[-1]
        last = redact_in(last, (cell.url,))
        return _ended_early(cell, "ended", f"its process ended with {process.returncode}: {last[:300]}")
    return result


def _ended_early(cell: Cell, reason: str, text: str) -> dict[str, Any]:
    """The result of a cell whose process told none."""
    nothing = dict.fromkeys(("received", "unique", "duplicates", "missing", "rate", "end_to_end_latency_ms"))
    return {
        "strategy": cell.strategy,
        "clients": cell.clients,
        "trial": cell.trial,
        "gave_up": {"reason": reason, "text": text, "number": cell.bound},
        "connect": None,
        "publish": None,
        "consume": nothing,
        "resources": None,
        "measured_seconds": None,
        "drain_seconds": None,
        "errors": {},
    }


def describe_cell(cell: Mapping[str, Any]) -> str:
    """A line about a cell."""
    name = f"{cell['strategy']:<24} {cell['clients']:>6,} clients"
    if cell["gave_up"]:
        return f"{name}  given up: {cell['gave_up']['text']}"
    publish, resources = cell["publish"], cell["resources"]
    p50 = publish["confirm_latency_ms"]["p50"]
    told = "–" if p50 is None else f"{p50:,.1f} ms"
    rss = resources["client_rss_bytes"] / 2**20
    return f"{name}  {publish['rate']:>8,.0f}/s confirmed, p50 {told}, {rss:,.0f} MiB"
