from __future__ import annotations

from typing import Any

from loadtest.metrics.latencies import Latencies
from loadtest.metrics.tally import Tally
from loadtest.metrics.timeline import Row, Timeline, join_timelines, last_full_row


def test_rows_are_differences() -> None:
    timeline, tally, latencies = Timeline([]), Tally(), Latencies()
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
    timeline, tally, unmeasured, measured = Timeline([]), Tally(), Latencies(), Latencies()
    both = (measured, unmeasured)
    for ended, milliseconds in ((unmeasured, 5), (measured, 6), (measured, 7), (unmeasured, 8)):
        for _ in range(20):
            ended.rpc.record(milliseconds * 1_000_000)
        timeline.add(float(milliseconds), "any", tally, both)
    timeline.add(9.0, "drain", tally, both)
    assert [row["rpc_p50_ms"] and round(row["rpc_p50_ms"]) for row in timeline.rows] == [5, 6, 7, 8, None]


def test_memory_is_bounded_and_counts_are_kept() -> None:
    timeline, tally, latencies = Timeline([], limit=10), Tally(), Latencies()
    for second in range(1000):
        tally.sent += second
        timeline.add(float(second), "measure", tally, [latencies])
        assert len(timeline.rows) <= 10
    assert sum(row["published"] for row in timeline.rows) == sum(range(1000))
    assert timeline.rows[-1]["t_seconds"] == 999.0


def row(end: float, seconds: float = 1.0, phase: str = "measure", **others: Any) -> Row:
    counts = {"published": 10, "confirmed": 9, "consumed": 8, "rpc": 7, "connections": 5}
    times = {
        f"{name}_{percentile}_ms": None for name in ("confirm", "end_to_end", "rpc") for percentile in ("p50", "p99")
    }
    return {"t_seconds": end, "seconds": seconds, "phase": phase, **counts, **times, **others}


def test_seconds_of_two_processes_become_one() -> None:
    joined = join_timelines(
        [
            row(1.0, phase="connect"),
            row(2.0, confirm_p50_ms=3.0),
            row(2.1, 0.1, rpc_p99_ms=7.0),
            row(3.1, phase="drain"),
        ],
        [row(1.02, 1.02, "connect"), row(2.01, 0.99, confirm_p50_ms=5.0), row(2.11, 0.1), row(3.12, 1.01, "drain")],
    )
    assert [each["t_seconds"] for each in joined] == [1.0, 2.0, 2.1, 3.1]
    assert all((each["published"], each["rpc"], each["connections"]) == (20, 14, 10) for each in joined)
    assert (joined[1]["confirm_p50_ms"], joined[2]["rpc_p99_ms"]) == (5.0, 7.0), "of two percentiles the worse"


def test_a_second_that_only_one_process_had_stays() -> None:
    joined = join_timelines([row(1.0), row(2.0)], [row(1.0), row(2.0), row(3.0), row(4.0, phase="drain")])
    assert [(each["t_seconds"], each["phase"], each["published"]) for each in joined] == [
        (1.0, "measure", 20),
        (2.0, "measure", 20),
        (3.0, "measure", 10),
        (4.0, "drain", 10),
    ]
    assert join_timelines([], [row(1.0)]) == join_timelines([row(1.0)], []) == [row(1.0)]


def test_the_coarser_intervals_stay() -> None:
    fine = [row(float(end), connections=end) for end in range(1, 101)]
    coarse = [row(float(end), 2.0) for end in range(2, 101, 2)]
    joined = join_timelines(fine, coarse)
    assert joined == join_timelines(coarse, fine)
    assert len(joined) == 50
    assert {each["published"] for each in joined} == {30}
    assert joined[-1]["connections"] == 105, "the last of those in an interval"
    assert len(fine) == 100 and fine[0]["published"] == 10


def test_a_stub_tells_nothing_of_rates() -> None:
    assert last_full_row([]) is None
    assert last_full_row([row(1.0), row(2.0), row(2.1, 0.1)]) == row(2.0)
