"""The summary of a run."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import pytest
from rich.console import Console

from loadtest.analysis.failures import failures
from loadtest.metrics.histogram import Histogram
from loadtest.output.summary import render_summary


def shown(result: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(render_summary(result, failures(result)))
    output: Any = console.file
    return output.getvalue()


def test_the_summary_says_what_went_wrong_first(result: dict[str, Any]) -> None:
    text = shown(result)
    assert text.index(
        "failed: 2 connections failed; 1 connections dropped; 3 messages lost; 6 of 990 publishes"
    ) < text.index("connect ")
    for part in (
        *("10,000 clients", "rabbitry on trio", "RabbitMQ 3.10.8 (private node)", "49/s confirmed", "open loop"),
        *("1,000 planned, 990 sent, 980 confirmed, 4 nacked, 6 unknown, 10 skipped", "977 unique", "1 duplicates"),
        *("sent late by", "1.00 s", "2,000", "33.3 µs a message", "broker-bound", "it used [all]", "no [answer]"),
        *("9 planned, 7 calls, 6 replies, 1 timeouts, 0 errors, 2 skipped", "once called", "12.1 KiB each here"),
        "but: 4 of 990 publishes were nacked",
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


def test_what_others_take_is_not_called_safe(result: dict[str, Any]) -> None:
    result["connect"] |= {"failed": 0, "dropped": 0}
    result["publish"] |= {"nacked": 0, "unknown": 0, "planned": None, "skipped": None}
    result |= {"consume": None, "rpc": None, "interrupted": False}
    result["scenario"] |= {"exchange": "events", "consumers": 0, "consume_foreign": False}
    assert "ok: no connection failed, what became of the messages is not known here (--mandatory tells" in shown(result)
    result["scenario"]["mandatory"] = True
    assert "is not known here\n" in shown(result)
    result["publish"] = None
    assert "ok: no connection failed, nothing was lost" in shown(result)


@pytest.mark.parametrize(
    ("readings", "error", "told"),
    [
        (0, "it answers no HTTP", "unknown: it answers no HTTP"),
        (1, None, "by its own account at most 1.0 KiB, at one moment"),
        (5, "timed out", "by its own account at most 1.0 KiB in 8.0 s (timed out)"),
    ],
)
def test_the_brokers_own_account(result: dict[str, Any], readings: int, error: str | None, told: str) -> None:
    figures = {"cpu_seconds": None, "memory_peak_bytes": 1024, "counted": {"published": 0}, "note": None}
    result["management"] = {"readings": readings, "seconds": 8.0, "error": error, **figures}
    assert told in shown(result)
    if readings:
        result["management"]["memory_peak_bytes"] = None
        assert "by its own account nothing" in shown(result)


def test_a_brokers_text_steers_no_terminal(result: dict[str, Any]) -> None:
    hostile = "[bold]x[/]\x1b]0;t\x07\nok: well\x9b\u202e"
    result["environment"]["broker"] |= {"product": hostile, "version": hostile}
    result |= {"errors": {hostile: 1}, "error_examples": {hostile: hostile}}
    text = shown(result)
    assert text.replace("\n", "").isprintable()
    assert text.count("[bold]x[/]\\x1b]0;t\\x07\\nok: well\\x9b\\u202e") == 4
    assert "\nok: well" not in text


def at_width(result: dict[str, Any], width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render_summary(result, failures(result)))
    output: Any = console.file
    return output.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_width_breaks_a_word_or_loses_a_digit(result: dict[str, Any], width: int) -> None:
    wide = Counter(at_width(result, 200).replace(",", " ").split())
    text = at_width(result, width)
    assert max(map(len, text.splitlines())) <= width
    lost = wide - Counter(text.replace(",", " ").split())
    assert set(lost) <= {"latency", "p50", "p90", "p99", "p99.9", "max", "samples"}, "but the heads of columns"
    if width < 76:
        assert "p99 1.98 s" in " ".join(text.split())


def test_strangers_messages_are_told(result: dict[str, Any]) -> None:
    assert "foreign" not in shown(result)
    result["consume"]["foreign"] = 7
    assert "0 left in the queues, 7 foreign" in shown(result)


def test_nobodys_text_is_markup_or_an_emoji(result: dict[str, Any]) -> None:
    text = "no answer of [2001:db8:a:b::1]:5672 [/] :bomb: [red]"
    result |= {"errors": {text: 1}, "error_examples": {text: text}, "incomplete": [text]}
    result["verdict"]["evidence"] = [text]
    console = Console(file=io.StringIO(), width=200)
    console.print(render_summary(result, [text]))
    output: Any = console.file
    assert output.getvalue().count(text) == 5


def test_what_was_not_to_be_confirmed_is_called_sent(result: dict[str, Any]) -> None:
    result["publish"] |= {"confirms": False, "unconfirmed": 980, "confirmed": 0}
    assert "49/s sent" in shown(result) and "49/s confirmed" not in shown(result)
