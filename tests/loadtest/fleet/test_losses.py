"""What becomes of a run of several real processes when one of them, its coordinator or a broker dies or stops."""

from __future__ import annotations

import json
import signal

import psutil

from loadtest.commands.merge import main as merge
from loadtest.fleet.parts import read_part
from tests.loadtest.fleet.programs import LONG, TOKEN, Programs, measuring, mortal_broker, proxied, until


def test_a_worker_that_is_killed_is_listed(programs: Programs, backend: str) -> None:
    words = ("--clients", "40", "--mode", "closed", "--duration", "5", "--warmup", "0.5", "--drain", "5")
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
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    code, result = programs.merged(*programs.directory.glob("out/*.parts"))
    assert code == 5
    assert [each["status"] for each in result["workers"]] == ["abandoned", "abandoned"]
    assert result["publish"]["confirmed"] > 0


def test_workers_elsewhere_keep_what_they_measured_when_the_coordinator_is_killed(programs: Programs) -> None:
    workers = [programs.work() for _ in range(2)]
    lead = programs.lead("--workers", "2", *LONG, LOADTEST_TOKEN=TOKEN)
    until(measuring(lead), program=lead)
    lead.process.kill()
    assert [worker.wait() for worker in workers] == [5, 5]
    assert "the coordinator is gone" in workers[0].said
    parts = sorted(str(path) for path in programs.directory.glob("*.worker-*.part"))
    assert len(parts) == 2
    target = programs.directory / "merged.json"
    assert merge([*parts, "--json", str(target), "--quiet"]) == 5
    result = json.loads(target.read_text(encoding="utf-8"))
    assert [each["status"] for each in result["workers"]] == ["abandoned", "abandoned"]
    assert result["publish"]["confirmed"] > 0
    assert result["consume"]["lost"] is None


def test_two_workers_with_command_lines_of_their_own_and_one_is_killed(programs: Programs, backend: str) -> None:
    """It is listed, the run is incomplete, and nothing of its part is done by the other."""
    clients = ("--producers", "20", "--consumers", "20", "--queues", "4", "--rate", "200")
    workers = [programs.work("--backend", backend, "--max-rate", "150") for _ in range(2)]
    times = ("--duration", "5", "--warmup", "0.5", "--drain", "5")
    lead = programs.lead("--workers", "2", *clients, *times, "--backend", backend, LOADTEST_TOKEN=TOKEN)
    until(measuring(lead), program=lead)
    workers[0].process.kill()
    assert lead.wait() == 5, lead.said
    assert workers[1].wait() == 0, workers[1].said
    result = lead.result()
    lost, other = sorted(result["workers"], key=lambda each: str(each["name"]))
    assert (lost["name"], lost["status"], lost["counted"]) == ("work0", "lost", False)
    assert "its connection to the control broker is gone" in lost["reason"]
    assert lost["sent"] > 0 and lost["phase"] in ("warmup", "measure")
    assert (other["status"], other["counted"], other["sockets"]) == ("finished", True, 20)
    assert any("work0" in text for text in result["incomplete"])
    assert any("work0" in text for text in result["verdict"]["evidence"])
    publish, plan = result["publish"], 200 * 5.5
    assert publish["sent"] == other["sent"]
    assert 0.4 * plan < publish["planned"] < 0.6 * plan, "its own half of the plan, and no more"
    (part,) = programs.parts()
    senders = [index for index, account in enumerate(part.record["ledger"]) if account[0]]
    assert senders == [*range(part.number, 20, 2)]
    assert programs.merge() == result
    assert not list(programs.directory.glob(f"*.worker-{lost['number']}.part")), "who is killed writes nothing"


