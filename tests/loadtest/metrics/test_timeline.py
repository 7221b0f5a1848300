from __future__ import annotations

from loadtest.execution.state import Latencies
from loadtest.metrics.tally import Errors, Tally
from loadtest.metrics.timeline import Timeline


def test_rows_are_differences() -> None:
    timeline, tally, latencies = Timeline(), Tally(), Latencies()
    tally.connected, tally.dropped = 10, 1
    tally.sent, tally.confirmed = 7, 5
    for _ in range(20):
        latencies.confirm.record(1_000_000)
    timeline.add(1.0, "warmup", tally, [latencies])
    tally.sent, tally.confirmed, tally.received, tally.replies = 9, 9, 3, 4
    for _ in range(30):
        latencies.confirm.record(2_000_000)
    timeline.add(2.0, "measure", tally, [latencies])
    first, second = timeline.rows
    assert (first["published"], first["confirmed"], first["connections"]) == (7, 5, 9)
    assert (second["published"], second["confirmed"], second["consumed"], second["rpc"]) == (2, 4, 3, 4)
    assert (first["confirm_p50_ms"], second["confirm_p50_ms"]) == (1.0, 2.0)
    assert second["confirm_p99_ms"] is None
    assert second["rpc_p50_ms"] is None


def test_a_row_shows_what_ended_in_it_measured_or_not() -> None:
    """A call that was measured may end in the drain."""
    timeline, tally, unmeasured, measured = Timeline(), Tally(), Latencies(), Latencies()
    both = (measured, unmeasured)
    for ended, milliseconds in ((unmeasured, 5), (measured, 6), (measured, 7), (unmeasured, 8)):
        for _ in range(20):
            ended.rpc.record(milliseconds * 1_000_000)
        timeline.add(float(milliseconds), "any", tally, both)
    timeline.add(9.0, "drain", tally, both)
    assert [row["rpc_p50_ms"] and round(row["rpc_p50_ms"]) for row in timeline.rows] == [5, 6, 7, 8, None]


def test_memory_is_bounded_and_counts_are_kept() -> None:
    timeline, tally, latencies = Timeline(limit=10), Tally(), Latencies()
    for second in range(1000):
        tally.sent += second
        timeline.add(float(second), "measure", tally, [latencies])
        assert len(timeline.rows) <= 10
    assert sum(row["published"] for row in timeline.rows) == sum(range(1000))
    assert timeline.rows[-1]["t_seconds"] == 999.0


def test_errors_are_counted_by_name_with_an_example() -> None:
    errors = Errors()
    errors.note(ValueError("first"))
    errors.note(ValueError("second"))
    errors.note(KeyError(), " (closing)")
    assert errors.counts == {"ValueError": 2, "KeyError (closing)": 1}
    assert errors.examples == {"ValueError": "first", "KeyError (closing)": "KeyError()"}
