"""What an endpoint does later, beside the heartbeats: both in their time, and neither in the other's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rabbitry import _endpoint
from rabbitry._endpoint import Endpoint


class Timed:
    """An endpoint whose clock the test sets, on a protocol that ticks every ten seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first_tick: float | None) -> None:
        self.now = 0.0
        self.timers: list[float] = []
        self.ticks: list[float] = []
        self.called: list[tuple[str, float]] = []
        monkeypatch.setattr(_endpoint, "monotonic", lambda: self.now)
        protocol: Any = SimpleNamespace(handle_timer=self.tick, events=[], out_size=0)
        waits: Any = SimpleNamespace(
            new_signal=None, checkpoint_if_cancelled=None, check_loop=None, time_left=None, thread=0
        )
        self.endpoint = Endpoint(protocol, "", waits, "", 0)
        transport: Any = SimpleNamespace(start_timer=self.timers.append, is_reading_paused=False)
        self.endpoint.transport = transport
        self.endpoint._next_tick = first_tick

    def tick(self, now: float, *, reading: bool) -> float:
        self.ticks.append(now)
        return now + 10

    def call_later(self, seconds: float, name: str) -> None:
        self.endpoint.call_later(seconds, lambda: self.called.append((name, self.now)))

    def fire(self, now: float) -> float | None:
        self.now = now
        return self.endpoint.handle_timer(now)


def test_each_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch, 10.0)
    timed.call_later(3, "three")
    timed.call_later(1, "one")
    assert timed.timers == [3, 1]
    assert timed.fire(1) == 3
    assert timed.fire(3) == 10
    assert (timed.called, timed.ticks) == ([("one", 1), ("three", 3)], [])
    assert timed.fire(10) == 20
    timed.call_later(12, "late")
    assert timed.fire(20) == 22
    assert timed.fire(30) == 40
    assert (timed.called[2:], timed.ticks) == ([("late", 30)], [10, 20, 30])


def test_without_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch, None)
    timed.call_later(3, "three")
    assert timed.fire(2) == 3
    assert timed.fire(4) is None
    assert (timed.called, timed.ticks) == ([("three", 4)], [])


def test_what_is_called_may_ask_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch, None)
    timed.endpoint.call_later(1, lambda: timed.call_later(1, "again"))
    assert timed.fire(1) == 2
    assert timed.fire(2) is None
    assert timed.called == [("again", 2)]
