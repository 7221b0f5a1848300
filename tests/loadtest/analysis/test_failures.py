"""What fails a run: a table of what was counted, and the reason."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from loadtest.analysis.failures import blemishes, failures

GOOD: dict[str, Any] = {
    "interrupted": False,
    "scenario": {"duration": 20.0},
    "phases": [{"name": "warmup", "seconds": 5.0}, {"name": "measure", "seconds": 20.0}],
    "connect": {"failed": 0, "dropped": 0},
    "publish": {
        "planned": 1000,
        "skipped": 0,
        "sent": 1000,
        "confirmed": 1000,
        "nacked": 0,
        "returned": 0,
        "unknown": 0,
        "rate": 50.0,
    },
    "consume": {"lost": 0, "backlog": 0, "rate": 50.0, "cancelled": 0},
    "rpc": {
        "planned": 500,
        "skipped": 0,
        "calls": 500,
        "timeouts": 0,
        "unanswered": 0,
        "errors": 0,
        "rate": 25.0,
        "servers_lost": 0,
    },
}


def with_changes(**changes: Any) -> dict[str, Any]:
    result = deepcopy(GOOD)
    for path, value in changes.items():
        section, _, name = path.partition("__")
        if name:
            result[section][name] = value
        else:
            result[section] = value
    return result


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"connect__failed": 2}, "2 connections failed"),
        ({"connect__dropped": 2}, "2 connections dropped"),
        ({"rpc__servers_lost": 1}, "1 RPC servers lost"),
        ({"consume__cancelled": 1}, "1 consumers cancelled by the broker"),
        ({"consume__lost": 3}, "3 messages lost"),
        ({"consume__lost": None}, "whether messages were lost could not be counted"),
        ({"consume__backlog": None}, "what is left in the queues could not be counted"),
        ({"publish__sent": 200, "publish__skipped": 800}, "the load was not put on: 200 of 1,000 planned messages"),
        ({"publish__unknown": 1}, "1 of 1,000 publishes ended unknown, without an answer"),
        ({"publish__nacked": 990}, "the load was not put on: 990 of 1,000 publishes were nacked"),
        ({"publish__nacked": 11}, "the load was not put on: 11 of 1,000 publishes were nacked"),
        ({"publish__returned": 500}, "the load was not put on: 500 of 1,000 publishes were returned"),
        ({"publish__rate": 0.0}, "the load was not put on: nothing was confirmed while it was measured"),
        ({"consume__rate": 0.0}, "nothing was received while it was measured"),
        ({"rpc__calls": 100, "rpc__skipped": 400}, "the load was not put on: 100 of 500 planned calls were made"),
        ({"rpc__timeouts": 400}, "the load was not put on: 400 of 500 calls got no reply in time"),
        ({"rpc__errors": 400}, "the load was not put on: 400 of 500 calls failed"),
        ({"rpc__unanswered": 1, "rpc__timeouts": 1}, "1 calls had no answer when the run ended"),
        ({"rpc__rate": 0.0}, "the load was not put on: nothing was replied while it was measured"),
        ({"phases": [{"name": "measure", "seconds": 3.0}]}, "only 3.0 of 20.0 s were measured"),
        ({"phases": []}, "only 0.0 of 20.0 s were measured"),
        ({"publish__skipped": 11}, "the load was not put on: 989 of 1,000 planned messages"),
    ],
)
def test_what_fails_a_run(changes: dict[str, Any], reason: str) -> None:
    (found,) = failures(with_changes(**changes))
    assert found.startswith(reason)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"publish": None, "consume": None},
        {"rpc": None},
        {"publish__nacked": 10, "publish__returned": 10, "publish__skipped": 10, "rpc__timeouts": 5},
        {"consume__backlog": 500},
        {"scenario": {"duration": 1.0}, "phases": [{"name": "measure", "seconds": 1.0}], "publish__skipped": 250},
        {"consume__rate": None},  # nobody consumes
        {"publish__planned": None, "publish__skipped": None, "rpc__planned": None, "rpc__skipped": None},
        {"publish__planned": 0, "publish__rate": 0.0, "publish__sent": 0, "consume__rate": 0.0},  # nothing was asked
    ],
)
def test_what_does_not(changes: dict[str, Any]) -> None:
    assert failures(with_changes(**changes)) == []


def test_an_interrupted_run_fails_only_by_what_went_wrong_until_then() -> None:
    cut = {"interrupted": True, "phases": [], "publish__skipped": 900, "publish__unknown": 5, "publish__rate": None}
    cut |= {"consume__lost": None, "consume__backlog": None, "rpc__unanswered": 3, "rpc__timeouts": 3}
    result = with_changes(**cut)
    assert failures(result) == []
    assert blemishes(result) == ["5 of 1,000 publishes ended unknown", "3 of 500 calls got no reply in time"]
    assert failures(with_changes(**cut, connect__dropped=1)) == ["1 connections dropped"]


def test_a_little_is_a_blemish_and_much_is_told_once() -> None:
    assert blemishes(with_changes(publish__nacked=10, rpc__timeouts=5)) == [
        "10 of 1,000 publishes were nacked",
        "5 of 500 calls got no reply in time",
    ]
    assert blemishes(with_changes(publish__nacked=11, rpc__timeouts=6)) == []
