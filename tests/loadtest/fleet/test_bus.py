"""The control channel under attack: hostile letters of each kind, on a real client and an embedded broker, on both
backends.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from loadtest.fleet.bus import COORDINATOR, BusLost, Gone, PlaceTaken, coordinators_address
from loadtest.fleet.messages import Beat, Chunk, Stop, pack
from loadtest.fleet.seal import LARGEST, Letter, Seal
from tests.loadtest.fleet.ends import SEAL, Mortal, attacker, broker, collect, coordinators_bus, until, workers_bus


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
            await bus.send("q.nobody", "nobody", Stop())
        async with workers_bus(url):
            await bus.send("q.worker", "worker", Stop())
        with pytest.raises(Gone):
            await bus.send("q.worker", "worker", Stop())


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
                await bus.send("q.worker", "worker", Stop())
