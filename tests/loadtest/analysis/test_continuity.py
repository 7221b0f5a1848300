from __future__ import annotations

from dataclasses import replace

from loadtest.analysis.continuity import connected_share, describe_confirms, describe_order, describe_silence
from loadtest.commands.flags import parse_settings
from loadtest.metrics.ledger import Ledger
from loadtest.metrics.record import Record
from loadtest.metrics.silence import Silence

SETTINGS = parse_settings(["--clients", "10", "--duration", "4"], {})


def with_rows(*rows: tuple[str, float, int]) -> Record:
    record = Record(run_id="a", started_at="", ledger=Ledger(1))
    record.timeline += [{"phase": phase, "seconds": seconds, "connections": number} for phase, seconds, number in rows]
    return record


def test_silences_in_milliseconds_and_none_of_what_is_not_known() -> None:
    silence = Silence()
    assert describe_silence(silence) == {"longest_gap_ms": None, "longest_gap_total_ms": None}
    silence.longest, silence.measured = 12_345_678, 2_000_000
    assert describe_silence(silence) == {"longest_gap_ms": 2.0, "longest_gap_total_ms": 12.346}
    assert describe_silence(silence, is_told=False) == describe_silence(Silence())


def test_order_has_no_second_figure_for_duplicates() -> None:
    record = with_rows()
    record.ledger.receive(0, 0)
    record.ledger.receive(0, 0, True)
    told = describe_order(record)
    assert told["duplicates_redelivered"] == 1 and "duplicates" not in told


def test_the_share_of_the_time_connected() -> None:
    assert connected_share(SETTINGS, with_rows()) is None
    assert connected_share(SETTINGS, with_rows(("warmup", 5.0, 0), ("measure", 4.0, 10))) == 1.0
    assert connected_share(SETTINGS, with_rows(("measure", 3.0, 10), ("measure", 1.0, 5))) == 0.875


def test_what_was_not_measured_because_all_were_gone_is_time_without_connections() -> None:
    cut_short = with_rows(("measure", 1.0, 10))
    assert connected_share(SETTINGS, cut_short) == 0.25
    assert connected_share(SETTINGS, replace(cut_short, is_interrupted=True)) == 1.0
    assert connected_share(SETTINGS, replace(cut_short, aborted={"expression": "lag.p50 > 1s"})) == 1.0


def test_how_many_publishes_each_confirm_answered() -> None:
    assert describe_confirms({}) is None
    assert describe_confirms({1: 1}) == {"count": 1, "min": 1, "mean": 1.0, "p50": 1, "p90": 1, "p99": 1, "max": 1}
    told = describe_confirms({1: 60, 10: 39, 500: 1})
    assert told == {"count": 100, "min": 1, "mean": 9.5, "p50": 1, "p90": 10, "p99": 10, "max": 500}
