"""The accounts of a run where something goes wrong in the middle of it: nothing is left out, or counted twice."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from loadtest.analysis.failures import failures
from loadtest.commands.flags import parse_settings
from loadtest.drivers.base import Outcome
from loadtest.execution import backlog
from loadtest.execution.backlog import Backlog
from loadtest.execution.conductor import Conductor
from loadtest.execution.leftovers import Leftovers
from loadtest.execution.queues import QueueRefused
from loadtest.execution.state import Run, start_run
from loadtest.machine.resources import Meter
from tests.loadtest.execution import fake_broker
from tests.loadtest.execution.fake_broker import Broker, Caller, Connection, Watcher, conduct
from tests.support.lines import without_search

pytestmark = pytest.mark.usefixtures("brisk")


def prepared(line: str) -> Run:
    return start_run(parse_settings(without_search(*line.split()), {}))


# --- calls --------------------------------------------------------------------------------------------------------


async def test_a_call_that_fails_counts_with_its_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a call without a reply does: percentiles without it would be the survivors'."""

    async def call(self: Caller, queue: str, body: bytes) -> bytes:
        await anyio.sleep(0.3)
        raise ConnectionResetError("the connection is gone")

    monkeypatch.setattr(Caller, "call", call)
    rpc = (await conduct(Broker(), "--callers 3 --warmup 0"))["rpc"]
    assert rpc["errors"] == rpc["calls"] == rpc["latency_ms"]["count"] == 3
    assert rpc["latency_ms"]["min"] >= 300


async def test_a_wrong_reply_counts_with_its_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def call(self: Caller, queue: str, body: bytes) -> bytes:
        await anyio.sleep(0.1)
        return b"another"

    monkeypatch.setattr(Caller, "call", call)
    rpc = (await conduct(Broker(), "--callers 2 --warmup 0"))["rpc"]
    assert rpc["errors"] == rpc["calls"] > 0
    begun_behind_the_end = rpc["calls"] - rpc["latency_ms"]["count"]  # where it is busy
    assert 0 <= begun_behind_the_end <= 2 < rpc["calls"]
    assert rpc["latency_ms"]["min"] >= 100


async def test_a_round_whose_channel_fails_makes_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def caller(self: Connection) -> AsyncIterator[Caller]:
        raise ConnectionResetError("no channel")
        yield Caller()

    monkeypatch.setattr(Connection, "caller", caller)
    rpc = (await conduct(Broker(), "--churn --callers 2 --rate 40"))["rpc"]
    assert (rpc["calls"], rpc["planned"]) == (0, rpc["skipped"])
    assert rpc["planned"] > 0


async def test_who_comes_after_it_was_given_up_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has been counted as failed: dropped later, it was no connection that there was."""
    monkeypatch.setattr("loadtest.execution.conductor.CONNECT_PATIENCE", 0.3)
    broker = Broker()
    connect, late = broker.connect, anyio.Event()

    @asynccontextmanager
    async def connect_late(url: str, name: str) -> AsyncIterator[Connection]:
        async with connect(url, name) as connection:
            if name.endswith("consumer"):
                await anyio.sleep(0.6)
                late.set()
            yield connection

    monkeypatch.setattr(broker, "connect", connect_late)
    broker.drop_consumers_after = 1
    result = await conduct(broker, "--producers 2 --consumers 2 --warmup 0 --duration 1")
    assert late.is_set()
    counted = result["connect"]
    assert (counted["connections"], counted["failed"], counted["dropped"]) == (2, 2, 0)


# --- publishes ----------------------------------------------------------------------------------------------------


async def test_without_confirms_each_message_has_its_lag() -> None:
    """Not only those that were never sent, which would be told as if they were all."""
    result = await conduct(Broker(), "--producers 4 --consumers 1 --no-confirm --rate 200 --warmup 0")
    publish = result["publish"]
    assert publish["unconfirmed"] == publish["sent"] > 0
    assert publish["lag_ms"]["count"] == publish["planned"]
    assert publish["confirm_latency_ms"]["count"] == 0


async def test_a_run_of_so_many_messages_ends_when_nobody_can_send_the_rest() -> None:
    broker = Broker()
    broker.fail_after = 20
    words = "--producers 2 --consumers 1 --messages 100 --warmup 0 --duration 30"
    result = await conduct(broker, words)
    sent = result["publish"]["sent"]
    assert 20 <= sent <= 22
    assert sum(phase["seconds"] for phase in result["phases"]) < 15
    assert not result["complete"]
    assert f"only {sent} of 100 messages were sent in the time there was" in failures(result)


async def test_a_backlog_is_none_of_the_messages_asked_for() -> None:
    words = "--producers 2 --consumers 2 --messages 1000 --backlog 1500 --warmup 0 --duration 30"
    result = await conduct(Broker(), words)
    publish, consume, backlog = result["publish"], result["consume"], result["backlog"]
    assert result["complete"] and failures(result) == []
    assert (publish["sent"], publish["confirmed"], backlog["built"]) == (1000, 1000, 1500)
    # what was put there beforehand arrives, and was not published by those who are measured
    assert publish["confirmed"] + backlog["built"] == consume["unique"] + consume["lost"] + consume["backlog"] == 2500


async def test_what_could_not_be_put_there_was_published_by_no_producer() -> None:
    broker = Broker()
    broker.nack_every = 10
    result = await conduct(broker, "--producers 2 --consumers 2 --rate 40 --backlog 100 --warmup 0")
    publish, built = result["publish"], result["backlog"]["built"]
    assert 85 <= built <= 90
    assert publish["planned"] == publish["sent"] + publish["skipped"]
    assert publish["sent"] == publish["confirmed"] + publish["nacked"] <= 0.2 * broker.published
    assert publish["confirmed"] + built == result["consume"]["unique"]
    assert f"only {built} of the backlog's 100 messages were put there" in failures(result)


async def test_what_fills_a_queue_ends_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library may tell of a publish that was given up after its producer is gone."""
    monkeypatch.setattr(backlog, "PATIENCE", 0.2)
    run = prepared("--consumers 2 --producers 1 --backlog 5")
    told: list[Any] = []

    class Silent(Connection):
        @asynccontextmanager
        async def producer(self, queue: str, options: Any, settled: Any) -> AsyncIterator[Any]:
            told.append(settled)
            yield self

        async def submit(self, body: bytes, token: object) -> None:
            return

        async def flush(self) -> None:
            await anyio.sleep_forever()

    @asynccontextmanager
    async def connect() -> AsyncIterator[Any]:
        yield Silent(Broker(), is_client=True)

    with anyio.fail_after(10):
        await Backlog(run, connect).fill()
    for token in range(5):
        told[0](token, Outcome.UNKNOWN)
    tally = run.record.tally
    assert (tally.sent, tally.unknown, tally.settled) == (5, 5, 5)


