"""The control channel under attack: hostile letters of each kind, on a real client and an embedded broker, on both
backends; and the two ends of it while they are sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus

import rabbitry
from loadtest.commands.flags import parse_settings
from loadtest.execution.state import start_run
from loadtest.fleet import coordinator as coordinator_module
from loadtest.fleet import worker as worker_module
from loadtest.fleet.bus import COORDINATOR, Bus, BusLost, Gone, PlaceTaken, coordinators_address, open_bus
from loadtest.fleet.coordinator import BrokenOff, Coordinator, Refused
from loadtest.fleet.hosts import identify_host, program_version
from loadtest.fleet.messages import (
    FROM_COORDINATOR,
    FROM_WORKERS,
    PROTOCOL,
    Beat,
    Challenge,
    Chunk,
    Hello,
    Join,
    Lead,
    Stop,
    TurnedAway,
    Welcome,
    pack,
)
from loadtest.fleet.seal import LARGEST, Letter, Seal
from loadtest.fleet.seeking import LedRun
from loadtest.fleet.worker import CoordinatorGone, Terms, TurnedDown, Worker
from loadtest.machine.resources import Meter
from rabbitry.broker import Broker

SEAL = Seal("a token for these tests")


@asynccontextmanager
async def broker() -> AsyncIterator[str]:
    async with Broker() as embedded:
        await embedded.listen()
        yield embedded.url


class Mortal:
    """A broker that ends when it is told to."""

    def __init__(self) -> None:
        self.url = ""
        self._end = anyio.Event()
        self._has_ended = anyio.Event()

    async def live(self, *, task_status: TaskStatus[None]) -> None:
        async with broker() as self.url:
            task_status.started()
            await self._end.wait()
        self._has_ended.set()

    async def die(self) -> None:
        self._end.set()
        await self._has_ended.wait()


def coordinators_bus(url: str, seal: Seal = SEAL) -> Any:
    return open_bus(
        url,
        seal,
        me=COORDINATOR,
        address=coordinators_address(seal),
        session="run",
        greeting=Hello,
        kinds=FROM_WORKERS,
        name="coordinator",
    )


def workers_bus(url: str, me: str = "worker", seal: Seal = SEAL) -> Any:
    return open_bus(
        url, seal, me=me, address=f"q.{me}", session="", greeting=Challenge, kinds=FROM_COORDINATOR, name="worker"
    )


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(15):
        while not holds():
            await anyio.sleep(0.01)


class Attacker:
    """Whoever can publish on the bus, and has seen all that was sent there."""

    def __init__(self, channel: rabbitry.Channel, queue: str) -> None:
        self._channel = channel
        self._queue = queue

    async def send(self, body: bytes) -> None:
        await self._channel.publish(body, routing_key=self._queue)

    async def attack(self, honest: Letter) -> None:
        """One of each kind."""
        body = SEAL.close(honest)
        await self.send(b"")
        await self.send(b"noise" * 100)
        await self.send(bytes(LARGEST + 1))
        await self.send(Seal("another token than theirs").close(honest))
        await self.send(body[:-1] + bytes([body[-1] ^ 1]))
        await self.send(SEAL.close(replace(honest, recipient="somebody else", number=10**6)))
        await self.send(SEAL.close(replace(honest, session="yesterday", number=10**6)))
        await self.send(body)  # as it was


@asynccontextmanager
async def attacker(url: str, queue: str) -> AsyncIterator[Attacker]:
    async with rabbitry.connect(url) as connection, connection.channel(confirm=True) as channel:
        yield Attacker(channel, queue)


async def collect(bus: Bus, into: list[Any]) -> None:
    async for mail in bus.receive():
        into.append(mail.message)


async def test_what_is_hostile_is_ignored_and_counted_while_the_honest_go_on() -> None:
    heard: list[Any] = []
    async with broker() as url, coordinators_bus(url) as bus, workers_bus(url) as other:
        other.guard.session = "run"
        async with attacker(url, coordinators_address(SEAL)) as enemy, anyio.create_task_group() as tg:
            tg.start_soon(collect, bus, heard)
            await other.send(coordinators_address(SEAL), COORDINATOR, Beat(phase="one"))
            await until(lambda: len(heard) == 1)
            kind, content = pack(Beat(phase="one"))
            seen = Letter(session="run", sender="worker", recipient=COORDINATOR, number=1, kind=kind, content=content)
            await enemy.attack(seen)
            await enemy.send(SEAL.close(replace(seen, sender="insider", kind="Stop", content={})))
            await enemy.send(SEAL.close(replace(seen, sender="insider", number=2, content={"phase": 5})))
            await other.send(coordinators_address(SEAL), COORDINATOR, Beat(phase="two"))
            await until(lambda: len(heard) == 2)
            tg.cancel_scope.cancel()
    assert [beat.phase for beat in heard] == ["one", "two"]
    assert bus.guard.rejected == {
        "forged": 4,
        "oversized": 1,
        "misdirected": 1,
        "of another run": 1,
        "replayed": 1,
        "malformed": 2,
    }


async def test_who_is_gone_is_known_at_once() -> None:
    async with broker() as url, coordinators_bus(url) as bus:
        with pytest.raises(Gone):
            await bus.send("q.nobody", "nobody", Lead())
        async with workers_bus(url):
            await bus.send("q.worker", "worker", Lead())
        with pytest.raises(Gone):
            await bus.send("q.worker", "worker", Lead())


async def test_one_place_is_one_coordinators() -> None:
    async with broker() as url, coordinators_bus(url):
        with pytest.raises(PlaceTaken):
            async with coordinators_bus(url):
                pass
        async with coordinators_bus(url, Seal("another token than theirs")):
            pass


async def test_what_is_too_large_is_refused_before_it_is_sent() -> None:
    async with broker() as url, workers_bus(url) as bus:
        with pytest.raises(ValueError, match="bytes"):
            await bus.send("q.worker", "worker", Chunk(number=0, of=1, digest="", data=bytes(LARGEST)))


async def test_a_bus_that_is_lost_says_so_at_both_sides_of_it() -> None:
    mortal = Mortal()
    async with anyio.create_task_group() as tg:
        await tg.start(mortal.live)
        async with workers_bus(mortal.url) as bus:
            await mortal.die()
            with pytest.raises(BusLost):
                await collect(bus, [])
            with pytest.raises(BusLost):
                await bus.send("q.worker", "worker", Lead())


# --- the worker's end -------------------------------------------------------------------------------------------------


class Played:
    """A coordinator as a test plays it."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.heard: list[Any] = []
        self.instance = self.address = ""

    async def listen(self) -> None:
        async for mail in self.bus.receive():
            self.heard.append(mail.message)
            if isinstance(mail.message, Hello):
                self.instance, self.address = mail.sender, mail.message.address

    async def say(self, message: Any) -> None:
        await self.bus.send(self.address, self.instance, message)

    async def expect(self, kind: type[Any]) -> Any:
        await until(lambda: any(isinstance(each, kind) for each in self.heard))
        return next(each for each in self.heard if isinstance(each, kind))


