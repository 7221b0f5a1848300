"""One message being received in pieces: its method, its content header, its body frames, in this order only.

Lives from the method to the last octet of the body. Illegal moves raise `RemoteProtocolError`. What must stay true: of
a body that is larger than it may be, nothing is kept.
"""

from __future__ import annotations

from struct import Struct

from rabbitry._errors import RemoteProtocolError
from rabbitry.protocol.wire.constants import FRAME_ERROR, SYNTAX_ERROR, UNEXPECTED_FRAME
from rabbitry.protocol.wire.methods import Method

__all__ = ["Assembly"]

_unpack_header = Struct(">HHQ").unpack_from

_SMALL = 512
"""Pieces below this many bytes are gathered: as objects of their own they would take up to 20 times their size."""


class Assembly:
    """What has come so far of the content that `method` announced."""

    __slots__ = ("_parts", "_remaining", "excessive", "header", "method")

    def __init__(self, method: Method) -> None:
        self.method: Method = method
        self.header: bytes | None = None
        self._parts: list[bytes | bytearray | memoryview] = []
        self._remaining = 0
        self.excessive: int = 0  # the size of a message that is too large, whose body is dropped as it comes

    def add_header(self, payload: bytes, largest: int, largest_properties: int) -> bool:
        """Take class, weight, body size, properties (specification 4.2.6.1). True if that completes the message.

        A body of more than `largest` bytes is `excessive`, and so are properties of more than `largest_properties`.
        """
        if self.header is not None:
            raise RemoteProtocolError(f"a second content header after {self.method.name}", UNEXPECTED_FRAME)
        if len(payload) < 14:
            raise RemoteProtocolError("a content header is truncated", SYNTAX_ERROR)
        class_id, _weight, size = _unpack_header(payload)
        if class_id != 60:
            raise RemoteProtocolError(f"a content header of class {class_id} after {self.method.name}", FRAME_ERROR)
        if size > largest:
            self.excessive = size
        elif len(payload) > largest_properties:
            self.excessive = size + len(payload)
        self.header = payload[12:]
        self._remaining = size
        return not size

    def lacks(self, size: int) -> bool:
        """Whether so many bytes of the body, at least, are still to come."""
        return self.header is not None and size <= self._remaining

    def add_body(self, payload: bytes | memoryview) -> bool:
        """Take one body frame, or a piece of one. True if it completes the message."""
        if self.header is None:
            raise RemoteProtocolError(f"a content body before its header after {self.method.name}", UNEXPECTED_FRAME)
        if len(payload) > self._remaining:
            raise RemoteProtocolError("a content body is longer than its header says", FRAME_ERROR)
        if self.excessive:
            pass
        elif len(payload) >= _SMALL:
            self._parts.append(payload)
        elif self._parts and isinstance(self._parts[-1], bytearray):
            self._parts[-1] += payload
        elif payload:
            self._parts.append(bytearray(payload))
        self._remaining -= len(payload)
        return not self._remaining

    @property
    def body(self) -> bytes:
        """The body so far."""
        return bytes(self._parts[0]) if len(self._parts) == 1 else b"".join(self._parts)