@pytest.mark.parametrize("flag", ["--skew zipf:0.1", "--priorities 200"])
async def test_rounds_of_churn_go_on_where_the_one_before_ended(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round opens a producer anew; what differs from message to message must not begin anew with it."""
    chosen: list[Any] = []
    make = fake_broker.Producer.__init__

    def note_priority(self: Any, broker: Broker, queue: str, options: Any, settled: Any) -> None:
        make(self, broker, queue, options, settled)
        if options.priority is not None:
            chosen.append(options.priority())

    publish = fake_broker.Producer.publish

    async def note_key(self: Any, body: bytes, key: str | None = None) -> Outcome:
        if key is not None:
            chosen.append(key)
        return await publish(self, body, key)

    monkeypatch.setattr(fake_broker.Producer, "__init__", note_priority)
    monkeypatch.setattr(fake_broker.Producer, "publish", note_key)
    result = await conduct(Broker(), f"--churn --producers 1 --consumers 4 --queues 4 {flag}")
    assert result["publish"]["sent"] > 20
    assert len(set(chosen)) >= 4


# --- the drain and the stock --------------------------------------------------------------------------------------


async def test_what_ended_unknown_and_came_stands_in_for_nothing() -> None:
    """As many have arrived as were confirmed, one of which is still on its way: consumers have not got all yet."""
    run = prepared("--producers 1 --consumers 1")
    conductor = Conductor(run, Broker(), ["amqp://fake"], Meter(None), Watcher(), is_private=False)
    ledger, tally = run.record.ledger, run.record.tally
    run.consumers.add(fake_broker.Consumer(Broker.with_queue("q"), "q", is_client=True))
    for _ in range(3):
        ledger.accounts[0].send()
    ledger.accounts[0].disown(0)
    tally.sent, tally.confirmed, tally.unknown = 3, 2, 1
    assert ledger.receive(0, 0) and ledger.receive(0, 1)
    assert not conductor._is_drained()
    assert ledger.receive(0, 2)
    assert conductor._is_drained()


@pytest.mark.parametrize("doubt", ["unknown", "dropped", "reconnected", "foreign"])
async def test_a_count_is_not_believed_where_other_messages_may_be_queued(doubt: str) -> None:
    """One was lost, and one that had arrived is queued again: the count is what is missing."""
    run = prepared("--producers 1 --consumers 1")
    (queue,), account = run.plan.queues, run.record.ledger.accounts[0]
    broker = Broker()
    broker.queues[queue] = deque([run.bodies(0, account.send(), 1)])
    account.send()
    run.record.ledger.receive(0, 0)
    run.record.tally.sent = run.record.tally.confirmed = 2
    setattr(run.record.tally, doubt, 1)
    await Leftovers(run, lambda: broker.connect("amqp://fake", "administrator")).take_stock()
    assert run.record.stock is not None
    assert (run.record.stock.lost, run.record.stock.backlog) == (1, 1)


@pytest.mark.parametrize("is_refused", [False, True])
async def test_queues_are_not_left_behind_where_declaring_ends_early(
    is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare, broker, hangs, declared = Connection.declare_queue, Broker(), anyio.Event(), list[int]()

    async def declare_queue(self: Connection, name: str, arguments: Mapping[str, Any]) -> None:
        if len(broker.queues) < 2:
            return await declare(self, name, arguments)
        declared.append(len(broker.queues))
        hangs.set()
        if is_refused:
            raise ValueError("no more queues here")
        await anyio.sleep_forever()

    monkeypatch.setattr(Connection, "declare_queue", declare_queue)
    run = prepared("--producers 4 --consumers 4 --queues 4")
    conductor = Conductor(run, broker, ["amqp://fake"], Meter(None), Watcher(), is_private=False)

    async def play() -> None:
        with pytest.raises(QueueRefused, match="refuses the queues"):
            await conductor.conduct()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tg:
            tg.start_soon(play)
            await hangs.wait()
            if not is_refused:
                tg.cancel_scope.cancel()
    assert declared == [2]
    assert not broker.queues and not broker.open