class Playing:
    """A worker under test, with its outcome."""

    def __init__(self, bus: Bus, url: str, tmp_path: Path | None = None) -> None:
        terms = Terms(urls=[url], max_rate=None, backend="asyncio", name="n", directory=tmp_path, wait=5.0)
        self.worker = Worker(terms, bus, SEAL, "q.worker", lambda text: None)
        self.outcome: Exception | None = None
        self.is_done = False

    async def run(self) -> None:
        try:
            await self.worker.work(coordinators_address(SEAL))
        except (TurnedDown, CoordinatorGone) as error:
            self.outcome = error
        self.is_done = True


@asynccontextmanager
async def joined(url: str) -> AsyncIterator[tuple[Played, Playing]]:
    """A worker that has joined a coordinator of ours."""
    async with coordinators_bus(url) as bus, workers_bus(url) as other, anyio.create_task_group() as tg:
        played, playing = Played(bus), Playing(other, url)
        tg.start_soon(played.listen)
        tg.start_soon(playing.worker.listen)
        tg.start_soon(playing.worker.keep_in_touch)
        tg.start_soon(playing.worker.keep_watch, tg.cancel_scope.cancel)
        tg.start_soon(playing.run)
        await played.expect(Hello)
        await played.say(Challenge(address=coordinators_address(SEAL)))
        await played.expect(Join)
        yield played, playing
        tg.cancel_scope.cancel()


