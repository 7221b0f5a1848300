"""The headline of a run that sought its rate."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from loadtest.output.summary import render_summary


@pytest.fixture
def sought(result: dict[str, Any]) -> dict[str, Any]:
    step = {"rate": 5400.0, "held": False, "is_verification": False, "reply_rate": 1000.0, "reason": "it grew"}
    result["environment"]["cores"] = 2
    result["scenario"]["consumers"] = 4500
    result["connect"] |= {"failed": 0, "dropped": 0}
    result["consume"]["lost"] = 0
    result["publish"] |= {"unknown": 0}
    result["capacity"] = {
        "sustainable_rate": 5022.4,
        "closed_rate": 6000.0,
        "share": 0.5,
        "paced_rate": 2511.2,
        "steps": [step, {**step, "rate": 5022.4, "held": True, "is_verification": True, "reply_rate": 1116.1}],
        "verdict": {"status": "machine-bound", "evidence": ["5,022/s were kept up", "doubt: others used [1] core"]},
        "latency_verdict": {"status": "paced", "evidence": []},
    }
    return result


def shown(result: dict[str, Any], width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render_summary(result, []))
    output: Any = console.file
    text: str = output.getvalue()
    assert all(line == line.rstrip() for line in text.split("\n")), "no row ends in blanks"
    return text


def test_the_summary_begins_with_the_answer(sought: dict[str, Any]) -> None:
    lines = shown(sought).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("kept up"))
    assert start <= 3
    assert lines[start : start + 4] == [
        "kept up   5,022 messages/s published, confirmed and consumed, and 1,116 RPC calls/s, by 10,000 clients",
        "latency   at half of that, 2,511/s: confirm p50 1.00 s, p99 1.98 s; end to end p50 1.00 s, p99 1.98 s; "
        "RPC p50 1.00 s, p99 1.98 s",
        "cost      client 33 µs of processor time a message, 128.0 MiB of memory",
        "limit     this machine, whose 2 cores both ends share",
    ]
    text = "\n".join(lines)
    assert "a closed loop did 6,000/s; tried each second: 5,400 ✗, 5,022 for longer ✓" in text
    assert "paced     990 of 1,000 planned messages and 7 of 9 planned calls were sent" in text
    assert "published 990 sent, 980 confirmed" in text, "the ledger is of the whole run"


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("broker-bound", "limit     the broker\n"),
        ("generator-bound", "limit     this load generator, and not the broker"),
        ("inconclusive", "limit     not to be told: others used [1] core\n"),
    ],
)
def test_who_was_the_limit(sought: dict[str, Any], status: str, told: str) -> None:
    sought["capacity"]["verdict"]["status"] = status
    assert told in shown(sought)


def test_no_rate_was_found(sought: dict[str, Any]) -> None:
    sought["capacity"] |= {"sustainable_rate": None, "steps": []}
    sought["capacity"]["verdict"] = {"status": "inconclusive", "evidence": ["nothing was kept up"]}
    text = shown(sought)
    assert "kept up   no rate that was tried, by 10,000 clients" in text
    assert "latency   at 2,511/s: " in text
    assert "not to be told: nothing was kept up" in text


def test_who_only_calls(sought: dict[str, Any]) -> None:
    sought["publish"] = sought["consume"] = None
    assert "kept up   5,022 calls/s, by 10,000 clients" in shown(sought)


def test_too_few_samples_for_a_percentile_show_the_highest_there_is(sought: dict[str, Any]) -> None:
    few = {"count": 300, "min": 1.0, "mean": 1.0, "p50": 1.0, "p90": 2.0, "p99": None, "p999": None, "max": 3.0}
    sought["publish"]["confirm_latency_ms"] = few
    sought["consume"]["end_to_end_latency_ms"] = {**few, "p50": None, "p90": None}
    text = shown(sought)
    assert "confirm p50 1.00 ms, p90 2.00 ms; end to end max 3.00 ms; RPC" in text


@pytest.mark.parametrize("width", [40, 60, 80])
def test_it_fits(sought: dict[str, Any], width: int) -> None:
    assert max(map(len, shown(sought, width).splitlines())) <= width
