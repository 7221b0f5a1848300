"""Runs that seek the rate which can be kept up, against the broker in memory."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import anyio
import pytest

from loadtest.analysis.failures import failures
from loadtest.commands.flags import parse_settings
from loadtest.execution import conductor as conductor_module
from loadtest.execution import leftovers
from loadtest.execution.pace import Pace
from loadtest.execution.seeking import Seeker
from loadtest.execution.state import start_run
from loadtest.machine.resources import Meter
from loadtest.scenarios.plan import Place
from loadtest.scenarios.settings import Role
from tests.loadtest.execution.fake_broker import Broker, Connection, conduct
from tests.support.helpers import until

PHASES = ["connect", "warmup", "closed", "search", "settle", "measure", "drain", "close"]
SEEKING = "--mode both --search 2.5 --duration 0.6"


pytestmark = pytest.mark.usefixtures("brisk")


def add_up(result: dict[str, Any]) -> None:
    publish, consume, rpc = result["publish"], result["consume"], result["rpc"]
    assert publish["sent"] == sum(publish[name] for name in ("confirmed", "nacked", "returned", "unknown"))
    assert publish["planned"] - publish["skipped"] <= publish["sent"]
    assert consume["received"] == consume["unique"] + consume["duplicates"]
    if rpc:
        assert rpc["calls"] == rpc["replies"] + rpc["timeouts"] + rpc["errors"]


async def test_the_rate_is_found_and_latency_measured_at_a_share_of_it() -> None:
    result = await conduct(Broker(), f"--producers 10 --consumers 4 --callers 4 {SEEKING} --share 25% --seed 1")
    assert result["loop"] == "open"
    assert [phase["name"] for phase in result["phases"]] == PHASES
    add_up(result)
    capacity = result["capacity"]
    assert set(capacity) == {
        *("sustainable_rate", "closed_rate", "share", "paced_rate", "closed", "steps"),
        *("verdict", "latency_verdict"),
    }
    assert capacity["closed_rate"] > 100
    assert capacity["share"] == 0.25
    if capacity["sustainable_rate"] is not None:
        assert capacity["paced_rate"] == pytest.approx(0.25 * capacity["sustainable_rate"], rel=0.01)
    else:  # on a busy machine: what was held for a moment may have turned out to be too much
        assert capacity["paced_rate"] <= 0.25 * max(step["rate"] for step in capacity["steps"])
    lasted = {phase["name"]: phase["seconds"] for phase in result["phases"]}
    measured = lasted["settle"] + lasted["measure"]
    planned = result["publish"]["planned"]
    assert capacity["paced_rate"] * 0.66 * 0.8 <= planned <= capacity["paced_rate"] * measured * 1.1 + 10
    assert result["rpc"]["planned"] == pytest.approx(0.4 * planned, rel=0.1, abs=8), "callers keep the producers' pace"
    assert result["consume"]["lost"] == result["consume"]["backlog"] == 0
    assert result["publish"]["confirm_latency_ms"]["count"] <= planned
    assert result["verdict"]["evidence"][0].startswith("capacity: ") or failures(result)
    for step in capacity["steps"]:
        assert {"rate", "sent_rate", "confirmed_rate", "consumed_rate", "backlog_growth", "held", "reason"} <= set(step)
        assert {"response_p50_ms", "response_p99_ms", "client_cores", "broker_cores", "is_verification"} <= set(step)


async def test_slow_consumers_are_the_limit_and_the_closed_loop_is_cut_short() -> None:
    """10 producers do thousands a second, and two consumers take 100 each."""
    broker = Broker()
    broker.consume_pause = 0.01
    line = f"--producers 10 --consumers 2 {SEEKING} --warmup 30"
    result = await conduct(broker, line)
    add_up(result)
    capacity = result["capacity"]
    lasted = {phase["name"]: phase["seconds"] for phase in result["phases"]}
    assert lasted["warmup"] < 3 and "closed" not in lasted
    assert capacity["closed_rate"] > 5 * capacity["paced_rate"]
    assert 10 < capacity["paced_rate"] < 120
    assert any("in the queues" in step["reason"] for step in capacity["steps"]) or not capacity["steps"]


async def test_who_only_calls_seeks_a_rate_of_calls() -> None:
    result = await conduct(Broker(), f"--callers 10 {SEEKING}")
    assert result["publish"] is None
    capacity = result["capacity"]
    assert capacity["closed_rate"] == capacity["closed"]["reply_rate"] > 100
    assert result["rpc"]["planned"] > 0
    assert result["rpc"]["calls"] == result["rpc"]["replies"]


async def test_a_broker_that_answers_nothing_is_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor_module, "CLOSE_BOUND", 0.5)
    broker = Broker()
    broker.silent_after = 1
    result = await conduct(broker, f"--producers 5 --consumers 2 {SEEKING} --drain 0.2")
    assert result["capacity"]["sustainable_rate"] is None
    assert result["verdict"]["status"] == "failed"
    assert any("ended unknown" in reason for reason in failures(result))


async def test_a_load_that_is_nacked_is_not_kept_up() -> None:
    broker = Broker()
    broker.nack_every = 10
    result = await conduct(broker, f"--producers 5 --consumers 2 {SEEKING}")
    capacity = result["capacity"]
    assert capacity["sustainable_rate"] is None
    assert any("% of what was sent was refused" in step["reason"] for step in capacity["steps"])
    assert any("were nacked" in reason for reason in failures(result))


@pytest.mark.parametrize("delay", [0.1, 0.4, 0.9, 1.6, 3.0])
async def test_interrupted_at_any_time_it_ends_in_order(delay: float) -> None:
    line = "--producers 8 --consumers 4 --callers 3 --mode both --search 2 --duration 60 --warmup 0.3"
    result = await conduct(Broker(), line, interrupt_after=delay)
    assert result["interrupted"]
    assert failures(result) == []
    assert result["phases"][-1]["name"] == "close"
    assert result["publish"]["planned"] is not None
    add_up(result)


async def test_connections_lost_on_the_way_fail_the_run() -> None:
    broker = Broker()
    broker.fail_after = 300
    result = await conduct(broker, f"--producers 5 --consumers 2 {SEEKING} --warmup 2")
    assert result["connect"]["dropped"] == 5
    assert "5 connections dropped" in failures(result)
    assert result["publish"]["sent"] == result["publish"]["confirmed"] + result["publish"]["unknown"]


async def test_the_phases_of_each_leg_follow_from_the_seed() -> None:
    def schedules(seed: int) -> list[Any]:
        run = start_run(parse_settings(["--clients", "20", "--seed", str(seed)], {}))
        seeker = Seeker(run, Meter(None), lambda _: None)
        legs = [seeker.make_leg(rate, is_planned=False) for rate in (100.0, 100.0)]
        return [(leg.publishing, leg.calling) for leg in legs]

    one, again, other = schedules(1), schedules(1), schedules(2)
    assert one == again != other
    assert one[0] != one[1]


async def test_clients_change_their_pace_with_the_leg() -> None:
    run = start_run(parse_settings(["--producers", "4", "--consumers", "1", "--seed", "1"], {}))
    seeker = Seeker(run, Meter(None), lambda _: None)
    run.begin.set()
    intended = list[list[int]]([[]])

    async def act() -> None:
        pace = Pace(run, Place(Role.PRODUCER, 0, "q"))
        await pace.begin()
        while (due := await pace.next()) is not None:
            intended[-1].append(due)
            await anyio.sleep(0.001)

    async with anyio.create_task_group() as tg:
        tg.start_soon(run.timetable.run)
        tg.start_soon(act)
        await until(lambda: len(intended[-1]) > 5)  # a closed loop
        from loadtest.execution.leg import PAUSE

        run.begin_leg(PAUSE)
        await anyio.sleep(0.05)
        intended.append([])
        await anyio.sleep(0.1)
        assert intended[-1] == [], "nobody sends in a pause"
        for rate in (40.0, 4000.0, 400.0):  # 10, 1000 and 100 a second for each
            intended.append([])
            leg = seeker.make_leg(rate, is_planned=False)
            run.begin_leg(leg)
            await until(lambda: len(intended[-1]) > 6)
            assert leg.start is not None and min(intended[-1]) >= leg.start
            for former, later in pairwise(intended[-1]):
                assert later - former == pytest.approx(4e9 / rate, abs=2)
            run.begin_leg(PAUSE)
            await anyio.sleep(0.05)
        run.stop()
        await until(lambda: run.is_stopping)
        tg.cancel_scope.cancel()


async def test_a_silent_broker_is_asked_once_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking stock of it ends soon, and its queues are left to expire."""

    async def count_messages(self: Connection, name: str) -> int | None:
        await anyio.sleep_forever()
        return None

    deleted = list[str]()

    async def delete_queue(self: Connection, name: str) -> None:
        deleted.append(name)
        self.broker.queues.pop(name, None)

    monkeypatch.setattr(Connection, "count_messages", count_messages)
    monkeypatch.setattr(Connection, "delete_queue", delete_queue)
    monkeypatch.setattr(leftovers, "SILENCE_BOUND", 0.2)
    broker = Broker()
    began = anyio.current_time()
    with pytest.raises(AssertionError):  # of `conduct`: queues are left
        await conduct(broker, "--producers 2 --drain 0.2")
    assert anyio.current_time() - began < 20  # of 60, which each of the queues would be asked for
    assert not deleted
