"""Parts add up to the whole: a message counts once wherever it was sent and taken; percentiles are never averaged."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from random import Random

import msgpack
import pytest

from loadtest.commands.flags import parse_settings
from loadtest.commands.leading import fleet_result
from loadtest.fleet.crossing import Crossing
from loadtest.fleet.members import Member
from loadtest.fleet.messages import Beat, Chunk, Join
from loadtest.fleet.parts import (
    CoordinatorPart,
    MemberPart,
    PartRefused,
    WorkerPart,
    decode,
    encode,
    read_part,
    write_part,
)
from loadtest.fleet.pooling import pool
from loadtest.fleet.sharing import share
from loadtest.metrics.histogram import Histogram
from loadtest.metrics.record import Cost, Phase, Record, Work

SETTINGS = parse_settings(["--producers", "2", "--consumers", "2", "--mode", "closed"], {})


def cost(*, broker: float | None, cores: int = 2) -> Cost:
    return Cost(
        client_cpu_seconds=0.5,
        client_rss_peak_bytes=100,
        broker_cpu_seconds=broker,
        broker_rss_peak_bytes=None,
        machine_busy_seconds=1.0,
        machine_stolen_seconds=0.0,
        machine_cores=cores,
        broker_cores=cores,
        shared_cores=1.0,
        collector_longest_ms=0.0,
        collector_total_ms=0.0,
    )


def record(number: int, *, sends: int = 10, takes: dict[int, list[int]] | None = None) -> Record:
    """Producer `number` sent so many messages here; those of others, by their numbers, arrived here."""
    made = Record(run_id="run", started_at="2026-01-01T00:00:00+00:00")
    made.ledger.merge(type(made.ledger)(2))
    for _ in range(sends):
        made.ledger.accounts[number].send()
    for producer, arrived in (takes or {}).items():
        for each in arrived:
            made.ledger.receive(producer, each)
    made.tally.sent = made.tally.confirmed = sends
    made.tally.received = sum(map(len, (takes or {}).values()))
    made.tally.connected = 2
    made.phases = [Phase("measure", 0.0, 20.0)]
    made.work = Work(20.0, made.tally.to_plain())
    made.costs = [cost(broker=1.0)]
    return made


def part(number: int, made: Record, *, of: int = 2, host: str = "here", status: str = "finished") -> WorkerPart:
    return WorkerPart(
        run_id=made.run_id,
        number=number,
        of=of,
        name=f"name {number}",
        host=host,
        status=status,
        settings=share(SETTINGS, ()),
        record=made.to_plain(),
    )


def own(*members: MemberPart) -> CoordinatorPart:
    return CoordinatorPart(
        run_id="run",
        started_at="2026-01-01T00:00:00+00:00",
        settings=share(SETTINGS, ()),
        stock={"backlog": 0, "lost": 0},
        members=members,
    )


def member(number: int, status: str = "finished", reason: str = "") -> MemberPart:
    return MemberPart(number=number, name=f"name {number}", host="here", pid=1, cores=2, status=status, reason=reason)


def test_a_message_sent_here_and_received_there_counts_once() -> None:
    one = record(0, takes={0: list(range(5)), 1: list(range(10))})
    other = record(1, takes={0: list(range(4, 10))})  # number 4 came twice
    pooled = pool([part(1, other), part(0, one)], own(member(0), member(1)))
    balance = pooled.record.ledger.balance()
    assert (balance.confirmed, balance.unique, balance.missing) == (20, 20, 0)
    assert pooled.record.tally.received == 21
    assert pooled.is_complete
    result = fleet_result(SETTINGS, [part(0, one), part(1, other)], own(member(0), member(1)))
    assert (result["consume"]["unique"], result["consume"]["duplicates"], result["consume"]["lost"]) == (20, 1, 0)
    assert result["publish"]["rate"] == 1.0


def test_histograms_are_added_and_percentiles_never() -> None:
    random, all_of_them, parts = Random(3), Histogram(), []
    for number, scale in enumerate((1e6, 50e6)):
        made = record(number)
        for _ in range(2000):
            sample = int(random.expovariate(1 / scale))
            made.latencies.confirm.record(sample)
            all_of_them.record(sample)
        parts.append(part(number, made))
    pooled = pool(parts, own(member(0), member(1)))
    assert pooled.record.latencies.confirm.latency() == all_of_them.latency()


def test_a_worker_on_another_host_than_the_broker_shares_no_core_with_it() -> None:
    here, there = record(0), record(1)
    there.costs = [cost(broker=None)]
    pooled = pool([part(0, here), part(1, there, host="there")], own(member(0), member(1)))
    assert [each.shared_cores for each in pooled.record.costs] == [1.0, 0.0]
    result = fleet_result(SETTINGS, [part(0, here), part(1, there, host="there")], own(member(0), member(1)))
    assert not any("other processes" in text for text in result["verdict"]["evidence"])


def test_processes_of_one_run_are_not_foreign_to_each_other() -> None:
    """Both used a quarter of a core and the broker half of one: nobody else was there."""
    parts = []
    for number in range(2):
        made = record(number)
        made.costs = [Cost(**{**vars_of(cost(broker=10.0)), "client_cpu_seconds": 9.0, "machine_busy_seconds": 28.0})]
        parts.append(part(number, made))
    result = fleet_result(SETTINGS, parts, own(member(0), member(1)))
    assert not any("other processes" in text for text in result["verdict"]["evidence"])


def vars_of(value: Cost) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}


def test_a_lost_worker_is_listed_and_in_no_sum() -> None:
    lost = member(1, "lost", "its process ended (by signal 9)")
    lost.counts, lost.at_seconds, lost.phase = {"sent": 7}, 12.34, "measure"
    result = fleet_result(SETTINGS, [part(0, record(0, takes={0: list(range(10)), 1: [0, 1]}))], own(member(0), lost))
    assert result["incomplete"]
    worker = result["workers"][1]
    assert (worker["status"], worker["at_seconds"], worker["phase"], worker["sent"]) == ("lost", 12.34, "measure", 7)
    assert not worker["counted"]
    assert result["publish"]["sent"] == 10
    assert any(
        text.startswith("incomplete: worker 1 (name 1) lost after 12.3 s") for text in result["verdict"]["evidence"]
    )


def test_without_the_coordinators_part_it_is_said_what_is_missing() -> None:
    result = fleet_result(SETTINGS, [part(1, record(1))], None)
    assert result["incomplete"]
    assert [each["status"] for each in result["workers"]] == ["missing", "finished"]
    assert result["consume"]["lost"] is None
    json.dumps(result)


def test_who_left_in_order_has_not_interrupted_the_others() -> None:
    left = record(1)
    left.is_interrupted = True
    pooled = pool([part(0, record(0)), part(1, left, status="left")], own(member(0), member(1, "left")))
    assert not pooled.record.is_interrupted
    assert not pooled.is_complete
    assert pooled.record.tally.sent == 20


def test_parts_that_do_not_belong_together_are_refused() -> None:
    stranger = record(1)
    stranger.run_id = "another run"
    with pytest.raises(PartRefused, match="several runs"):
        pool([part(0, record(0)), part(1, stranger)], None)
    with pytest.raises(PartRefused, match="two parts of worker 0"):
        pool([part(0, record(0)), part(0, record(0, sends=11))], None)
    for number, of in ((2, 2), (-1, 2), (0, 10**9), (0, 3)):
        with pytest.raises(PartRefused, match="there is no worker"):
            pool([part(0, record(0)), part(number, record(0), of=of)], None)
    with pytest.raises(PartRefused, match="nothing"):
        pool([], None)
    broken = part(0, record(0))
    broken.record = {**broken.record, "format": 1}
    with pytest.raises(PartRefused, match="worker 0"):
        pool([broken], None)


def test_the_same_part_from_the_worker_and_from_the_coordinator_counts_once() -> None:
    pooled = pool([part(0, record(0)), part(1, record(1)), part(0, record(0))], own(member(0), member(1)))
    assert pooled.record.tally.sent == 20
    assert pooled.is_complete


def test_a_part_that_came_later_changes_what_can_be_said_of_losses() -> None:
    """The coordinator has counted without what a lost worker knows; its file says more, and that it was lost stays."""
    lost = member(1, "lost", "silence")
    found = fleet_result(SETTINGS, [part(0, record(0, takes={0: [*range(10)]}))], own(member(0), lost))
    assert found["consume"]["lost"] == 0
    late = record(1, takes={1: [*range(8)]})
    found = fleet_result(SETTINGS, [part(0, record(0, takes={0: [*range(10)]})), part(1, late)], own(member(0), lost))
    assert found["consume"]["lost"] is None, "two of its messages may be in a queue, or lost"
    assert [(each["status"], each["counted"]) for each in found["workers"]] == [("finished", True), ("lost", True)]
    assert found["publish"]["sent"] == 20


def test_what_lost_workers_producers_sent_and_others_took_is_told() -> None:
    taken = record(0, takes={0: list(range(10)), 1: [0, 1, 2]})
    found = fleet_result(SETTINGS, [part(0, taken)], own(member(0), member(1, "lost")))
    assert found["consume"]["from_lost_workers"] == 3
    both = [part(0, taken), part(1, record(1))]
    assert fleet_result(SETTINGS, both, own(member(0), member(1)))["consume"]["from_lost_workers"] == 0


@pytest.mark.parametrize(
    "change", [{"tally": {"sent": "many"}}, {"ledger": [[1, "x", None, None]]}, {"phases": [{"name": 5}]}, {"costs": 3}]
)
def test_a_record_that_can_not_be_added_up_is_refused(change: dict[str, object]) -> None:
    broken = part(0, record(0))
    broken.record = {**broken.record, **change}
    with pytest.raises(PartRefused, match="the record of worker 0"):
        pool([broken], None)


def test_a_coordinators_part_that_makes_no_sense_is_refused() -> None:
    for change in ({"stock": {"left": 5}}, {"errors": {"numbers": {}}}):
        with pytest.raises(PartRefused, match="the coordinator's part"):
            pool([part(0, record(0))], dataclasses.replace(own(member(0)), **change))


def test_parts_are_read_as_they_were_written(tmp_path: Path) -> None:
    for each in (part(0, record(0)), own(member(0), member(1, "lost"))):
        path = write_part(each, tmp_path / "deep")
        assert read_part(path) == each
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["run.coordinator.part", "run.worker-0.part"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"noise",
        msgpack.packb(5),
        msgpack.packb({"loadtest": "part", "format": 99, "kind": "worker", "part": {}}),
        msgpack.packb({"loadtest": "part", "format": 1, "kind": "settings", "part": {}}),
        msgpack.packb({"loadtest": "part", "format": 1, "kind": "worker", "part": {"run_id": 5}}),
        encode(part(0, record(0)))[:-5],
    ],
)
def test_what_is_no_part_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(PartRefused):
        decode(data)
    path = tmp_path / "x.part"
    path.write_bytes(data)
    with pytest.raises(PartRefused, match=r"x\.part"):
        read_part(path)


def test_latencies_between_hosts_stand_apart_with_their_bound() -> None:
    crossing = Crossing()
    crossing.latencies.record(5_000_000)
    crossing.clamped = 2
    sent = part(0, record(0))
    sent.crossing = crossing.to_plain()
    members = [member(0), member(1)]
    members[0].bound_ms, members[1].bound_ms = 0.0, 0.25
    result = fleet_result(SETTINGS, [sent, part(1, record(1))], own(*members))
    found = result["consume"]["end_to_end_crossing"]
    assert (found["latency_ms"]["count"], found["bound_ms"], found["clamped"]) == (1, 0.25, 2)
    assert result["consume"]["end_to_end_latency_ms"]["count"] == 0


# --- a result in pieces -----------------------------------------------------------------------------------------------


def make_member() -> Member:
    join = Join(address="q", protocol=1, version="1", name="n", host="h", pid=1, cores=2, backend="asyncio")
    return Member(0, "instance", "q", join, 0.0)


def pieces(data: bytes, size: int = 300) -> list[Chunk]:
    import hashlib

    cut = [data[start : start + size] for start in range(0, len(data), size)]
    digest = hashlib.sha256(data).hexdigest()
    return [Chunk(number=number, of=len(cut), digest=digest, data=piece) for number, piece in enumerate(cut)]


def test_a_result_comes_in_pieces_some_of_them_twice() -> None:
    one, sent = make_member(), part(0, record(0))
    chunks = pieces(encode(sent))
    assert len(chunks) > 3
    assert [one.take(chunk, "run") for chunk in [chunks[1], chunks[1], *chunks]].count(True) == 1
    assert one.part == sent


def test_pieces_that_make_something_else_are_refused() -> None:
    chunks = pieces(encode(part(0, record(0))))
    for wrong in (
        [Chunk(number=5, of=3, digest="", data=b"")],
        [Chunk(number=0, of=10**6, digest="", data=b"")],
        [*chunks[:-1], Chunk(number=chunks[-1].number, of=chunks[-1].of, digest=chunks[-1].digest, data=b"other")],
        pieces(b"noise"),
        pieces(encode(part(1, record(1)))),
        pieces(encode(own())),
    ):
        one = make_member()
        with pytest.raises(ValueError, match=r"."):
            for chunk in wrong:
                one.take(chunk, "run")
        assert one.part is None


def test_what_a_lost_member_last_told_is_kept() -> None:
    one = make_member()
    one.beat = Beat(phase="measure", counts={"sent": 5})
    one.heard_at = 7.0
    one.lose("silence", now=17.5, began_at=5.0)
    told = one.describe()
    assert (told.status, told.at_seconds, told.silent_seconds, told.phase) == ("lost", 12.5, 10.5, "measure")
    assert told.counts == {"sent": 5}
    assert not one.is_present
