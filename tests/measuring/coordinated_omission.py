"""Is a pause of the broker seen for what it is? It is stopped for one second of ten in a paced run.

A message, or call, that fell due ``t`` after the stop waits the rest of that second: so the share of all that waited
for more than x ms is (1,000 - x) / 10,000, if nothing is omitted. What piled up has to be caught up with then, which
takes a while the longer the nearer the rate is to what the broker can do: the arithmetic holds at a few hundredths of
that, on a machine with nothing beside it. Run it there: ``python -m tests.measuring.coordinated_omission``.
"""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any
from unittest import mock

from hdrh.histogram import HdrHistogram

from loadtest.commands.run import main as run_loadtest
from loadtest.execution.conductor import Conductor
from loadtest.execution.state import Run
from rabbitry.testing import PrivateNode

SECONDS, STOP_AFTER, STOP = 10.0, 3.0, 1.0
BEYOND_MS = (100, 500, 900)
TOLERANCE = 0.05
CLIENTS = ("--producers", "10", "--consumers", "10", "--callers", "10")


@dataclass(frozen=True, slots=True)
class Share:
    """How many of all responses of one kind took longer than so many milliseconds."""

    backend: str
    kind: str
    beyond_ms: int
    count: int
    seen: float
    predicted: float
    caught_up: float
    """The part of the time from the stop on that catching up took."""
    late_ms: float
    """How late the program's own event loop ran, at p99: on a busy machine more waits than the broker lets wait."""

    @property
    def ratio(self) -> float:
        """What was seen by what was predicted: 1 is exact."""
        return self.seen / self.predicted


class _Stop:
    """Stops the broker for a second while it is measured, and times how long that was and what came after it."""

    def __init__(self, node: PrivateNode, rate: float) -> None:
        self._node = node
        self._rate = rate
        self.stopped = 0.0
        self.caught_up = 0.0

    def perform(self, run: Run) -> None:
        sleep(STOP_AFTER)
        usual = self._waiting(run)
        self._node.pause()
        began = monotonic()
        try:
            sleep(STOP)
        finally:
            self.stopped = monotonic() - began
            self._node.resume()
        resumed = monotonic()
        while self._waiting(run) > max(2 * usual, 5.0) and monotonic() < resumed + 5:
            sleep(0.002)
        self.caught_up = (monotonic() - resumed) / (monotonic() - began)

    def _waiting(self, run: Run) -> float:
        """Messages and calls that are due and have no answer."""
        tally = run.record.tally
        done = tally.confirmed + tally.unknown + tally.replies + tally.rpc_timeouts
        return 2 * self._rate * (monotonic() - run.work_begun_at / 1e9) - done


def measure(node: PrivateNode, backend: str, rate: float) -> list[Share]:
    """One run with so many messages a second, and as many calls."""
    stop, begin_phase, threads = _Stop(node, rate), Conductor._begin_phase, list[threading.Thread]()

    def begin_and_stop(self: Conductor, name: str) -> None:
        begin_phase(self, name)
        if name == "measure":
            threads.append(threading.Thread(target=stop.perform, args=(self._run,)))
            threads[-1].start()

    words = [*CLIENTS, "--rate", f"{rate:g}", "--warmup", "1", "--duration", f"{SECONDS:g}", "--url", node.url]
    printed = io.StringIO()
    with mock.patch.object(Conductor, "_begin_phase", begin_and_stop), redirect_stdout(printed):
        run_loadtest([*words, "--backend", backend, "--quiet", "--json", "-"])
    for thread in threads:
        thread.join()
    result = json.loads(printed.getvalue())
    return [_share(result, backend, kind, beyond, stop) for kind in ("confirm", "rpc") for beyond in BEYOND_MS]


def _share(result: dict[str, Any], backend: str, kind: str, beyond_ms: int, stop: _Stop) -> Share:
    histogram = HdrHistogram.decode(result["histograms"][kind])
    above = sum(
        item.count_added_in_this_iter_step
        for item in histogram.get_recorded_iterator()
        if item.value_iterated_to > beyond_ms * 1000
    )
    count = histogram.get_total_count()
    predicted = (stop.stopped - beyond_ms / 1000) / SECONDS
    late = result["resources"]["loop_lateness_ms"]["p99"]
    return Share(backend, kind, beyond_ms, count, above / count, predicted, stop.caught_up, late)


def main(words: Sequence[str]) -> int:
    """Prints what was seen and what was predicted; 1 if they differ by more than a twentieth."""
    rate = float(words[0]) if words else 200.0
    shares = list[Share]()
    for backend in ("asyncio", "trio"):
        with PrivateNode() as node:
            shares += measure(node, backend, rate)
    for share in shares:
        mark = "✓" if abs(share.ratio - 1) <= TOLERANCE else "✗"
        print(
            f"{share.backend:<8} {share.kind:<8} above {share.beyond_ms} ms: {share.seen:.3%} of {share.count:,}, "
            f"predicted {share.predicted:.3%}: {share.ratio:.3f} {mark} (catching up {share.caught_up:.1%}, "
            f"event loop late by {share.late_ms:.1f} ms)"
        )
    return int(any(abs(share.ratio - 1) > TOLERANCE for share in shares))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
