"""The workers as the coordinator knows them: who they are, how far they are, what they last told, what became of them.

It is the coordinator's memory and knows no bus and no clock. A member that is lost stays lost, whatever it says later.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtest.fleet.clocks import Offset, are_one, drift_ppm, widen
from loadtest.fleet.messages import Beat, Chunk, Join, Leaving, Prepared, Ready, Refusal
from loadtest.fleet.parts import MemberPart, PartRefused, WorkerPart, decode, record_of
from loadtest.metrics.tally import Tally

MOST_CHUNKS = 4096
MOST_TOLD = 5
PRESENT = ("joined", "prepared", "connecting", "ready", "working")
"""What a member is that still takes part."""
STEPS: Mapping[type[Any], Mapping[str, str]] = {
    Prepared: {"joined": "prepared"},
    Refusal: {"joined": "refused", "prepared": "refused"},
    Ready: {"connecting": "ready"},
    Leaving: {"connecting": "left", "ready": "left", "working": "left"},
    Chunk: {"working": "working", "left": "left"},
}
"""What a member's word makes of what it is; where nothing is said it is out of order. Whatever else a member says may
come at any time, and changes nothing of it."""


@dataclass(slots=True)
class Member:
    """One worker."""

    number: int
    instance: str
    address: str
    join: Join
    heard_at: float
    status: str = "joined"
    reason: str = ""
    at_seconds: float | None = None
    silent_seconds: float = 0.0
    sockets: int = 0
    clients: int = 0
    beat: Beat = field(default_factory=Beat)
    before: Offset | None = None
    after: Offset | None = None
    part: WorkerPart | None = None
    chunks: dict[int, bytes] = field(default_factory=dict)
    promised: tuple[int, str] | None = None
    """Of how many pieces its result is, and with which digest."""
    is_suspect: bool = False

    @property
    def is_present(self) -> bool:
        """Whether it takes part, as far as is known."""
        return self.status in PRESENT

    @property
    def is_awaited(self) -> bool:
        """Whether its result is to come yet: it takes part, or has left and owes it."""
        return self.part is None and (self.is_present or self.status == "left")

    @property
    def name(self) -> str:
        """How it is called where people read."""
        return f"worker {self.number} ({self.join.name})"

    def there(self, at: int) -> int:
        """A moment of the coordinator's clock on this member's."""
        return at if self.before is None else self.before.there(at)

    def step(self, kind: type[Any]) -> bool:
        """It has said something of that kind; False if that was out of order, and nothing is to come of it."""
        steps = STEPS.get(kind)
        if steps is None:
            return True
        if self.status not in steps:
            return False
        self.status = steps[self.status]
        return True

    def lose(self, reason: str, now: float, began_at: float | None) -> None:
        """It is not there any more."""
        self.status, self.reason = "lost", reason
        self.at_seconds = None if began_at is None else now - began_at
        self.silent_seconds, self.is_suspect = now - self.heard_at, False

    def take(self, chunk: Chunk, run_id: str) -> bool:
        """Takes a piece of the result, once; True if it is whole now. ValueError for a piece that can't be one, and for
        a whole that is none of this run.
        """
        if self.part is not None:
            return False
        self.promised = self.promised or (chunk.of, chunk.digest)
        if not (0 <= chunk.number < chunk.of <= MOST_CHUNKS) or (chunk.of, chunk.digest) != self.promised:
            raise ValueError(f"piece {chunk.number} of {chunk.of}")
        self.chunks.setdefault(chunk.number, chunk.data)
        if len(self.chunks) < chunk.of:
            return False
        data = b"".join(self.chunks[number] for number in sorted(self.chunks))
        self.chunks.clear()
        if hashlib.sha256(data).hexdigest() != chunk.digest:
            raise ValueError("its pieces don't make what was promised")
        try:
            part = decode(data)
            if not isinstance(part, WorkerPart) or (part.number, part.run_id) != (self.number, run_id):
                raise ValueError("it is another's")
            record_of(part)  # what can't be read is known now, and not when all are added up
        except PartRefused as error:
            raise ValueError(str(error)) from None
        self.part = part
        return True

    def describe(self) -> MemberPart:
        """What is told of it in the end."""
        before = self.before
        return MemberPart(
            number=self.number,
            name=self.join.name,
            host=self.join.host,
            pid=self.join.pid,
            cores=self.join.cores,
            status=self.status,
            reason=self.reason,
            at_seconds=None if self.at_seconds is None else round(self.at_seconds, 3),
            phase=self.beat.phase,
            counts=dict(self.beat.counts),
            silent_seconds=round(self.silent_seconds, 3),
            sockets=self.sockets,
            clients=self.clients,
            offset_ms=None if before is None else before.offset / 1e6,
            bound_ms=None if before is None else widen(before, self.after) / 1e6,
            drift_ppm=None if before is None else drift_ppm(before, self.after),
        )


class Roster:
    """All members, by the name that each of them gave itself."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.members: dict[str, Member] = {}
        self.turned_away: list[str] = []
        """Who couldn't take part, and why."""

    def __iter__(self) -> Iterator[Member]:
        return iter(sorted(self.members.values(), key=lambda member: member.number))

    @property
    def present(self) -> list[Member]:
        """Those that take part."""
        return [member for member in self if member.is_present]

    @property
    def is_full(self) -> bool:
        """Whether as many have joined as were expected."""
        return len(self.members) >= self.expected

    def add(self, instance: str, join: Join, now: float) -> Member:
        """Takes one in, under the next number."""
        member = Member(len(self.members), instance, join.address, join, now)
        self.members[instance] = member
        return member

    def note_turned_away(self, name: str, reason: str) -> None:
        """Somebody couldn't take part; of many the first are told of."""
        if len(self.turned_away) < MOST_TOLD:
            self.turned_away.append(f"{name}: {reason}")

    def sum_tally(self) -> Tally:
        """What all have told of their counters, those who are lost included."""
        counts: Counter[str] = Counter()
        for member in self:
            counts.update(member.beat.counts)
        known = Tally().to_plain()
        return Tally.from_plain({name: counts[name] for name in known})

    def sum_errors(self) -> Counter[str]:
        """What all have told of their errors."""
        counts: Counter[str] = Counter()
        for member in self:
            counts.update(member.beat.errors)
        return counts

    def is_settled(self) -> bool:
        """Whether none of those present sends anything more, or waits for an answer."""
        return all(member.beat.is_settled for member in self.present)

    def is_drained(self, expected: int) -> bool:
        """Whether all that is expected has been received, or nobody is there to receive it."""
        unique = sum(member.beat.unique for member in self)
        consumers = sum(member.beat.consumers for member in self.present)
        return self.is_settled() and (unique >= expected or not consumers)

    def find_disagreement(self, join: Join, version: str, protocol: int, backend: str) -> str | None:
        """Why such a worker can't take part; None if it can."""
        if join.protocol != protocol:
            return f"it speaks version {join.protocol} of what is said on the bus, and this coordinator {protocol}"
        if join.version != version:
            return f"it is rabbitry {join.version}, and the coordinator {version}: both must be the same"
        if join.backend != backend:
            return f"the run is on {backend}: start the worker with --backend {backend}"
        if self.is_full:
            return f"all {self.expected} workers have joined already, and one that is lost is not replaced"
        return None

    def offsets_for(self, member: Member) -> dict[int, int]:
        """What makes another worker's moments this one's, in nanoseconds. Those of one host have one clock, unless what
        was read of it tells otherwise, as where one virtual machine is another's copy.
        """
        mine = member.before
        return {
            other.number: mine.offset - other.before.offset
            for other in self
            if mine is not None
            and other.before is not None
            and other is not member
            and not (other.join.host == member.join.host and are_one(mine, other.before))
        }
