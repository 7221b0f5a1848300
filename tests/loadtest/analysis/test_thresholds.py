from __future__ import annotations

from typing import Any

import pytest

from loadtest.analysis.thresholds import check_aborts, check_thresholds, parse_abort, parse_threshold

LATENCY: dict[str, Any] = {"count": 500, "min": 1.0, "mean": 3.0, "p50": 2.0, "p90": 4.0, "p99": None, "max": 90.0}
LATENCY |= dict.fromkeys(("p95", "p999", "p9999"))
RESULT: dict[str, Any] = {
    "connect": {"latency_ms": LATENCY, "failed": 0, "connected_share": 0.99},
    "publish": {
        "confirm_latency_ms": LATENCY,
        "blocked_seconds": 0.6,
        "lag_ms": None,
        "rate": 12_345.6,
        "sent": 500,
        "longest_gap_ms": 250.0,
    },
    "consume": {
        "end_to_end_latency_ms": LATENCY | {"count": 0, "p50": None},
        "end_to_end_service_ms": None,
        "lost": None,
        "backlog": 0,
    },
    "rpc": None,
    "resources": {"broker_cpu_us_per_message": 40.5, "client_rss_peak_bytes": 2**27, "loop_lateness_ms": LATENCY},
    "errors": {"ConnectFailed": 2, "NotFound": 1},
}


