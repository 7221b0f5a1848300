"""Faults on a timeline, done for real: what each tells of itself, and that nothing confirmed is ever lost."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from loadtest.commands.run import main
from loadtest.execution import conductor as conductor_module
from loadtest.execution import faults as faults_module
from rabbitry.testing import NodeError, PrivateNode

Result = dict[str, Any]
BACKENDS = ("asyncio", "trio")


@pytest.fixture(autouse=True)
def _no_broker_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RABBITMQ_URL", raising=False)


@pytest.fixture(scope="module")
def node_of_runs() -> Iterator[PrivateNode]:
    with PrivateNode() as node:
        yield node


@pytest.fixture
def _one_node_for_all(node_of_runs: PrivateNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that starts a node gets this one, which each fault leaves as it was: starting one takes longer than most of
    them.
    """

    @asynccontextmanager
    async def lend(connections: int) -> AsyncIterator[PrivateNode]:
        yield node_of_runs

    monkeypatch.setattr("loadtest.commands.performing.PrivateNode", lend)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


def run(capsys: pytest.CaptureFixture[str], faults: list[str], words: str, *more: str) -> tuple[int, Result]:
    given = [word for fault in faults for word in ("--fault", fault)]
    code = main(["--quiet", "--json", "-", "--warmup", "1", *words.split(), *given, *more])
    captured = capsys.readouterr()
    assert captured.err == ""
    result: Result = json.loads(captured.out)
    return code, result


def closes(result: Result, *, is_drained: bool = True) -> bool:
    """The ledger: all that was confirmed arrived, and what arrived twice was delivered or published twice."""
    publish, consume = result["publish"], result["consume"]
    assert publish["sent"] == sum(publish[name] for name in ("confirmed", "nacked", "returned", "unknown"))
    assert consume["lost"] == 0
    if is_drained:  # else the queues may also have messages that had arrived, or were repeated
        assert consume["backlog"] == 0
        assert publish["confirmed"] + consume["resurrected"] == consume["unique"]
    assert consume["received"] == consume["unique"] + consume["duplicates"]
    for name in ("unknown", "redelivered", "duplicates"):
        total = publish["unknown"] if name == "unknown" else consume[name]
        assert sum(fault[name] for fault in result["faults"]) == total
    assert sum(fault["reconnected"] for fault in result["faults"]) == result["connect"]["reconnected"]
    return True


CAUGHT_UP = 12.0
"""Seconds of outage that leave a run of this file the time to catch up with its plan, and to be told that it has."""


def is_all_right(code: int, result: Result) -> bool:
    """Nothing failed; but that a plan was not met is no matter where the machine took so long over a fault that there
    was no time left to, or over each confirm that a producer, who waits for it, could not keep up.
    """
    producers, service = result["scenario"]["producers"], result["publish"]["confirm_service_ms"]["mean"]
    is_slow = service / 1000 * result["scenario"]["rate"] / producers > 0.5
    failed = [text for text in result["verdict"]["evidence"] if text.startswith("failed")]
    longest = max(fault["confirm_outage_seconds"] for fault in result["faults"])
    assert (code == 0) == (not failed), result["verdict"]
    assert all("put on" in text for text in failed), failed
    assert not failed or longest > CAUGHT_UP or is_slow, (longest, service, failed)
    return True


