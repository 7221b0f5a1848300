"""Messages from another host are timed by a clock of their own, and kept out of the others' latencies."""

from __future__ import annotations

from time import monotonic_ns

from loadtest.commands.flags import parse_settings
from loadtest.execution.receiving import receive
from loadtest.execution.state import Run, start_run
from loadtest.fleet.crossing import Crossing, CrossingReader

SECOND = 10**9


def make_run() -> tuple[Run, Crossing, CrossingReader]:
    run = start_run(parse_settings(["--producers", "2", "--consumers", "2", "--mode", "closed"], {}))
    run.measurement.open(0, 2**62)
    crossing = Crossing()
    return run, crossing, CrossingReader(run, crossing, {1: -5 * SECOND}, run.bodies.read)


def take(run: Run, read: CrossingReader, body: bytes) -> None:
    receive(read, run.record.tally, run.record.ledger, run.record.delivery_silence, run.measurement, {}, body, False)


def test_each_message_is_timed_by_the_clock_it_was_stamped_with() -> None:
    run, crossing, read = make_run()
    now = monotonic_ns()
    take(run, read, run.bodies(0, 0, now - SECOND))
    take(run, read, run.bodies(1, 0, now + 5 * SECOND - 2 * SECOND))  # the other clock is five seconds ahead
    here, there = run.record.latencies.end_to_end.latency(), crossing.latencies.latency()
    assert (here["count"], there["count"]) == (1, 1)
    assert here["min"] is not None and 1000 <= here["min"] < 1500
    assert there["min"] is not None and 2000 <= there["min"] < 2500
    assert run.record.ledger.unique == 2


def test_what_seems_to_arrive_before_it_left_counts_as_nothing_and_is_told() -> None:
    run, crossing, read = make_run()
    take(run, read, run.bodies(1, 0, monotonic_ns() + 6 * SECOND))
    assert (crossing.clamped, crossing.latencies.latency()["max"]) == (1, 0.0)


def test_the_second_copy_is_not_timed() -> None:
    run, crossing, read = make_run()
    for _ in range(2):
        take(run, read, run.bodies(1, 0, monotonic_ns() + 4 * SECOND))
    assert crossing.latencies.count == 1
    assert run.record.tally.received == 2


def test_what_is_not_measured_is_not_told() -> None:
    run, crossing, read = make_run()
    run.measurement.open(2**61, 2**62)
    take(run, read, run.bodies(1, 0, monotonic_ns() + 4 * SECOND))
    assert crossing.latencies.count == 0


def test_strangers_messages_are_none_of_its_business() -> None:
    run, crossing, read = make_run()
    take(run, read, b"of a stranger")
    assert run.record.tally.foreign == 1
    assert crossing.latencies.count == 0
