"""Is a pause of the broker seen for what it is? It is stopped for one second of every ten in a paced run.

A message, or call, that fell due ``t`` after the stop waits the rest of that second: so the share of all that waited
for more than x ms is (1,000 - x) / 10,000, if nothing is omitted. What waits for more than 900 ms falls due within
100 ms; of these a twentieth is 5 ms, and what the arithmetic leaves out has to take less:

- What is under way when the broker stops waits, too. A call of 3 ms is 3 % of these 100 ms: so what is predicted begins
  with what fell due as long before the stop as half of all take at most.
- What piled up is caught up with: at a share ρ of what both ends can do that takes ρ of a second. An RPC goes through
  the broker twice, the second time behind all that waited: 15 calls took 11 ms. So the rate is less than a hundredth of
  what a closed loop of the same clients does, which is measured first and told.
- A client with one message in flight at a time catches up one round trip after the other, however idle the broker is:
  ten clients at 20 a second took 100 ms. So there are twice as many clients as messages a second: what fell due in the
  stop is in flight when the broker goes on.
- Persistent messages are confirmed once the disk has them, which takes 40 ms and more after a stop on a busy one: so
  these are transient.

A client is due every two seconds. Where a stop begins decides how many fall due in its first 100 ms, one or two, and
such chance is 5 % of what is looked at. So there is none: clients are due at even distances (a run draws them within
these), and the stops of all periods begin at moments that are spread evenly over the two seconds, and over the distance
from one message to the next. What is predicted from is for how long the broker did not answer another client, which
confirms or calls one at a time (outages.py): a few milliseconds longer than it was stopped.

``python -m tests.measuring.coordinated_omission [--rate 8] [--periods 50]``, eighteen minutes, on a machine with
nothing beside it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from random import Random
from time import monotonic, sleep
from typing import Any
from unittest import mock

from hdrh.histogram import HdrHistogram

from loadtest.commands.run import main as run_loadtest
from loadtest.execution.conductor import Conductor
from loadtest.execution.state import Run
from loadtest.scenarios import schedule
from rabbitry.testing import PrivateNode
from tests.measuring.outages import Outage, watch

SECONDS, STOP_AFTER, STOP = 10.0, 2.0, 1.0
INTERVAL = 2.0
"""Seconds from one message of a client to its next, and from one call to the next."""
BEYOND_MS = (100, 500, 900)
TOLERANCE = 0.05
LARGEST_SHARE = 0.1
"""Of what a closed loop does, beyond which the arithmetic isn't expected to hold."""
SETTLED = 2.0
"""Messages and calls without an answer, by more than usual, down to which it counts as caught up."""
KINDS = {"confirm": "publish", "rpc": "rpc"}
"""The histograms, and the sections that have their rates."""
LATENCIES = {"confirm": "confirm_latency_ms", "rpc": "latency_ms"}
"""What the sections call their percentiles."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many of all responses of one kind took longer than so many milliseconds."""

    backend: str
    kind: str
    beyond_ms: int
    count: int
    seen: float
    predicted: float
    usual_ms: float
    """What half of all take at most."""
    caught_up_ms: float
    """How long catching up took, at most."""
    late_ms: float
    """How late the program's own event loop ran, at p99: on a busy machine more waits than the broker lets wait."""

    @property
    def ratio(self) -> float:
        """What was seen by what was predicted: 1 is exact."""
        return self.seen / self.predicted


class Stops:
    """Stops the broker for a second of each period while it is measured, and times each stop and what came after."""

    def __init__(self, node: PrivateNode, rate: float, seconds: float, periods: int) -> None:
        self._pid = node.pid
        self._rate = rate
        self._seconds = seconds
        self._periods = periods
        self._begun: list[float] = []
        self.unanswered: dict[str, list[float]] = {}
        """By kind, for how long the broker did not answer, each time."""
        self.caught_up: list[float] = []

    def perform(self, run: Run, measured_from: float) -> None:
        """All of them. Times are of the monotonic clock, in seconds."""
        for period in range(self._periods):
            later = (INTERVAL + 1 / self._rate) * period / self._periods
            sleep(max(0.0, measured_from + period * self._seconds + STOP_AFTER + later - monotonic()))
            usual = self._waiting(run)
            os.kill(self._pid, signal.SIGSTOP)
            self._begun.append(monotonic())
            try:
                sleep(STOP)
            finally:
                ended = monotonic()
                os.kill(self._pid, signal.SIGCONT)
            while self._waiting(run) > usual + SETTLED and monotonic() < ended + 5:
                sleep(0.001)
            self.caught_up.append(monotonic() - ended)

    def note(self, kind: str, outages: Iterable[Outage]) -> None:
        """How long each stop was for another client; what else it noticed is none of ours."""
        self.unanswered[kind] = []
        for began in self._begun:
            seen = [outage.answered - began for outage in outages if outage.sent < began + STOP / 2 < outage.answered]
            if len(seen) != 1:
                raise RuntimeError(f"another client saw {len(seen)} outages in one stop of the broker")
            self.unanswered[kind] += seen

    def predict(self, kind: str, beyond: float, usual: float) -> float:
        """The share of all of a kind that waits for longer than so many seconds; they take the usual ones otherwise."""
        late = sum(max(0.0, usual + unanswered - beyond) for unanswered in self.unanswered[kind])
        return late / (self._seconds * self._periods)

    def _waiting(self, run: Run) -> float:
        """Messages and calls that are due and have no answer."""
        tally = run.record.tally
        done = tally.confirmed + tally.unknown + tally.replies + tally.rpc_timeouts
        return 2 * self._rate * (monotonic() - run.work_begun_at / 1e9) - done