def test_who_stands_still_is_lost_and_ends_when_it_goes_on(programs: Programs) -> None:
    times = ("--clients", "40", "--mode", "closed", "--duration", "13", "--warmup", "0.5", "--drain", "5")
    workers = [programs.work() for _ in range(2)]
    lead = programs.lead("--workers", "2", *times, LOADTEST_TOKEN=TOKEN)
    until(measuring(lead), program=lead)
    workers[0].process.send_signal(signal.SIGSTOP)
    try:
        assert lead.wait() == 5, lead.said
    finally:
        workers[0].process.send_signal(signal.SIGCONT)
    assert workers[1].wait() == 0, workers[1].said
    result = lead.result()
    (lost,) = [each for each in result["workers"] if each["status"] == "lost"]
    assert lost["name"] == "work0"
    assert "nothing was heard of it" in lost["reason"]
    assert lost["silent_seconds"] > 10
    assert "1 lost" in lead.said, "it is told while the run goes on"
    assert workers[0].wait() == 5, workers[0].said
    own = next(programs.directory.glob(f"*.worker-{lost['number']}.part"))
    code, merged = programs.merged(*programs.directory.glob("out/*.parts"), own)
    assert code == 5
    assert [each["counted"] for each in merged["workers"]] == [True, True]
    assert merged["publish"]["sent"] > result["publish"]["sent"]
    assert merged["consume"]["lost"] in (None, 0)


def test_the_broker_under_test_dies_and_they_still_hear_of_each_other(programs: Programs, backend: str) -> None:
    with mortal_broker() as (url, broker):
        programs.url = url
        lead = programs.lead("--processes", "2", *LONG, "--backend", backend)
        until(measuring(lead), program=lead)
        broker.kill()
        assert lead.wait() == 1, lead.said
    result = lead.result()
    assert [each["status"] for each in result["workers"]] == ["finished", "finished"]
    assert result["connect"]["dropped"] == 40
    assert result["incomplete"] == []
    assert sum(phase["seconds"] for phase in result["phases"]) < 25
    assert programs.merge() == result


def test_the_control_broker_dies_and_the_one_under_test_does_not(programs: Programs, backend: str) -> None:
    """Each keeps what it measured, and all of it makes the result, as far as it goes."""
    with mortal_broker() as (url, broker):
        over = ("--control-url", url, "--backend", backend)
        workers = [programs.work(*over) for _ in range(2)]
        lead = programs.lead("--workers", "2", *LONG, *over, LOADTEST_TOKEN=TOKEN)
        until(measuring(lead), program=lead)
        broker.kill()
        assert lead.wait() == 5, lead.said
        assert [worker.wait() for worker in workers] == [5, 5], workers[0].said
    assert "the control connection was lost" in workers[0].said
    result = lead.result()
    assert [(each["status"], each["counted"]) for each in result["workers"]] == [("lost", False), ("lost", False)]
    assert result["consume"]["lost"] is None
    code, merged = programs.merged(*programs.directory.glob("out/*.parts"), programs.directory)
    assert code == 5
    assert [(each["status"], each["counted"]) for each in merged["workers"]] == [("lost", True), ("lost", True)]
    assert merged["publish"]["confirmed"] > 0
    assert merged["environment"]["broker"] == result["environment"]["broker"] != {}


def test_one_workers_control_connection_is_cut(programs: Programs) -> None:
    """It ends by itself although it could connect again: for who leads it was gone. The other goes on."""
    with proxied(programs.url) as (url, cut):
        workers = [programs.work("--control-url", url), programs.work()]
        words = ("--clients", "40", "--mode", "closed", "--duration", "6", "--warmup", "0.5", "--drain", "10")
        lead = programs.lead("--workers", "2", *words, LOADTEST_TOKEN=TOKEN)
        until(measuring(lead), program=lead)
        cut()
        assert workers[0].wait() == 5, workers[0].said
        assert lead.wait() == 5, lead.said
    assert workers[1].wait() == 0, workers[1].said
    result = lead.result()
    lost, other = sorted(result["workers"], key=lambda each: str(each["name"]))
    assert (lost["status"], lost["counted"]) == ("lost", False)
    assert (other["status"], other["counted"]) == ("finished", True)
    assert result["publish"]["sent"] == other["sent"] > 0
    own = next(programs.directory.glob(f"*.worker-{lost['number']}.part"))
    _, merged = programs.merged(*programs.directory.glob("out/*.parts"), own)
    assert merged["publish"]["sent"] == result["publish"]["sent"] + read_part(own).record["tally"]["sent"]


def test_a_control_broker_that_is_not_there_is_told_from_the_one_under_test(programs: Programs) -> None:
    nowhere = "amqp://guest:guest@127.0.0.1:1"
    lead = programs.lead("--workers", "1", *LONG, "--control-url", nowhere, LOADTEST_TOKEN=TOKEN)
    assert lead.wait() == 4
    assert "no control broker" in lead.said and "no broker to test" not in lead.said
