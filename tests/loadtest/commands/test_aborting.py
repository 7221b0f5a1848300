from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.commands.aborting import AbortWatch
from loadtest.commands.flags import parse_settings
from loadtest.commands.run import main
from loadtest.execution.state import Run, start_run
from loadtest.scenarios.schedule import NANOSECONDS


def measuring(*words: str) -> Run:
    """A run that began to connect ten seconds ago and to measure five seconds after that, by its own clock."""
    run = start_run(parse_settings(["--clients", "10", *words], {}))
    run.begin_phase("connect")
    run.end_phase()
    run.begin_phase("measure")
    start = run.began_at + 5 * NANOSECONDS
    run.measurement.open(start, start + 100 * NANOSECONDS)
    return run


def test_it_strikes_with_the_first_look_that_finds_it_true() -> None:
    run, watch = measuring(), AbortWatch(["lag.p50 > 1s", "confirm.p50 > 10ms"], after=1.0)
    run.record.latencies.confirm.record_many(11_000_000, 19)
    watch.update(run, None, 5.5)
    watch.update(run, None, 6.5)
    assert run.record.aborted is None, "a median needs twenty samples"
    run.record.latencies.confirm.record(11_000_000)
    watch.update(run, None, 7.0)
    assert run.record.aborted is None, "it looks once a second"
    watch.update(run, None, 7.5)
    assert run.record.aborted is not None and run.enough.is_set()
    assert run.record.aborted["expression"] == "confirm.p50 > 10ms"
    assert (run.record.aborted["t_seconds"], run.record.aborted["measured_seconds"]) == (7.5, 2.5)
    assert run.record.aborted["value"] == pytest.approx(11.0, rel=1e-3)
    assert not run.record.is_interrupted


def test_a_look_before_anything_is_known_is_followed_by_another_at_once() -> None:
    run, watch = measuring(), AbortWatch(["confirm.p50 > 10ms"], after=0.0)
    run.record.latencies.confirm.record_many(11_000_000, 20)
    watch.update(run, None, 5.1)
    assert run.record.aborted is None
    watch.update(run, None, 5.6)
    assert run.record.aborted is not None


def test_what_is_true_in_the_end_was_not_never_true(
    amqp_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run may be over before anybody has looked, and so may its last second."""
    monkeypatch.delenv("RABBITMQ_URL", raising=False)
    monkeypatch.setattr("loadtest.commands.watching.AbortWatch.update", lambda *_: None)
    line = ["--clients", "10", "--mode", "closed", "--warmup", "0.1", "--duration", "0.3", "--url", amqp_url]
    line += ["--abort-on", "confirm.max > 1us", "--abort-on", "errors > 0", "--abort-after", "0", "--json", "-"]
    assert main(line) == 3
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["aborted"] is None and result["verdict"]["status"] != "failed"
    late, never = result["requirements"]
    assert not late["holds"] and late["note"].endswith(" in the end") and late["value"] > 0.001
    assert (never["holds"], never["note"]) == (True, "never true")


def test_it_waits_for_so_long_before_it_looks() -> None:
    run, watch = measuring(), AbortWatch(["errors > 0"], after=3.0)
    run.record.errors.note_name("Some", "error")
    watch.update(run, None, 7.9)
    assert run.record.aborted is None
    watch.update(run, None, 8.0)
    assert run.record.aborted is not None


def test_what_ends_one_workload_ends_all_and_each_says_why() -> None:
    run, other = measuring(), measuring()
    watch = AbortWatch(["errors > 0"], after=0.0, everybody=[run, other])
    run.record.errors.note_name("Some", "error")
    watch.update(run, None, 7.0)
    assert run.enough.is_set() and other.enough.is_set()
    assert run.record.aborted is not None and other.record.aborted is not None
    assert other.record.aborted["expression"] == "errors > 0"
    assert other.record.aborted["note"].startswith("in the workload ") and "ended the run" in run.record.aborted["note"]


def test_rates_are_of_what_is_measured() -> None:
    run, watch = measuring(), AbortWatch(["publish.rate < 100"], after=0.0)
    run.record.tally.confirmed = 1000  # while warming up
    watch.update(run, None, 5.0)
    run.record.tally.confirmed += 101
    watch.update(run, None, 6.0)
    assert run.record.aborted is None
    watch.update(run, None, 7.0)
    assert run.record.aborted is not None and run.record.aborted["value"] == 50.5


def test_nothing_but_the_measured_phase_is_looked_at() -> None:
    run, watch = measuring(), AbortWatch(["errors > 0"], after=0.0)
    run.record.errors.note_name("Some", "error")
    run.end_phase()
    run.begin_phase("drain")
    watch.update(run, None, 9.0)
    assert run.record.aborted is None


@pytest.mark.usefixtures("undrawn")
def test_a_whole_run_ends_early_with_3_and_is_told(
    amqp_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RABBITMQ_URL", raising=False)
    words = ["--clients", "10", "--warmup", "0.2", "--duration", "60", "--drain", "10", "--rate", "200", "--url"]
    expressions = ("--abort-on", "confirm.p50 > 1us", "--abort-on", "connect.dropped > 0")
    assert main([*words, amqp_url, *expressions, "--output", str(tmp_path)]) == 3
    out = capsys.readouterr().out
    assert "✗ not confirm.p50 > 1us" in out and "which ended the run" in " ".join(out.split())
    assert "✓ not connect.dropped > 0 (never true)" in out
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert result["aborted"]["expression"] == "confirm.p50 > 1us"
    assert 1 <= result["aborted"]["measured_seconds"] < 30
    assert not result["interrupted"] and result["verdict"]["status"] != "failed"
    assert result["publish"]["sent"] + result["publish"]["skipped"] == result["publish"]["planned"] > 0
    assert result["consume"]["lost"] == 0
    (log,) = tmp_path.glob("*.hlog")
    assert str(log) in " ".join(out.split()).replace(" ", "") or log.name in out.replace("\n", "")


@pytest.mark.usefixtures("undrawn")
def test_any_of_several_workloads_ends_all_of_them(
    amqp_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RABBITMQ_URL", raising=False)
    scene = tmp_path / "scene.toml"
    scene.write_text(
        f"""
        url = "{amqp_url}"
        warmup = 0.2
        duration = 60
        drain = 10
        abort_on = "publish.sent > 50"
        [[workload]]
        name = "idle"
        producers = 1
        consumers = 1
        rate = 1
        [[workload]]
        name = "busy"
        producers = 1
        consumers = 1
        rate = 100
        """
    )
    assert main(["--scenario", str(scene), "--output", str(tmp_path), "--json", "-"]) == 3
    result = json.loads(capsys.readouterr().out)
    assert result["aborted"]["expression"] == "publish.sent > 50" and not result["interrupted"]
    idle, busy = result["workloads"]
    assert idle["publish"]["sent"] < 40 and busy["publish"]["sent"] > 50
    assert sum(phase["seconds"] for phase in result["phases"]) < 30
    assert len(list(tmp_path.glob("*.hlog"))) == 2


def test_expressions_that_can_not_end_a_run_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["--abort-on", "lost > 0"], "known only when the run is over"),
        (["--abort-on", "slow"], "is no requirement"),
        (["--abort-after", "2"], "--abort-after says from when on"),
        (["--abort-on", "errors > 0", "--abort-after", "30"], "is not within --duration"),
    ):
        with pytest.raises(SystemExit, match="2"):
            parse_settings(words, {})
        assert told in capsys.readouterr().err
