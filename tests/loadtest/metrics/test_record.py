from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.drivers.base import Outcome
from loadtest.metrics.ledger import Ledger
from loadtest.metrics.record import Cost, Phase, Planned, Record, Stock, Weighed, Work
from loadtest.metrics.timeline import Timeline

PRODUCERS, CALLERS = 3, 2
COST = Cost(
    client_cpu_seconds=1.5,
    client_rss_peak_bytes=10**8,
    broker_cpu_seconds=None,
    broker_rss_peak_bytes=None,
    machine_busy_seconds=2.5,
    machine_stolen_seconds=0.0,
    machine_cores=2,
    broker_cores=2,
    shared_cores=1.0,
    collector_longest_ms=0.5,
    collector_total_ms=3.25,
)


def blank() -> Record:
    return Record(
        run_id="a", started_at="2026-01-01T00:00:00+00:00", ledger=Ledger(PRODUCERS), calls_made=[0] * CALLERS
    )


def publish(record: Record, number: int) -> None:
    record.tally.sent += 1
    outcome = list(Outcome)[number % 4]
    record.tally.count_outcome(outcome)
    account = record.ledger.accounts[number % PRODUCERS]
    sent = account.send()
    if outcome is not Outcome.CONFIRMED:
        account.disown(sent)
    record.latencies.confirm.record(number * 1_000_000)


def receive(record: Record, number: int) -> None:
    record.tally.received += 1
    record.ledger.receive(number % PRODUCERS, number // PRODUCERS)
    record.latencies.end_to_end.record(number * 1_500_000)


def call(record: Record, number: int) -> None:
    record.calls_made[number % CALLERS] += 1
    record.tally.calls += 1
    record.latencies.rpc.record(number * 100)


def fail(record: Record, number: int) -> None:
    record.tally.failed += 1
    record.errors.note_name(f"Error{number % 3}", f"always {number % 3}")


def find(record: Record, number: int) -> None:
    record.ledger.find(number % PRODUCERS, number // PRODUCERS)


def tick(record: Record, number: int) -> None:
    record.loop_lateness.record(number * 10_000)


HAPPENINGS: list[Callable[[Record, int], None]] = [publish, receive, call, fail, tick]


def told(record: Record) -> dict[str, Any]:
    plain = record.to_plain()
    plain["errors"]["counts"] = dict(sorted(plain["errors"]["counts"].items()))
    del plain["order"]  # what arrived once at each of two processes has been out of order at neither
    return plain | {"balance": record.ledger.balance(), "unique": record.ledger.unique, "found": record.ledger.found}


@given(
    st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.integers(0, 200), st.booleans())), st.lists(st.integers(0, 40))
)
def test_the_halves_of_a_run_add_up_to_the_whole(
    story: list[tuple[Callable[[Record, int], None], int, bool]], leftovers: list[int]
) -> None:
    """Whoever received a message; one process alone publishes as one producer, and one alone takes stock."""
    whole, first, second = blank(), blank(), blank()
    for happens, number, in_the_first in story:
        is_first = number % PRODUCERS == 0 if happens is publish else in_the_first
        happens(whole, number)
        happens(first if is_first else second, number)
    first.merge(second)
    for number in leftovers:
        find(whole, number)
        find(first, number)
    assert told(first) == told(whole)


def measured() -> Record:
    """A record that has something of everything."""
    record = blank()
    for number in range(50):
        for happens in HAPPENINGS:
            happens(record, number)
    find(record, 2)
    record.broker = {"product": "RabbitMQ", "private_node": True}
    record.phases = [Phase("connect", 0.0, 1.5), Phase("measure", 1.5, 2.0)]
    record.connect_seconds = 1.25
    record.weighed = Weighed(1000, 12_345_678)
    record.published_as_planned, record.called_as_planned = Planned(60, 10), Planned(50, 0)
    record.stock = Stock(backlog=1, lost=None)
    record.blocked_seconds = {"measure": 0.5}
    record.confirm_silence.open(5)
    record.confirm_silence.note(9)
    record.aborted = {"expression": "confirm.p99 > 1s", "t_seconds": 1.0}
    record.calibration = {"rate": 1000.0}
    record.confirm_sizes.update({1: 5, 300: 2})
    record.work = Work(2.0, record.tally.to_plain())
    record.costs = [COST]
    Timeline(record.timeline).add(1.0, "connect", record.tally, [record.latencies])
    return record


