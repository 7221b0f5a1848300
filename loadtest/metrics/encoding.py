"""Histograms in HdrHistogram's own format: V2, compressed with zlib, in base64, as its libraries and tools read them.

It owns the layout, and takes buckets by their index there. The empty ones between them cost nothing: a histogram of a
thousand buckets is encoded in a millisecond, while the run goes on.
"""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Mapping
from struct import Struct

_HEADER = Struct(">iiiiqqd")
"""Cookie, length of the counts, normalizing offset, significant digits, lowest and highest value, conversion ratio."""
_COMPRESSED = Struct(">ii")
_COOKIE, _COMPRESSED_COOKIE = 0x1C849303 | 0x10, 0x1C849304 | 0x10


def encode_buckets(counts: Mapping[int, int], *, digits: int, lowest: int, highest: int) -> str:
    """The samples by their bucket's index; the range is that of the histogram."""
    payload = bytearray()
    following = 0
    for index, number in sorted(counts.items()):
        if number:
            if index > following:
                _append(payload, following - index)  # so many empty ones
            _append(payload, number)
            following = index + 1
    header = _HEADER.pack(_COOKIE, len(payload), 0, digits, lowest, highest, 1.0)
    compressed = zlib.compress(header + payload)
    return b64encode(_COMPRESSED.pack(_COMPRESSED_COOKIE, len(compressed)) + compressed).decode("ascii")


def _append(payload: bytearray, value: int) -> None:
    """ZigZag LEB128, as the format wants it: seven bits a byte, and all eight of a ninth."""
    rest = (value << 1) ^ (value >> 63)
    for _ in range(8):
        if rest < 0x80:
            payload.append(rest)
            return
        payload.append(rest & 0x7F | 0x80)
        rest >>= 7
    payload.append(rest & 0xFF)
