"""The worker's end, led by a coordinator that a test plays: what it heeds, and how it ends by itself."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic_ns
from typing import Any

import anyio
import pytest

from loadtest.fleet import leadership as leadership_module
from loadtest.fleet import worker as worker_module
from loadtest.fleet.bus import COORDINATOR
from loadtest.fleet.leadership import CoordinatorGone, TurnedDown
from loadtest.fleet.messages import (
    Beat,
    Begin,
    Challenge,
    Close,
    Connect,
    Goodbye,
    Measure,
    Prepare,
    Received,
    Refusal,
    Stop,
    TurnedAway,
    Welcome,
    pack,
)
from loadtest.fleet.seal import Letter
from tests.loadtest.fleet.ends import SEAL, Mortal, Playing, attacker, broker, joined, until, workers_bus

NOTHING: dict[str, Any] = {"run_id": "run", "settings": {}, "offsets": {}}


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
    monkeypatch.setattr(leadership_module, "SILENT", 0.5)
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
            staff.start_soon(playing.worker.lead.listen)
            staff.start_soon(playing.run)
            await mortal.die()
            await until(lambda: playing.is_done)
            staff.cancel_scope.cancel()
    assert isinstance(playing.outcome, CoordinatorGone)


async def test_a_worker_waits_no_longer_than_it_was_told_for_a_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "HELLO_EVERY", 0.05)
    async with broker() as url, workers_bus(url) as bus, anyio.create_task_group() as tg:
        playing = Playing(bus, url)
        playing.worker.lead.deadline = 0.0
        tg.start_soon(playing.worker.lead.listen)
        await playing.run()
        tg.cancel_scope.cancel()
    assert isinstance(playing.outcome, CoordinatorGone)
    assert "no coordinator was there" in str(playing.outcome)


async def test_words_out_of_order_move_nothing() -> None:
    async with broker() as url, joined(url) as (played, playing):
        rejected = playing.worker._bus.guard.rejected
        early = (Begin(at=0), Connect(at=0), Measure(at=0), Close(), Received(), Goodbye(), Prepare(**NOTHING))
        for word in early:
            await played.say(word)
        await until(lambda: rejected["out of order"] == len(early))
        await played.say(Welcome(number=0, of=1))
        await played.expect(Beat)
        await played.say(Connect(at=0))
        await until(lambda: rejected["out of order"] == len(early) + 1)
        assert not playing.is_done
        assert not {Begin, Connect, Prepare} & playing.worker.lead.told.keys()


async def test_a_plan_that_is_none_is_refused_with_the_reason() -> None:
    async with broker() as url, joined(url) as (played, playing):
        await played.say(Welcome(number=0, of=1))
        await played.say(Prepare(**{**NOTHING, "settings": {"clients": -1, "urls": "no list"}}))
        refusal: Refusal = await played.expect(Refusal)
        await until(lambda: playing.is_done)
    assert isinstance(playing.outcome, TurnedDown)
    assert refusal.reason == str(playing.outcome) != ""


async def test_for_a_run_it_waits_no_longer_than_it_was_told() -> None:
    async with broker() as url, joined(url) as (_, playing):
        playing.worker.lead.deadline = 0.0
        await until(lambda: playing.is_done)
    assert isinstance(playing.outcome, CoordinatorGone)
    assert "--wait" in str(playing.outcome)


async def test_a_moment_that_is_far_away_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that was read wrongly would have it load at some other time than all others."""
    async with broker() as url, workers_bus(url) as bus:
        lead = Playing(bus, url).worker.lead
        with anyio.fail_after(5):
            await lead.wait_until(monotonic_ns() + 10**15)
            assert "a moment that is 1,000,000 s away" in lead.gone
            lead.gone = ""
            await lead.wait_until(-(10**15))
            await lead.wait_until(monotonic_ns() + 20_000_000_000, lambda: True)
        assert not lead.gone


async def test_who_waits_for_a_moment_is_woken_when_nobody_leads_any_more() -> None:
    async with broker() as url, workers_bus(url) as bus, anyio.create_task_group() as tg:
        lead = Playing(bus, url).worker.lead
        tg.start_soon(lead.wait_until, monotonic_ns() + 30_000_000_000)
        await anyio.wait_all_tasks_blocked()
        lead.give_up("gone")
        tg.cancel_scope.deadline = anyio.current_time() + 4
    assert not tg.cancel_scope.cancelled_caught
