"""The workers as the coordinator knows them: who they are, how far they are, what they last told, what became of them.

It is the coordinator's memory and knows no bus and no clock. A member that is lost stays lost, whatever it says later.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from loadtest.fleet.clocks import Exchange, Offset, drift_ppm, widen
from loadtest.fleet.messages import Beat, Chunk, Join
from loadtest.fleet.parts import MemberPart, PartRefused, WorkerPart, decode
from loadtest.metrics.tally import Tally

MOST_CHUNKS = 4096
PRESENT = ("joined", "prepared", "connecting", "ready", "working")
"""What a member is that still takes part."""


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
    exchanges: list[Exchange] = field(default_factory=list)
    part: WorkerPart | None = None
    chunks: dict[int, bytes] = field(default_factory=dict)
    is_suspect: bool = False

    @property
    def is_present(self) -> bool:
        """Whether it takes part, as far as is known."""
        return self.status in PRESENT

    @property
    def name(self) -> str:
        """How it is called where people read."""
        return f"worker {self.number} ({self.join.name})"

    def lose(self, reason: str, now: float, began_at: float | None) -> None:
        """It is not there any more."""
        self.status, self.reason = "lost", reason
        self.at_seconds = None if began_at is None else now - began_at
        self.silent_seconds = now - self.heard_at

    def take(self, chunk: Chunk) -> bool:
        """Takes a piece of the result, once; True if it is whole now. ValueError for a piece that can't be one."""
        if not (0 <= chunk.number < chunk.of <= MOST_CHUNKS):
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
        except PartRefused as error:
            raise ValueError(str(error)) from None
        if not isinstance(part, WorkerPart) or part.number != self.number:
            raise ValueError("it is another's")
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

    def sum_tally(self) -> Tally:
        """What all have told of their counters, those who are lost included."""
        counts: Counter[str] = Counter()
        for member in self:
            counts.update(member.beat.counts)
        known = Tally().to_plain()
        return Tally.from_plain({name: counts[name] for name in known})

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
            return f"all {self.expected} workers are there already"
        return None
