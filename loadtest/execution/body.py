"""The first bytes of every message of a run: whose it is, which it is, and when it was meant to leave.

It owns the layout and the padding. The stamp is the intended time on the machine's monotonic clock, in nanoseconds, so
that one process (or several on one machine) can tell a latency; the run's tag keeps strangers' messages out of the
ledger. Messages too small for the time have it kept for them here, where they are made, until they arrive.
"""

from __future__ import annotations

import struct

from loadtest.scenarios.settings import SMALLEST_STAMP_BYTES, STAMP_BYTES

_LAYOUT = struct.Struct("<IIQQ")  # STAMP_BYTES, as a test holds

Stamp = tuple[int, int, int, int]
"""The tag, the producer, the sequence and the intended time, which is 0 if it is not known any more.

The sequence is the message's number; on a schedule it also has, above `LAG_SHIFT`, how late the message left.
"""

LAG_SHIFT = 40
NUMBER = (1 << LAG_SHIFT) - 1
"""What of a sequence is the number: a million million messages of one producer."""
LONGEST_LAG = (1 << 24) - 1
"""The longest lag that is carried, in microseconds: 16 s, and all beyond it."""


class BodyMaker:
    """Makes the bodies of one run, all of one size, and reads them."""

    __slots__ = ("_padding", "_tag")

    def __init__(self, tag: int, size: int) -> None:
        if size < STAMP_BYTES:
            raise ValueError(f"a body of {size} bytes has no room for the stamp of {STAMP_BYTES} bytes")
        self._tag = tag
        self._padding = bytes(size - STAMP_BYTES)

    def __call__(self, producer: int, sequence: int, intended: int) -> bytes:
        """The body of one message."""
        return _LAYOUT.pack(self._tag, producer, sequence, intended) + self._padding

    def read(self, body: bytes) -> Stamp | None:
        """The stamp in a body; None if there is none of this run."""
        stamp = read_stamp(body)
        return stamp if stamp is not None and stamp[0] == self._tag else None

    def owns(self, body: bytes) -> bool:
        """Whether it is a body of this run."""
        return self.read(body) is not None


class SmallBodyMaker:
    """The same for bodies without room for the time: 2 bytes of the tag, 3 of the producer, 5 of the number."""

    __slots__ = ("_intended", "_keeps", "_padding", "_producers", "_size", "_tag")

    def __init__(self, tag: int, size: int, *, producers: int, is_consumed: bool) -> None:
        if not size >= SMALLEST_STAMP_BYTES:
            raise ValueError(
                f"a body of {size} bytes has no room for {SMALLEST_STAMP_BYTES} bytes that tell it from others"
            )
        self._tag = tag & 0xFFFF
        self._size = size
        self._producers = producers
        self._padding = bytes(size - SMALLEST_STAMP_BYTES)
        self._keeps = is_consumed
        self._intended: dict[int, int] = {}

    def __call__(self, producer: int, sequence: int, intended: int) -> bytes:
        """The body of one message."""
        known_by = producer << 40 | sequence
        if self._keeps:
            self._intended[known_by] = intended
        return (self._tag << 64 | known_by).to_bytes(SMALLEST_STAMP_BYTES, "little") + self._padding

    def read(self, body: bytes) -> Stamp | None:
        """The stamp in a body; None if there is none of this run. The intended time is told once."""
        known_by = self._find(body)
        if known_by is None:
            return None
        return self._tag, known_by >> 40, known_by & (1 << 40) - 1, self._intended.pop(known_by, 0)

    def owns(self, body: bytes) -> bool:
        """Whether it is a body of this run."""
        return self._find(body) is not None

    def _find(self, body: bytes) -> int | None:
        """What a message of this run is known by; None for another's."""
        if len(body) != self._size:
            return None
        tag, known_by = divmod(int.from_bytes(body[:SMALLEST_STAMP_BYTES], "little"), 1 << 64)
        return known_by if tag == self._tag and known_by >> 40 < self._producers else None


def read_stamp(body: bytes) -> Stamp | None:
    """The tag, the producer, the sequence number and the intended time in a body; None if it is too short for them."""
    return _LAYOUT.unpack_from(body) if len(body) >= STAMP_BYTES else None


def write_stamp(tag: int, producer: int, sequence: int, intended: int) -> bytes:
    """What `read_stamp` reads."""
    return _LAYOUT.pack(tag, producer, sequence, intended)


def make_body_maker(tag: int, size: int, *, producers: int, is_consumed: bool) -> BodyMaker | SmallBodyMaker:
    """The maker for bodies of that size."""
    if size >= STAMP_BYTES or not producers:  # (callers' bodies carry no stamp)
        return BodyMaker(tag, max(size, STAMP_BYTES))
    return SmallBodyMaker(tag, size, producers=producers, is_consumed=is_consumed)
