from __future__ import annotations

from loadtest.run import Latencies
from loadtest.tally import Errors, Tally
from loadtest.timeline import Timeline


def test_rows_are_differences() -> None:
    timeline, tally, latencies = Timeline(), Tally(), Latencies()
    tally.connected, tally.dropped = 10, 1
    tally.sent, tally.confirmed = 7, 5
    for _ in range(20):
        latencies.confirm.record(1_000_000)
    timeline.add(1.0, "warmup", tally, latencies)
    tally.sent, tally.confirmed, tally.received, tally.replies = 9, 9, 3, 4
    for _ in range(30):
        latencies.confirm.record(2_000_000)
    timeline.add(2.0, "measure", tally, latencies)
    first, second = timeline.rows
    assert (first["published"], first["confirmed"], first["connections"]) == (7, 5, 9)
    assert (second["published"], second["confirmed"], second["consumed"], second["rpc"]) == (2, 4, 3, 4)
    assert (first["confirm_p50_ms"], second["confirm_p50_ms"]) == (1.0, 2.0)
    assert second["confirm_p99_ms"] is None
    assert second["rpc_p50_ms"] is None


def test_another_histogram_is_read_from_its_beginning() -> None:
    timeline, tally, warm, measured = Timeline(), Tally(), Latencies(), Latencies()
    for histogram in (warm.rpc, measured.rpc):
        for _ in range(20):
            histogram.record(5_000_000)
    timeline.add(1.0, "warmup", tally, warm)
    timeline.add(2.0, "measure", tally, measured)
    assert timeline.rows[1]["rpc_p50_ms"] is not None


def test_a_histogram_that_is_read_again_goes_on_where_it_was() -> None:
    """The drain records where the warm-up did."""
    timeline, tally, warm, measured = Timeline(), Tally(), Latencies(), Latencies()
    for _ in range(20):
        warm.rpc.record(5_000_000)
    timeline.add(1.0, "warmup", tally, warm)
    timeline.add(2.0, "measure", tally, measured)
    timeline.add(3.0, "drain", tally, warm)
    assert timeline.rows[2]["rpc_p50_ms"] is None


def test_memory_is_bounded_and_counts_are_kept() -> None:
    timeline, tally, latencies = Timeline(limit=10), Tally(), Latencies()
    for second in range(1000):
        tally.sent += second
        timeline.add(float(second), "measure", tally, latencies)
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
