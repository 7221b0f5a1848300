"""What ends a sweep between two of its steps, and which of its steps' failures are its own; without a broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from loadtest.commands.exits import Unreachable
from loadtest.commands.flags import parse_settings
from loadtest.commands.sweeping import Performed, sweep
from loadtest.output.console import make_console
from loadtest.output.progress import Progress
from loadtest.scenarios.settings import Settings

LINE = ["--scenario", "sweep", "--producers", "2", "--consumers", "2", "--url", "amqp://localhost"]
Act = Callable[[int], list[str]]
"""What happens in the step of that number, 0 being the closed loop: its failures, or it raises."""


def swept(act: Act) -> Performed:
    settings = parse_settings(LINE, {})
    steps = 0

    def perform(step: Settings) -> Performed:
        nonlocal steps
        steps += 1
        failures = act(steps - 1)
        rate = 1000.0 if step.rate is None else step.rate
        result: dict[str, Any] = {
            "publish": {"rate": rate, "confirm_latency_ms": {"p90": 1.0 + rate / 1e4}},
            "consume": {"end_to_end_latency_ms": None},
            "rpc": None,
            "interrupted": False,
            "resources": {"client_cpu_seconds": 1.0, "broker_cpu_seconds": 1.0},
            "verdict": {"status": "paced", "evidence": []},
        }
        return Performed(result, failures, is_interrupted=False)

    return sweep(settings, LINE, Progress(make_console(stderr=True), quiet=True), perform)


def test_all_is_well() -> None:
    done = swept(lambda step: [])
    assert (done.failures, done.is_interrupted, len(done.result["sweep"]["steps"])) == ([], False, 11)


def test_an_interrupt_between_two_steps_keeps_those_that_there_were() -> None:
    def act(step: int) -> list[str]:
        if step == 4:
            raise KeyboardInterrupt
        return []

    done = swept(act)
    assert done.is_interrupted and done.result["interrupted"]
    assert len(done.result["sweep"]["steps"]) == 3


def test_interrupted_before_anything_was_measured_there_is_nothing_to_keep() -> None:
    def act(step: int) -> list[str]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swept(act)


def test_a_broker_that_is_gone_fails_the_sweep_with_the_steps_that_there_were() -> None:
    def act(step: int) -> list[str]:
        if step == 3:
            raise Unreachable("no broker to test: it is gone")
        return []

    done = swept(act)
    assert not done.is_interrupted
    assert len(done.result["sweep"]["steps"]) == 2
    assert done.failures == ["the sweep ended after 2 steps: no broker to test: it is gone"]
    assert done.result["verdict"]["status"] == "failed"


@pytest.mark.parametrize(
    ("failure", "is_told"),
    [
        ("the load was not put on: 5 of 100 planned messages were sent", False),
        ("3 messages lost", True),
        ("2 connections failed", True),
        ("4 of 9 publishes ended unknown, without an answer", True),
        ("whether messages were lost could not be counted", True),
        ("7 messages were corrupted: their bodies are not what was sent", True),
    ],
)
def test_only_a_rate_that_is_too_much_is_no_failure_of_a_step(failure: str, is_told: bool) -> None:
    done = swept(lambda step: [failure] if step == 2 else [])
    assert done.failures == ([failure] if is_told else [])
