from __future__ import annotations

from typing import Any

import pytest

from loadtest.analysis.thresholds import check_thresholds, parse_threshold

LATENCY = {"count": 500, "min": 1.0, "mean": 3.0, "p50": 2.0, "p90": 4.0, "p99": None, "p999": None, "max": 90.0}
RESULT: dict[str, Any] = {
    "connect": {"latency_ms": LATENCY, "failed": 0},
    "publish": {"confirm_latency_ms": LATENCY, "lag_ms": None, "rate": 12_345.6, "sent": 500},
    "consume": {"end_to_end_latency_ms": LATENCY | {"count": 0, "p50": None}, "lost": None, "backlog": 0},
    "rpc": None,
}


@pytest.mark.parametrize(
    ("text", "holds", "note"),
    [
        ("confirm.p50 < 2.5ms", True, "2.00 ms"),
        ("confirm.p50 < 2ms", False, "2.00 ms"),
        ("confirm.p50<=2ms", True, "2.00 ms"),
        ("confirm.max < 1", True, "90.0 ms"),
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
        ("publish.p99 < 1ms", "publish has sent, confirmed"),
        ("speed.p99 < 1ms", "there are confirm, confirm_service, connect"),
        ("confirm.p99 < fast", "is no duration"),
        ("publish.rate > fast", "is no number"),
    ],
)
def test_what_is_no_requirement(text: str, told: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_threshold(text)
    assert told in str(error.value)
