"""The summary of a run."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from loadtest.analysis.result import failures
from loadtest.metrics.histogram import Histogram
from loadtest.output.summary import render_summary


def shown(result: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(render_summary(result, failures(result)))
    output: Any = console.file
    return output.getvalue()


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


def test_a_brokers_text_steers_no_terminal(result: dict[str, Any]) -> None:
    hostile = "[bold]x[/]\x1b]0;t\x07\nok: well\x9b\u202e"
    result["environment"]["broker"] |= {"product": hostile, "version": hostile}
    result |= {"errors": {hostile: 1}, "error_examples": {hostile: hostile}}
    text = shown(result)
    assert text.replace("\n", "").isprintable()
    assert text.count("[bold]x[/]\\x1b]0;t\\x07\\nok: well\\x9b\\u202e") == 4
    assert "\nok: well" not in text
