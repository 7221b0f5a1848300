"""What each end of a fleet knows in the end: as values, as bytes on the bus, and as files to be put together later.

A worker's part has its record; the coordinator's has what only it knows: the broker, what was left in the queues, who
took part and what became of each. All of it is plain: reading a part runs nothing, and refuses what is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from loadtest.fleet.plain import from_plain, packed, to_plain
from loadtest.metrics.record import Record

FORMAT = 1
LARGEST_PART = 512 * 2**20
"""Bytes of a part, at most: far more than any run makes, and less than a machine has."""


class PartRefused(Exception):
    """A file or a message is no part, or one of another version."""


@dataclass(kw_only=True)
class WorkerPart:
    """What one worker measured."""

    run_id: str
    number: int
    of: int
    name: str
    host: str
    status: str
    """`finished`; `left` if it was told to end by its own user, or something failed in it; `abandoned` if the
    coordinator was gone.
    """
    reason: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    crossing: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    start_skew_ms: float | None = None
    """How much later than agreed it began to work."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Letters that it did not heed, by the reason."""


@dataclass(kw_only=True)
class MemberPart:
    """One worker as the coordinator saw it."""

    number: int
    name: str
    host: str
    pid: int
    cores: int
    status: str = "joined"
    reason: str = ""
    at_seconds: float | None = None
    """When it was lost or left, since the run began to connect."""
    phase: str = ""
    """The last one it was known to be in."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What it last told of its counters."""
    silent_seconds: float = 0.0
    """How long it had not been heard of when it was lost."""
    sockets: int = 0
    clients: int = 0
    offset_ms: float | None = None
    bound_ms: float | None = None
    drift_ppm: float | None = None


@dataclass(kw_only=True)
class CoordinatorPart:
    """What the coordinator knows beside the workers' records."""

    run_id: str
    started_at: str
    settings: Mapping[str, Any]
    words: Sequence[str] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    broker: Mapping[str, Any] = field(default_factory=dict)
    capacity: Mapping[str, Any] | None = None
    """What the search for the rate came to, if there was one."""
    management: Mapping[str, Any] | None = None
    """What the broker's management API said, if it was asked."""
    aborted: Mapping[str, Any] | None = None
    """What ended the run before its time."""
    stock: Mapping[str, Any] | None = None
    errors: Mapping[str, Any] = field(default_factory=dict)
    is_interrupted: bool = False
    members: Sequence[MemberPart] = ()
    control: Mapping[str, Any] = field(default_factory=dict)
    """The control channel: round trip, letters, those that were not heeded."""


Part = WorkerPart | CoordinatorPart
_KINDS: Mapping[str, type[Any]] = {"worker": WorkerPart, "coordinator": CoordinatorPart}


def encode(part: Part) -> bytes:
    """The part as bytes."""
    kind = next(name for name, each in _KINDS.items() if isinstance(part, each))
    return packed({"loadtest": "part", "format": FORMAT, "kind": kind, "part": to_plain(part)})


def decode(data: bytes) -> Part:
    """The part that `encode` was asked of. PartRefused for anything else."""
    try:
        plain = msgpack.unpackb(data, strict_map_key=False)
    except Exception:  # whatever it is that can't be read
        plain = None
    if not isinstance(plain, dict) or plain.get("loadtest") != "part":
        raise PartRefused("it is no part of a run's result")
    try:
        if plain.get("format") != FORMAT:
            raise ValueError(f"it is of format {plain.get('format')!r}, and this program reads {FORMAT}")
        part: Part = from_plain(_KINDS[plain["kind"]], plain["part"])
    except Exception as error:  # whatever it is that can't be read
        raise PartRefused(str(error) or repr(error)) from None
    return part


def record_of(part: WorkerPart) -> Record:
    """What a worker measured. PartRefused if that can't be read."""
    try:
        record = Record.from_plain(dict(part.record))
        Record(run_id=part.run_id, started_at=record.started_at).merge(Record.from_plain(dict(part.record)))
    except Exception as error:  # whatever it is that can't be read
        raise PartRefused(f"the record of worker {part.number}: {error}") from None
    return record


def write_part(part: Part, directory: Path) -> Path:
    """Writes the part, whole or not at all, and returns where it is. OSError if it can't be."""
    name = f"worker-{part.number}" if isinstance(part, WorkerPart) else "coordinator"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{part.run_id}.{name}.part"
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(encode(part))
    unfinished.replace(path)
    return path


def read_part(path: Path) -> Part:
    """The part in a file. PartRefused, with the file's name, if there is none."""
    try:
        if path.stat().st_size > LARGEST_PART:
            raise PartRefused(f"it is larger than {LARGEST_PART:,} bytes")
        return decode(path.read_bytes())
    except OSError as error:
        raise PartRefused(f"{path}: {error.strerror or error}") from None
    except PartRefused as error:
        raise PartRefused(f"{path}: {error}") from None
