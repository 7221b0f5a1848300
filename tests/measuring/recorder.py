"""`python -m tests.measuring.recorder`: what recording a sample costs, beside a loop that does nothing else but count.

Both loops go over the same million values, turn about, in processor time; of the rounds the quickest counts, as what
else runs on the machine can only add. What must hold: at most 0.4 µs a sample. The ratio to the reference, a dictionary
in which a bucket is counted, is the figure that another machine can be compared by.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from random import Random

from loadtest.metrics.histogram import Histogram

BOUND_US = 0.4
SAMPLES = 1_000_000
ROUNDS = 7


def record_all(values: Sequence[int]) -> None:
    """The recorder as a producer uses it."""
    record = Histogram().record
    for value in values:
        record(value)


def count_all(values: Sequence[int]) -> None:
    """The reference: as little as a histogram in Python could do."""
    counts: defaultdict[int, int] = defaultdict(int)
    for value in values:
        counts[value >> 20] += 1


def iterate(values: Sequence[int]) -> None:
    """The loop alone, which is nobody's."""
    for _ in values:
        pass


def quickest(rounds: int, values: Sequence[int]) -> list[float]:
    """Microseconds a value of each of these loops, turn about."""
    loops: tuple[Callable[[Sequence[int]], None], ...] = (record_all, count_all, iterate)
    best = [float("inf")] * len(loops)
    for _ in range(rounds):
        for number, loop in enumerate(loops):
            began = time.process_time()
            loop(values)
            best[number] = min(best[number], (time.process_time() - began) / len(values) * 1e6)
    return best


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.measuring.recorder", description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args(arguments)
    random = Random(7)
    values = [int(random.lognormvariate(15, 1.5)) for _ in range(asked.samples)]
    recording, counting, looping = quickest(asked.rounds, values)
    cost, reference = recording - looping, counting - looping
    is_met = cost <= BOUND_US
    print(f"recorder   {cost:.3f} µs a sample ({'✓' if is_met else '✗'} bound {BOUND_US} µs)")
    print(f"reference  {reference:.3f} µs a sample; the recorder is {cost / reference:.2f} × of it")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
