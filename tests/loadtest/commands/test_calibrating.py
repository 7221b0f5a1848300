from __future__ import annotations

import json
import os
from dataclasses import replace

import psutil
import pytest

from loadtest.commands.calibrating import for_the_sink, open_sink, tell
from loadtest.commands.flags import parse_settings
from loadtest.commands.run import main
from loadtest.scenarios.plan import make_plan

CALIBRATION = {
    "rate": 12_345.6,
    "confirmed_rate": 6000.0,
    "consumed_rate": 6345.6,
    "rpc_rate": 0.0,
    "is_sink_at_its_limit": False,
    "failures": list[str](),
}


def test_the_same_load_but_as_fast_as_it_goes() -> None:
    line = "--clients 50 --rate 100 --size 4096 --window 7 --vhost there --require errors==0 --calibrate"
    asked = parse_settings(line.split(), {})
    settings = for_the_sink(asked, "amqp://sink")
    assert (settings.urls, settings.vhost, settings.rate, settings.loop) == (("amqp://sink",), None, None, "closed")
    assert (settings.clients, settings.size, settings.window) == (50, 4096, 7)
    assert (settings.require, settings.calibrate, settings.duration) == ((), False, 5.0)
    assert for_the_sink(replace(asked, duration=2.0), "amqp://sink").duration == 2.0


def test_all_clients_are_at_work_when_it_is_measured() -> None:
    """However long they are spread over in the run itself: those that have not begun reach nothing."""
    asked = parse_settings(["--ramp", "30s", "--calibrate"], {})
    assert asked.warmup == 30
    settings = for_the_sink(asked, "amqp://sink")
    assert settings.ramp <= settings.warmup == 2
    assert max(make_plan(settings, "run").offsets) <= 2
    assert for_the_sink(replace(asked, ramp=0.5, warmup=0.5), "amqp://sink").ramp == 0.5


def test_what_only_the_broker_has_is_not_asked_of_the_sink() -> None:
    line = "--url amqp://h --producers 5 --exchange events --no-confirm --calibrate --metrics :0 --management http://h"
    settings = for_the_sink(parse_settings([*line.split(), "--fault", "1s kill-sockets 5%"], {}), "amqp://sink")
    assert (settings.exchange, settings.queues, settings.faults) == (None, 1, ())
    assert (settings.metrics, settings.management) == (None, None)
    assert make_plan(settings, "run").sockets


def test_the_sink_is_no_broker_to_do_anything_else_to() -> None:
    line = ["--fault", "1s stop 5s", "--fault", "2s kill-sockets 5%", "--calibrate", "--metrics", ":0"]
    settings = for_the_sink(parse_settings([*line, "--management", "http://there:15672"], {}), "amqp://sink")
    assert (settings.faults, settings.management, settings.metrics) == ((), None, None)
    sweep = parse_settings(["--scenario", "sweep", "--calibrate"], {})
    assert for_the_sink(sweep, "amqp://sink").scenario != "sweep", "one run, not all of its steps"


def test_ctrl_c_is_not_for_the_sink() -> None:
    """A terminal tells all of its group: the sink would end before the run that it is for, and complain."""
    before = set(psutil.Process().children())
    with open_sink():
        (sink,) = set(psutil.Process().children()) - before
        assert os.getpgid(sink.pid) != os.getpgid(0)
    assert not sink.is_running()


def test_in_a_line() -> None:
    line = "this generator alone reaches 12,346 messages/s here (6,000/s confirmed, 6,346/s consumed)"
    assert tell(CALIBRATION) == line
    assert "reaches at least 12,346" in tell(CALIBRATION | {"is_sink_at_its_limit": True})
    assert tell(CALIBRATION | {"failures": ["5 lost", "2 gone"]}) == f"{line}; it failed: 5 lost; 2 gone"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    "load",
    [
        "--producers 3 --exchange amq.fanout",
        "--clients 20",
        "--producers 3 --rate 100",
        "--callers 4",
        "--clients 20 --queue-type stream",
    ],
)
def test_a_run_that_asks_for_it(
    backend: str, load: str, amqp_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RABBITMQ_URL", raising=False)
    mode = [] if "--rate" in load else ["--mode", "closed"]
    times = ["--duration", "1", "--warmup", "0.3", "--drain", "10", "--calibrate", "--json", "-"]
    code = main([*load.split(), *mode, *times, "--backend", backend, "--url", amqp_url])
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert code == 0, result["verdict"]
    told = result["calibration"]
    assert told["rate"] == pytest.approx(told["confirmed_rate"] + told["consumed_rate"] + told["rpc_rate"], abs=0.2)
    assert told["rate"] > 0 and told["failures"] == [] and told["limit"] == 1.45
    assert told["ratio"] == pytest.approx(told["rate"] / told["reached_rate"], rel=1e-2)
    assert "calibrate this generator alone reaches" in captured.err
    assert any("calibration: this generator alone reaches" in text for text in result["verdict"]["evidence"])


def test_nobody_asked(amqp_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RABBITMQ_URL", raising=False)
    words = [
        "--producers",
        "2",
        "--rate",
        "50",
        "--duration",
        "1",
        "--warmup",
        "0.3",
        "--quiet",
        "--json",
        "-",
        "--url",
    ]
    main([*words, amqp_url])
    result = json.loads(capsys.readouterr().out)
    assert result["calibration"] is None
    assert not any("calibration" in text for text in result["verdict"]["evidence"])
