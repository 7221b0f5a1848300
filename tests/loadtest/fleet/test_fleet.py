"""Whole runs of several real processes against a real broker: one result of all, and an end in order."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import psutil
import pytest

from loadtest.commands.merge import main as merge
from loadtest.metrics.record import Record
from tests.loadtest.fleet.programs import LONG, SHORT, TOKEN, Programs, add_up, measuring, until

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
    assert lead.wait() in (0, 1), lead.said  # 1: what was kept up a moment ago is too much on a machine that is busy
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


def test_a_number_of_messages_is_sent_by_all_together(programs: Programs) -> None:
    """A worker whose consumers have no producer beside them measures for as long as the others do."""
    words = ("--producers", "1", "--consumers", "3", "--callers", "2", "--messages", "600", "--rate", "200")
    lead = programs.lead("--processes", "2", *words, "--warmup", "0.2", "--drain", "10")
    assert lead.wait() == 0, lead.said
    result, parts = lead.result(), programs.parts()
    assert result["complete"] and not result["interrupted"] and result["publish"]["confirmed"] == 600
    assert [Record.from_plain(dict(part.record)).ledger.accounts[0].sent for part in parts] == [600, 0]
    works = [Record.from_plain(dict(part.record)).work for part in parts]
    assert all(work is not None and 2 < work.seconds < 20 for work in works), works
    assert result["consume"]["rate"] == pytest.approx(result["publish"]["rate"], rel=0.1)
    measured = next(phase["seconds"] for phase in result["phases"] if phase["name"] == "measure")
    assert measured < 20
    assert programs.merge() == result


def test_each_process_may_load_all_brokers_of_the_run(programs: Programs) -> None:
    """Those of publishers and consumers, too; here other names of the same one."""
    other = programs.url.replace("127.0.0.1", "localhost")
    assert other != programs.url
    lead = programs.lead("--processes", "2", *SHORT, "--publish-url", other, "--consume-url", other)
    assert lead.wait() == 0, lead.said
    add_up(lead.result())


def test_workers_join_over_rabbitmq(programs: Programs, backend: str) -> None:
    workers = [programs.work("--backend", backend) for _ in range(2)]
    lead = programs.lead("--workers", "2", *SHORT, "--backend", backend, LOADTEST_TOKEN=TOKEN)
    assert lead.wait() == 0, lead.said
    assert [worker.wait() for worker in workers] == [0, 0]
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


def test_each_does_its_own_part_of_the_plan(programs: Programs) -> None:
    """Who sent, called, received and served which, as each one's own account has it: a part that is done twice, by
    another or by nobody adds up to the same figures.
    """
    clients = ("--producers", "6", "--consumers", "4", "--callers", "4", "--servers", "2", "--queues", "4")
    lead = programs.lead("--processes", "2", *clients, "--mode", "closed", "--duration", "1.5", "--warmup", "0.3")
    assert lead.wait() == 0, lead.said
    result, parts = lead.result(), programs.parts()
    assert [(part.number, part.of) for part in parts] == [(0, 2), (1, 2)]
    for part in parts:
        record, number = Record.from_plain(dict(part.record)), part.number
        accounts = record.ledger.accounts
        assert [index for index, account in enumerate(accounts) if account.sent] == [*range(number, 6, 2)]
        assert [index for index, calls in enumerate(record.calls_made) if calls] == [*range(number, 4, 2)]
        heard = [index for index, account in enumerate(accounts) if len(account.arrived)]
        assert heard == [*range(number, 6, 2)], "it reads the queues to which its own producers write"
        assert record.tally.connected == 7
    assert result["rpc"]["replies"] == result["rpc"]["calls"] > 0, "each server's queue is served by somebody"
    add_up(result)


@pytest.mark.parametrize("ahead", [3600, -3600])
def test_a_worker_may_have_another_clock(programs: Programs, ahead: int) -> None:
    """A monotonic clock of its own, as on another host: by a namespace of time, where that may be made."""
    within = ("unshare", "--time", "--fork", "--kill-child", "--monotonic", str(ahead))
    try:
        subprocess.run([*within, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no namespace of time can be made here")
    workers = [programs.work(), programs.work(within=within)]
    clients = ("--producers", "20", "--consumers", "20", "--callers", "4", "--queues", "3")
    words = (*clients, "--rate", "200", "--duration", "2")
    lead = programs.lead("--workers", "2", *words, "--warmup", "0.5", LOADTEST_TOKEN=TOKEN)
    assert lead.wait() == 0, lead.said
    assert [worker.wait() for worker in workers] == [0, 0]
    result = lead.result()
    add_up(result)
    clocks = {each["name"]: each["clock"] for each in result["workers"]}
    assert clocks["work0"] == {"offset_ms": 0.0, "bound_ms": 0.0, "drift_ppm": None}
    assert abs(clocks["work1"]["offset_ms"] - ahead * 1000) < clocks["work1"]["bound_ms"] < 500
    assert all(abs(each["start_skew_ms"]) < 1000 for each in result["workers"])
    crossing, own = result["consume"]["end_to_end_crossing"], result["consume"]["end_to_end_latency_ms"]
    assert crossing["latency_ms"]["count"] > 50 and own["count"] > 50, "some crossed hosts, and some did not"
    assert crossing["latency_ms"]["max"] < 5000 and own["max"] < 5000
    assert 0 < crossing["bound_ms"] < 1000
    assert result["consume"]["lost"] == 0
    assert programs.merge() == result


# --- somebody wants to end --------------------------------------------------------------------------------------------


def test_an_interrupt_ends_all_in_order(programs: Programs, backend: str) -> None:
    lead = programs.lead("--processes", "2", *LONG, "--backend", backend)
    until(measuring(lead), program=lead)
    workers = lead.workers()
    lead.process.send_signal(signal.SIGINT)
    assert lead.wait() == 130, lead.said
    result = lead.result()
    add_up(result)
    assert result["interrupted"] is True
    assert [each["status"] for each in result["workers"]] == ["finished", "finished"]
    assert result["publish"]["confirmed"] > 0
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive


def test_a_second_interrupt_drops_everything_and_leaves_nobody(programs: Programs) -> None:
    lead = programs.lead("--processes", "2", *LONG)
    until(measuring(lead), program=lead)
    workers = lead.workers()
    lead.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    lead.process.send_signal(signal.SIGINT)
    assert lead.wait() == 130, lead.said
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive


def test_a_worker_that_is_interrupted_leaves_in_order(programs: Programs, backend: str) -> None:
    words = ("--clients", "40", "--mode", "closed", "--duration", "4", "--warmup", "0.5", "--drain", "10")
    workers = [programs.work("--backend", backend) for _ in range(2)]
    lead = programs.lead("--workers", "2", *words, "--backend", backend, LOADTEST_TOKEN=TOKEN)
    until(measuring(lead), program=lead)
    workers[0].process.send_signal(signal.SIGINT)
    assert workers[0].wait() == 130, workers[0].said
    assert lead.wait() == 5, lead.said
    assert workers[1].wait() == 0
    result = lead.result()
    (left,) = [each for each in result["workers"] if each["name"] == "work0"]
    assert (left["status"], left["counted"]) == ("left", True)
    assert left["at_seconds"] > 0
    assert "its own end" in left["reason"]
    assert result["interrupted"] is False
    add_up(result)
