"""`python -m tests.measuring.slowed MICROSECONDS …`: `python -m loadtest …` with a client that is slower by so much.

It burns processor time before each publish, as a slower library would.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from time import perf_counter_ns
from unittest.mock import patch

from loadtest.commands.program import main
from loadtest.drivers import rabbitry as driver
from loadtest.drivers.base import Outcome


def slow_down(burn_us: float, words: Sequence[str]) -> int:
    """Runs the load tester on these words; its exit code."""
    publish, length = driver._Producer.publish, int(burn_us * 1000)

    async def publish_slower(self: driver._Producer, body: bytes, key: str | None = None) -> Outcome:
        until = perf_counter_ns() + length
        while perf_counter_ns() < until:
            pass
        return await publish(self, body, key)

    with patch.object(driver._Producer, "publish", publish_slower if length else publish):
        return main(words)


if __name__ == "__main__":
    sys.exit(slow_down(float(sys.argv[1]), sys.argv[2:]))
