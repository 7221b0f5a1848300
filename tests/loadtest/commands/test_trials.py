"""Several trials of a small run, in real processes, against a real broker; and what compares them."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console

import loadtest
from loadtest.analysis.comparison import compare
from loadtest.commands import trials
from loadtest.commands.flags import parse_settings
from loadtest.commands.program import main
from loadtest.commands.trial import make_once
from loadtest.commands.trials import plan_trials
from loadtest.output.console import make_console
from loadtest.output.trials import render_comparison, render_trials
from rabbitry.testing import NodeError
from rabbitry.testing.rabbitmq.setup import free_ports

SMALL = ("--clients", "6", "--duration", "0.5", "--warmup", "0.2", "--drain", "5", "--seed", "11")


@pytest.fixture(autouse=True)
def _no_broker_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RABBITMQ_URL", raising=False)


def test_cells_take_turns(tmp_path: Path, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "varied.json"
    words = ["--repeat", "2", "--vary", "transient=yes,no", "--url", amqp_url]
    code = main([*SMALL, *words, "--json", str(file)])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "trial 4 of 4: round 2 of 2" in said
    assert "transient yes (2)" in said and "0 lost with transient no" in said
    result = json.loads(file.read_text())
    assert [trial["round"] for trial in result["trials"]] == [0, 0, 1, 1]
    assert [trial["cell"] for trial in result["trials"][:2]] == [
        {"transient": "yes"},
        {"transient": "no"},
    ]
    assert [trial["seed"] for trial in result["trials"]] == [11, 11, 12, 12]
    assert len({trial["run_id"] for trial in result["trials"]}) == 4
    assert all(trial["consume"]["lost"] == 0 for trial in result["trials"])
    assert result["publish"] is None and result["scenario"]["vary"] == ["transient=yes,no"]
    assert amqp_url not in result["scenario"]["command"] or "guest" not in result["scenario"]["command"]

    assert main(["compare", str(file)]) == 3
    said = capsys.readouterr().out
    assert "client CPU a message" in said and "2 pairs can't show any difference" in said
    assert main(["compare", f"{file}:transient=yes", "--to", f"{file}:transient=no", "--json", "-"]) == 3
    compared = json.loads(capsys.readouterr().out)["comparisons"]
    assert [(each["base"], each["new"]) for each in compared] == [("transient yes", "transient no")]


@pytest.mark.usefixtures("undrawn")
def test_one_cell_is_told_by_its_middle_trial(
    tmp_path: Path, amqp_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--repeat", "3", "--require", "publish.rate >= 100m", "--url", amqp_url, "--output", str(tmp_path / "out")]
    assert main([*SMALL, *words, "--json", "-"]) == 3
    result = json.loads(capsys.readouterr().out)
    rates = sorted(trial["publish"]["rate"] for trial in result["trials"])
    assert result["publish"]["rate"] == rates[1]
    assert [finding["holds"] for finding in result["requirements"]] == [False] * 3
    assert "round 3, as asked" in result["requirements"][2]["note"]
    assert {f"{trial['run_id']}.json" for trial in result["trials"]} < set(os.listdir(tmp_path / "out")) | {"-"}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--vary", "colour=red,blue"], "there is no flag --colour"),
        (["--vary", "queue_type=classic,quorum"], "there is no flag --queue_type (is it --queue-type?)"),
        (["--vary", "fault=1 kill-sockets 200%;1 kill-sockets 5%"], "'200%' is no share"),
        (["--vary", "list-scenarios=yes,no"], "can't differ between the trials"),
        (
            ["--consumers", "2", "--scenario", "churn", "--vary", "churn=yes,no"],
            "the scenario has it, and nothing says that it shall not",
        ),
        (["--vary", "json=a,b"], "can't differ between the trials"),
        (["--vary", "transient=1,2"], "transient=yes,no"),
        (["--vary", "window=1"], "one value is no variation"),
        (["--vary", "window=1,none"], "none"),
        (["--vary", "ack-every=1,500"], "--ack-every 500 with --prefetch 100"),
        (["--repeat", "0"], "0 is less than 1"),
    ],
)
def test_what_makes_no_sense_is_said_before_any_trial(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([*SMALL, *words])
    except SystemExit as error:
        code = int(str(error.code))
    said = capsys.readouterr()
    assert code == 2 and text in said.err and not said.out


def test_a_trial_that_can_not_run_ends_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--repeat", "3", "--url", "amqp://me:sesame@127.0.0.1:1"]) == 4
    said = capsys.readouterr()
    assert "no broker to test" in said.err and "trial 2" not in said.out
    assert "sesame" not in said.err + said.out


def test_a_switch_that_is_varied_is_in_no_cell_by_itself() -> None:
    words = [*SMALL, "--transient", "--vary", "transient=yes,no"]
    cells = plan_trials(parse_settings(words, {}), words)
    assert {dict(cell)["transient"]: each.transient for cell, each in cells.items()} == {"yes": True, "no": False}
    words = ["--scenario", "soak", "--vary", "reconnect=yes,no"]
    cells = plan_trials(parse_settings(words, {}), words)
    assert {dict(cell)["reconnect"]: each.reconnect for cell, each in cells.items()} == {"yes": True, "no": False}


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `loadtest` that trials run instead: what it does is in the file `does.py`, which knows the trial's seed."""
    package = tmp_path / "fake" / "loadtest"
    (package / "commands").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "commands" / "__init__.py").touch()
    (package / "commands" / "trial.py").write_text(
        "import runpy, sys\n"
        f"runpy.run_path({str(package / 'does.py')!r}, {{'seed': int(sys.argv[sys.argv.index('--seed') + 1]),"
        " 'file': sys.argv[sys.argv.index('--json') + 1]})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.chdir(package.parent)
    return package / "does.py"


PUBLISHED = sorted((Path(__file__).parents[3] / "results").glob("2*Z-*.json"))
WHOLE: dict[str, Any] = json.loads(PUBLISHED[-1].read_text()) | {"requirements": []}


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        ("sys.stderr.write('loadtest: no broker to test: gone amqp://me:sesame@h'); sys.exit(4)", "no broker to test"),
        ("os.kill(os.getpid(), 9)", "a trial ended with -9"),
        ("raise ValueError('a bug')", "ValueError: a bug"),
        ("sys.exit(0)", "a trial ended with 0, and without a result"),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_a_trial_that_ends_all_leaves_those_before_it(
    ending: str, told: str, stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.json").write_text(json.dumps(WHOLE))
    copied = f"shutil.copy({str(tmp_path / 'one.json')!r}, file)"
    stand_in.write_text(f"import os, shutil, sys\nif seed < 13: {copied}\nelse: {ending}\n")
    file = tmp_path / "all.json"
    words = [*SMALL, "--repeat", "5", "--url", "amqp://me:sesame@localhost", "--json", str(file)]
    assert main([*words, "--output", str(tmp_path / "out")]) == 5
    said, result = capsys.readouterr().out, json.loads(file.read_text())
    assert [trial["round"] for trial in result["trials"]] == [0, 1]
    (missing,) = result["incomplete"]
    assert missing.startswith("the trials ended after 2 of 5: ") and told in missing and "sesame" not in missing
    assert "incomplete" in said and "2 trials" in said
    assert "trials ended after 2 of 5" in next((tmp_path / "out").glob("*.md")).read_text()


def test_no_trial_without_a_place_for_its_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nowhere(*_: object, **__: object) -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("loadtest.commands.trials.tempfile.TemporaryDirectory", nowhere)
    assert main([*SMALL, "--repeat", "2", "--url", "amqp://localhost"]) == 1
    assert capsys.readouterr().err == "loadtest: no trial could run: No usable temporary directory found\n"


def test_a_trial_that_lost_a_worker_is_kept(stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = WHOLE | {"incomplete": ["worker 2 was lost"]}
    (tmp_path / "one.json").write_text(json.dumps(result))
    stand_in.write_text(f"import shutil, sys\nshutil.copy({str(tmp_path / 'one.json')!r}, file)\nsys.exit(5)\n")
    file = tmp_path / "all.json"
    assert main([*SMALL, "--repeat", "2", "--url", "amqp://localhost", "--json", str(file)]) == 5
    result = json.loads(file.read_text())
    assert len(result["trials"]) == 2 and result["incomplete"] == ["worker 2 was lost"]
    assert "incomplete: worker 2 was lost" in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_cells_have_a_report(tmp_path: Path, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, "--vary", "window=1,2", "--url", amqp_url, "--output", str(tmp_path)]
    assert main([*words, "--json", str(tmp_path / "all.json")]) == 0, capsys.readouterr().out
    result = json.loads((tmp_path / "all.json").read_text())
    assert result["connect"] is None and result["loop"] is None
    schema = json.loads((Path(loadtest.__file__).parent / "output" / "schema.json").read_text())
    jsonschema.validate(result, schema, jsonschema.Draft202012Validator)
    page = (tmp_path / f"{result['run_id']}.md").read_text()
    assert "## Trials" in page and "window 1 (1)" in page and "client CPU a message" in page
    assert main(["report", str(tmp_path / "all.json"), "--format", "html,md,junit"]) == 0, capsys.readouterr().err
    assert "window 2 (1)" in (tmp_path / "all.html").read_text()


def _confirmed(port: int) -> float:
    """How many messages a run says were confirmed; none before it answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return 0.0
    return sum(float(value) for value in re.findall(r"^loadtest_messages_confirmed_total\S* (\S+)$", text, re.M))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_trial_in_order(number: int, tmp_path: Path, amqp_url: str) -> None:
    file = tmp_path / "result.json"
    (port,) = free_ports(1)
    words = ["--clients", "6", "--warmup", "0.2", "--duration", "60", "--repeat", "3", "--url", amqp_url]
    words += ["--metrics", f"127.0.0.1:{port}"]
    command = [sys.executable, "-m", "loadtest", *words, "--json", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("trial 1"):
                break
        # the trial says nothing until it ends, but whoever asks it
        until = time.monotonic() + 60
        while not _confirmed(port) and time.monotonic() < until:
            time.sleep(0.1)
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(30) == 130
    result: dict[str, Any] = json.loads(file.read_text())
    assert result["interrupted"] and len(result["trials"]) == 1
    assert result["trials"][0]["publish"]["confirmed"] > 0 and result["trials"][0]["consume"]["lost"] == 0


Ended = trials.TrialEnded("no broker to test: it is gone", 4)


@pytest.mark.parametrize(("end", "code"), [(KeyboardInterrupt(), 130), (Ended, 5), (NodeError("it is gone"), 5)])
def test_what_ends_the_whole_between_two_trials_loses_none_that_ran(
    end: BaseException, code: int, tmp_path: Path, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt, a broker that is gone: the trials that ran are the result, which says how many there are not."""
    run, file = trials._run, tmp_path / "result.json"
    calls = 0

    def run_one(words: list[str]) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise end
        return run(words)

    monkeypatch.setattr(trials, "_run", run_one)
    assert main([*SMALL, "--repeat", "3", "--url", amqp_url, "--json", str(file), "--quiet"]) == code
    result: dict[str, Any] = json.loads(file.read_text())
    assert len(result["trials"]) == 1 and result["trials"][0]["publish"]["confirmed"] > 0
    assert result["interrupted"] is (code == 130)
    if code == 5:
        (missing,) = result["incomplete"]
        assert missing.startswith("the trials ended after 1 of 3: ") and "it is gone" in missing


@pytest.mark.usefixtures("undrawn")
def test_a_file_that_says_how_often_has_each_trial_made_once(tmp_path: Path, amqp_url: str) -> None:
    """A trial is asked for with the same file, and must neither begin trials of its own nor make a report."""
    scenario, file = tmp_path / "often.toml", tmp_path / "result.json"
    folder = tmp_path / "out"
    scenario.write_text(f'repeat = 2\nlabel = {{a = "b"}}\noutput = "{folder}"\n')
    words = ["--scenario", str(scenario), *SMALL, "--mode", "closed", "--url", amqp_url]
    assert main([*words, "--json", str(file), "--quiet"]) == 0
    result = json.loads(file.read_text())
    assert [trial["round"] for trial in result["trials"]] == [0, 1]
    runs = {trial["run_id"] for trial in result["trials"]}
    assert result["run_id"] == f"{min(runs)}.trials"
    assert {path.name for path in folder.glob("*.json")} == {f"{run}.json" for run in (*runs, result["run_id"])}
    one = json.loads((folder / f"{min(runs)}.json").read_text())
    assert (one["trials"], one["scenario"]["repeat"], one["scenario"]["labels"]) == (None, 1, {"a": "b"})
    assert not list(folder.glob("*.html"))


def test_workloads_of_a_file_are_made_once_too(tmp_path: Path) -> None:
    scenario = tmp_path / "both.toml"
    text = 'repeat = 3\nvary = "window=1,2"\noutput = "out"\n[[workload]]\nclients = 2\n[[workload]]\nclients = 4\n'
    scenario.write_text(text)
    settings = make_once(parse_settings(["--scenario", str(scenario)], {}))
    all_ = (settings, *settings.workloads)
    assert [(each.repeat, each.vary, each.output) for each in all_] == [(1, (), None)] * 3


def test_a_trial_asks_nobody_for_what_was_agreed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no terminal: a broker that only the environment names would be refused."""
    began: list[list[str]] = []

    def start(command: list[str], **_: object) -> None:
        began.append(command)
        raise KeyboardInterrupt

    monkeypatch.setattr(trials.subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt):
        trials._run(["--clients", "2"])
    assert "--yes" in began[0]


def test_an_interrupt_while_a_virtual_host_is_removed_loses_no_trial(
    tmp_path: Path, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def place(*_: object) -> Iterator[list[str]]:
        yield []
        raise KeyboardInterrupt

    monkeypatch.setattr(trials, "_place", place)
    file = tmp_path / "result.json"
    assert main([*SMALL, "--repeat", "2", "--url", amqp_url, "--json", str(file), "--quiet"]) == 130
    assert len(json.loads(file.read_text())["trials"]) == 1


@pytest.mark.usefixtures("undrawn")
def test_a_trial_that_can_not_be_written_fails_the_whole_and_is_in_it(
    tmp_path: Path, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, file = Path.write_text, tmp_path / "result.json"
    tried: list[Path] = []

    def fill_up(path: Path, text: str, **options: Any) -> int:
        if path.parent.name == "out" and not tried:
            tried.append(path)
            raise OSError(28, "No space left on device")
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", fill_up)
    words = [*SMALL, "--repeat", "2", "--url", amqp_url, "--output", str(tmp_path / "out"), "--json", str(file)]
    assert main([*words, "--quiet"]) == 1
    result = json.loads(file.read_text())
    assert len(result["trials"]) == 2
    assert "failed: the whole result of a trial could not be written" in result["verdict"]["evidence"][0]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["missing.json", "--to", "missing.json"], "missing.json"),
        (["{none}", "--to", "{none}"], "no result of schema 1"),
        (["{text}", "--to", "{text}"], "no JSON file"),
        (["{one}"], "there is nothing to compare with"),
        (["{one}:window=3", "--to", "{one}"], "no such cell"),
        (["{one}", "--to", "{one}", "--tolerance", "2"], "no share"),
        (["{one}", "--to", "{one}"], "no metric is known of both sides"),
        (["{one}", "--to", "{one}", "--json", ""], "--json is empty"),
        (["{trials}", "--to", "{one}"], "its trials are none"),
        (["{odd}", "--to", "{one}"], "its trials are none"),
        (["{nan}", "--to", "{one}"], "no JSON file"),
        (["{deep}", "--to", "{one}"], "no JSON file"),
    ],
)
def test_compare_refuses(words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"none": "{}", "text": "hello", "one": json.dumps({"schema": 1, "run_id": "x", "trials": None})}
    files |= {"trials": '{"schema": 1, "run_id": "x", "trials": {"a": 1}}', "deep": "[" * 100_000}
    files |= {"odd": '{"schema": 1, "run_id": "x", "trials": [{"cell": {}}]}', "nan": '{"schema": 1, "run_id": NaN}'}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    given = [word.format(**{name: tmp_path / name for name in files}) for word in words]
    try:
        code = main(["compare", *given])
    except SystemExit as error:
        code = int(str(error.code))
    assert code == 2 and text in capsys.readouterr().err


def test_compare_tells_a_regression_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(name: str, cpu: float) -> str:
        trials = [
            {"round": number, "cell": {}, "resources": {"client_cpu_us_per_message": cpu * (1 + number % 5 / 100)}}
            for number in range(12)
        ]
        (tmp_path / name).write_text(json.dumps({"schema": 1, "run_id": name, "trials": trials}))
        return str(tmp_path / name)

    old, new = write("old", 20), write("new", 23)
    assert main(["compare", old, "--to", new]) == 3
    assert "worse: client CPU a message +15.0 %" in capsys.readouterr().out
    assert main(["compare", old, "--to", new, "--tolerance", "20%"]) == 0
    assert main(["compare", new, "--to", old]) == 0
    assert main(["compare", old, "--to", old]) == 0
    assert "no difference is shown" in capsys.readouterr().out


def test_a_comparison_of_too_few_trials_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two single runs nothing can be shown, however much worse one is: a gate that would never close."""
    old, new = write_run(tmp_path / "old", 100), write_run(tmp_path / "new", 1)
    assert main(["compare", old, "--to", new]) == 3
    said = " ".join(capsys.readouterr().out.split())
    assert "too few trials: 1 pair can't show any difference among 1 metrics: at least 6 are needed (--repeat)" in said
    assert "no difference is shown" not in said


def write_run(path: Path, rate: float | None, status: str = "paced", **more: Any) -> str:
    result = {"schema": 1, "run_id": "x", "trials": None, "verdict": {"status": status, "evidence": []}}
    path.write_text(json.dumps({**result, "publish": {"rate": rate}, "resources": {}, **more}))
    return str(path)


def test_a_run_that_failed_is_worse_than_one_that_did_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = write_run(tmp_path / "good", 100), write_run(tmp_path / "bad", 0, "failed")
    assert main(["compare", good, "--to", bad]) == 3
    said = capsys.readouterr().out
    assert "1 of 1 new trials failed, and 0 of 1 of the base's" in said
    assert "not known of the new side, and so not compared: publish rate" in said
    assert main(["compare", good, "--to", good]) == 3  # too few trials
    assert (
        main(["compare", write_run(tmp_path / "was", 90, "failed"), "--to", bad]) == 2
    )  # and nothing is known of both
    assert main(["compare", bad, "--to", good, "--json", "-"]) == 2
    capsys.readouterr()
    better = write_run(tmp_path / "better", 90, "failed", interrupted=True)
    assert main(["compare", better, "--to", good, "--json", "-"]) == 3
    (told,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert told["broken"] is None and told["too_few"].startswith("1 pair can't show any difference")
    assert {"1 of 2 trials failed", "1 of 2 trials were interrupted"} <= set(told["remarks"])


def test_a_rate_that_fell_to_nothing_is_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has no ratio, and of a run that was interrupted nothing else says so."""
    good, none = write_run(tmp_path / "good", 100), write_run(tmp_path / "none", 0, interrupted=True)
    assert main(["compare", good, "--to", none]) == 3
    assert "worse: the publish rate is 0 in 1 of 1 new trials" in capsys.readouterr().out
    assert main(["compare", none, "--to", good]) == 2


def test_a_comparison_that_can_not_be_written_is_told_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_run(tmp_path / "good", 100)
    assert main(["compare", good, "--to", good, "--json", str(tmp_path / "no" / "where")]) == 1
    said = capsys.readouterr()
    assert "publish rate" in said.out and "the comparison could not be written: " in said.err


def test_a_cell_is_named_as_it_was_varied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With colons and commas in it, as a changing rate has them; and in a file whose own name has a colon."""
    cells = [{"rate": rate, "queue-arg": "x-max-length=10"} for rate in ("1000:60,5000:10", "500:60,2000:10")]
    trials = [
        {"round": number, "cell": cell, "resources": {"client_cpu_us_per_message": 20.0 + number}}
        for number in range(2)
        for cell in cells
    ]
    file = tmp_path / "12:30.json"
    file.write_text(json.dumps({"schema": 1, "run_id": "x", "trials": trials}))
    base, new = (f"{file}:rate={rate},queue-arg=x-max-length=10" for rate in ("1000:60,5000:10", "500:60,2000:10"))
    for words in ([base, "--to", new], [f"{file}:--rate=1000:60,5000:10", "--to", new], [str(file)]):
        assert main(["compare", *words, "--json", "-"]) == 3, capsys.readouterr().err
        (told,) = json.loads(capsys.readouterr().out)["comparisons"]
        assert "1000:60,5000:10" in told["base"] and told["differences"][0]["pairs"] == 2
    for words in ([f"{file}:", "--to", new], [f"{file}:rate", "--to", new], [f"{file}x:rate", "--to", new]):
        assert main(["compare", *words]) == 2
        assert "there is no such file, nor is it FILE:FLAG=VALUE" in capsys.readouterr().err


def test_different_loads_are_not_compared_unsaid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"clients": 100, "size": 128, "faults": [], "transient": False, "labels": {"a": "1"}, "command": "x"}
    other = {**asked, "clients": 1000, "transient": True, "faults": ["2s stop 1s"], "labels": {}, "command": "y"}
    one = write_run(tmp_path / "one", 100, scenario=asked)
    assert main(["compare", one, "--to", write_run(tmp_path / "same", 100, scenario={**asked, "command": "z"})]) == 3
    assert "loads" not in capsys.readouterr().out
    assert main(["compare", one, "--to", write_run(tmp_path / "other", 100, scenario=other)]) == 3
    told = "clients 100 against 1,000, faults none against ['2s stop 1s'], transient no against yes"
    assert f"the loads are not the same: {told}" in " ".join(capsys.readouterr().out.split())
    assert main(["compare", one, "--to", write_run(tmp_path / "odd", 100, scenario=["odd"])]) == 3


@pytest.mark.parametrize("width", [40, 80])
def test_no_width_loses_a_digit_of_a_comparison(width: int) -> None:
    trials = [{"resources": {"client_cpu_us_per_message": cpu}, "cell": {}} for cpu in (225.5, 130.6)]
    console = Console(file=io.StringIO(), width=width)
    console.print(
        render_comparison(compare(trials[:1], trials[1:], tolerance=0.05), "rate 100:1,300:1", "rate 300:1,100:1")
    )
    output: Any = console.file
    assert "…" not in output.getvalue() and "225.5" in output.getvalue()


def test_a_cell_may_be_called_anything(capsys: pytest.CaptureFixture[str]) -> None:
    trial = {"round": 0, "publish": {"rate": 5.0}, "verdict": {"status": "paced"}, "requirements": []}
    trials = [{**trial, "cell": {"header": name}} for name in ("a=[/red]", "b=:bomb:")]
    result = {"trials": trials, "interrupted": False, "verdict": {"evidence": []}, "requirements": []}
    console = make_console()
    console.print(render_trials(result, ["[/] failed"]))
    compared = compare(trials[:1], trials[1:], tolerance=0.05)
    console.print(render_comparison(compared, "header a=[/red]", "header b=:bomb:"))
    said = capsys.readouterr().out
    assert said.count("a=[/red]") >= 2 and said.count("b=:bomb:") >= 2 and "[/] failed" in said
