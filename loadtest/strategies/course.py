"""The course of a cell: connect, warm up, measure, stop, drain; and when it ends before its time.

It is a generator of pauses, so that the event loop's clients and the threads' are led by the same lines.
"""

from __future__ import annotations

import gc
import resource
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from time import monotonic, monotonic_ns
from typing import Any, Protocol

import psutil

from loadtest.execution.conductor import COLLECT_AFTER
from loadtest.machine.resources import Meter, Usage
from loadtest.strategies.table import CONNECT_BOUND, LEAST_CONNECTED, MOST_FAILED, PRODUCERS_FOR_ONE
from loadtest.strategies.work import Book, Cell, Total, Window, add_up
from loadtest.urls import redact_in

LOOK = 0.05
"""Seconds between two looks."""
SAMPLE = 0.25
"""Seconds between two looks while all work: ten thousand books take their time to be looked at."""
STOP_BOUND = 10.0
DRAIN_BOUND = 10.0
"""Seconds that publishes in flight, and then what is queued, may take after the measured time."""
MOST_DESCRIPTORS = 0.95
"""The share of the descriptors allowed that may be open: without any, not even what was found can be told."""
FAILED_AT = 1000
"""Failed publishes, at least, before a cell is given up for their share while it runs."""


class Crowd(Protocol):
    """The clients, and how far they are."""

    @property
    def arrived(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def working(self) -> int: ...
    @property
    def books(self) -> Sequence[Book]: ...


class Course:
    """One cell's course and what it found."""

    def __init__(self, cell: Cell, window: Window, meter: Meter) -> None:
        self.gave_up: dict[str, Any] | None = None
        self._cell = cell
        self._window = window
        self._meter = meter
        self._rss_before = meter.client_rss()
        self._connected = 0
        self._connect_seconds = 0.0
        self._before: Usage | None = None
        self._after: Usage | None = None
        self._broker_rss_before: int | None = None
        self._rss = 0
        self._threads = 0
        self._drain_seconds = 0.0
        self._began = monotonic()
        meter.sample()
        self._broker_rss_before, meter.broker_rss_peak = meter.broker_rss_peak, None

    def run(self, crowd: Crowd, begin: Callable[[], None], count_threads: Callable[[], int]) -> Iterator[float]:
        """Leads the clients; each value is how long to wait before going on. `gave_up` says if it ended early."""
        yield from self._connect(crowd)
        if self.gave_up is not None:
            return
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
        begin()
        yield from self._wait(self._cell.warmup, crowd)
        if self.gave_up is None:
            yield from self._measure(crowd, count_threads)
        self._window.is_stopping = True
        yield from self._finish(crowd)

    def _connect(self, crowd: Crowd) -> Iterator[float]:
        clients, began = self._cell.clients, self._began
        while crowd.arrived + crowd.failed < clients and monotonic() - began < CONNECT_BOUND and self._is_within():
            self._judge_descriptors(crowd)
            yield LOOK
        self._connected, self._connect_seconds = crowd.arrived, monotonic() - began
        if self.gave_up is None and self._connected < clients * LEAST_CONNECTED:
            self.give_up(
                "connect",
                f"{self._connected:,} of {clients:,} clients were connected after {self._connect_seconds:.0f} s"
                + _most_common_error(crowd),
                self._connected,
            )

    def _measure(self, crowd: Crowd, count_threads: Callable[[], int]) -> Iterator[float]:
        now = monotonic_ns()
        self._before = self._meter.read()
        self._window.start, self._window.end = now, now + int(self._cell.seconds * 1e9)
        yield from self._wait(self._cell.seconds, crowd)
        self._after = self._meter.read()
        self._window.end = min(self._window.end, monotonic_ns())
        self._rss, self._threads = self._meter.client_rss(), count_threads()
        self._meter.sample()

    def _wait(self, seconds: float, crowd: Crowd) -> Iterator[float]:
        end = monotonic() + seconds
        while (left := end - monotonic()) > 0 and self._is_within() and self._is_sending(crowd):
            yield min(left, SAMPLE)
            self._meter.sample()

    def _finish(self, crowd: Crowd) -> Iterator[float]:
        began = monotonic()
        while crowd.working and monotonic() - began < STOP_BOUND:
            yield LOOK
        stopped = monotonic()
        while monotonic() - stopped < DRAIN_BOUND and self._cell.consumers and self.gave_up is None:
            confirmed = sum(book.outcomes["confirmed"] for book in crowd.books)
            if sum(book.received for book in crowd.books) >= confirmed:
                break
            yield LOOK
        self._drain_seconds = monotonic() - stopped

    # --- giving up ----------------------------------------------------------------------------------------------------

    def give_up(self, reason: str, text: str, number: float) -> None:
        """Notes why it ends, unless that is known. The text, which may be a library's, is told without passwords."""
        text = redact_in(text, (self._cell.url,))
        self.gave_up = self.gave_up or {"reason": reason, "text": text, "number": number}

    def _is_within(self) -> bool:
        if self._meter.client_rss() > self._cell.memory_bound:
            rss = self._meter.client_rss()
            self.give_up("memory", f"its process took {rss / 2**20:,.0f} MiB", rss)
        return self.gave_up is None

    def _judge_descriptors(self, crowd: Crowd) -> None:
        used, allowed = psutil.Process().num_fds(), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if used > allowed * MOST_DESCRIPTORS:
            text = f"{used:,} of the {allowed:,} descriptors allowed were open with {crowd.arrived:,} clients connected"
            self.give_up("descriptors", text, crowd.arrived)

    def _is_sending(self, crowd: Crowd) -> bool:
        failed = sum(book.failed for book in crowd.books)
        if failed >= FAILED_AT and failed > sum(book.outcomes["confirmed"] for book in crowd.books):
            self._judge_failures(failed, failed)
        return self.gave_up is None

    def _judge_failures(self, failed: int, tried: int) -> None:
        if failed > tried * MOST_FAILED:
            self.give_up("failures", f"{failed:,} of {tried:,} publishes failed or ended unknown", failed)

    # --- the result ---------------------------------------------------------------------------------------------------

    def result(self, crowd: Crowd) -> dict[str, Any]:
        """What the cell's process tells the tournament."""
        cell, total = self._cell, add_up(crowd.books, self._cell.producers)
        seconds = self._after.seconds - self._before.seconds if self._before and self._after else None
        rate = None if not seconds else total.confirmed_in_window / seconds
        self._judge(total, rate, crowd)
        return {
            "strategy": cell.strategy,
            "clients": cell.clients,
            "trial": cell.trial,
            "gave_up": self.gave_up,
            "connect": {
                "connected": self._connected,
                "failed": crowd.failed,
                "seconds": round(self._connect_seconds, 3),
            },
            "publish": {
                "sent": total.sent,
                **{name: total.outcomes[name] for name in ("confirmed", "nacked", "returned", "unknown")},
                "failed": total.failed,
                "fairness": total.fairness,
                "rate": rate,
                "confirm_latency_ms": total.confirm.latency(),
            },
            "consume": {
                "received": total.received,
                "unique": total.balance.unique,
                "duplicates": total.received - total.balance.unique,
                "missing": total.balance.missing,
                "rate": None if not seconds else total.received_in_window / seconds,
                "end_to_end_latency_ms": total.end_to_end.latency(),
            },
            "resources": self._resources(total, seconds),
            "measured_seconds": seconds,
            "drain_seconds": round(self._drain_seconds, 3),
            "errors": {redact_in(text, (cell.url,)): count for text, count in total.errors.most_common(10)},
        }

    def _judge(self, total: Total, rate: float | None, crowd: Crowd) -> None:
        unsure = total.failed + total.outcomes["unknown"]
        self._judge_failures(unsure, total.sent + total.failed)
        if rate is not None and rate < self._cell.producers / PRODUCERS_FOR_ONE:
            self.give_up("rate", f"{rate:.1f} messages/s were confirmed", rate)
        if crowd.failed > self._cell.clients * (1 - LEAST_CONNECTED):
            self.give_up("dropped", f"{crowd.failed:,} of {self._cell.clients:,} clients failed", crowd.failed)

    def _resources(self, total: Total, seconds: float | None) -> dict[str, Any]:
        before, after = self._before, self._after

        def used(name: str) -> float | None:
            one, other = getattr(before, name, None), getattr(after, name, None)
            return None if one is None or other is None else other - one

        def for_each(cpu: float | None) -> float | None:
            return None if cpu is None or not total.confirmed_in_window else cpu / total.confirmed_in_window * 1e6

        client, broker = used("client_cpu"), used("broker_cpu")
        return {
            "client_cpu_seconds": client,
            "client_cpu_us_per_message": for_each(client),
            "client_cores": None if client is None or not seconds else client / seconds,
            "client_rss_before_bytes": self._rss_before,
            "client_rss_bytes": self._rss or None,
            "client_rss_peak_bytes": self._meter.client_rss_peak(),
            "client_threads": self._threads or None,
            "broker_cpu_seconds": broker,
            "broker_cpu_us_per_message": for_each(broker),
            "broker_cores": None if broker is None or not seconds else broker / seconds,
            "broker_rss_before_bytes": self._broker_rss_before,
            "broker_rss_peak_bytes": self._meter.broker_rss_peak,
            "machine_busy_seconds": used("machine_busy"),
        }


def _most_common_error(crowd: Crowd) -> str:
    errors: Counter[str] = Counter()
    for book in crowd.books:
        errors.update(book.errors)
    return "".join(f"; {count:,} times: {text}" for text, count in errors.most_common(1))
