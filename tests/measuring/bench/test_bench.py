"""The benchmark's own arithmetic: its order of runs, its ratios and what it makes of runs that failed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.measuring.bench import ours, peers, plan, report
from tests.measuring.bench.__main__ import parse
from tests.measuring.bench.former import BOUND, compare, tree_with
from tests.measuring.bench.measure import Clocks, Figures
from tests.measuring.bench.plan import OURS, THRESHOLDS, Run
from tests.measuring.bench.rpc import Server
from tests.measuring.bench.runner import ROOT, Outcome
from tests.measuring.bench.statistic import estimate, unsteadiness
from tests.measuring.bench.verdict import judge, summarise


def outcome(client: str, round: int, rate: float, *, backend: str = "", failure: str = "") -> Outcome:
    figures = {"messages": 1000.0, "seconds": 1000 / rate, "cpu_seconds": 0.001, "system_seconds": 0.0, "sleeps": 3.0}
    return Outcome(Run(client, "publish", 1000, backend), round, None if failure else figures, failure)


def test_every_run_of_the_plan_exists() -> None:
    source = Path(plan.__file__).with_name("reference.c").read_text()
    for group in plan.GROUPS:
        for run in group.jobs:
            assert run.job in {*ours.JOBS, *ours.CALLERS, *ours.BLOCKING} and run.job in plan.TITLES
        for run in group.references:
            assert run.job in plan.TITLES
            if run.client == plan.C_CLIENT:
                assert f'"{run.job}"' in source
            else:
                job = f"{run.client.replace('-', '_')}.{run.job}"
                assert job in {*peers.JOBS, *peers.CALLERS, *peers.BLOCKING}


def test_every_threshold_is_about_a_run_of_the_plan() -> None:
    for threshold in THRESHOLDS:
        group = plan.group_of(threshold.job)
        assert threshold.of is None or threshold.of in {run.client for run in group.references}
        assert threshold.of_job is None or threshold.of_job in {run.job for run in group.jobs}
        assert threshold.figure in plan.FIGURES
        assert (threshold.at_least is None) != (threshold.at_most is None)


def test_references_run_between_the_backends() -> None:
    group = next(group for group in plan.GROUPS if group.name == "storm")
    order = [(run.backend or run.client, run.job) for run in group.in_order(["asyncio", "trio"])]
    assert order == [
        ("asyncio", "clients"),
        ("asyncio", "connections"),
        ("aiormq", "opening"),
        ("aio-pika", "connections"),
        ("trio", "connections"),
        ("trio", "clients"),
    ]


def test_what_runs_on_one_backend_is_held_there_alone() -> None:
    (group,) = plan.choose(["blocking"], 1.0, 10)
    assert [run.label for run in group.in_order(["uvloop", "trio"])] == ["rabbitry asyncio", "pika"]
    checks = judge([], ["publish_many", "publish_many_unconfirmed"], ["uvloop", "trio"])
    assert [check.backend for check in checks] == ["asyncio", "asyncio"]


def test_only_keeps_what_the_chosen_jobs_are_held_to() -> None:
    (group,) = plan.choose(["publish_await"], 1.0, 10)
    assert [run.job for run in group.jobs] == ["publish_await"]
    assert group.references == ()
    (group,) = plan.choose(["client_one"], 1.0, 10)  # with the job that it is held to, and nothing else
    assert [run.job for run in group.jobs] == ["one", "client_one"] and group.references == ()
    (storm,) = plan.choose(["storm"], 1.0, 10)
    assert {run.count for run in (*storm.jobs, *storm.references)} == {10}


def test_ratios_are_of_the_same_round() -> None:
    # The machine is ten times slower in the second round, and rabbitry always twice as fast.
    outcomes = [
        outcome(OURS, 0, 2000, backend="trio"),
        outcome(plan.C_CLIENT, 0, 1000),
        outcome(plan.C_CLIENT, 1, 100),
        outcome(OURS, 1, 200, backend="trio"),
        outcome(OURS, 2, 1, backend="trio"),
        outcome(plan.C_CLIENT, 2, 0.1, failure="it hung"),
    ]
    check = next(check for check in judge(outcomes, ["publish"], ["trio"]) if check.threshold.of)
    assert check.value is not None
    assert check.value.count == 2
    assert check.value.low == pytest.approx(2) and check.value.high == pytest.approx(2)
    assert check.holds is True and check.is_certain and check.verdict == "met"


def test_a_ratio_to_another_job_is_taken_on_the_same_backend() -> None:
    def run(job: str, backend: str, rate: float) -> Outcome:
        figures = {"messages": 1000.0, "seconds": 1.0, "cpu_seconds": 1 / rate, "system_seconds": 0.0, "sleeps": 3.0}
        return Outcome(Run(OURS, job, 1000, backend), 0, figures)

    outcomes = [run("one", "trio", 10), run("client_one", "trio", 8), run("one", "asyncio", 1)]
    (check,) = [check for check in judge(outcomes, ["client_one"], ["trio"]) if check.threshold.of_job]
    assert check.value is not None and check.value.median == pytest.approx(1.25) and check.holds


def test_a_job_is_held_to_the_first_reference_of_a_client() -> None:
    def run(client: str, job: str, p50: float, backend: str = "") -> Outcome:
        return Outcome(Run(client, job, 1000, backend), 0, {"p50_us": p50})

    outcomes = [run(OURS, "client_rpc_one", 300, "trio")]
    outcomes += [run("aio-pika", "rpc_one_unconfirmed", 500), run("aio-pika", "rpc_one", 1000)]
    checks = judge(outcomes, ["client_rpc_one"], ["trio"])
    (check,) = [check for check in checks if check.threshold.of == "aio-pika"]
    assert check.value is not None and check.value.median == pytest.approx(0.3) and check.holds


@pytest.mark.parametrize("job", ["rpc_one", "client_rpc_tasks"])
def test_calls_to_a_server_in_another_process(amqp_url: str, job: str) -> None:
    command = [sys.executable, "-m", "tests.measuring.bench.ours", job, amqp_url, "200"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    figures = json.loads(done.stdout)
    assert figures["messages"] == 200 and figures["cpu_seconds"] > 0 and not done.stderr


def test_a_clock_counts_what_the_server_used() -> None:
    class Busy(Server):
        used = 0.0

        def usage(self) -> Figures:
            self.used += 1000.0
            return {"cpu_seconds": self.used, "system_seconds": 0.0, "sleeps": 0.0}

    found = Clocks(Busy("module", "job", "url", "asyncio")).figures(10)
    assert 1000 <= found["cpu_seconds"] < 1010 and found["messages"] == 10 and found["seconds"] < 10


def test_a_server_that_cannot_serve_says_why() -> None:
    server = Server("tests.measuring.bench.ours", "serve", "amqp://127.0.0.1:1", "asyncio")
    with pytest.raises(RuntimeError, match=r"ended before its caller: .*127\.0\.0\.1:1"), server:
        pass


def test_what_was_not_measured_is_said() -> None:
    outcomes = [outcome(OURS, 0, 1, backend="trio", failure="status 1: no")]
    checks = judge(outcomes, ["publish"], ["trio"])
    assert {check.verdict for check in checks} == {"not measured"}
    assert not all(check.holds for check in checks)
    result = report.Report("command", "now", 1.0, {}, ["x: missing"], outcomes, checks, summarise(outcomes))
    assert "status 1: no" in report.text(result) and "x: missing" in report.text(result)


def test_the_report_in_all_its_forms(tmp_path: Path) -> None:
    outcomes = [outcome(OURS, round, 1500 + round, backend="asyncio") for round in range(4)]
    outcomes += [outcome(plan.C_CLIENT, round, 1000 + round) for round in range(4)]
    checks = judge(outcomes, ["publish"], ["asyncio"])
    result = report.Report("command", "now", 1.0, {"python": "3"}, [], outcomes, checks, summarise(outcomes))
    written = report.write(result, tmp_path / "deep" / "benchmark.json")
    found = json.loads(written[0].read_text())
    assert found["checks"][0]["holds"] is True and len(found["runs"]) == 8
    assert "| met |" in written[1].read_text()
    assert [path.suffix for path in written] == [".json", ".md"]
    assert report.markdown(report.from_json(written[0].read_text())) == written[1].read_text()


def test_estimate() -> None:
    found = estimate([1.0, 2.0, 4.0])
    assert found.median == pytest.approx(2) and found.low >= 0.99 and found.high <= 4.01 and found.count == 3
    assert unsteadiness([1.0, 2.0, 1.0]) == pytest.approx(2)
    assert unsteadiness([1.0]) is None


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.0123, "0.0123"), (1.5, "1.50"), (99.96, "100.0"), (61234, "61,200")]
)
def test_number(value: float, shown: str) -> None:
    assert report.number(value) == shown
    assert math.isclose(float(shown.replace(",", "")), value, rel_tol=0.01, abs_tol=0)


@pytest.mark.parametrize(
    ("words", "bounds", "rounds"),
    [
        ([], False, 7),
        (["--only", "libraries publishing"], False, 7),
        (["--only", "blocking one by one"], True, 10),
        (["--only", "publish", "--rounds", "3"], True, 3),
        (["--bounds"], True, 10),
        (["--quick"], False, 2),
    ],
)
def test_what_is_asked_for(words: list[str], bounds: bool, rounds: int) -> None:
    options = parse(words)
    assert (options.bounds, options.rounds) == (bounds, rounds)


@pytest.mark.parametrize(
    "words",
    [
        ["--rounds", "0"],
        ["--scale", "0"],
        ["--minutes", "0"],
        ["--only", "nothing"],
        ["--backend", "curio"],
        ["--library", "kombu"],
        ["--size", "3B"],
        ["--bounds", "--size", "128B"],
        ["--bounds", "--only", "libraries"],
        ["--only", "libraries", "--only", "publish"],
        ["--only", "publish", "--library", "pika"],
        ["--tls", "--bounds"],
        ["--tls", "--url", "amqp://localhost"],
    ],
)
def test_wrong_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 2


# --- beside a former revision -----------------------------------------------------------------------------------------


def test_a_former_revision_is_compared_pair_by_pair() -> None:
    run = Run(OURS, "publish", 1000, "trio")
    then = {"messages": 1000.0, "seconds": 1.0, "cpu_seconds": 0.002}
    now = then | {"cpu_seconds": 0.003}
    cpu, rate = compare(run, [(then, now), (now, {**now, "cpu_seconds": 0.0045})])
    assert (cpu.figure, round(cpu.ratio.median, 9), cpu.then.median < cpu.now.median) == ("cpu_us", 1.5, True)
    assert cpu.is_held and cpu.ratio.high > BOUND and "ABOVE THE BOUND" in cpu.row
    assert (rate.figure, rate.ratio.median, rate.is_held) == ("rate", 1.0, False)


def test_a_tree_imports_the_client_of_the_other_checkout(tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "rabbitry").mkdir(parents=True)
    (other / "rabbitry" / "__init__.py").write_text("print('the other one')\n")
    tree = tree_with(other, tmp_path / "tree")
    done = subprocess.run([sys.executable, "-m", "rabbitry"], cwd=tree, capture_output=True, text=True)
    assert done.stdout == "the other one\n"
    assert (tree / "tests").resolve() == ROOT / "tests"
