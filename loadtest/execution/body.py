"""The first bytes of every message of a run: whose it is, which it is, and when it was meant to leave.

It owns the layout and the padding. The stamp is the intended time on the machine's monotonic clock, in nanoseconds, so
that one process (or several on one machine) can tell a latency; the run's tag keeps strangers' messages out of the
ledger.
"""

from __future__ import annotations

import struct

from loadtest.scenarios.settings import STAMP_BYTES

_LAYOUT = struct.Struct("<IIQQ")  # STAMP_BYTES, as a test holds


class BodyMaker:
    """Makes the bodies of one run, all of one size."""

    __slots__ = ("_padding", "_tag")

    def __init__(self, tag: int, size: int) -> None:
        if size < STAMP_BYTES:
            raise ValueError(f"a body of {size} bytes has no room for the stamp of {STAMP_BYTES} bytes")
        self._tag = tag
        self._padding = bytes(size - STAMP_BYTES)

    def __call__(self, producer: int, sequence: int, intended: int) -> bytes:
        """The body of one message."""
        return _LAYOUT.pack(self._tag, producer, sequence, intended) + self._padding


def read_stamp(body: bytes) -> tuple[int, int, int, int] | None:
    """The tag, the producer, the sequence number and the intended time in a body; None if it is too short for them."""
    return _LAYOUT.unpack_from(body) if len(body) >= STAMP_BYTES else None
