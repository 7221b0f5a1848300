"""Both ends of a fleet as tests play them: on a real client and an embedded broker, honest or hostile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic_ns
from typing import Any

import anyio
from anyio.abc import TaskStatus

import rabbitry
from loadtest.commands.flags import parse_settings
from loadtest.execution.state import start_run
from loadtest.fleet.bus import COORDINATOR, Bus, coordinators_address, open_bus
from loadtest.fleet.coordinator import Coordinator
from loadtest.fleet.hosts import identify_host, program_version
from loadtest.fleet.leadership import CoordinatorGone, TurnedDown
from loadtest.fleet.messages import (
    FROM_COORDINATOR,
    FROM_WORKERS,
    PROTOCOL,
    Challenge,
    Echo,
    Hello,
    Join,
    Probe,
    Welcome,
)
from loadtest.fleet.seal import LARGEST, Letter, Seal
from loadtest.fleet.seeking import LedRun
from loadtest.fleet.worker import Terms, Worker
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
    async for mail in bus:
        into.append(mail.message)


# --- the worker's end -------------------------------------------------------------------------------------------------


class Played:
    """A coordinator as a test plays it."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.heard: list[Any] = []
        self.instance = self.address = ""

    async def listen(self) -> None:
        async for mail in self.bus:
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
        tg.start_soon(playing.worker.lead.listen)
        tg.start_soon(playing.worker.keep_in_touch)
        tg.start_soon(playing.worker.lead.keep_watch, tg.cancel_scope.cancel)
        tg.start_soon(playing.run)
        await played.expect(Hello)
        await played.say(Challenge(address=coordinators_address(SEAL)))
        await played.expect(Join)
        yield played, playing
        tg.cancel_scope.cancel()


# --- the coordinator's end --------------------------------------------------------------------------------------------


class _Unseen:
    def update(self, *looked: object) -> None:
        """Nothing."""


@asynccontextmanager
async def leading(url: str, workers: int) -> AsyncIterator[Coordinator]:
    settings = parse_settings(["--clients", "4", "--mode", "closed"], {})
    alone = start_run(settings)
    run = LedRun(settings, replace(alone.plan, run_id="run"), datetime.now(UTC))
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


class Acting:
    """A worker as a test plays it, whose clock is ahead of ours by so many nanoseconds."""

    def __init__(self, bus: Bus, ahead: int) -> None:
        self.bus = bus
        self.ahead = ahead
        self.heard: list[Any] = []
        self.answers = True
        """Whether it says what time it is."""

    async def say(self, message: Any) -> None:
        await self.bus.send(coordinators_address(SEAL), COORDINATOR, message)

    async def expect(self, kind: type[Any]) -> Any:
        await until(lambda: any(isinstance(each, kind) for each in self.heard))
        return next(each for each in self.heard if isinstance(each, kind))

    async def listen(self) -> None:
        async for mail in self.bus:
            self.heard.append(mail.message)
            if isinstance(mail.message, Challenge):
                self.bus.guard.session = mail.session
            if isinstance(mail.message, Probe) and self.answers:
                now = monotonic_ns() + self.ahead
                await self.say(Echo(number=mail.message.number, received=now, sent=now))


@asynccontextmanager
async def acting(url: str, me: str = "worker", *, ahead: int = 0, host: str = "") -> AsyncIterator[Acting]:
    """One that has joined a coordinator of ours."""
    async with workers_bus(url, me) as bus, anyio.create_task_group() as tg:
        actor = Acting(bus, ahead)
        tg.start_soon(actor.listen)
        await actor.say(Hello(address=f"q.{me}"))
        await actor.expect(Challenge)
        changes = {"host": host} if host else {}
        await actor.say(join(address=f"q.{me}", name=me, **changes))
        await actor.expect(Welcome)
        yield actor
        tg.cancel_scope.cancel()
