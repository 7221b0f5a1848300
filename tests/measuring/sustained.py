"""Is the rate that the default run finds one that can be kept up, and little more? At 10,000 clients, on both backends.

Three runs find it, lose nothing, and find rates that differ by a factor of 1.3 at most. Then 30 seconds at the median
of them have to leave no backlog that grows by more than a search allows the rate that it verifies (the response time
is told: in 30 seconds one pause of the machine moves its p99), and 30 seconds at 1.25 times of it have to be more than
can be kept up, by the rules of the search: a backlog that grows, or one that settles where the response time's p99 is
longer than it may be. At last half a core is burnt beside a run: that has to change the verdict, and be told. Eight
minutes for each backend, on a machine with nothing beside it:
``python -m tests.measuring.sustained [--clients 10000] [--backend asyncio] [--runs 3] [--seconds 30]``; further flags
go to each run, such as ``--duration 5`` to try it in small.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

from loadtest.capacity.step import PUBLISH, QUEUES, RPC, WAITING, Finding, Look, judge_step

BEYOND = 1.25
LARGEST_RATIO = 1.3
LATE = "the response time's p99"
"""How a finding begins whose backlog is bounded, but long."""
PATIENCE = 300.0
"""Seconds that a run may take beyond what it was asked to measure."""
BURNER = """
import os, time
parent = os.getppid()
while os.getppid() == parent:
    until = time.monotonic() + 0.005
    while time.monotonic() < until:
        pass
    time.sleep(0.005)
"""
"""Half a core, or nearly."""

Result = dict[str, Any]


class Failed(Exception):
    """A run that gave no result."""


def say(text: str) -> None:
    """A line, at once."""
    print(text, flush=True)


def run(*words: str, seconds: float = 0.0) -> Result:
    """One run of the load tester, in a process of its own. Failed if it gives no result, or none in time."""
    command = [sys.executable, "-m", "loadtest", *words, "--quiet", "--json", "-"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE + seconds, text=True, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(words)}: no result within {PATIENCE + seconds:.0f} s") from None
    try:
        result: Result = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise Failed(f"{' '.join(words)}: exit code {done.returncode}, {done.stderr.strip()[-300:]}") from None
    return result


def judge(result: Result) -> Finding:
    """Whether what waited grew, from the measured rows of a paced run: as strictly as a rate is verified."""
    scenario = result["scenario"]
    rate = scenario["rate"]
    asked = {PUBLISH: rate, QUEUES: rate, RPC: rate / scenario["producers"] * scenario["callers"]}
    rates = {kind: each for kind, each in asked.items() if each > 0}
    looks, seconds, done = list[Look](), 0.0, {"confirmed": 0, "consumed": 0, "rpc": 0}
    for row in (row for row in result["timeline"] if row["phase"] == "measure"):
        seconds += row["seconds"]
        done = {name: number + row[name] for name, number in done.items()}
        looks.append(Look(seconds, _waiting(rates, seconds, done)))
    p99 = result["publish"]["confirm_latency_ms"]["p99"]
    return judge_step(rates, looks, None if p99 is None else p99 / 1000, is_verifying=True)


def _waiting(rates: Mapping[str, float], seconds: float, done: Mapping[str, int]) -> dict[str, float]:
    waiting = {
        PUBLISH: rates[PUBLISH] * seconds - done["confirmed"],
        QUEUES: float(done["confirmed"] - done["consumed"]),
        RPC: rates.get(RPC, 0.0) * seconds - done["rpc"],
    }
    return {kind: waiting[kind] for kind in rates}


def is_bounded(finding: Finding) -> bool:
    """Whether no backlog grew or was too long, however late some of it was answered."""
    return finding.is_held or finding.reason.startswith(LATE)


def is_beyond(finding: Finding) -> bool:
    """Whether a backlog grew, or was so long that all was answered late: a run that is too short to tell shows nothing
    of the kind.
    """
    return not finding.is_held and finding.reason.startswith((*WAITING.values(), LATE))


def find_rates(words: Sequence[str], runs: int) -> tuple[list[float], bool]:
    """The rates that so many default runs find; and whether all found one, lost nothing, and agree."""
    rates, holds = list[float](), True
    for number in range(1, runs + 1):
        result = run(*words)
        rate = result["capacity"]["sustainable_rate"] or 0.0
        total = sum(phase["seconds"] for phase in result["phases"])
        lost, unknown = result["consume"]["lost"], result["publish"]["unknown"]
        steps, verdict = len(result["capacity"]["steps"]), result["capacity"]["verdict"]
        is_well = rate > 0 and lost == 0 and unknown == 0
        say(
            f"  {_mark(is_well)} run {number}: {rate:,.0f}/s in {steps} steps, {total:.0f} s in all, {lost} lost, "
            f"{unknown} of unknown outcome; the limit: {verdict['status']} ({verdict['evidence'][-1]})"
        )
        rates.append(rate)
        holds = holds and is_well
    agree = min(rates) > 0 and max(rates) <= LARGEST_RATIO * min(rates)
    ratio = f"{max(rates) / min(rates):.2f}" if min(rates) > 0 else "none"
    say(f"  {_mark(agree)} the highest by the lowest rate: {ratio} (limit {LARGEST_RATIO})")
    return rates, holds and agree


def show_growth(words: Sequence[str], rate: float, seconds: float) -> bool:
    """The rate that was found can be kept up, and one beyond it can't."""
    holds = True
    for factor in (1.0, BEYOND):
        asked = f"{rate * factor:.0f}"
        finding = judge(run(*words, "--rate", asked, "--duration", f"{seconds:g}", seconds=seconds))
        is_right = is_bounded(finding) if factor == 1.0 else is_beyond(finding)
        grown = f"the backlog grew by {finding.growth:.1%} of the rate"
        say(f"  {_mark(is_right)} {seconds:g} s at {factor:g} × of it, {asked}/s: {finding.reason} ({grown})")
        holds = holds and is_right
    return holds


