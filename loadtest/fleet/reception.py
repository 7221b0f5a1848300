"""What the coordinator is told: who may join, what each word of a member changes, and what is not heeded.

A word that is out of order is counted and changes nothing. Who was taken for lost and speaks again is sent away, as
nobody counts what it does any more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any

from loadtest.fleet import messages as said
from loadtest.fleet.bus import Mail
from loadtest.fleet.clock_reader import ClockReader
from loadtest.fleet.crew import Crew
from loadtest.fleet.hosts import program_version
from loadtest.fleet.members import Member


class Reception:
    """Heeds what comes for the coordinator."""

    def __init__(self, crew: Crew, clocks: ClockReader, address: str) -> None:
        self.digest = ""
        """What the settings come to that all are told."""
        self._crew = crew
        self._clocks = clocks
        self._address = address
        self._version = program_version()
        self._dismissed = set[str]()
        self._handlers: Mapping[type[Any], Callable[[Member, Any], Awaitable[None] | None]] = {
            said.Echo: self._on_echo,
            said.Prepared: self._on_prepared,
            said.Refusal: self._on_refusal,
            said.Beat: self._on_beat,
            said.Leaving: self._on_leaving,
            said.Chunk: self._on_chunk,
        }

    async def listen(self) -> None:
        """Heeds what comes, until cancelled. BusLost if the control channel is gone."""
        async for mail in self._crew.bus:
            await self._heed(mail)
            self._crew.changes.note()

    async def _heed(self, mail: Mail) -> None:
        crew, message = self._crew, mail.message
        if isinstance(message, said.Hello):
            return await crew.answer(message.address, mail.sender, said.Challenge(address=self._address))
        if isinstance(message, said.Join):
            return await self._on_join(mail.sender, message)
        member = crew.roster.members.get(mail.sender)
        if member is None:
            return crew.bus.guard.turn_away("of a stranger")
        if member.status in ("lost", "refused"):
            return await self._send_away(member)
        member.heard_at, member.is_suspect = monotonic(), False
        if not member.step(type(message)):
            return crew.bus.guard.turn_away("out of order")
        handled = self._handlers[type(message)](member, message) if type(message) in self._handlers else None
        if handled is not None:
            await handled
        return None

    async def _send_away(self, member: Member) -> None:
        """Tells who was given up, once, that it is not one of them any more."""
        self._crew.bus.guard.turn_away("late")
        if member.instance not in self._dismissed:
            self._dismissed.add(member.instance)
            reason = f"this worker was taken for lost: {member.reason}"
            await self._crew.answer(member.address, member.instance, said.TurnedAway(reason=reason))

    async def _on_join(self, instance: str, join: said.Join) -> None:
        crew, roster = self._crew, self._crew.roster
        if instance in roster.members:
            return crew.bus.guard.turn_away("late")
        reason = roster.find_disagreement(join, self._version, said.PROTOCOL, crew.run.settings.backend)
        if reason is not None:
            roster.note_turned_away(join.name, reason)
            return await crew.answer(join.address, instance, said.TurnedAway(reason=reason))
        member = roster.add(instance, join, monotonic())
        return await crew.tell(member, said.Welcome(number=member.number, of=roster.expected))

    def _on_echo(self, member: Member, echo: said.Echo) -> None:
        if not self._clocks.take(member, echo):
            self._crew.bus.guard.turn_away("out of order")

    def _on_prepared(self, member: Member, prepared: said.Prepared) -> None:
        member.sockets, member.clients = prepared.sockets, prepared.clients
        if prepared.digest != self.digest:
            member.status, member.reason = "refused", "it reads the settings otherwise: it is another version"

    def _on_refusal(self, member: Member, refusal: said.Refusal) -> None:
        member.reason = refusal.reason

    def _on_beat(self, member: Member, beat: said.Beat) -> None:
        if not beat.phase:
            return
        record, roster = self._crew.run.record, self._crew.roster
        record.errors.counts.update(beat.errors)
        record.errors.counts.subtract(member.beat.errors)
        member.beat = beat
        for name, number in roster.sum_tally().to_plain().items():  # in place: whoever looks has the tally already
            setattr(record.tally, name, number)
        record.ledger.unique = sum(each.beat.unique for each in roster)

    def _on_leaving(self, member: Member, leaving: said.Leaving) -> None:
        member.reason, began_at = leaving.reason, self._crew.began_at
        member.at_seconds = None if began_at is None else monotonic() - began_at

    async def _on_chunk(self, member: Member, chunk: said.Chunk) -> None:
        crew = self._crew
        try:
            is_whole = member.take(chunk, crew.run.plan.run_id)
        except ValueError as error:
            return crew.lose(member, f"its result can't be read: {error}")
        if is_whole:
            await crew.tell(member, said.Received())
            if member.status == "left":
                await crew.tell(member, said.Goodbye())
        return None