async def test_a_worker_heeds_the_coordinator_that_it_has_joined_and_no_other() -> None:
    async with broker() as url, joined(url) as (played, playing), attacker(url, "q.worker") as enemy:
        guard = playing.worker._bus.guard
        stop = Letter(session="run", sender=COORDINATOR, recipient="worker", number=1, kind="Stop", content={})
        await enemy.attack(stop)
        await enemy.send(SEAL.close(replace(stop, sender="insider", number=10**6)))
        kind, content = pack(Challenge(address="q.elsewhere"))
        hijack = replace(stop, session="other", sender="insider", number=10**6, kind=kind, content=content)
        await enemy.send(SEAL.close(hijack))
        await until(lambda: guard.rejected.total() >= 10)
        assert guard.rejected["of a stranger"] == 2
        assert guard.rejected["replayed"] == 1
        assert guard.session == "run"
        await played.say(Welcome(number=0, of=1))
        await played.expect(Beat)
        await played.say(Welcome(number=7, of=9))  # it was said already
        await until(lambda: guard.rejected["late"] == 1)
        await played.say(Stop())  # nothing has begun that could be stopped
        await played.say(TurnedAway(reason="no more"))
        await until(lambda: playing.is_done)
    assert isinstance(playing.outcome, TurnedDown)
    assert "no more" in str(playing.outcome)


async def test_a_worker_ends_when_its_coordinator_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "SILENT", 0.5)
    async with broker() as url, joined(url) as (played, playing):
        await played.say(Welcome(number=0, of=1))
        await until(lambda: playing.is_done)
    assert isinstance(playing.outcome, CoordinatorGone)
    assert "nothing was heard" in str(playing.outcome)


async def test_a_worker_ends_when_the_control_channel_is_lost() -> None:
    mortal = Mortal()
    async with anyio.create_task_group() as tg:
        await tg.start(mortal.live)
        async with workers_bus(mortal.url) as bus, anyio.create_task_group() as staff:
            playing = Playing(bus, mortal.url)
            staff.start_soon(playing.worker.listen)
            staff.start_soon(playing.run)
            await mortal.die()
            await until(lambda: playing.is_done)
            staff.cancel_scope.cancel()
    assert isinstance(playing.outcome, CoordinatorGone)


async def test_a_worker_waits_no_longer_than_it_was_told_for_a_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "HELLO_EVERY", 0.05)
    async with broker() as url, workers_bus(url) as bus, anyio.create_task_group() as tg:
        playing = Playing(bus, url)
        playing.worker._deadline = 0.0
        tg.start_soon(playing.worker.listen)
        await playing.run()
        tg.cancel_scope.cancel()
    assert isinstance(playing.outcome, CoordinatorGone)
    assert "no coordinator was there" in str(playing.outcome)


# --- the coordinator's end --------------------------------------------------------------------------------------------


class _Unseen:
    def update(self, *looked: object) -> None:
        """Nothing."""


@asynccontextmanager
async def leading(url: str, workers: int) -> AsyncIterator[Coordinator]:
    settings = parse_settings(["--clients", "4", "--mode", "closed"], {})
    alone = start_run(settings)
    run = LedRun(settings, replace(alone.plan, run_id="run"), __import__("datetime").datetime.now())
    async with coordinators_bus(url) as bus:
        coordinator = Coordinator(
            run,
            bus,
            SEAL,
            workers=workers,
            address=coordinators_address(SEAL),
            display=_Unseen(),
            meter=Meter(None),
        )
        async with coordinator.staffed(None):
            yield coordinator


def join(**changes: Any) -> Join:
    return replace(
        Join(
            address="q.worker",
            protocol=PROTOCOL,
            version=program_version(),
            name="n",
            host=identify_host(SEAL),
            pid=1,
            cores=1,
            backend="asyncio",
        ),
        **changes,
    )


async def say_hello(bus: Bus, heard: list[Any]) -> None:
    """Up to where one may join."""
    await bus.send(coordinators_address(SEAL), COORDINATOR, Hello(address="q.worker"))
    await until(lambda: any(isinstance(each, Challenge) for each in heard))
    bus.guard.session = "run"


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
            guard = coordinator._bus.guard
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
            tg.cancel_scope.cancel()
    assert not coordinator.roster.members


async def test_a_worker_lost_before_the_work_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_module, "BEAT", 0.05)
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
    monkeypatch.setattr(coordinator_module, "BEAT", 0.05)
    monkeypatch.setattr(coordinator_module, "SILENT", 0.3)
    heard: list[Any] = []
    async with broker() as url, leading(url, 2) as coordinator, workers_bus(url) as bus:
        async with anyio.create_task_group() as tg:
            tg.start_soon(collect, bus, heard)
            await say_hello(bus, heard)
            await bus.send(coordinators_address(SEAL), COORDINATOR, join())
            with pytest.raises(BrokenOff, match="nothing was heard of it"):
                await coordinator.assemble(20)
            await bus.send(coordinators_address(SEAL), COORDINATOR, Beat(phase="measure"))
            await until(lambda: coordinator._bus.guard.rejected["late"] == 1)
            tg.cancel_scope.cancel()
    (member,) = coordinator.roster
    assert member.status == "lost"
    assert member.beat == Beat()
