"""Runs against a broker in memory that misbehaves on demand."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from loadtest.analysis.failures import failures
from loadtest.analysis.result import build_result
from loadtest.commands.flags import parse_settings
from loadtest.execution import conductor as conductor_module
from loadtest.execution import queues
from loadtest.execution.conductor import Conductor
from loadtest.execution.state import start_run
from loadtest.machine.environment import describe_environment
from loadtest.machine.resources import Meter
from tests.loadtest.execution.fake_broker import Broker, Connection, Watcher, conduct
from tests.support.helpers import until
from tests.support.lines import without_search

pytestmark = pytest.mark.usefixtures("brisk")


async def test_all_is_well() -> None:
    broker = Broker()
    result = await conduct(broker, "--clients 30 --handshakes 4")
    assert failures(result) == []
    assert result["connect"]["connections"] == 30
    assert 1 < broker.most_opening <= 4 + 1  # and the server's own
    assert result["publish"]["confirmed"] == result["consume"]["unique"] == broker.published > 100
    assert result["rpc"]["replies"] > 10
    assert result["publish"]["fairness"] > 0.9
    assert [phase["name"] for phase in result["phases"]] == ["connect", "warmup", "measure", "drain", "close"]
    assert result["phases"][2]["seconds"] == pytest.approx(0.4, abs=0.2)


async def test_refused_connections_fail_the_run_but_not_the_others() -> None:
    broker = Broker()
    broker.refuse_every = 4
    result = await conduct(broker, "--producers 10 --consumers 10")
    assert result["connect"]["failed"] == 5
    assert result["connect"]["connections"] == 15
    assert result["errors"] == {"ConnectionRefusedError": 5}
    assert failures(result) == ["5 connections failed"]
    assert result["publish"]["confirmed"] == result["consume"]["unique"] > 0


async def test_if_nobody_can_connect_the_run_ends() -> None:
    broker = Broker()
    broker.refuse_every = 1
    result = await conduct(broker, "--producers 3 --consumers 3 --duration 60")
    assert result["connect"]["failed"] == 6
    assert result["connect"]["client_bytes_per_connection"] is None
    assert result["publish"]["rate"] is None
    assert result["publish"]["confirm_latency_ms"] is None


async def test_who_hangs_while_connecting_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor_module, "CONNECT_PATIENCE", 0.3)
    monkeypatch.setattr(conductor_module, "CLOSE_BOUND", 0.5)
    broker = Broker()
    broker.hang_every = 5
    result = await conduct(broker, "--producers 10 --consumers 10 --handshakes 2")
    # two that hang take both places: those behind them are never tried
    assert result["connect"]["connections"] == 8
    assert result["connect"]["failed"] == 12
    assert result["errors"] == {"ConnectTimeout": 12}


async def test_the_ledger_finds_what_is_lost_and_what_comes_twice() -> None:
    broker = Broker()
    broker.lose_every, broker.repeat_every = 10, 7
    result = await conduct(broker, "--producers 5 --consumers 5 --drain 0.3")
    assert result["consume"]["lost"] == broker.published // 10 > 0
    assert result["consume"]["duplicates"] == result["consume"]["redelivered"] == broker.received // 7 > 0
    assert result["consume"]["unique"] == broker.received
    assert failures(result) == [f"{broker.published // 10:,} messages lost"]


async def test_unknown_outcomes_are_no_losses_and_may_arrive() -> None:
    broker = Broker()
    broker.unknown_every = 10
    result = await conduct(broker, "--producers 5 --consumers 5")
    (reason,) = failures(result)
    assert "publishes ended unknown" in reason
    assert result["verdict"] == result["verdict"] | {"status": "failed"}
    assert result["verdict"]["evidence"][0] == f"failed: {reason}"
    assert result["publish"]["unknown"] == result["consume"]["resurrected"] == broker.published // 10 > 0
    assert result["publish"]["confirmed"] + result["consume"]["resurrected"] == result["consume"]["unique"]


async def test_without_consumers_the_backlog_is_what_was_confirmed() -> None:
    result = await conduct(Broker(), "--producers 5")
    assert result["consume"]["backlog"] == result["publish"]["confirmed"] > 0
    assert result["consume"]["lost"] == 0


async def test_dropped_clients_end_alone_and_their_messages_are_still_there() -> None:
    broker = Broker()
    broker.drop_consumers_after = 50
    result = await conduct(broker, "--producers 5 --consumers 5 --callers 2")
    assert result["connect"]["dropped"] == 5
    assert result["errors"] == {"ConnectionResetError": 5}
    assert failures(result) == ["5 connections dropped"]
    assert result["consume"]["backlog"] == result["publish"]["confirmed"] - result["consume"]["unique"] > 0
    assert result["consume"]["lost"] == 0


async def test_losses_are_found_behind_what_had_arrived_and_is_queued_again() -> None:
    """The count alone would hide them: as many messages are in the queues as are missing, or more."""
    broker = Broker()
    broker.drop_consumers_after, broker.lose_every, broker.drops_unacknowledged = 50, 10, True
    result = await conduct(broker, "--producers 5 --consumers 5")
    assert result["connect"]["dropped"] == 5
    lost = broker.published // 10
    assert result["consume"]["lost"] == lost > 0
    assert result["consume"]["backlog"] == result["publish"]["confirmed"] - lost


@pytest.mark.parametrize("slow_counts", [1, 2])  # the recount is right; two wrong ones agree
async def test_a_count_that_comes_late_is_not_believed(slow_counts: int) -> None:
    broker = Broker()
    broker.slow_counts = slow_counts
    result = await conduct(broker, "--producers 5 --queues 1")
    assert failures(result) == []
    assert result["consume"]["backlog"] == result["publish"]["confirmed"] > 0
    assert result["consume"]["lost"] == 0


async def test_a_deleted_queue_takes_its_messages_with_it_and_no_others() -> None:
    broker = Broker()
    deleted: list[deque[bytes]] = []

    async def delete_one() -> None:
        while broker.published < 20:
            await anyio.sleep(0.01)
        deleted.append(broker.queues.pop(min(broker.queues)))

    async with anyio.create_task_group() as tg:
        tg.start_soon(delete_one)
        result = await conduct(broker, "--producers 4 --queues 2")
    assert result["errors"] == {"QueueGone": 1}
    assert result["consume"]["lost"] == len(deleted[0]) > 0
    assert result["consume"]["backlog"] == result["publish"]["confirmed"] - len(deleted[0]) > 0


async def test_a_lost_server_fails_the_run_and_is_no_clients_connection() -> None:
    broker = Broker()
    broker.mute_servers = True
    result = await conduct(broker, "--callers 4")
    assert (result["connect"]["connections"], result["connect"]["dropped"]) == (4, 0)
    assert result["rpc"]["servers_lost"] == 1
    assert failures(result) == ["1 RPC servers lost"]


async def test_each_row_lies_in_one_phase_and_all_count() -> None:
    result = await conduct(Broker(), "--clients 20 --duration 1.3")
    ends, end = {}, 0.0
    for phase in result["phases"]:
        end += phase["seconds"]
        ends[phase["name"]] = end
    for row in result["timeline"]:
        start = ends[row["phase"]] - next(p["seconds"] for p in result["phases"] if p["name"] == row["phase"])
        assert start - 0.15 <= row["t_seconds"] - row["seconds"] and row["t_seconds"] <= ends[row["phase"]] + 0.15
    assert [row["phase"] for row in result["timeline"]][:3] == ["connect", "warmup", "measure"]
    assert sum(row["published"] for row in result["timeline"]) == result["publish"]["sent"]
    assert result["timeline"][-1]["t_seconds"] == pytest.approx(end, abs=0.2)


async def test_a_silent_broker_ends_the_declaring(monkeypatch: pytest.MonkeyPatch) -> None:
    async def declare_queue(self: Connection, name: str, arguments: Mapping[str, Any]) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(Connection, "declare_queue", declare_queue)
    monkeypatch.setattr(queues, "DECLARE_BOUND", 0.1)
    run = start_run(parse_settings(["--producers", "1", "--mode", "closed"], {}))
    conductor = Conductor(run, Broker(), ["amqp://fake"], Meter(None), Watcher(), is_private=False)
    with pytest.raises(TimeoutError, match="declare 1 queues, within"):
        await conductor.conduct()


async def test_dropped_at_once_the_phase_has_its_length_and_the_work_its_rate() -> None:
    broker = Broker()
    words = ["--producers", "5", "--duration", "60", "--warmup", "0.1"]
    run = start_run(parse_settings(without_search(*words), {}))
    conductor = Conductor(run, broker, ["amqp://fake"], Meter(None), Watcher(), is_private=False)
    began = anyio.current_time()
    async with anyio.create_task_group() as tg:
        tg.start_soon(conductor.conduct)
        while not run.record.phases or run.record.phases[-1].name != "measure":
            await anyio.sleep(0.01)
        before, began_to_measure = broker.published, anyio.current_time()
        await anyio.sleep(0.4)
        await until(lambda: broker.published > before)
        tg.cancel_scope.cancel()
    lasted = anyio.current_time() - began
    rate = (broker.published - before) / (anyio.current_time() - began_to_measure)
    result = build_result(run.settings, run.record, describe_environment((), "fake"), words)
    assert result["phases"][-1]["name"] == "measure"
    assert 0.4 <= result["phases"][-1]["seconds"] <= lasted - 0.1
    assert result["publish"]["rate"] > rate / 2, "in the time that it had, not in the minute that was planned"
    assert result["timeline"][-1]["phase"] == "measure"
    assert broker.open == 0 and not broker.queues


async def test_shared_sockets_drop_once() -> None:
    broker = Broker()
    broker.drop_consumers_after = 50
    result = await conduct(broker, "--producers 6 --consumers 6 --connections 3")
    assert result["connect"]["dropped"] == 3
    assert result["errors"] == {"ConnectionResetError": 6}


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.01, 0.1, 0.3, 0.5])
async def test_interrupted_at_any_time_it_ends_in_order(delay: float) -> None:
    result = await conduct(Broker(), "--clients 20 --handshakes 1 --duration 60 --ramp 0.2", interrupt_after=delay)
    assert result["interrupted"]
    assert failures(result) == []
    assert result["phases"][-1]["name"] == "close"


async def test_a_schedule_is_kept_and_latency_counts_from_it() -> None:
    broker = Broker()
    result = await conduct(broker, "--producers 10 --consumers 2 --rate 500 --warmup 0.2 --ramp 0.2 --seed 1")
    publish = result["publish"]
    lasted = {phase["name"]: phase["seconds"] for phase in result["phases"]}
    # 0.2 s, of which the ramp takes half, then 0.4 s
    assert publish["planned"] == pytest.approx(500 * (lasted["warmup"] - 0.1 + lasted["measure"]), rel=0.1)
    assert publish["sent"] == broker.published <= publish["planned"] + 250
    assert publish["planned"] <= publish["sent"] + publish["skipped"]
    if publish["lag_ms"]["max"] < 20:  # else the machine paused for longer than a producer's turn
        assert publish["skipped"] == 0
    assert publish["confirm_service_ms"]["min"] >= 2.0
    assert publish["confirm_latency_ms"]["mean"] >= publish["confirm_service_ms"]["mean"]


async def test_an_impossible_schedule_is_told_not_hidden() -> None:
    result = await conduct(Broker(), "--producers 2 --consumers 2 --rate 5000")
    publish = result["publish"]
    assert publish["skipped"] > 1000
    assert publish["planned"] == publish["sent"] + publish["skipped"]
    assert publish["lag_ms"]["max"] > 100
    assert publish["confirm_latency_ms"]["p50"] > 20 * publish["confirm_service_ms"]["p50"]
    told = "\n".join(result["verdict"]["evidence"])
    assert "the plan was not met" in told
    assert "before there was room" in told
    assert result["verdict"]["status"] == "failed"
    assert any("the load was not put on" in reason for reason in failures(result))


async def test_who_gets_no_answer_counts_with_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stall to the end: what is in flight ends unknown, what was planned is never sent, and both are latencies."""
    monkeypatch.setattr(conductor_module, "CLOSE_BOUND", 0.2)
    broker = Broker()
    broker.silent_after = 100
    result = await conduct(broker, "--producers 10 --rate 500 --duration 1 --warmup 0 --drain 0.2")
    publish = result["publish"]
    assert publish["unknown"] == 10
    assert publish["planned"] == publish["sent"] + publish["skipped"]
    assert publish["skipped"] > 200
    confirm, service, lag = (publish[name] for name in ("confirm_latency_ms", "confirm_service_ms", "lag_ms"))
    assert confirm["count"] == lag["count"] == publish["planned"]
    assert service["count"] == publish["sent"]
    # of 500 planned about 390 waited until the end, evenly spread over 0.8 s
    assert confirm["p50"] > 150
    assert lag["p50"] > 150
    assert confirm["max"] > 800
    reasons = failures(result)
    assert any("ended unknown" in reason for reason in reasons)
    assert any("the load was not put on" in reason for reason in reasons)


