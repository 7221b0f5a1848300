"""`strategies` from its words to its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from loadtest.analysis.strategies import SCHEMA, rows
from loadtest.commands import strategies
from loadtest.commands.interrupts import ending_signals
from loadtest.commands.program import main
from loadtest.execution.state import name_run
from loadtest.strategies.ground import GivenGround
from loadtest.strategies.tournament import Tournament
from rabbitry.testing import PrivateNode

TINY = ["--clients", "4", "--repeat", "1", "--duration", "0.5", "--warmup", "0.1"]


def test_two_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "connection-per-client,threads-pika"
    code = main(["strategies", *TINY, "--strategies", names, "--seed", "3", "--output", str(tmp_path), "--json", "-"])
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert code == 0
    assert (result["kind"], result["schema"], result["finished"]) == (SCHEMA, 1, True)
    assert result["broker"]["product"] == "RabbitMQ"
    assert {row["strategy"] for row in rows(result)} == set(names.split(","))
    assert all(row["rate"] > 0 and row["gave_up"] is None for row in rows(result))
    assert [cell["order"] for cell in result["cells"]] == [1, 2]
    assert "2 cells, about" in captured.err
    assert "A strategy is given up where" in captured.err
    assert result["rule"] in " ".join(captured.err.split())
    (written,) = tmp_path.glob("*.json")
    assert json.loads(written.read_text()) == result
    assert "4 clients: 2 of 2 strategies got through." in written.with_suffix(".md").read_text()


def test_interrupted_it_writes_what_there_is(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "loadtest", "strategies", "--clients", "4", "--strategies", "connection-per-client"]
    words += ["--repeat", "50", "--duration", "0.3", "--warmup", "0.1", "--output", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.lstrip().startswith("1 of 50"):
                os.kill(process.pid, signal.SIGINT)
                break
        rest = process.stdout.read()
        assert process.wait(60) == 130, rest
    assert "Traceback" not in rest
    (written,) = tmp_path.glob("*.json")
    result = json.loads(written.read_text())
    assert result["finished"] is False
    assert 1 <= len(result["cells"]) < 50


@pytest.mark.parametrize("words", [["strategies"], ["--scenario", "strategies"], ["--scenario=strategies"]])
def test_a_broker_that_is_there_has_queues_for_each_cell_which_are_gone_afterwards(
    words: list[str], node: PrivateNode, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a command and as a scenario."""
    before = node.rabbitmqctl("list_queues", "name")
    line = [*words, *TINY, "--strategies", "connection-per-client,threads-pika", "--url", node.url, "--json", "-"]
    assert main(line) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["broker"]["private_node"] is False
    assert [cell["gave_up"] for cell in result["cells"]] == [None, None]
    assert all(cell["consume"]["lost"] == 0 for cell in result["cells"])
    assert all(cell["resources"]["broker_cpu_seconds"] is not None for cell in result["cells"]), "it is on this machine"
    assert "starting a private" not in captured.err and "guest:guest" not in captured.err + captured.out
    assert node.rabbitmqctl("list_queues", "name") == before


@pytest.mark.parametrize("number", ending_signals())
def test_an_interrupt_while_the_broker_ends_loses_nothing(
    number: int, tmp_path: Path, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def ending(*_: object) -> Iterator[Any]:
        yield GivenGround(amqp_url, name_run(datetime.now(UTC)))
        signal.raise_signal(number)

    monkeypatch.setattr(strategies, "_open_ground", ending)
    file = tmp_path / "result.json"
    assert strategies.main([*TINY, "--strategies", "connection-per-client", "--json", str(file)]) == 0
    assert len(json.loads(file.read_text())["cells"]) == 1


def test_a_broker_that_is_not_there_is_code_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert strategies.main([*TINY, "--url", "amqp://me:sesame@127.0.0.1:1"]) == 4
    said = capsys.readouterr().err
    assert "no broker to test" in said and "sesame" not in said


def test_a_broker_that_goes_leaves_what_was_measured(
    tmp_path: Path, amqp_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    perform = Tournament._perform

    def perform_once(tournament: Tournament, strategy: str, clients: int, trial: int) -> Any:
        if tournament.cells:
            raise ConnectionRefusedError("it is gone")
        return perform(tournament, strategy, clients, trial)

    monkeypatch.setattr(Tournament, "_perform", perform_once)
    file = tmp_path / "result.json"
    words = [*TINY, "--repeat", "3", "--strategies", "connection-per-client", "--url", amqp_url, "--json", str(file)]
    assert strategies.main(words) == 4
    assert "only 1 of 3 cells were done, as the broker does not go on: it is gone" in capsys.readouterr().err
    result = json.loads(file.read_text())
    assert result["finished"] is False
    assert len(result["cells"]) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--url http://guest:secret@host", "is no AMQP URL"),
        ("--clients 1", "less than 2"),
        ("--clients 10,x", "is no number"),
        ("--strategies nonsense", "is none of connection-per-message"),
        ("--repeat 0", "less than 1"),
        ("--size 10", "each message carries 24 bytes"),
        ("--json=", "--json is empty"),
        ("--duration 0", "above 0"),
    ],
)
def test_wrong_usage_says_why(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        strategies.main(line.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_more_clients_than_the_machine_bears_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert strategies.main(["--clients", "1m"]) == 2
    assert "this machine can't bear the run" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["--json /no/where/x.json", "--output /dev/null/x"])
def test_a_result_that_could_not_be_written_is_told_beforehand(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert strategies.main([*TINY, *line.split()]) == 2
    assert "the result could not be written there" in capsys.readouterr().err


def test_a_result_that_can_not_be_written_in_the_end_is_saved_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TINY, "--strategies", "connection-per-client", "--json", "/dev/full"]
    assert strategies.main(words) == 1
    said = capsys.readouterr()
    assert "A strategy is given up where" in said.out and "No space left on device; it is in " in said.err
    saved = Path(said.err.rpartition("it is in ")[2].partition(" instead")[0])
    assert json.loads(saved.read_text())["cells"]
    saved.unlink()


def test_a_missing_library_is_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pika", None)
    monkeypatch.delitem(sys.modules, "loadtest.drivers.pika", raising=False)
    assert strategies.main(["--strategies", "threads-pika"]) == 2
    assert "pip install '.[loadtest-drivers]'" in capsys.readouterr().err


def test_the_strategies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        strategies.main(["--list-strategies"])
    assert ended.value.code == 0
    assert "connection-per-message" in capsys.readouterr().out


def test_the_scenarios_list_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--list-scenarios"])
    assert "strategies  Of the ways" in capsys.readouterr().out


def test_the_drivers_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--list-drivers"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "not: window" in out
    assert "trio" in out