def run_with(node: PrivateNode, backend: str, rate: float, *words: str) -> dict[str, Any]:
    """The result of a run with the clients that such a rate needs."""
    clients = f"{INTERVAL * rate:.0f}"
    every = ("--producers", clients, "--callers", clients, "--transient", "--warmup", "1", "--url", node.url)
    printed = io.StringIO()
    with redirect_stdout(printed):
        run_loadtest([*every, *words, "--backend", backend, "--quiet", "--json", "-"])
    result: dict[str, Any] = json.loads(printed.getvalue())
    return result


def find_shares(node: PrivateNode, backend: str, rate: float) -> dict[str, float]:
    """By kind, the share that the rate is of what a closed loop of the same clients does."""
    result = run_with(node, backend, rate, "--mode", "closed", "--duration", "3")
    return {kind: rate / (result[section]["rate"] or rate) for kind, section in KINDS.items()}


def spread_evenly(clients: int, _: Random) -> Iterator[float]:
    """A phase for each client, in the place of those that a run draws."""
    return (number / clients for number in range(clients))


def measure(node: PrivateNode, backend: str, rate: float, *, seconds: float = SECONDS, periods: int = 1) -> list[Share]:
    """One run with so many messages a second, and as many calls, in which the broker stops for a second of each
    period.
    """
    stops, begin_phase, threads = Stops(node, rate, seconds, periods), Conductor._begin_phase, list[threading.Thread]()

    def begin_and_stop(self: Conductor, name: str) -> None:
        begin_phase(self, name)
        if name == "measure":
            threads.append(threading.Thread(target=stops.perform, args=(self._run, monotonic())))
            threads[-1].start()

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Conductor, "_begin_phase", begin_and_stop))
        stack.enter_context(mock.patch.object(schedule, "spread_phases", spread_evenly))
        seen = {kind: stack.enter_context(watch(kind, node.url)) for kind in KINDS}
        result = run_with(node, backend, rate, "--rate", f"{rate:g}", "--duration", f"{seconds * periods:g}")
        for thread in threads:
            thread.join()
    for kind, outages in seen.items():
        stops.note(kind, outages)
    return [_share(result, backend, kind, beyond, stops) for kind in KINDS for beyond in BEYOND_MS]


def _share(result: dict[str, Any], backend: str, kind: str, beyond_ms: int, stops: Stops) -> Share:
    histogram = HdrHistogram.decode(result["histograms"][kind])
    above = sum(
        item.count_added_in_this_iter_step
        for item in histogram.get_recorded_iterator()
        if item.value_iterated_to > beyond_ms * 1000
    )
    usual_ms = result[KINDS[kind]][LATENCIES[kind]]["p50"]
    return Share(
        backend=backend,
        kind=kind,
        beyond_ms=beyond_ms,
        count=histogram.get_total_count(),
        seen=above / histogram.get_total_count(),
        predicted=stops.predict(kind, beyond_ms / 1000, usual_ms / 1000),
        usual_ms=usual_ms,
        caught_up_ms=max(stops.caught_up) * 1000,
        late_ms=result["resources"]["loop_lateness_ms"]["p99"],
    )


def show(backend: str, rate: float, periods: int, say: Callable[[str], None]) -> bool:
    """Says what was seen and what was predicted; whether they differ by a twentieth at most."""
    say(f"{backend}: {periods * SECONDS + 15:.0f} s, in which the broker is stopped for a second of every {SECONDS:g}")
    with PrivateNode() as node:
        of_closed = find_shares(node, backend, rate)
        for kind, share in of_closed.items():
            mark = "✓" if share <= LARGEST_SHARE else "✗"
            say(f"{backend:<8} {kind:<8} {rate:g}/s are {share:.1%} of what a closed loop does {mark}")
        shares = measure(node, backend, rate, periods=periods)
    for share in shares:
        mark = "✓" if abs(share.ratio - 1) <= TOLERANCE else "✗"
        say(
            f"{share.backend:<8} {share.kind:<8} above {share.beyond_ms} ms: {share.seen:.3%} of {share.count:,}, "
            f"predicted {share.predicted:.3%}: {share.ratio:.3f} {mark} "
            f"(usually {share.usual_ms:.1f} ms, caught up in {share.caught_up_ms:.0f} ms, "
            f"event loop late by {share.late_ms:.1f} ms)"
        )
    is_low = all(share <= LARGEST_SHARE for share in of_closed.values())
    return is_low and all(abs(share.ratio - 1) <= TOLERANCE for share in shares)


def main(words: Sequence[str] | None = None) -> int:
    """Shows both backends; 1 if one of them differs by more than a twentieth."""
    parser = argparse.ArgumentParser(prog="python -m tests.measuring.coordinated_omission", description=__doc__)
    parser.add_argument("--rate", type=float, default=8.0, help="messages a second, and as many calls")
    parser.add_argument("--periods", type=int, default=50, help="of ten seconds each")
    parser.add_argument("--backend", choices=("asyncio", "trio"), help="only this one")
    asked = parser.parse_args(words)

    def say(text: str) -> None:
        print(text, flush=True)

    backends = (asked.backend,) if asked.backend else ("asyncio", "trio")
    held = [show(backend, asked.rate, asked.periods, say) for backend in backends]
    return int(not all(held))


if __name__ == "__main__":
    sys.exit(main())