async def test_what_is_nacked_is_no_load() -> None:
    broker = Broker()
    broker.nack_every = 2
    result = await conduct(broker, "--producers 5 --consumers 5")
    publish = result["publish"]
    assert publish["nacked"] == publish["sent"] // 2
    assert failures(result) == [
        f"the load was not put on: {publish['nacked']:,} of {publish['sent']:,} publishes were nacked"
    ]


async def test_numbers_agree_where_a_connection_is_lost_in_a_publish() -> None:
    broker = Broker()
    broker.fail_after = 60
    result = await conduct(broker, "--producers 4 --rate 400 --drain 0.2")
    publish = result["publish"]
    assert publish["sent"] == publish["confirmed"] == broker.published
    assert publish["planned"] == publish["sent"] + publish["skipped"]
    assert result["connect"]["dropped"] == 4


@pytest.mark.parametrize("delay", [0.1, 0.3, 0.6])
async def test_numbers_agree_where_it_is_interrupted(delay: float) -> None:
    """In the warm-up, in the measured time: what would have been due while it drained was not planned."""
    broker = Broker()
    broker.slow_by = 0.05
    words = "--producers 20 --consumers 5 --rate 1000 --warmup 0.4 --duration 60"
    result = await conduct(broker, words, interrupt_after=delay)
    publish = result["publish"]
    lasted = sum(phase["seconds"] for phase in result["phases"][1:3])
    assert publish["planned"] == publish["sent"] + publish["skipped"]
    assert publish["planned"] <= 1000 * lasted + 20
    assert publish["sent"] == publish["confirmed"]


