"""Runs against a broker that is paused, killed, alarmed or full: what could not be put on or counted fails them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.commands.run import main
from loadtest.execution import conductor as conductor_module
from loadtest.execution import leftovers
from loadtest.execution.conductor import Conductor
from rabbitry.testing import PrivateNode
from tests.measuring.coordinated_omission import BEYOND_MS, TOLERANCE, measure
from tests.support.lines import without_search

Result = dict[str, Any]
Deeds = dict[str, tuple[float, Callable[[], object]]]
"""What is done so many seconds after a phase has begun."""
on_asyncio, on_trio = (pytest.mark.parametrize("backend", [backend]) for backend in ("asyncio", "trio"))
"""A node that stands still is seen on both; each of the others on one, as both have it in memory: execution/."""


@pytest.fixture(scope="module")
def victim() -> Iterator[PrivateNode]:
    """A node of this module's own, as it is paused and killed."""
    with PrivateNode() as node:
        yield node


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that answers no more is waited for in vain."""
    monkeypatch.delenv("RABBITMQ_URL", raising=False)
    monkeypatch.setattr(conductor_module, "CLOSE_BOUND", 1.0)
    monkeypatch.setattr(conductor_module, "STOCK_BOUND", 5.0)


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, deeds: Deeds, *words: str
) -> tuple[int, Result]:
    begin_phase, timers = Conductor._begin_phase, list[threading.Timer]()

    def begin_and_do(self: Conductor, name: str) -> None:
        begin_phase(self, name)
        if name in deeds:
            timers.append(threading.Timer(*deeds[name]))
            timers[-1].start()

    monkeypatch.setattr(Conductor, "_begin_phase", begin_and_do)
    code = main(without_search("--quiet", "--json", "-", "--warmup", "0.5", *words))
    for timer in timers:
        timer.join()
    result: Result = json.loads(capsys.readouterr().out)
    for section in filter(None, (result["publish"], result["rpc"])):
        if section["planned"] is not None:
            done = section["sent"] if "sent" in section else section["calls"]
            assert section["planned"] == done + section["skipped"]
    return code, result


def reasons(result: Result) -> str:
    assert result["verdict"]["status"] == "failed"
    return "\n".join(text for text in result["verdict"]["evidence"] if text.startswith("failed: "))


@on_trio  # (one that ends is seen on asyncio: test_run)
def test_an_alarm_from_before_the_start_to_the_end(
    backend: str, victim: PrivateNode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "--producers 10 --consumers 5 --rate 200 --duration 2 --drain 0.5"
    with victim.memory_alarm():
        code, result = run(capsys, monkeypatch, {}, *line.split(), "--url", victim.url, "--backend", backend)
    publish = result["publish"]
    assert (code, publish["confirmed"], publish["sent"]) == (1, 0, 10)
    assert "nothing was confirmed while it was measured" in reasons(result)
    assert "the load was not put on: 10 of" in reasons(result)
    assert any("an alarm" in text for text in result["verdict"]["evidence"])
    confirm = publish["confirm_latency_ms"]
    assert confirm["count"] == publish["planned"], "all of it waited, to the end"
    assert 500 < confirm["p50"] < 1500 < confirm["max"]


@on_asyncio
def test_a_stall_to_the_end_of_what_is_measured(
    backend: str, victim: PrivateNode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on in the drain, and nothing is lost: but a third of the plan was never sent."""
    deeds: Deeds = {"measure": (2.0, victim.pause), "drain": (0.5, victim.resume)}
    line = "--producers 10 --consumers 5 --callers 5 --rate 400 --duration 3 --drain 20"
    code, result = run(capsys, monkeypatch, deeds, *line.split(), "--url", victim.url, "--backend", backend)
    publish = result["publish"]
    assert code == 1
    assert (publish["unknown"], result["consume"]["lost"], result["consume"]["backlog"]) == (0, 0, 0)
    assert publish["skipped"] > 300
    assert "the load was not put on" in reasons(result) and "planned calls were made" in reasons(result)
    for latency in (publish["confirm_latency_ms"], result["rpc"]["latency_ms"]):
        # about 400 of 1,400 waited 0 to 1,000 ms, evenly: a seventh for more than 500 ms, if neither end is late itself
        assert latency["p95"] > 500
        assert latency["max"] > 950
    assert any("a stall" in text for text in result["verdict"]["evidence"])
    assert not any("warm-up" in text for text in result["verdict"]["evidence"])


