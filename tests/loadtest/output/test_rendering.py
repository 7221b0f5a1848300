"""What people get to see: the summary, the live picture and the chart."""

from __future__ import annotations

import io
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from loadtest.analysis.result import failures
from loadtest.execution.state import Phase, Run
from loadtest.metrics.histogram import Histogram
from loadtest.metrics.tally import Tally
from loadtest.metrics.timeline import Timeline
from loadtest.output.chart import _step, draw_chart
from loadtest.output.progress import Progress
from loadtest.output.summary import render_summary
from loadtest.scenarios.settings import parse_settings


def shown(result: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(render_summary(result, failures(result)))
    output: Any = console.file
    return output.getvalue()


@pytest.fixture
def result() -> dict[str, Any]:
    histogram = Histogram()
    for milliseconds in range(1, 2001):
        histogram.record(milliseconds * 1_000_000)
    latency = histogram.latency()
    row = {"phase": "measure", "connections": 9, "published": 90, "confirmed": 80, "consumed": 70, "rpc": 60}
    row |= {f"{kind}_{name}_ms": 5.0 for kind in ("confirm", "end_to_end", "rpc") for name in ("p50", "p99")}
    return {
        "run_id": "20260101T000000Z-abcdef",
        "loop": "open",
        "interrupted": False,
        "verdict": {"status": "broker-bound", "evidence": ["broker: it used [all]"]},
        "scenario": {
            "clients": 10_000,
            "producers": 4500,
            "consumers": 4500,
            "callers": 1000,
            "driver": "rabbitry",
            "backend": "trio",
        },
        "environment": {"broker": {"product": "RabbitMQ", "version": "3.10.8", "private_node": True}},
        "phases": [{"name": "connect", "seconds": 1.0}, {"name": "measure", "seconds": 20.0}],
        "connect": {
            "connections": 9998,
            "failed": 2,
            "dropped": 1,
            "seconds": 7.2,
            "rate": 1388.6,
            "latency_ms": latency,
            "client_bytes_per_connection": 12_345,
        },
        "publish": {
            "planned": 1000,
            "sent": 990,
            "confirmed": 980,
            "nacked": 4,
            "returned": 0,
            "unknown": 6,
            "skipped": 10,
            "rate": 49.0,
            "confirm_latency_ms": latency,
            "confirm_service_ms": latency,
            "lag_ms": latency,
        },
        "consume": {
            "unique": 977,
            "duplicates": 1,
            "lost": 3,
            "backlog": 0,
            "rate": 48.0,
            "end_to_end_latency_ms": latency,
        },
        "rpc": {
            "planned": 9,
            "skipped": 2,
            "calls": 7,
            "replies": 6,
            "timeouts": 1,
            "errors": 0,
            "servers_lost": 0,
            "rate": 0.3,
            "latency_ms": latency,
            "service_ms": latency,
        },
        "resources": {
            "client_cpu_seconds": 1.5,
            "client_cpu_us_per_message": 33.3,
            "client_rss_peak_bytes": 2**27,
            "broker_cpu_seconds": None,
            "broker_cpu_us_per_message": None,
            "broker_rss_peak_bytes": None,
        },
        "errors": {"ConnectFailed": 2},
        "error_examples": {"ConnectFailed": "no [answer]"},
        "timeline": [
            {**row, "t_seconds": end, "seconds": length} for end, length in ((1.0, 1.0), (2.0, 1.0), (2.01, 0.01))
        ],
    }


def test_the_summary_says_what_went_wrong_first(result: dict[str, Any]) -> None:
    text = shown(result)
    assert text.index("failed: 2 connections failed; 1 connections dropped; 3 messages lost") < text.index("connect ")
    for part in (
        *("10,000 clients", "rabbitry on trio", "RabbitMQ 3.10.8 (private node)", "49/s confirmed", "open loop"),
        *("1,000 planned, 990 sent, 980 confirmed, 4 nacked, 6 unknown, 10 skipped", "977 unique", "1 duplicates"),
        *("sent late by", "1.00 s", "2,000", "33.3 µs a message", "broker-bound", "it used [all]", "no [answer]"),
        *("9 planned, 7 calls, 6 replies, 1 timeouts, 0 errors, 2 skipped", "once called", "12.1 KiB each here"),
        "but: 4 of 990 publishes were nacked; 6 of 990 publishes ended unknown; 1 of 7 calls got no reply in time",
    ):
        assert part in text, part


def test_the_summary_of_next_to_nothing(result: dict[str, Any]) -> None:
    for section in ("publish", "consume", "rpc"):
        result[section] = None
    result |= {"interrupted": True, "errors": {}, "phases": [{"name": "connect", "seconds": 1.0}]}
    result["connect"] |= {"failed": 0, "dropped": 0, "rate": None, "latency_ms": Histogram().latency()}
    result["connect"]["client_bytes_per_connection"] = None
    text = shown(result)
    assert "interrupted" in text
    assert "rates" not in text


def test_only_failures_fail(result: dict[str, Any]) -> None:
    assert failures(result) == ["2 connections failed", "1 connections dropped", "3 messages lost"]
    result["connect"] |= {"failed": 0, "dropped": 0}
    result["consume"] |= {"lost": None}
    assert failures(result) == ["whether messages were lost could not be counted"]
    result["consume"] |= {"lost": 0, "duplicates": 9, "backlog": 100}
    assert failures(result) == []
    result["rpc"]["servers_lost"] = 1
    assert failures(result) == ["1 RPC servers lost"]


def test_the_chart_is_one_well_formed_picture(result: dict[str, Any]) -> None:
    root = ElementTree.fromstring(draw_chart(result))
    lines = [element for element in root if element.tag.endswith("polyline")]
    assert len(lines) == 3 + 6
    assert all(len(line.attrib["points"].split()) == 2 for line in lines)  # the stub is left out
    texts = [element.text for element in root if element.tag.endswith("text")]
    assert "10,000 clients, rabbitry on trio, 20260101T000000Z-abcdef" in texts


def test_the_chart_of_nothing(result: dict[str, Any]) -> None:
    result |= {"timeline": [], "phases": []}
    ElementTree.fromstring(draw_chart(result))


async def test_the_live_picture_is_for_terminals_only() -> None:
    run = Run(parse_settings(["--clients", "100"], {}))
    run.tally.connected, run.tally.failed = 97, 3
    timeline = Timeline()
    for phase in ("connect", "warmup", "measure", "drain"):
        run.phases.append(Phase(phase, 10**9))
        timeline.add(1.0, phase, Tally(), [run.unmeasured])
        for is_terminal, quiet in ((True, False), (True, True), (False, False)):
            console = Console(file=io.StringIO(), force_terminal=is_terminal, width=100)
            with Progress(console, quiet=quiet) as progress:
                progress.say("starting")
                progress.update(run, timeline.rows[-1], 2.0)
            output: Any = console.file
            text = output.getvalue()
            if is_terminal and not quiet:
                assert all(part in text for part in (phase, "starting", "97 of 100", "3 failed"))
            else:
                assert text == ""


@pytest.mark.parametrize("highest", [0, 0.001, 0.99, 1, 7.99, 8.01, 9.99, 10, 94, 95.5, 8_500, 1e6 - 1])
def test_gridlines_are_few_and_reach_the_top(highest: float) -> None:
    step = _step(highest)
    assert highest / step <= 8
    assert highest == 0 or highest / step > 3
