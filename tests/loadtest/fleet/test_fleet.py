"""Whole runs of several real processes against a real broker, and what becomes of them when one dies or leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadtest.commands.merge import main as merge

Result = dict[str, Any]
TOKEN = "a token for these tests alone"
SHORT = ("--clients", "40", "--mode", "closed", "--duration", "1", "--warmup", "0.3", "--drain", "10")
LONG = ("--clients", "40", "--mode", "closed", "--duration", "30", "--warmup", "0.5", "--drain", "10")
BACKENDS = ("asyncio", "trio")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


class Program:
    """A process of the load tester, whose output is read at its end."""

    def __init__(self, directory: Path, name: str, words: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self.json = directory / f"{name}.json"
        self._errors = directory / f"{name}.err"
        self._out = directory / f"{name}.out"
        command = [sys.executable, "-m", "loadtest", *words]
        kept = {key: value for key, value in os.environ.items() if key != "RABBITMQ_URL"}
        with self._errors.open("wb") as errors, self._out.open("wb") as out:
            self.process = subprocess.Popen(
                command, env={**kept, **environment}, cwd=directory, stdin=subprocess.DEVNULL, stdout=out, stderr=errors
            )

    @property
    def said(self) -> str:
        return self._out.read_text(errors="replace") + self._errors.read_text(errors="replace")

    def wait(self, seconds: float = 60.0) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {seconds:g} s; it said: {self.said}") from None

    def result(self) -> Result:
        found: Result = json.loads(self.json.read_text(encoding="utf-8"))
        return found

    def workers(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
            return [child for child in children if "worker" in child.cmdline()]
        return []


class Programs:
    def __init__(self, directory: Path, url: str) -> None:
        self.url = url
        self.directory = directory
        self.all: list[Program] = []

    def start(self, name: str, *words: str, **environment: str) -> Program:
        program = Program(self.directory, name, words, environment)
        self.all.append(program)
        return program

    def lead(self, *words: str, **environment: str) -> Program:
        name = f"lead{len(self.all)}"
        json_ = str(self.directory / f"{name}.json")
        return self.start(name, *words, "--url", self.url, "--json", json_, "--output", "out", **environment)

    def work(self, *words: str, token: str = TOKEN) -> Program:
        name = f"work{len(self.all)}"
        return self.start(name, "worker", "--url", self.url, "--name", name, *words, LOADTEST_TOKEN=token)

    def merge(self) -> Result:
        parts = sorted(str(path) for path in self.directory.glob("out/*.parts/*.part"))
        target = self.directory / "merged.json"
        merge([*parts, "--json", str(target), "--quiet"])
        found: Result = json.loads(target.read_text(encoding="utf-8"))
        return found


@pytest.fixture
def programs(tmp_path: Path, amqp_url: str) -> Iterator[Programs]:
    made = Programs(tmp_path, amqp_url)
    try:
        yield made
    finally:
        for program in made.all:
            left = [program.process, *program.workers()]
            for process in left:
                with suppress(psutil.NoSuchProcess, ProcessLookupError):
                    process.kill()
            program.process.wait(10)


def until(holds: Callable[[], bool], seconds: float = 30.0, program: Program | None = None) -> None:
    give_up_at = time.monotonic() + seconds
    while not holds():
        said = program.said if program is not None else ""
        assert time.monotonic() < give_up_at, f"it did not come about within {seconds:g} s; {said}"
        time.sleep(0.05)


def add_up(result: Result) -> None:
    publish, consume, rpc = result["publish"], result["consume"], result["rpc"]
    assert publish["sent"] == sum(publish[name] for name in ("confirmed", "nacked", "returned", "unknown"))
    assert publish["confirmed"] + consume["resurrected"] == consume["unique"] + consume["lost"] + consume["backlog"]
    assert consume["received"] == consume["unique"] + consume["duplicates"]
    assert rpc["calls"] == rpc["replies"] + rpc["timeouts"] + rpc["errors"]
    for name in ("sent", "confirmed", "received", "calls", "replies"):
        section = "rpc" if name in ("calls", "replies") else "consume" if name == "received" else "publish"
        assert sum(each[name] for each in result["workers"] if each["counted"]) == result[section][name]


# --- all is well ------------------------------------------------------------------------------------------------------


def test_two_processes_make_one_run(programs: Programs, backend: str) -> None:
    lead = programs.lead("--processes", "2", *SHORT, "--queues", "3", "--backend", backend)
    assert lead.wait() == 0, lead.said
    result = lead.result()
    add_up(result)
    assert result["incomplete"] == []
    assert [(each["status"], each["sockets"]) for each in result["workers"]] == [("finished", 20), ("finished", 20)]
    assert result["connect"]["connections"] == 40
    assert (result["consume"]["lost"], result["consume"]["backlog"]) == (0, 0)
    assert result["publish"]["confirmed"] > 0 and result["rpc"]["replies"] > 0
    assert result["consume"]["end_to_end_latency_ms"]["count"] > 0
    assert result["consume"]["end_to_end_crossing"] is None, "they share one clock"
    assert [phase["name"] for phase in result["phases"]] == ["connect", "warmup", "measure", "drain", "close"]
    assert all(abs(each["start_skew_ms"]) < 1000 for each in result["workers"])
    assert result["scenario"]["processes"] == 2
    assert TOKEN not in json.dumps(result)
    assert programs.merge() == result, "the same from the files of each"


def test_the_rate_is_sought_by_all_together(programs: Programs, backend: str) -> None:
    words = ("--clients", "40", "--duration", "1", "--search", "3", "--drain", "10", "--backend", backend)
    lead = programs.lead("--processes", "2", *words)
    assert lead.wait(90) in (0, 1), lead.said  # 1: what was kept up a moment ago is too much on a machine that is busy
    result = lead.result()
    add_up(result)
    assert all("the load was not put on" in each for each in result["verdict"]["evidence"] if each.startswith("failed"))
    assert result["loop"] == "open"
    assert result["capacity"]["steps"]
    assert result["capacity"]["closed_rate"] > 0
    planned, skipped = result["publish"]["planned"], result["publish"]["skipped"]
    assert planned > 0
    assert skipped <= planned / 2
    assert programs.merge() == result


def test_a_plan_is_shared_out(programs: Programs) -> None:
    """On a schedule each message is some process's, and none is two processes'."""
    lead = programs.lead("--processes", "3", "--clients", "40", "--rate", "200", "--duration", "2", "--warmup", "0.5")
    assert lead.wait() == 0, lead.said
    result = lead.result()
    add_up(result)
    publish = result["publish"]
    assert publish["planned"] == publish["sent"] + publish["skipped"]
    assert abs(publish["planned"] - 200 * 2.5) < 40
    assert result["consume"]["lost"] == 0


def test_workers_join_over_rabbitmq(programs: Programs, backend: str) -> None:
    workers = [programs.work("--backend", backend) for _ in range(2)]
    lead = programs.lead("--workers", "2", *SHORT, "--backend", backend, LOADTEST_TOKEN=TOKEN)
    assert lead.wait() == 0, lead.said
    assert [worker.wait(15) for worker in workers] == [0, 0]
    result = lead.result()
    add_up(result)
    assert sorted(each["name"] for each in result["workers"]) == ["work0", "work1"]
    assert all(each["clock"] == {"offset_ms": 0.0, "bound_ms": 0.0, "drift_ppm": None} for each in result["workers"])
    assert result["control"]["round_trip_ms"] > 0
    assert programs.merge() == result
    own = sorted(programs.directory.glob("*.worker-*.part"))
    assert len(own) == 2, "each worker has written its own file, too"
    coordinators = str(next(programs.directory.glob("out/*.parts/*.coordinator.part")))
    target = programs.directory / "own.json"
    assert merge([coordinators, *map(str, own), "--json", str(target), "--quiet"]) == 0
    assert json.loads(target.read_text(encoding="utf-8")) == result


# --- somebody is lost -------------------------------------------------------------------------------------------------


def measuring(program: Program) -> Callable[[], bool]:
    return lambda: " measure " in program.said


def test_a_worker_that_is_killed_is_listed(programs: Programs, backend: str) -> None:
    words = ("--clients", "40", "--mode", "closed", "--duration", "3", "--warmup", "0.5", "--drain", "5")
    lead = programs.lead("--processes", "2", *words, "--backend", backend)
    until(measuring(lead), program=lead)
    victim = lead.workers()[0]
    victim.kill()
    assert lead.wait() == 5, lead.said
    assert "incomplete" in lead.said
    result = lead.result()
    assert result["incomplete"]
    (lost,) = [each for each in result["workers"] if each["pid"] == victim.pid]
    (other,) = [each for each in result["workers"] if each["pid"] != victim.pid]
    assert (lost["status"], lost["counted"]) == ("lost", False)
    assert lost["phase"] in ("warmup", "measure")  # as its last heartbeat had it
    assert lost["at_seconds"] > 0 and lost["sent"] > 0
    assert "signal 9" in lost["reason"] or "connection" in lost["reason"]
    assert (other["status"], other["counted"]) == ("finished", True)
    assert result["publish"]["sent"] == other["sent"] > 0
    assert not lead.workers()
    assert programs.merge() == result


def test_workers_are_gone_when_their_coordinator_is_killed(programs: Programs, backend: str) -> None:
    lead = programs.lead("--processes", "2", *LONG, "--backend", backend)
    until(measuring(lead), program=lead)
    workers = lead.workers()
    assert len(workers) == 2
    lead.process.kill()
    lead.process.wait(10)
    _, alive = psutil.wait_procs(workers, timeout=15)
    assert not alive


def test_workers_elsewhere_keep_what_they_measured_when_the_coordinator_is_killed(programs: Programs) -> None:
    workers = [programs.work() for _ in range(2)]
    lead = programs.lead("--workers", "2", *LONG, LOADTEST_TOKEN=TOKEN)
    until(measuring(lead), program=lead)
    lead.process.kill()
    assert [worker.wait(20) for worker in workers] == [5, 5]
    assert "the coordinator is gone" in workers[0].said
    parts = sorted(str(path) for path in programs.directory.glob("*.worker-*.part"))
    assert len(parts) == 2
    target = programs.directory / "merged.json"
    assert merge([*parts, "--json", str(target), "--quiet"]) == 5
    result = json.loads(target.read_text(encoding="utf-8"))
    assert [each["status"] for each in result["workers"]] == ["abandoned", "abandoned"]
    assert result["publish"]["confirmed"] > 0
    assert result["consume"]["lost"] is None


# --- somebody wants to end --------------------------------------------------------------------------------------------


def test_an_interrupt_ends_all_in_order(programs: Programs, backend: str) -> None:
    lead = programs.lead("--processes", "2", *LONG, "--backend", backend)
    until(measuring(lead), program=lead)
    workers = lead.workers()
    lead.process.send_signal(signal.SIGINT)
    assert lead.wait(30) == 130, lead.said
    result = lead.result()
    add_up(result)
    assert result["interrupted"] is True
    assert [each["status"] for each in result["workers"]] == ["finished", "finished"]
    assert result["publish"]["confirmed"] > 0
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive


def test_a_second_interrupt_drops_everything_and_leaves_nobody(programs: Programs) -> None:
    lead = programs.lead("--processes", "2", *LONG)
    until(measuring(lead), program=lead)
    workers = lead.workers()
    lead.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    lead.process.send_signal(signal.SIGINT)
    assert lead.wait(30) == 130, lead.said
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive


def test_a_worker_that_is_interrupted_leaves_in_order(programs: Programs, backend: str) -> None:
    words = ("--clients", "40", "--mode", "closed", "--duration", "4", "--warmup", "0.5", "--drain", "10")
    workers = [programs.work("--backend", backend) for _ in range(2)]
    lead = programs.lead("--workers", "2", *words, "--backend", backend, LOADTEST_TOKEN=TOKEN)
    until(measuring(lead), program=lead)
    workers[0].process.send_signal(signal.SIGINT)
    assert workers[0].wait(20) == 130, workers[0].said
    assert lead.wait() == 5, lead.said
    assert workers[1].wait(15) == 0
    result = lead.result()
    (left,) = [each for each in result["workers"] if each["name"] == "work0"]
    assert (left["status"], left["counted"]) == ("left", True)
    assert left["at_seconds"] > 0
    assert "its own end" in left["reason"]
    assert result["interrupted"] is False
    add_up(result)


# --- nobody may be made to do what he doesn't want to -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "asked", "why"),
    [
        (("--max-rate", "10"), ("--mode", "closed"), "closed loop has no rate"),
        (("--max-rate", "10"), ("--rate", "100"), "at most 10"),
        (("--backend", "trio"), ("--mode", "closed"), "--backend asyncio"),
    ],
)
def test_a_worker_refuses_what_its_own_command_line_does_not_allow(
    programs: Programs, terms: tuple[str, ...], asked: tuple[str, ...], why: str
) -> None:
    worker = programs.work(*terms)
    lead = programs.lead("--workers", "1", "--clients", "20", *asked, "--join-timeout", "5", LOADTEST_TOKEN=TOKEN)
    assert lead.wait() == 2, lead.said
    assert worker.wait(20) == 2, worker.said
    assert why in worker.said


def test_a_worker_loads_no_broker_that_it_was_not_told_of(programs: Programs) -> None:
    name = programs.url.replace("127.0.0.1", "localhost").replace("localhost", "127.1", 1)
    worker = programs.work()
    lead = programs.start(
        "lead", "--workers", "1", "--url", name, "--control-url", programs.url, "--clients", "20", LOADTEST_TOKEN=TOKEN
    )
    assert lead.wait() == 2, lead.said
    assert "--allow-target" in lead.said
    assert worker.wait(20) == 2
    allowed = programs.work("--allow-target", name, "--control-url", programs.url)
    lead = programs.start(
        *("again", "--workers", "1", "--url", name, "--control-url", programs.url, *SHORT, "--quiet"),
        LOADTEST_TOKEN=TOKEN,
    )
    assert lead.wait() == 0, lead.said
    assert allowed.wait(20) == 0


def test_another_token_is_no_way_in(programs: Programs) -> None:
    worker = programs.work("--wait", "3", token="another token than theirs")
    lead = programs.lead("--workers", "1", *SHORT, "--join-timeout", "3", LOADTEST_TOKEN=TOKEN)
    assert lead.wait() == 2
    assert "0 of 1 workers joined" in lead.said
    assert worker.wait(20) == 5
    assert "no coordinator was there" in worker.said


def test_two_coordinators_do_not_share_a_token(programs: Programs) -> None:
    first = programs.lead("--workers", "1", *SHORT, LOADTEST_TOKEN=TOKEN)
    until(lambda: "waiting for 1 workers" in first.said, program=first)
    second = programs.lead("--workers", "1", *SHORT, LOADTEST_TOKEN=TOKEN)
    assert second.wait() == 2
    assert "another coordinator" in second.said
    first.process.send_signal(signal.SIGINT)
    assert first.wait(20) == 130, first.said
    assert TOKEN not in first.said


def test_a_new_token_is_told_to_who_starts_the_coordinator(programs: Programs) -> None:
    lead = programs.lead("--workers", "1", *SHORT)
    until(lambda: "LOADTEST_TOKEN=" in lead.said, program=lead)
    token = lead.said.partition("LOADTEST_TOKEN=")[2].split()[0]
    worker = programs.work(token=token)
    assert lead.wait() == 0, lead.said
    assert worker.wait(20) == 0
    assert token not in lead.json.read_text(encoding="utf-8")
