"""Is the rate that the default run finds one that can be kept up, and little more? At 10,000 clients, on both backends.

Three runs find it; then 30 seconds at that rate have to leave no backlog that grows, and 30 seconds at 1.25 times the
rate have to. The three rates may differ by a factor of 1.3. A quarter of an hour, on a machine with nothing beside it:
``python -m tests.measuring.sustained [clients]``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from loadtest.capacity.step import PUBLISH, QUEUES, RPC, Finding, Look, judge_step

RUNS = 3
SECONDS = 30
BEYOND = 1.25
LARGEST_RATIO = 1.3
PATIENCE = 300.0

Result = dict[str, Any]


def run(*words: str) -> Result:
    """One run of the load tester, in a process of its own."""
    command = [sys.executable, "-m", "loadtest", *words, "--quiet", "--json", "-"]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=PATIENCE, text=True, check=False)
    result: Result = json.loads(done.stdout)
    return result


def judge(result: Result) -> Finding:
    """Whether what waited grew, from the measured rows of a paced run."""
    scenario = result["scenario"]
    rate = scenario["rate"]
    rates = {PUBLISH: rate, QUEUES: rate, RPC: rate / scenario["producers"] * scenario["callers"]}
    rows = [row for row in result["timeline"] if row["phase"] == "measure"]
    looks, seconds, done = list[Look](), 0.0, {"confirmed": 0, "consumed": 0, "rpc": 0}
    for row in rows:
        seconds += row["seconds"]
        done = {name: number + row[name] for name, number in done.items()}
        looks.append(Look(seconds, _waiting(rates, seconds, done)))
    return judge_step(rates, looks)


def _waiting(rates: Mapping[str, float], seconds: float, done: Mapping[str, int]) -> dict[str, float]:
    return {
        PUBLISH: rates[PUBLISH] * seconds - done["confirmed"],
        QUEUES: float(done["confirmed"] - done["consumed"]),
        RPC: rates[RPC] * seconds - done["rpc"],
    }


def show(backend: str, clients: str) -> bool:
    """Everything on one backend; whether all of it held."""
    words = ("--clients", clients, "--backend", backend)
    found = [run(*words) for _ in range(RUNS)]
    rates = [result["capacity"]["sustainable_rate"] or 0.0 for result in found]
    for result, rate in zip(found, rates, strict=True):
        total = sum(phase["seconds"] for phase in result["phases"])
        lost, status = (result["consume"] or {}).get("lost"), result["verdict"]["status"]
        steps = len(result["capacity"]["steps"])
        print(f"{backend}: {rate:,.0f}/s in {steps} steps, {total:.0f} s in all, {lost} lost, {status}", flush=True)
    holds = min(rates) > 0 and max(rates) <= LARGEST_RATIO * min(rates)
    if not holds:
        print(f"{backend}: ✗ the rates differ by more than {LARGEST_RATIO}")
        return False
    for factor, is_held in ((1.0, True), (BEYOND, False)):
        rate = median(rates) * factor
        finding = judge(run(*words, "--rate", f"{rate:.0f}", "--duration", str(SECONDS)))
        mark = "✓" if finding.is_held is is_held else "✗"
        holds = holds and finding.is_held is is_held
        print(f"{backend}: {mark} {SECONDS} s at {factor:g} × the rate, {rate:,.0f}/s: {finding.reason}", flush=True)
    return holds


def main(words: Sequence[str]) -> int:
    """Shows both backends; 1 if something did not hold."""
    clients = words[0] if words else "10000"
    held = [show(backend, clients) for backend in ("asyncio", "trio")]
    return int(not all(held))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
