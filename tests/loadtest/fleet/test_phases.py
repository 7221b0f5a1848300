"""One end dies in each phase of a run: the other notices at once, ends in order, and keeps what there is to keep."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from time import monotonic_ns
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from loadtest.commands.flags import parse_settings
from loadtest.commands.merge import main as merge
from loadtest.fleet import company as company_module
from loadtest.fleet import watch as watch_module
from loadtest.fleet import worker as worker_module
from loadtest.fleet.bus import coordinators_address
from loadtest.fleet.crew import BrokenOff
from loadtest.fleet.leadership import CoordinatorGone
from loadtest.fleet.messages import (
    Beat,
    Begin,
    Challenge,
    Chunk,
    Close,
    Connect,
    Goodbye,
    Hello,
    Join,
    Leaving,
    Prepare,
    Prepared,
    Ready,
    Received,
    Stop,
    Welcome,
)
from loadtest.fleet.parts import WorkerPart, encode, read_part
from loadtest.fleet.sharing import digest_of, share
from loadtest.metrics.record import Record
from tests.loadtest.fleet.ends import (
    SEAL,
    Acting,
    Played,
    Playing,
    acting,
    broker,
    coordinators_bus,
    leading,
    until,
    workers_bus,
)

# --- a worker dies ----------------------------------------------------------------------------------------------------


def pieces_of(number: int) -> list[Chunk]:
    record = Record(run_id="run", started_at="2026-01-01T00:00:00+00:00").to_plain()
    part = WorkerPart(run_id="run", number=number, of=2, name="n", host="h", status="finished", record=record)
    data = encode(part)
    digest, middle = hashlib.sha256(data).hexdigest(), len(data) // 2
    return [Chunk(number=n, of=2, digest=digest, data=piece) for n, piece in enumerate((data[:middle], data[middle:]))]


async def obey(
    url: str, me: str, dies_at: object = None, *, dead: anyio.Event | None = None, after: anyio.Event | None = None
) -> None:
    """A worker that does all that it is told and measures nothing, until it dies, which `dead` tells; or one that is
    not ready until another is dead.
    """
    try:
        await _obey(url, me, dies_at, after)
    finally:
        if dead is not None:
            dead.set()


async def _obey(url: str, me: str, dies_at: object, after: anyio.Event | None) -> None:
    async with acting(url, me) as actor:
        number = (await actor.expect(Welcome)).number
        pieces = pieces_of(number)
        steps: list[tuple[object, Callable[[], Awaitable[Any]]]] = [
            (Welcome, lambda: actor.expect(Prepare)),
            (Prepare, lambda: prepare(actor)),
            ("prepared", lambda: actor.expect(Connect)),
            (Connect, after.wait if after is not None else anyio.lowlevel.checkpoint),
            ("connected", lambda: actor.say(Ready(connected=2, failed=0))),
            ("ready", lambda: actor.expect(Begin)),
            (Begin, lambda: actor.say(Beat(phase="measure"))),
            ("measure", lambda: actor.say(Beat(phase="drain", is_settled=True))),
            ("drain", lambda: actor.expect(Close)),
            (Close, lambda: actor.say(pieces[0])),
            ("half its result", lambda: actor.say(pieces[1])),
            ("its result", lambda: actor.expect(Received)),
            (Received, lambda: actor.expect(Goodbye)),
        ]
        for moment, act in steps:
            if moment == dies_at:
                return
            await act()


async def prepare(actor: Acting) -> None:
    asked: Prepare = await actor.expect(Prepare)
    await actor.say(Prepared(digest=digest_of(asked.settings), sockets=2, clients=2))


class Nothing:
    """A broker with nothing left in it."""

    async def recount(self) -> int:
        return 0


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "BEAT", 0.02)
    monkeypatch.setattr(worker_module, "BEAT", 0.02)
    monkeypatch.setattr(company_module, "LEAVING_DRAIN", 0.2)


@pytest.mark.usefixtures("brisk")
@pytest.mark.parametrize("moment", [Welcome, "prepared", "ready"])
async def test_a_worker_that_dies_before_the_work_ends_the_run(moment: object) -> None:
    async with broker() as url, leading(url, 2) as coordinator, anyio.create_task_group() as tg:
        dead = anyio.Event()
        tg.start_soon(partial(obey, url, "mortal", moment, dead=dead))
        await until(lambda: len(coordinator.roster.members) == 1)
        tg.start_soon(partial(obey, url, "other", after=dead))
        with pytest.raises(BrokenOff, match=r"worker 0 \(mortal\)"), anyio.fail_after(10):
            await coordinator.assemble(10)
            await coordinator.prepare([])
            await coordinator.conduct(Nothing())  # type: ignore[arg-type]
        tg.cancel_scope.cancel()


@pytest.mark.usefixtures("brisk")
@pytest.mark.parametrize("moment", [Begin, "drain", "half its result"])
async def test_a_worker_that_dies_at_work_is_lost_and_the_other_goes_on(moment: object) -> None:
    async with broker() as url, leading(url, 2) as coordinator, anyio.create_task_group() as tg:
        tg.start_soon(obey, url, "mortal", moment)
        await until(lambda: len(coordinator.roster.members) == 1)
        tg.start_soon(obey, url, "other")
        with anyio.fail_after(10):
            await coordinator.assemble(10)
            await coordinator.prepare([])
            await coordinator.conduct(Nothing())  # type: ignore[arg-type]
        assert [member.status for member in coordinator.roster] == ["lost", "finished"]
        assert [part.number for part in coordinator.workers_parts()] == [1]
        (lost, _) = coordinator.roster
        assert lost.reason == "its connection to the control broker is gone"
        assert lost.at_seconds is not None
        tg.cancel_scope.cancel()


@pytest.mark.usefixtures("brisk")
@pytest.mark.parametrize("moment", ["its result", None])
async def test_who_has_handed_over_has_finished_whatever_becomes_of_it(
    moment: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker() as url, leading(url, 1) as coordinator, anyio.create_task_group() as tg:
        tg.start_soon(obey, url, "mortal", moment)
        with anyio.fail_after(10):
            await coordinator.assemble(10)
            await coordinator.prepare([])
            await coordinator.conduct(Nothing())  # type: ignore[arg-type]
        (member,) = coordinator.roster
        assert member.status == "finished"
        assert len(coordinator.workers_parts()) == 1


# --- all is done before the time is up --------------------------------------------------------------------------------


@pytest.mark.usefixtures("brisk")
async def test_a_run_is_over_once_all_workers_have_done_what_was_asked_for() -> None:
    """And not with the first: whoever measures for a shorter time than the others has counted less than they did."""
    async with (
        broker() as url,
        leading(url, 2) as coordinator,
        acting(url, "one") as one,
        acting(url, "other") as other,
        anyio.create_task_group() as tg,
    ):

        async def conduct() -> None:
            await coordinator.assemble(10)
            await coordinator.prepare([])
            await coordinator.conduct(Nothing())  # type: ignore[arg-type]

        tg.start_soon(conduct)
        actors = (one, other)
        for actor in actors:
            await prepare(actor)
        for actor in actors:
            await actor.expect(Connect)
            await actor.say(Ready(connected=2, failed=0))
        for actor in actors:
            await actor.expect(Begin)
        await one.say(Beat(phase="measure", is_done=True))
        await other.say(Beat(phase="measure"))
        await until(lambda: all(member.beat.phase == "measure" for member in coordinator.roster))
        await one.say(Beat(phase="measure", is_done=True))
        await anyio.wait_all_tasks_blocked()
        assert not any(isinstance(word, Stop) for actor in actors for word in actor.heard)
        await other.say(Beat(phase="measure", is_done=True))
        for actor in actors:
            assert (await actor.expect(Stop)).is_complete
        tg.cancel_scope.cancel()


@pytest.mark.usefixtures("brisk")
@pytest.mark.parametrize("is_complete", [True, False])
async def test_a_worker_that_is_told_to_stop_knows_why(is_complete: bool, tmp_path: Path) -> None:
    async with broker() as url, workers_bus(url) as bus, anyio.create_task_group() as tg:
        playing = Playing(bus, url, tmp_path)
        async with coordinators_bus(url) as leaders, anyio.create_task_group() as leader:
            played = Played(leaders)
            leader.start_soon(played.listen)
            tg.start_soon(playing.worker.lead.listen)
            tg.start_soon(playing.worker.keep_in_touch)
            tg.start_soon(playing.run)
            await lead_until(url, played, "measure")
            await played.say(Stop(is_complete=is_complete))
            await until(lambda: any(isinstance(each, Beat) and each.phase == "drain" for each in played.heard))
            run = playing.worker.lead.run
            assert run is not None
            assert (run.record.is_complete, run.record.is_interrupted) == (is_complete, not is_complete)
            leader.cancel_scope.cancel()
        await until(lambda: playing.is_done)
        tg.cancel_scope.cancel()


# --- the coordinator dies ---------------------------------------------------------------------------------------------


def files_in(directory: Path) -> list[Path]:
    return list(directory.glob("*.part"))


async def lead_until(url: str, played: Played, moment: object) -> None:
    """Leads a worker as far as that, and returns."""
    words = ("--producers", "2", "--mode", "closed", "--duration", "0.5", "--warmup", "0", "--drain", "5")
    settings = parse_settings([*words, "--url", url], {})
    plain = share(settings, settings.urls)

    def is_in(phase: str) -> bool:
        return any(isinstance(each, Beat) and each.phase == phase for each in played.heard)

    steps: list[tuple[object, Callable[[], Awaitable[Any]]]] = [
        (Hello, lambda: played.say(Challenge(address=coordinators_address(SEAL)))),
        (Challenge, lambda: played.expect(Join)),
        (Join, lambda: played.say(Welcome(number=0, of=1))),
        (Welcome, lambda: played.say(Prepare(run_id="run", settings=plain, offsets={}))),
        (Prepare, lambda: played.expect(Prepared)),
        (Prepared, lambda: played.say(Connect(at=monotonic_ns()))),
        (Connect, lambda: played.expect(Ready)),
        (Ready, lambda: played.say(Begin(at=monotonic_ns()))),
        (Begin, lambda: until(lambda: is_in("measure"))),
        ("measure", lambda: until(lambda: is_in("drain"))),
        ("drain", lambda: played.say(Close())),
        (Close, lambda: played.expect(Chunk)),
        (Chunk, lambda: played.say(Received())),
    ]
    await played.expect(Hello)
    for reached, act in steps:
        if reached == moment:
            return
        await act()


MOMENTS = (Welcome, Prepared, Connect, Ready, "measure", "drain", Chunk)
AT_WORK = MOMENTS[MOMENTS.index(Connect) :]
"""From when on there is something to keep."""


@pytest.mark.usefixtures("brisk")
@pytest.mark.parametrize("moment", MOMENTS, ids=str)
async def test_a_worker_whose_coordinator_dies_ends_and_keeps_what_it_has(moment: object, tmp_path: Path) -> None:
    async with broker() as url, workers_bus(url) as bus, anyio.create_task_group() as tg:
        playing = Playing(bus, url, tmp_path)
        async with coordinators_bus(url) as leaders, anyio.create_task_group() as leader:
            played = Played(leaders)
            leader.start_soon(played.listen)
            tg.start_soon(playing.worker.lead.listen)
            tg.start_soon(playing.worker.keep_in_touch)
            tg.start_soon(playing.worker.lead.keep_watch, tg.cancel_scope.cancel)
            tg.start_soon(playing.run)
            await lead_until(url, played, moment)
            leader.cancel_scope.cancel()
        await until(lambda: playing.is_done)
        tg.cancel_scope.cancel()
    assert isinstance(playing.outcome, CoordinatorGone)
    kept = files_in(tmp_path)
    assert len(kept) == (moment in AT_WORK)
    for path in kept:
        part = read_part(path)
        assert isinstance(part, WorkerPart)
        assert part.status == ("finished" if moment is Chunk else "abandoned")
        assert merge([str(path), "--quiet"]) == (1 if moment is Chunk else 5)


@pytest.mark.usefixtures("brisk")
async def test_who_has_been_told_that_all_has_arrived_has_done_its_part(tmp_path: Path) -> None:
    async with broker() as url, workers_bus(url) as bus, anyio.create_task_group() as tg:
        playing = Playing(bus, url, tmp_path)
        async with coordinators_bus(url) as leaders, anyio.create_task_group() as leader:
            played = Played(leaders)
            leader.start_soon(played.listen)
            tg.start_soon(playing.worker.lead.listen)
            tg.start_soon(playing.worker.keep_in_touch)
            tg.start_soon(playing.run)
            await lead_until(url, played, None)
            await until(lambda: Received in playing.worker.lead.told)
            leader.cancel_scope.cancel()
        await until(lambda: playing.is_done)
        tg.cancel_scope.cancel()
    assert playing.outcome is None


# --- something fails in a worker --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("brisk")
async def test_what_fails_in_a_worker_is_told_and_what_it_measured_is_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(company_module.FleetCompany, "may_close", fail)
    async with broker() as url, workers_bus(url) as bus, anyio.create_task_group() as tg:
        playing = Playing(bus, url, tmp_path)
        async with coordinators_bus(url) as leaders, anyio.create_task_group() as leader:
            played = Played(leaders)
            leader.start_soon(played.listen)
            tg.start_soon(playing.worker.lead.listen)
            tg.start_soon(playing.worker.keep_in_touch)
            tg.start_soon(playing.run)
            await lead_until(url, played, "measure")
            reason = (await played.expect(Leaving)).reason
            await played.expect(Chunk)
            await played.say(Received())
            await played.say(Goodbye())
            await until(lambda: playing.is_done)
            leader.cancel_scope.cancel()
        tg.cancel_scope.cancel()
    assert "it failed: " in reason and "out of luck" in reason
    assert playing.outcome is None
    part = read_part(*files_in(tmp_path))
    assert isinstance(part, WorkerPart)
    assert part.status == "left" and part.reason == reason
    assert any("(worker)" in name for name in part.record["errors"]["counts"])
