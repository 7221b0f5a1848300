"""What ends a sweep between two of its steps, and which of its steps' failures are its own; without a broker."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from loadtest.commands import sweeping
from loadtest.commands.exits import Unreachable
from loadtest.commands.flags import parse_settings
from loadtest.commands.interrupts import ending_signals, interruptible
from loadtest.commands.sweeping import Performed, sweep
from loadtest.output.console import make_console
from loadtest.output.progress import Progress
from loadtest.scenarios.settings import Settings

LINE = ["--scenario", "sweep", "--producers", "2", "--consumers", "2", "--url", "amqp://localhost"]
Act = Callable[[int], list[str]]
"""What happens in the step of that number, 0 being the closed loop: its failures, or it raises."""
ABORTED = {"expression": "confirm.p99 > 1s", "value": 2000.0, "note": "2.00 s after 1.0 s, which ended the run"}
KEPT = {"requirement": "not confirm.p99 > 1s", "holds": True, "note": "never true"}
STRUCK = {**KEPT, "holds": False, "note": ABORTED["note"]}


def swept(
    act: Act,
    *,
    closed_rate: float = 1000.0,
    put_on: Sequence[bool] = (),
    struck: int | None = None,
    is_cut_short: bool = True,
) -> Performed:
    """`put_on` says of each step whether its rate was reached, as it is of those that nothing is said of; `struck` in
    which of them comes true what was to end it, 0 being the closed loop.
    """
    settings = parse_settings(LINE, {})
    steps = 0

    def perform(step: Settings) -> Performed:
        nonlocal steps
        steps += 1
        failures = act(steps - 1)
        rate = closed_rate if step.rate is None else step.rate
        rate *= all(put_on[steps - 2 : steps - 1]) if steps > 1 else 1
        is_struck = steps - 1 == struck
        result: dict[str, Any] = {
            "publish": {"rate": rate, "confirm_latency_ms": {"p90": 1.0 + rate / 1e4}},
            "consume": {"end_to_end_latency_ms": None},
            "rpc": None,
            "interrupted": False,
            "aborted": ABORTED if is_struck and is_cut_short else None,
            "requirements": [] if struck is None else [STRUCK if is_struck else KEPT],
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


def test_a_load_that_no_rate_is_low_enough_for_was_not_put_on() -> None:
    """As where the broker is stopped once the closed loop is over: there is nothing that it was beyond."""
    failure = "the load was not put on: nothing was confirmed while it was measured"
    done = swept(lambda step: [failure] if step else [], put_on=[False, False])
    assert (done.failures, done.result["verdict"]["status"]) == ([failure], "failed")
    assert len(done.result["sweep"]["steps"]) == 2
    done = swept(lambda step: [failure] if step > 1 else [], put_on=[True, False, False])
    assert (done.failures, done.result["verdict"]["status"]) == ([], "paced")


def test_a_broker_that_does_next_to_nothing_has_a_curve_all_the_same() -> None:
    """No step's rate is 0, which would be none."""
    done = swept(lambda step: [], closed_rate=0.3)
    rates = [step["rate"] for step in done.result["sweep"]["steps"]]
    assert len(rates) == 11 and rates[0] == pytest.approx(0.03) and rates == sorted(rates)


@pytest.mark.parametrize(("number", "where"), [(0, "in the closed loop"), (1, "at 100/s"), (4, "at 400/s")])
@pytest.mark.parametrize("is_cut_short", [True, False])
def test_what_was_to_end_a_run_ends_the_sweep_and_is_told(number: int, where: str, is_cut_short: bool) -> None:
    """Also where it is true only when a step is over."""
    done = swept(lambda step: [], struck=number, is_cut_short=is_cut_short)
    assert len(done.result["sweep"]["steps"]) == number
    (found,) = done.result["requirements"]
    assert not found["holds"] and found["note"] == f"{ABORTED['note']}, {where}"
    assert (done.result["aborted"] is not None) is is_cut_short
    assert not is_cut_short or done.result["aborted"]["note"] == found["note"]


def test_what_never_came_true_is_told_as_kept() -> None:
    done = swept(lambda step: [], struck=99)
    assert done.result["aborted"] is None and len(done.result["sweep"]["steps"]) == 11
    assert done.result["requirements"] == [KEPT]


@pytest.mark.parametrize("number", ending_signals())
def test_an_interrupt_while_the_broker_ends_loses_nothing(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def ending(*_: object) -> Iterator[tuple[str, ...]]:
        yield ("amqp://localhost",)
        signal.raise_signal(number)

    monkeypatch.setattr(sweeping, "_a_broker", ending)
    with interruptible():
        done = swept(lambda step: [])
    assert done.is_interrupted and done.result["interrupted"]
    assert len(done.result["sweep"]["steps"]) == 11
