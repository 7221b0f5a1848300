"""The coordinator's end, told things by workers that a test plays, some of which lie."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import anyio
import pytest

from loadtest.fleet import clock_reader as clock_reader_module
from loadtest.fleet import watch as watch_module
from loadtest.fleet.bus import COORDINATOR, coordinators_address
from loadtest.fleet.crew import BrokenOff, Refused
from loadtest.fleet.messages import (
    Beat,
    Chunk,
    Connect,
    Echo,
    Leaving,
    Prepared,
    Probe,
    Ready,
    TurnedAway,
    Welcome,
)
from loadtest.fleet.parts import WorkerPart, encode
from tests.loadtest.fleet.ends import SEAL, acting, broker, collect, join, leading, say_hello, until, workers_bus


async def test_too_few_workers_are_told_of() -> None:
    async with broker() as url, leading(url, 2) as coordinator:
        with pytest.raises(Refused, match=r"0 of 2 workers joined within 0\.1 s: none"):
            await coordinator.assemble(0.1)


async def test_a_replayed_hello_joins_nobody_and_a_stranger_is_not_heard() -> None:
    heard: list[Any] = []
    async with broker() as url, leading(url, 1) as coordinator, workers_bus(url) as bus:
        async with anyio.create_task_group() as tg:
            tg.start_soon(collect, bus, heard)
            await say_hello(bus, heard)
            guard = coordinator.crew.bus.guard
            await bus.send(coordinators_address(SEAL), COORDINATOR, Beat(phase="measure"))
            await until(lambda: guard.rejected["of a stranger"] == 1)
            assert not coordinator.roster.members
            await bus.send(coordinators_address(SEAL), COORDINATOR, join())
            await coordinator.assemble(10)
            await until(lambda: Welcome(number=0, of=1) in heard)
            await bus.send(coordinators_address(SEAL), COORDINATOR, join())
            await until(lambda: guard.rejected["late"] == 1)
            tg.cancel_scope.cancel()
    assert len(coordinator.roster.members) == 1


@pytest.mark.parametrize("changes", [{"version": "0.0"}, {"protocol": 99}, {"backend": "trio"}])
async def test_a_worker_of_another_kind_is_turned_away(changes: dict[str, Any]) -> None:
    heard: list[Any] = []
    async with broker() as url, leading(url, 1) as coordinator, workers_bus(url) as bus:
        async with anyio.create_task_group() as tg:
            tg.start_soon(collect, bus, heard)
            await say_hello(bus, heard)
            await bus.send(coordinators_address(SEAL), COORDINATOR, join(**changes))
            await until(lambda: any(isinstance(each, TurnedAway) for each in heard))
            with pytest.raises(Refused, match="turned away: n: "):
                await coordinator.assemble(0.1)
            tg.cancel_scope.cancel()
    assert not coordinator.roster.members


async def test_a_worker_lost_before_the_work_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "BEAT", 0.05)
    heard: list[Any] = []
    async with broker() as url, leading(url, 2) as coordinator:
        async with workers_bus(url) as bus, anyio.create_task_group() as tg:
            tg.start_soon(collect, bus, heard)
            await say_hello(bus, heard)
            await bus.send(coordinators_address(SEAL), COORDINATOR, join())
            await until(lambda: len(coordinator.roster.members) == 1)
            tg.cancel_scope.cancel()
        with pytest.raises(
            BrokenOff, match=r"worker 0 \(n\) was lost .*: its connection to the control broker is gone"
        ):
            await coordinator.assemble(20)


async def test_a_silent_worker_is_lost_and_what_it_says_later_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "BEAT", 0.05)
    monkeypatch.setattr(watch_module, "SILENT", 0.3)
    heard: list[Any] = []
    async with broker() as url, leading(url, 2) as coordinator, workers_bus(url) as bus:
        async with anyio.create_task_group() as tg:
            tg.start_soon(collect, bus, heard)
            await say_hello(bus, heard)
            await bus.send(coordinators_address(SEAL), COORDINATOR, join())
            with pytest.raises(BrokenOff, match="nothing was heard of it"):
                await coordinator.assemble(20)
            for _ in range(2):
                await bus.send(coordinators_address(SEAL), COORDINATOR, Beat(phase="measure"))
            await until(lambda: coordinator.crew.bus.guard.rejected["late"] == 2)
            await until(lambda: any(isinstance(each, TurnedAway) for each in heard))
            tg.cancel_scope.cancel()
    assert [each.reason.partition(":")[0] for each in heard if isinstance(each, TurnedAway)] == [
        "this worker was taken for lost"
    ], "it is sent away, once: nobody counts what it does"
    (member,) = coordinator.roster
    assert member.status == "lost"
    assert member.beat == Beat()


# --- words that come at another time than theirs ----------------------------------------------------------------------


async def test_words_out_of_order_change_nothing() -> None:
    async with broker() as url, leading(url, 1) as coordinator, acting(url) as actor:
        (member,) = coordinator.roster
        rejected = coordinator.crew.bus.guard.rejected
        for number, word in enumerate(
            (
                Ready(connected=1, failed=0),
                Leaving(reason="x"),
                Chunk(number=0, of=1, digest="", data=b""),
                Echo(number=99, received=0, sent=0),
            ),
            1,
        ):
            await actor.say(word)
            await until(lambda number=number: rejected["out of order"] == number)  # type: ignore[misc]
            assert member.status == "joined"
        coordinator.reception.digest = "d"
        for _ in range(2):
            await actor.say(Prepared(digest="d", sockets=3, clients=4))
        await until(lambda: rejected["out of order"] == 5)
        assert (member.status, member.sockets, member.clients) == ("prepared", 3, 4)


async def test_a_result_that_makes_no_sense_loses_its_worker_and_nothing_else() -> None:
    """It has the token, and is of this run; what it calls a record can't be added up."""
    part = WorkerPart(run_id="run", number=0, of=1, name="n", host="h", status="finished", record={"format": 2})
    async with broker() as url, leading(url, 1) as coordinator, acting(url) as actor:
        (member,) = coordinator.roster
        member.status, coordinator.crew.has_begun = "working", True
        data = encode(part)
        await actor.say(Chunk(number=0, of=1, digest=hashlib.sha256(data).hexdigest(), data=data))
        await until(lambda: member.status == "lost")
        assert "can't be read: the record of worker 0" in member.reason
        assert coordinator.workers_parts() == []