@pytest.mark.parametrize(("backend", "loop"), [("asyncio", ()), ("trio", ("--rate", "200"))])
def test_a_broker_paused_for_good(
    backend: str,
    loop: tuple[str, ...],
    victim: PrivateNode,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leftovers, "SILENCE_BOUND", 2.0)
    monkeypatch.setattr("rabbitry._endpoint.CLOSE_BOUND", 1.0)
    line = "--producers 5 --consumers 5 --callers 2 --duration 2 --drain 0.5"
    words = (*line.split(), *loop, "--url", victim.url, "--backend", backend)
    try:
        code, result = run(capsys, monkeypatch, {"measure": (1.0, victim.pause)}, *words)
    finally:
        victim.resume()
    assert code == 1
    assert result["publish"]["unknown"] == 5
    assert result["rpc"]["unanswered"] == 2
    assert result["consume"]["backlog"] is None
    told = reasons(result)
    assert "5 of" in told and "publishes ended unknown" in told
    assert "2 calls had no answer when the run ended" in told
    assert "could not be counted" in told
    assert result["publish"]["confirm_latency_ms"]["max"] > 1400


@on_trio
def test_one_second_of_pause_shows_in_the_response_as_arithmetic_says(
    backend: str, victim: PrivateNode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float] = []  # for how many milliseconds: more than was asked for, where others use the machine

    def pause_and_resume() -> None:
        began = time.monotonic()
        victim.pause()
        threading.Event().wait(1.0)
        victim.resume()
        paused.append((time.monotonic() - began) * 1e3)

    # a window, as behind a pause of a second each producer has five messages to catch up with
    line = "--producers 20 --window 10 --consumers 5 --rate 100 --duration 4 --drain 20"
    words = (*line.split(), "--url", victim.url, "--backend", backend)
    code, result = run(capsys, monkeypatch, {"measure": (1.0, pause_and_resume)}, *words)
    assert code == 0, result["verdict"]
    assert result["consume"]["lost"] == 0
    # those due in the pause waited, evenly, up to its length: a tenth of the 4 s for its length less 400 ms, or longer
    assert result["publish"]["confirm_latency_ms"]["p90"] == pytest.approx(paused[0] - 400, abs=150)
    stalled = max(row["confirm_max_ms"] or 0 for row in result["timeline"])
    assert stalled == pytest.approx(paused[0], abs=200), "and in the row in which it ended"


@on_asyncio
def test_a_second_of_pause_in_four_omits_nobody(backend: str, victim: PrivateNode) -> None:
    """The share above x ms is (1,000 - x)/4,000, and more where the machine is busy or catching up takes long: by how
    much less than 5 % on a quiet one, `python -m tests.measuring.coordinated_omission` tells, and in simulated time
    execution/test_stopped_broker.py.
    """
    rate, seconds = 60.0, 4.0
    shares = measure(victim, backend, rate, seconds=seconds)
    assert [(share.kind, share.beyond_ms) for share in shares] == [
        (kind, beyond) for kind in ("confirm", "rpc") for beyond in BEYOND_MS
    ]
    for share in shares:
        assert 0.95 * rate * seconds <= share.count <= 1.2 * rate * seconds
        chance = 1.5 / share.count  # each client is due at a moment of its own
        under_way = share.usual_ms / 1000 / seconds  # what a busy machine usually takes says little of that moment
        assert share.seen > (1 - TOLERANCE) * (share.predicted - under_way) - chance, share


@on_trio
def test_a_backlog_that_grows_is_named(
    backend: str, victim: PrivateNode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message at a time for the consumer, and many for the producers."""
    line = "--producers 4 --window 50 --consumers 1 --prefetch 1 --duration 2 --drain 0"
    code, result = run(capsys, monkeypatch, {}, *line.split(), "--url", victim.url, "--backend", backend)
    assert code == 0
    assert result["consume"]["backlog"] > 500
    assert result["verdict"]["status"] != "paced"
    assert result["verdict"]["evidence"][0].startswith("backlog: ")


def test_a_killed_broker_cuts_the_run_short_and_the_picture_says_so(
    victim: PrivateNode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ("--clients", "20", "--duration", "20", "--output", str(tmp_path), "--url", victim.url)
    try:
        code, result = run(capsys, monkeypatch, {"measure": (1.5, victim.kill)}, *words)
    finally:
        victim.restart()
    assert code == 1
    assert result["connect"]["dropped"] == 20
    assert "of 20.0 s were measured: nobody was left to go on" in reasons(result)
    (picture,) = tmp_path.glob("*.svg")
    assert "s were not measured" in picture.read_text()
