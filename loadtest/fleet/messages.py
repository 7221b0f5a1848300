"""Everything that coordinator and workers say to each other: one dataclass for each kind of letter.

Nothing here is code, and nothing has a password: brokers are named by their address, and who connects to one knows its
password from his own command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtest.fleet.plain import from_plain, to_plain

PROTOCOL = 3
"""Both ends must speak the same."""


# --- from a worker --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Hello:
    """The first word, which asks for the session: whoever can answer has the token."""

    address: str
    """The worker's queue."""


@dataclass(frozen=True, kw_only=True)
class Join:
    """The worker introduces itself."""

    address: str
    protocol: int
    version: str
    """The program's version; both ends must have the same."""
    name: str
    host: str
    """The same for all whose monotonic clock is the same, and nothing else."""
    pid: int
    cores: int
    backend: str


@dataclass(frozen=True, kw_only=True)
class Echo:
    """The answer to a probe, with the worker's clock: when that came, and when this left."""

    number: int
    received: int
    sent: int


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The worker has made the plan, and takes its part."""

    digest: str
    sockets: int
    clients: int


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The worker takes no part, and says why."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Ready:
    """All of its clients are connected, or have failed."""

    connected: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class Beat:
    """A sign of life, with counters."""

    phase: str = ""
    is_settled: bool = False
    """Whether the worker sends nothing more, and waits for no answer."""
    is_done: bool = False
    """Whether all that was asked of the worker is done, or nothing happens in it any more."""
    consumers: int = 0
    unique: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    """Processor time that its process has used."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """The most frequent errors so far, by their name."""
    is_blocked: bool = False
    """Whether the broker under test blocks publishers."""


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """The worker ends before the run does, told to by its own user or because something failed; its result follows."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of the worker's result."""

    number: int
    of: int
    digest: str
    """SHA-256 of the whole."""
    data: bytes


# --- from the coordinator -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """The session, which is all a worker needs to join."""

    address: str


@dataclass(frozen=True, kw_only=True)
class Welcome:
    """The worker is one of them."""

    number: int
    of: int


@dataclass(frozen=True, kw_only=True)
class TurnedAway:
    """The worker can't take part, and why."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What time is it at your end? Each second, it is a sign of life."""

    number: int


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """What the run is: settings without passwords, and which part of the plan is whose."""

    run_id: str
    settings: Mapping[str, Any]
    offsets: Mapping[int, int]
    """For each worker on another host: what to add to a moment of its clock for the same moment on this worker's, in
    nanoseconds."""


@dataclass(frozen=True, kw_only=True)
class Connect:
    """Connect at that moment of the worker's own clock."""

    at: int


@dataclass(frozen=True, kw_only=True)
class Begin:
    """Begin the work at that moment of the worker's own clock."""

    at: int


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How to pace from now on, while the rate is sought; as `loadtest.fleet.seeking.Order` has it, with the start on
    the worker's own clock.
    """

    phase: str
    number: int
    rate: float | None
    start: int
    is_paused: bool
    is_planned: bool


@dataclass(frozen=True, kw_only=True)
class Measure:
    """The rate is found: measure from that moment of the worker's own clock on."""

    at: int


@dataclass(frozen=True, kw_only=True)
class Stop:
    """End early, in order."""

    is_complete: bool = False
    """Whether that is because all is done that was asked for, by all workers."""


@dataclass(frozen=True, kw_only=True)
class Close:
    """Nothing is left to wait for: everybody may go."""


@dataclass(frozen=True, kw_only=True)
class Received:
    """The result has arrived whole."""


@dataclass(frozen=True, kw_only=True)
class Goodbye:
    """The run is over."""


FROM_WORKERS: Sequence[type[Any]] = (Hello, Join, Echo, Prepared, Refusal, Ready, Beat, Leaving, Chunk)
FROM_COORDINATOR: Sequence[type[Any]] = (
    Challenge, Welcome, TurnedAway, Probe, Prepare, Connect, Begin, Pace, Measure, Stop, Close, Received, Goodbye
)  # fmt: skip
_KINDS = {kind.__name__: kind for kind in (*FROM_WORKERS, *FROM_COORDINATOR)}


def pack(message: Any) -> tuple[str, dict[str, Any]]:
    """A message's kind and content, as a letter has them."""
    return type(message).__name__, to_plain(message)


def unpack(kind: str, content: Mapping[str, Any], kinds: Sequence[type[Any]]) -> Any:
    """The message in a letter, if it is of these kinds. ValueError if it is not, or makes no sense."""
    found = _KINDS.get(kind)
    if found is None or found not in kinds:
        raise ValueError(f"{kind[:40]!r} is nothing that this end is told")
    return from_plain(found, content)