@pytest.mark.parametrize(
    ("text", "holds", "note"),
    [
        ("confirm.p50 < 2.5ms", True, "2.00 ms"),
        ("confirm.p50 < 2ms", False, "2.00 ms"),
        ("confirm.p50<=2ms", True, "2.00 ms"),
        ("confirm.max < 1s", True, "90.0 ms"),
        ("  confirm.p90 > 4000us ", False, "4.00 ms"),
        ("confirm.p99 < 50ms", False, "too few samples: 500"),
        ("confirm.p99.9 > 0", False, "too few samples: 500"),
        ("lag.p50 < 1s", False, "not measured"),
        ("end_to_end.p50 < 1s", False, "not measured"),
        ("rpc.p50 < 1s", False, "not measured"),
        ("rpc.rate > 0", False, "not measured"),
        ("publish.rate >= 12k", True, "12,345.6"),
        ("publish.rate < 0.5", False, "12,345.6"),
        ("consume.backlog == 0", True, "0"),
        ("consume.lost == 0", False, "not measured"),
        ("connect.failed == 0", True, "0"),
        ("confirm.p95 < 1s", False, "too few samples: 500"),
        ("confirm.p99.99 < 1s", False, "too few samples: 500"),
        ("confirm.p9999 < 1s", False, "too few samples: 500"),
        ("publish.longest_gap < 200ms", False, "250 ms"),
        ("consume.longest_gap < 200ms", False, "not measured"),
        ("lost == 0", False, "not measured"),
        ("errors == 3", True, "3"),
        ("errors.total < 1", False, "3"),
        ("resources.client_rss_peak_bytes < 128MiB", False, "134,217,728"),
        ("resources.client_rss_peak_bytes <= 128MiB", True, "134,217,728"),
        ("resources.broker_cpu_us_per_message < 41", True, "40.5"),
        ("resources.broker_cpu_us_per_message < 41us", True, "40.5"),
        ("resources.broker_cpu_us_per_message < 0.04ms", False, "40.5"),
        ("publish.rate >= 12k/s", True, "12,345.6"),
        ("publish.blocked_seconds <= 500ms", False, "0.6"),
        ("publish.blocked_seconds <= 0.6", True, "0.6"),
        ("connect.connected_share >= 99%", True, "0.99"),
        ("connect.connected_share > 0.99", False, "0.99"),
        ("confirm.p99.9>0", False, "too few samples: 500"),
        ("loop_lateness.p50 < 5ms", True, "2.00 ms"),
        ("rpc_lag.p50 < 5ms", False, "not measured"),
        ("end_to_end_service.p50 < 5ms", False, "not measured"),
    ],
)
def test_what_is_reached(text: str, holds: bool, note: str) -> None:
    (finding,) = check_thresholds(RESULT, [parse_threshold(text)])
    assert (finding.requirement, finding.holds, finding.note) == (text, holds, note)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no requirement"),
        ("confirm.p99", "is no requirement"),
        ("confirm.p99 < ", "is no requirement"),
        ("confirm.p98 < 1ms", "there is no confirm.p98: confirm has min, mean, p50"),
        ("publish.p99 < 1ms", "publish has planned, sent, confirmed"),
        ("speed.p99 < 1ms", "there are confirm, confirm_service, connect"),
        ("confirm.p99 < fast", "is no duration"),
        ("confirm < 1ms", "there is no confirm: confirm has min"),
        ("resources.client_rss_peak_bytes < much", "is no size"),
        ("publish.longest_gap < long", "is no duration"),
        ("publish.rate > fast", "is no number"),
        ("publish.rate > nan", "'publish.rate > nan': nan is no number from 0 upwards"),
        ("publish.rate < inf", "inf is no number from 0 upwards"),
        ("publish.rate < 1e999", "is no number from 0 upwards"),
        ("lost > -1", "-1 is no number from 0 upwards"),
        ("connect.connected_share >= nan%", "nan is no number"),
        ("confirm.p99 < 50", "'confirm.p99 < 50': 50 has no unit: write 50ms, or 50s"),
        ("publish.longest_gap < 1.5", "1.5 has no unit: write 1.5ms, or 1.5s"),
        ("confirm.p99 < nan", "'nan' is no duration"),
        ("confirm.p99 < 50 potatoes", "'confirm.p99 < 50 potatoes': '50 potatoes' is no duration"),
        ("publish.blocked_seconds < 5 potatoes", "'5 potatoes' is no duration"),
        ("confirm.p99 = 50ms", "= is no comparison: there are <, <=, >, >=, =="),
        ("confirm.p99 =< 50ms", "=< is no comparison"),
        ("confirm.p99 != 50ms", "!= is no comparison"),
        ("confirm.p99 < < 50ms", "'< 50ms' is no duration"),
        ("confirn.p99 < 50ms", "(is it confirm.p99?)"),
        ("Confirm.P99 < 50ms", "(is it confirm.p99?)"),
        ("confirm.p(99) < 50ms", "(is it confirm.p99?)"),
        ("end-to-end.p50 < 50ms", "(is it end_to_end.p50?)"),
        ("publish.confirm_latency_ms.p99 < 50ms", "(is it confirm.p99?)"),
        ("consume.end_to_end_latency_ms.max < 50ms", "(is it end_to_end.max?)"),
        ("publish.rat > 5", "(is it publish.rate?)"),
        ("losst == 0", "(is it lost?)"),
    ],
)
def test_what_is_no_requirement(text: str, told: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_threshold(text)
    assert told in str(error.value)


@pytest.mark.parametrize(
    "text", ["lost > 0", "consume.backlog > 10", "consume.resurrected > 0", "resources.broker_cpu_seconds > 1"]
)
def test_what_is_known_only_at_the_end_can_abort_nothing(text: str) -> None:
    parse_threshold(text)
    with pytest.raises(ValueError, match="known only when the run is over: use --require"):
        parse_abort(text)


def test_what_may_abort() -> None:
    for text in ("confirm.p99 > 1s", "errors > 0", "duplicates > 0", "publish.nacked > 10", "loop_lateness.p99 > 5ms"):
        assert parse_abort(text) == parse_threshold(text)


def test_an_abort_is_told_as_a_requirement_that_did_not_hold() -> None:
    texts = ["confirm.p99 > 1s", "errors > 0"]
    aborted = {"expression": "errors > 0", "value": 3, "note": "3 after 1.5 s of measuring, which ended the run"}
    quiet, struck = check_aborts(texts, aborted)
    assert (quiet.requirement, quiet.holds, quiet.note) == ("not confirm.p99 > 1s", True, "never true")
    assert (struck.requirement, struck.value, struck.holds, struck.note) == (
        "not errors > 0",
        3,
        False,
        aborted["note"],
    )
    assert all(finding.holds for finding in check_aborts(texts, None))