async def test_who_is_told_more_than_a_letter_holds_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with broker() as url, leading(url, 1) as coordinator, acting(url):
        run = coordinator.crew.run
        run.settings = replace(run.settings, existing=tuple(f"queue number {n}" for n in range(20_000)))
        with pytest.raises(Refused, match="can't be told to its workers: a letter of"):
            await coordinator.prepare([])


# --- clocks -----------------------------------------------------------------------------------------------------------

HOUR = 3_600_000_000_000


@pytest.mark.parametrize("ahead", [HOUR, 7 * 24 * HOUR, -5_000_000])
async def test_who_has_another_clock_is_told_moments_of_it(ahead: int) -> None:
    async with (
        broker() as url,
        leading(url, 2) as coordinator,
        acting(url, "here"),
        acting(url, "there", ahead=ahead, host="another") as there,
    ):
        here_, there_ = coordinator.roster
        for member in (here_, there_):
            member.before = await coordinator.clocks.read(member)
        assert here_.before is not None
        assert there_.before is not None
        assert here_.before.offset == here_.before.bound == 0, "it is on this host"
        assert abs(there_.before.offset - ahead) <= there_.before.bound
        offset = there_.before.offset
        assert coordinator.roster.offsets_for(here_) == {1: -offset}
        assert coordinator.roster.offsets_for(there_) == {0: offset}
        await coordinator.crew.tell(there_, Connect(at=there_.there(100)))
        assert (await there.expect(Connect)).at == 100 + offset


async def test_one_host_by_name_is_two_if_its_clocks_differ() -> None:
    """As where a virtual machine was copied with all that it knew of its boot."""
    async with (
        broker() as url,
        leading(url, 2) as coordinator,
        acting(url, "one", host="copied"),
        acting(url, "other", ahead=HOUR, host="copied"),
    ):
        one, other = coordinator.roster
        for member in (one, other):
            member.before = await coordinator.clocks.read(member)
        assert coordinator.roster.offsets_for(one).keys() == {1}
        assert coordinator.roster.offsets_for(other).keys() == {0}
        other.before = one.before
        assert coordinator.roster.offsets_for(one) == {}


async def test_a_clock_is_read_from_its_own_worker_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_reader_module, "PROBE_BOUND", 0.3)
    async with (
        broker() as url,
        leading(url, 2) as coordinator,
        acting(url, "silent") as silent,
        acting(url, "liar") as liar,
        anyio.create_task_group() as tg,
    ):
        silent.answers = False
        rejected = coordinator.crew.bus.guard.rejected

        async def lie() -> None:
            """It says what time it is for another, who is slow."""
            asked: Probe = await silent.expect(Probe)
            await liar.say(Echo(number=asked.number, received=HOUR, sent=HOUR))

        tg.start_soon(lie)
        assert await coordinator.clocks.read(next(iter(coordinator.roster))) is None
        await until(lambda: rejected["out of order"] == 1)


@pytest.mark.parametrize(("received", "sent"), [(-5, 0), (2**62 + 1, 2**63), (10, 9)])
async def test_what_no_clock_shows_is_no_time(received: int, sent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_reader_module, "PROBE_BOUND", 0.3)
    async with broker() as url, leading(url, 1) as coordinator, acting(url) as liar, anyio.create_task_group() as tg:
        liar.answers = False

        async def lie() -> None:
            asked: Probe = await liar.expect(Probe)
            await liar.say(Echo(number=asked.number, received=received, sent=sent))

        tg.start_soon(lie)
        (member,) = coordinator.roster
        assert await coordinator.clocks.read(member) is None
        with pytest.raises(BrokenOff, match="didn't answer when its clock was read"):
            await coordinator.prepare([])


async def test_the_round_trip_is_known_while_they_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "BEAT", 0.02)
    async with broker() as url, leading(url, 1) as coordinator, acting(url):
        coordinator.crew.has_begun = True
        await until(lambda: coordinator.clocks.at_work.count >= 3)
        told = coordinator.part([], {}, {}).control
        assert told["round_trip_ms"] is None, "it was not read at rest"
        assert 0 < told["round_trip_at_work_ms"]["max"] < 10_000


# --- what is told of them ---------------------------------------------------------------------------------------------


async def test_errors_are_seen_while_they_work_and_counted_once_in_the_end() -> None:
    async with broker() as url, leading(url, 1) as coordinator, acting(url) as actor:
        errors = coordinator.crew.run.record.errors
        errors.note_name("own", "this end's: amqp://me:secret@h")
        await actor.say(Beat(phase="measure", counts={"sent": 2}, errors={"theirs": 3}))
        await until(lambda: errors.counts["theirs"] == 3)
        await actor.say(Beat(phase="measure", counts={"sent": 2}, errors={"theirs": 5}))
        await until(lambda: errors.counts["theirs"] == 5)
        part = coordinator.part(["--url", "amqp://me:secret@h"], {}, {})
    assert part.errors["counts"] == {"own": 1}, "the worker's are in its own part"
    assert b"secret" not in encode(part)