async def test_the_drain_waits_for_the_last_who_was_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fell due in time is sent although the loop wakes its producer late, and consumed though the drain began."""
    pause = Conductor._pause

    async def pause_and_stand_still(self: Conductor, seconds: float) -> None:
        run, ends = self._run, time.monotonic() + seconds
        if run.record.phases[-1].name != "measure":
            return await pause(self, seconds)
        await pause(self, seconds - 0.1)
        tally = run.record.tally
        while not tally.sent == tally.confirmed == run.record.ledger.unique:
            await anyio.sleep(0.001)
        time.sleep(max(0.0, ends - time.monotonic()) + 0.001)  # noqa: ASYNC251 - those who are due now can't be woken

    monkeypatch.setattr(Conductor, "_pause", pause_and_stand_still)
    result = await conduct(Broker(), "--producers 30 --consumers 2 --rate 100 --duration 0.3 --warmup 0.1")
    assert result["publish"]["planned"] == result["publish"]["sent"] > 30
    assert (result["consume"]["backlog"], result["consume"]["unique"]) == (0, result["publish"]["confirmed"])


async def test_rows_have_maxima() -> None:
    """A stall shows in the row in which it ends, though its percentiles are those of all the others."""
    broker = Broker()

    async def stall() -> None:
        while broker.published < 400:
            await anyio.sleep(0.005)
        broker.slow_by = 0.3
        await anyio.sleep(0.01)
        broker.slow_by = 0.0

    async with anyio.create_task_group() as tg:
        tg.start_soon(stall)
        result = await conduct(broker, "--producers 10 --consumers 2 --duration 1.5")
    assert max(row["confirm_max_ms"] or 0 for row in result["timeline"]) >= 290
    worst = max(result["timeline"], key=lambda row: row["confirm_max_ms"] or 0)
    assert worst["confirm_p50_ms"] < 50


async def test_a_backlog_that_grows_is_named() -> None:
    broker = Broker()
    broker.consume_pause = 0.2
    result = await conduct(broker, "--producers 10 --consumers 1 --prefetch 7 --duration 1 --drain 0")
    statuses = ("unsteady", "generator-bound", "inconclusive")
    assert result["verdict"]["status"] in statuses, "the last two on a busy machine"
    assert result["verdict"]["evidence"][0].startswith("backlog: ")