def show_burner(words: Sequence[str]) -> bool:
    """Half a core that another process burns is seen, and no end is called the limit then."""
    with _burning():
        result = run(*words)
    evidence = [text for text in result["verdict"]["evidence"] if "other processes used" in text]
    is_seen = bool(evidence) and result["verdict"]["status"] in ("inconclusive", "unsteady")
    say(f"  {_mark(is_seen)} with half a core burnt: {result['verdict']['status']} ({'; '.join(evidence) or 'unseen'})")
    return is_seen


@contextmanager
def _burning() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", BURNER]) as burner:
        try:
            yield
        finally:
            burner.kill()


def _mark(holds: bool) -> str:
    return "✓" if holds else "✗"


def show(backend: str, asked: argparse.Namespace, more: Sequence[str]) -> bool:
    """Everything on one backend; whether all of it held."""
    words = (*more, "--clients", str(asked.clients), "--backend", backend)
    say(f"{backend}: {asked.runs} runs that seek the rate, two of {asked.seconds:g} s at rates, one beside a burner")
    rates, holds = find_rates(words, asked.runs)
    if not median(rates):
        return False
    return all([holds, show_growth(words, median(rates), asked.seconds), show_burner(words)])


def main(words: Sequence[str] | None = None) -> int:
    """Shows both backends; 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.measuring.sustained", description=__doc__)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--backend", choices=("asyncio", "trio"), help="only this one")
    parser.add_argument("--runs", type=int, default=3, help="that seek the rate")
    parser.add_argument("--seconds", type=float, default=30.0, help="at the rate, and beyond it; 10 at least")
    asked, more = parser.parse_known_args(words)
    if asked.runs < 1 or asked.seconds < 10 or asked.clients < 3:
        parser.error("--runs 1, --seconds 10 and --clients 3 at least")
    backends = (asked.backend,) if asked.backend else ("asyncio", "trio")
    try:
        held = [show(backend, asked, more) for backend in backends]  # both, whatever came of the first
    except Failed as failed:
        say(f"✗ {failed}")
        return 1
    return int(not all(held))


if __name__ == "__main__":
    sys.exit(main())