def test_it_can_be_sent_and_read_back() -> None:
    record = measured()
    plain = record.to_plain()
    assert msgpack.unpackb(msgpack.packb(plain)) == plain
    assert json.loads(json.dumps(plain)) == plain
    for received in (msgpack.unpackb(msgpack.packb(plain)), json.loads(json.dumps(plain))):
        again = Record.from_plain(received)
        assert told(again) == told(record)
        assert (again.phases, again.stock, again.work, again.costs) == (
            record.phases,
            record.stock,
            record.work,
            record.costs,
        )
        again.merge(blank())
        publish(again, 0)  # and goes on


def test_what_is_no_count_is_joined_by_its_sense() -> None:
    first, second = measured(), measured()
    second.timeline = []
    second.started_at, second.is_interrupted, second.stock = "2025-12-31T23:59:59+00:00", True, None
    second.phases = [Phase("connect", 0.0, 1.0), Phase("measure", 1.0, 2.75), Phase("drain", 3.75, 1.0)]
    second.blocked_seconds = {"measure": 0.75, "drain": 1.0}
    first.merge(second)
    assert first.started_at == "2025-12-31T23:59:59+00:00" and first.is_interrupted
    assert first.phases == [Phase("connect", 0.0, 1.5), Phase("measure", 1.0, 2.75), Phase("drain", 3.75, 1.0)]
    assert first.blocked_seconds == {"measure": 0.75, "drain": 1.0}
    assert first.weighed == Weighed(2000, 24_691_356)
    assert first.published_as_planned == Planned(120, 20)
    assert first.stock == Stock(1, None)
    assert first.work == Work(2.0, first.tally.to_plain())
    assert first.costs == [COST, COST]


def test_what_one_side_does_not_know() -> None:
    first, second = blank(), blank()
    first.merge(blank())
    assert (first.work, first.weighed, first.stock, first.published_as_planned) == (None, None, None, None)
    second.stock, second.work = Stock(3, 0), Work(1.0, second.tally.to_plain())
    first.merge(second)
    assert (first.stock, first.work) == (Stock(3, 0), second.work)
    second.stock = Stock(4, None)
    first.merge(second)
    assert first.stock == Stock(7, None)


def test_merging_leaves_the_other_one_alone() -> None:
    first, second = blank(), measured()
    before = json.dumps(second.to_plain())
    first.merge(second)
    first.merge(measured())
    assert json.dumps(second.to_plain()) == before


def test_records_of_two_runs_do_not_add_up() -> None:
    other = blank()
    other.run_id = "b"
    with pytest.raises(ValueError, match="a and b"):
        blank().merge(other)


def test_a_record_of_another_version_is_refused() -> None:
    for wrong in ({"format": 1}, {}):
        with pytest.raises(ValueError, match="this program reads 2"):
            Record.from_plain(blank().to_plain() | {"format": None} | wrong)


def test_a_record_of_an_older_version_is_read_without_what_it_lacks() -> None:
    plain = measured().to_plain()
    for name in ("order", "confirm_silence", "delivery_silence", "aborted", "calibration", "confirm_sizes"):
        del plain[name]
    for name in ("rpc_lag", "end_to_end_service"):
        del plain["latencies"][name]
    for cost in plain["costs"]:
        del cost["slowed_by"]
    record = Record.from_plain(plain)
    assert (record.confirm_silence.measured, record.aborted, record.costs[0].slowed_by) == (None, None, [])
    assert record.ledger.order.gaps == record.latencies.rpc_lag.count == 0


def test_silences_and_disorder_of_two_processes() -> None:
    first, second = measured(), measured()
    second.confirm_silence.note(90)
    first.ledger.order.gaps, second.ledger.order.gaps = 2, 3
    first.merge(second)
    assert (first.confirm_silence.measured, first.ledger.order.gaps) == (81, 5)
    assert first.confirm_sizes == {1: 10, 300: 4} == Record.from_plain(first.to_plain()).confirm_sizes
    assert first.aborted == {"expression": "confirm.p99 > 1s", "t_seconds": 1.0}
    again = Record.from_plain(first.to_plain())
    assert (again.confirm_silence.measured, again.ledger.order) == (81, first.ledger.order)
