"""Which broker a run takes where nobody names one, and runs on the embedded one: said at the begin, in the verdict, in
the result, and kept apart from RabbitMQ's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest

import loadtest
from loadtest.commands import sweeping
from loadtest.commands.program import main
from loadtest.machine.embedded import EmbeddedBroker

NOTICE = "the figures describe the client and this broker, not RabbitMQ"
SCHEMA = json.loads((Path(loadtest.__file__).parent / "output" / "schema.json").read_text())
TINY = ("--clients", "10", "--mode", "closed", "--duration", "0.4", "--warmup", "0.2")


@pytest.fixture(autouse=True)
def _no_broker_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RABBITMQ_URL", raising=False)


@pytest.fixture
def no_rabbitmq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which there is none."""
    monkeypatch.setenv("RABBITRY_RABBITMQ_ROOT", str(tmp_path / "none"))


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    left = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has just ended
            left += [child] if "loadtest.machine.serving" in child.cmdline() else []
    assert left == []


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], str]:
    """The exit code, the result, and what was said beside it, without its line breaks."""
    code = main([*TINY, "--json", "-", *words])
    captured = capsys.readouterr()
    result = json.loads(captured.out) if captured.out else {}
    if result:
        jsonschema.validate(result, SCHEMA, jsonschema.Draft202012Validator)
    return code, result, " ".join(captured.err.split())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.usefixtures("no_rabbitmq")
def test_where_no_rabbitmq_is_the_embedded_one_is_taken(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, result, said = run(capsys, "--backend", backend, "--vhost", "a b")
    assert code == 0, result
    assert f"broker the embedded broker, in a process of its own: {NOTICE}" in said
    assert "RABBITRY_RABBITMQ_ROOT names" in said, "why, and what to do"
    assert "the embedded broker (like RabbitMQ 3.10.8, which it is not)" in said, "the summary's headline"
    assert said.count(NOTICE) == 2, "and its verdict"
    broker = result["environment"]["broker"]
    assert (broker["kind"], broker["private_node"]) == ("embedded", False)
    assert result["scenario"]["broker"] == "embedded"
    assert result["verdict"]["evidence"][-1].endswith(NOTICE)
    assert result["consume"]["lost"] == 0 and result["publish"]["confirmed"] > 0
    assert result["resources"]["broker_cpu_seconds"] > 0 and result["resources"]["broker_rss_peak_bytes"] > 10**7


def test_where_one_is_installed_the_embedded_one_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes before the variable, too, and says nothing of how to install RabbitMQ."""
    monkeypatch.setenv("RABBITMQ_URL", "amqp://127.0.0.1:1")
    code, result, said = run(capsys, "--broker", "embedded")
    assert (code, result["environment"]["broker"]["kind"]) == (0, "embedded")
    assert NOTICE in said and "nstall" not in said


@pytest.mark.usefixtures("no_rabbitmq")
def test_quietly_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    code, result, said = run(capsys, "--quiet")
    assert (code, said) == (0, "")
    assert result["verdict"]["evidence"][-1].endswith(NOTICE)


@pytest.mark.usefixtures("no_rabbitmq")
def test_who_asks_for_rabbitmq_gets_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    code, result, said = run(capsys, "--broker", "rabbitmq")
    assert (code, result) == (4, {})
    assert "holds no RabbitMQ" in said and NOTICE not in said
    assert main(["strategies", "--clients", "2", "--broker", "rabbitmq"]) == 4


def test_one_that_is_installed_and_does_not_start_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `auto` as well: it is no reason to go on with another."""
    launchers = tmp_path / "launchers"
    launchers.mkdir()
    for name, ending in (("rabbitmq-server", "echo it is broken; exit 1"), ("epmd", "sleep 60")):
        (launchers / name).write_text(f"#!/bin/sh\n{ending}\n")
        (launchers / name).chmod(0o700)
    monkeypatch.setenv("RABBITRY_RABBITMQ_ROOT", str(tmp_path))
    code, result, said = run(capsys)
    assert (code, result) == (4, {})
    assert "it is broken" in said and NOTICE not in said


def test_a_url_is_told_by_what_answers_there(capsys: pytest.CaptureFixture[str]) -> None:
    with EmbeddedBroker(connections=20) as broker:
        code, result, said = run(capsys, "--url", broker.url)
        assert (code, result["environment"]["broker"]["kind"]) == (0, "embedded")
        assert NOTICE in said
        code, result, said = run(capsys, "--url", broker.url, "--broker", "rabbitmq")
        assert (code, result) == (2, {})
        assert "--broker rabbitmq: this is none, and says that it is RabbitMQ, rabbitry embedded broker" in said
        words = ["strategies", "--clients", "2", "--broker", "rabbitmq", "--url", broker.url]
        assert main(words) == 4
        assert "guest:guest" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--fault", "0.1s restart", "--reconnect"], ["--management", "http://localhost:15672"]]
)
@pytest.mark.usefixtures("no_rabbitmq")
def test_what_it_is_no_use_for_says_how_to_get_the_other(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, result, said = run(capsys, *words)
    assert (code, result) == (2, {})
    assert words[0] in said and "RABBITRY_RABBITMQ_ROOT names" in said


def test_faults_are_done_to_its_process(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--producers", "3", "--consumers", "3", "--clients", "6", "--duration", "1.8", "--broker", "embedded"]
    code, result, _ = run(capsys, *words, "--fault", "0.2s stop 0.3s", "--fault", "0.8s alarm 0.7s")
    assert code == 0, result["errors"]
    assert [fault["error"] for fault in result["faults"]] == [None, None]
    assert result["faults"][0]["confirm_outage_seconds"] >= 0.25
    assert result["publish"]["blocked_seconds"] > 0


def test_several_processes_and_trials_and_the_sweep_take_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, result, _ = run(capsys, "--broker", "embedded", "--processes", "2")
    assert (code, result["environment"]["broker"]["kind"]) == (0, "embedded")
    code, result, said = run(capsys, "--broker", "embedded", "--vary", "window=1,2")
    assert code == 0
    assert {trial["environment"]["broker"]["kind"] for trial in result["trials"]} == {"embedded"}
    assert said.count(NOTICE) == 2, "at the begin and at the end"
    monkeypatch.setattr(sweeping, "SHARES", (0.5,))
    code, result, said = run(capsys, "--broker", "embedded", "--scenario", "sweep")
    assert (code, result["environment"]["broker"]["kind"]) == (0, "embedded")
    assert NOTICE in said


@pytest.mark.usefixtures("no_rabbitmq")
def test_strategies_take_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--clients", "4", "--strategies", "connection-per-client", "--repeat", "1", "--duration", "0.3"]
    assert main(["strategies", *words, "--warmup", "0.1", "--json", "-", "--output", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["broker"]["kind"] == "embedded" and result["cells"][0]["gave_up"] is None
    assert result["cells"][0]["resources"]["broker_cpu_seconds"] is not None
    assert NOTICE in result["findings"][0]
    assert NOTICE in captured.err and "RABBITRY_RABBITMQ_ROOT names" in captured.err
    (page,) = tmp_path.glob("*.md")
    assert "the embedded broker (like RabbitMQ" in page.read_text()


@pytest.mark.parametrize("words", [["--url", "amqp://localhost"]])
def test_strategies_refuse_both(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["strategies", "--broker", "embedded", *words])
    assert "leave out --url" in capsys.readouterr().err


def test_the_kind_differs_in_no_trial(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--vary", "broker=embedded,rabbitmq"]) == 2
    assert "--vary broker: this can't differ" in capsys.readouterr().err