@pytest.mark.usefixtures("_one_node_for_all")
def test_a_run_goes_on_across_killed_sockets_a_pause_and_a_kill_of_the_broker(
    backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = ["0.5s kill-sockets 50%", "2s stop 1s", "4s restart 1s"]
    words = "--reconnect --clients 20 --rate-each 20 --duration 18 --mode paced"
    code, result = run(capsys, faults, words, "--backend", backend)
    assert is_all_right(code, result)
    assert closes(result)
    killed, stopped, restarted = result["faults"]
    assert [fault["fault"] for fault in result["faults"]] == faults
    assert [fault["error"] for fault in result["faults"]] == [None] * 3
    assert killed["killed"] == 11  # of 20 clients and a server, which replies on a connection of its own
    assert killed["reconnected"] == killed["killed"]
    assert killed["confirm_outage_seconds"] < 1
    assert 0.9 < stopped["confirm_outage_seconds"] < 3
    assert 0.9 < stopped["delivery_outage_seconds"] < 3
    assert stopped["reconnected"] == stopped["redelivered"] == 0
    assert restarted["confirm_outage_seconds"] > 1
    assert restarted["reconnected"] >= 20
    outage, recovery = restarted["confirm_outage_seconds"], restarted["confirm_recovery_seconds"]
    assert recovery >= outage if recovery is not None else outage > CAUGHT_UP
    # what both of the broker's lives used, which includes its start
    assert result["resources"]["broker_cpu_seconds"] > 1
    assert result["resources"]["broker_rss_peak_bytes"] > 2**20
    connect = result["connect"]
    assert (connect["connections"], connect["failed"], connect["dropped"]) == (20, 0, 0)
    assert connect["latency_ms"]["count"] == 20
    assert result["publish"]["unknown"] == result["publish"]["nacked"] == 0
    assert result["rpc"]["calls"] == result["rpc"]["replies"] + result["rpc"]["timeouts"]


@pytest.mark.usefixtures("_one_node_for_all")
def test_a_window_of_publishes_outlives_the_broker(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Publishes in flight when the broker is killed are repeated: none is lost, some may arrive twice."""
    words = "--reconnect --producers 4 --consumers 4 --window 50 --ack-every 5 --duration 12 --mode closed --drain 30"
    code, result = run(capsys, ["1s restart"], words, "--backend", backend)
    assert code == 0, result["verdict"]
    assert closes(result)
    restarted = result["faults"][0]
    # (a broker that starts may end what it has just let in; one that takes long leaves consumers no time to be back)
    assert (8 if restarted["confirm_outage_seconds"] < 6 else 4) <= restarted["reconnected"] <= 16


@pytest.mark.usefixtures("_one_node_for_all")
def test_an_alarm_stops_publishers_alone(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--reconnect --producers 4 --consumers 4 --rate 100 --duration 25"
    code, result = run(capsys, ["1s alarm 2s"], words)
    assert closes(result)
    alarm = result["faults"][0]
    if alarm["error"] == "it was not over when the run ended":
        pytest.skip("rabbitmqctl, which takes half a second as a rule, took ten here")
    assert is_all_right(code, result)
    assert alarm["error"] is None
    assert alarm["confirm_outage_seconds"] > 1.5
    assert result["publish"]["blocked_seconds"] > 1
    assert alarm["reconnected"] == 0


def test_consumers_are_paused_and_slowed(backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    faults = ["0.5s pause-consumers 1s", "3s slow-consumers 1s 5ms"]
    words = "--producers 4 --consumers 4 --rate 200 --duration 5 --prefetch 10"
    code, result = run(capsys, faults, words, "--backend", backend, "--url", amqp_url)
    assert is_all_right(code, result)
    assert closes(result)
    paused, slowed = result["faults"]
    assert 0.8 < paused["delivery_outage_seconds"] < 2.5
    assert paused["confirm_outage_seconds"] < 0.8  # publishing went on
    assert slowed["delivery_outage_seconds"] < 0.8
    recovery = paused["delivery_recovery_seconds"]  # (there are two seconds for it until the next fault)
    assert recovery > 0.8 if recovery is not None else code == 1


def test_sockets_that_nobody_reopens_are_gone(amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--producers 5 --consumers 5 --rate 50 --duration 2"
    code, result = run(capsys, ["1s kill-sockets 20%"], words, "--url", amqp_url)
    assert code == 1
    fault, connect = result["faults"][0], result["connect"]
    assert fault["killed"] == 2 == fault["dropped"] == connect["dropped"]
    assert (fault["reconnected"], connect["reconnected"]) == (0, 0)
    assert "failed: 2 connections dropped" in result["verdict"]["evidence"]
    assert result["consume"]["lost"] == 0


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (NodeError("the node does not run\nits log"), "the node does not run"),
        (subprocess.TimeoutExpired("rabbitmqctl", 60), "Command 'rabbitmqctl' timed out after 60 seconds"),
    ],
)
def test_a_fault_that_fails_is_told(
    error: Exception,
    text: str,
    amqp_url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever it fails with: what was measured is not lost over it."""

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(faults_module, "kill_sockets", fail)
    words = "--producers 2 --consumers 2 --rate 20 --duration 1.5"
    code, result = run(capsys, ["0.5s kill-sockets 20%"], words, "--url", amqp_url)
    assert code == 1
    assert result["faults"][0]["error"] == text
    assert f"failed: the fault '0.5s kill-sockets 20%' failed: {text}" in result["verdict"]["evidence"]


@pytest.mark.usefixtures("_one_node_for_all")
@pytest.mark.parametrize("fault", ["1s stop 50s", "1s restart 50s"])
def test_an_interrupt_leaves_no_broker_stopped(
    fault: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends in the middle of it: the broker goes on at once, so that stock can be taken."""
    begin, timers = conductor_module.Conductor._begin_phase, list[threading.Timer]()

    def begin_phase(conductor: Any, name: str) -> None:
        begin(conductor, name)
        if name == "measure":
            timers.append(threading.Timer(2.0, signal.raise_signal, [signal.SIGINT]))
            timers[-1].start()

    monkeypatch.setattr(conductor_module.Conductor, "_begin_phase", begin_phase)
    words = "--reconnect --producers 4 --consumers 4 --rate 40 --duration 60"
    code, result = run(capsys, [fault], words)
    assert code == 130
    assert closes(result, is_drained=False)  # an interrupt leaves three seconds for it
    assert result["faults"][0]["confirm_outage_seconds"] > 0.5
