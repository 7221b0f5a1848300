"""`python -m tests.measuring.comparing`: does `compare` find a slower client, and nothing where nothing differs?

Trials of three sides in turns, shuffled in each round, on one broker: A; A again (A'); and B, the same client that
burns a tenth more processor time for each message it publishes. Of that pool twenty samples of rounds are drawn, and
each is compared as `loadtest compare` does, over all metrics with their correction. What must hold: A with A' finds
nothing in 18 of 20, A with B finds the processor time in 18 of 20. Rates are told beside it: a slower client lowers
them only where the client is the limit. Forty minutes for 48 rounds, on a machine with nothing beside it; with
``--pool FILE`` they may be made a few at a time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from loadtest.analysis.comparison import compare
from loadtest.urls import with_vhost
from rabbitry.testing import PrivateNode

SLOWER = 0.10
DRAWS = 20
NEEDED = 18
CPU = "client CPU a message"
RATES = ("publish rate", "consume rate")
SIDES = ("A", "A'", "B")
PATIENCE = 120.0

Result = dict[str, Any]


def run_trial(node: PrivateNode, burn_us: float, asked: argparse.Namespace, seed: int) -> Result:
    """One load test, in a process and a virtual host of its own."""
    vhost = f"trial-{seed}"
    node.rabbitmqctl("add_vhost", vhost)
    node.rabbitmqctl("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
    try:
        with tempfile.TemporaryDirectory(prefix="comparing-") as folder:
            file = Path(folder, "result.json")
            words = ["--url", with_vhost(node.url, vhost), "--clients", str(asked.clients), "--mode", "closed"]
            words += ["--callers", "0", "--warmup", "1", "--duration", str(asked.duration), "--seed", str(seed)]
            words += ["--quiet", "--json", str(file)]
            child = [sys.executable, "-m", "tests.measuring.slowed", str(burn_us), *words]
            subprocess.run(child, stdout=subprocess.DEVNULL, timeout=PATIENCE, check=False)
            result: Result = json.loads(file.read_text(encoding="utf-8"))
            return result
    finally:
        node.rabbitmqctl("delete_vhost", vhost)


def fill_pool(rounds: list[dict[str, Result]], asked: argparse.Namespace) -> None:
    """Adds rounds, each a trial of each side, until there are as many as asked; what there is is kept after each."""
    with PrivateNode(connections=asked.clients + 20) as node:
        first = run_trial(node, 0.0, asked, 1)  # not in the pool: it tells what a tenth is
        spent, confirmed = first["resources"]["client_cpu_seconds"], first["publish"]["confirmed"]
        burn_us = SLOWER * spent / confirmed * 1e6
        print(f"{spent / confirmed * 1e6:.1f} us a message published: B burns {burn_us:.2f} us more", flush=True)
        for number in range(len(rounds), asked.rounds):
            done = {}
            for place, side in enumerate(Random(f"{asked.seed}/{number}").sample(SIDES, len(SIDES))):
                seed = 2 + number * len(SIDES) + place
                done[side] = slim(run_trial(node, burn_us if side == "B" else 0.0, asked, seed))
            rounds.append(done)
            if asked.pool is not None:
                asked.pool.write_text(json.dumps(rounds) + "\n")
            told = ", ".join(
                f"{side} {cpu(done[side]):.2f} us {done[side]['publish']['rate']:,.0f}/s" for side in SIDES
            )
            print(f"round {number + 1} of {asked.rounds}: {told}", flush=True)


def cpu(result: Result) -> float:
    """The client's processor time a message, in microseconds."""
    return float(result["resources"]["client_cpu_us_per_message"])


def draw(rounds: Sequence[dict[str, Result]], size: int, seed: int, other: str) -> list[Counter[str]]:
    """In each of twenty draws of so many rounds, which metrics differ between A and another side."""
    chance, found = Random(seed), list[Counter[str]]()
    for _ in range(DRAWS):
        drawn = chance.sample(rounds, size)
        comparison = compare([each["A"] for each in drawn], [each[other] for each in drawn], tolerance=0.05)
        shown = [each for each in comparison.differences if each.direction != "not shown"]
        found.append(Counter(f"{each.metric} {each.direction}" for each in shown))
    return found


def tell(rounds: Sequence[dict[str, Result]], size: int, seed: int) -> bool:
    """Prints what the draws found; whether it is what must be."""
    same, slower = (draw(rounds, size, seed, side) for side in ("A'", "B"))
    nothing = sum(not found for found in same)
    seen = sum(f"{CPU} worse" in found for found in slower)
    rates = sum(any(f"{rate} worse" in found for rate in RATES) for found in slower)
    ratios = [cpu(each["B"]) / cpu(each["A"]) for each in rounds]
    statuses = Counter(each[side]["verdict"]["status"] for each in rounds for side in SIDES)
    print(f"{len(rounds)} rounds, {DRAWS} draws of {size}; processor time of B to A: {median(ratios):.3f}")
    print(f"verdicts: {', '.join(f'{count} {status}' for status, count in statuses.most_common())}")
    print(f"{mark(nothing)} A with A': nothing found in {nothing} of {DRAWS}; else {dict(sum(same, Counter()))}")
    print(f"{mark(seen)} A with B: {CPU} worse in {seen} of {DRAWS}; a rate worse in {rates}")
    print(f"  all that B differs in: {dict(sum(slower, Counter()))}")
    return min(nothing, seen) >= NEEDED


def mark(draws: int) -> str:
    """Whether so many draws suffice."""
    return "✓" if draws >= NEEDED else "✗"


def main(words: Sequence[str]) -> int:
    """Makes a pool, or reads one, and draws from it; 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.measuring.comparing", description="Is compare right?")
    parser.add_argument("--rounds", type=int, default=48)
    parser.add_argument("--drawn", type=int, default=16, help="rounds in each draw (default 16)")
    parser.add_argument("--duration", type=float, default=8.0)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pool", type=Path, help="where the trials are kept, to go on with if it exists")
    asked = parser.parse_args(words)
    rounds: list[dict[str, Result]] = []
    if asked.pool is not None and asked.pool.exists():
        rounds = json.loads(asked.pool.read_text(encoding="utf-8"))
    if len(rounds) < asked.rounds:
        fill_pool(rounds, asked)
    return 0 if tell(rounds, min(asked.drawn, len(rounds)), asked.seed) else 1


def slim(result: Result) -> Result:
    """What `compare` reads of a result, and the verdict."""
    left_out = ("timeline", "histograms", "environment", "phases")
    return {name: section for name, section in result.items() if name not in left_out}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
