"""The frames that are made by the million, put together by hand: a message to publish, an acknowledgement, a heartbeat.

Pure functions of their arguments. Tests hold each equal to what the general encoding of `methods` gives.
"""

from __future__ import annotations

from struct import Struct

__all__ = ["ACK", "HEARTBEAT_FRAME", "NACK", "REJECT", "message_frames", "settlement_frame"]

HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"

ACK, REJECT, NACK = 80, 90, 120
"""Method ids of basic.ack, basic.reject and basic.nack."""

_pack_content_header = Struct(">BHIHHQ").pack
_pack_body_head = Struct(">BBHI").pack
_pack_frame_head = Struct(">BHI").pack
_pack_settlement = Struct(">BHIHHQBB").pack


def message_frames(number: int, publish: bytes, properties: bytes, body: bytes, body_max: int) -> bytes:
    """All frames of one message on channel `number`: the basic.publish frame as given, content header, body.

    hot: one join for the three frames of an ordinary message, 0.6 us against 7 through `Method` objects.
    """
    size, header_size = len(body), 12 + len(properties)
    if 0 < size <= body_max and header_size <= body_max:
        return b"".join(
            (
                publish,
                _pack_content_header(2, number, header_size, 60, 0, size),
                properties,
                _pack_body_head(0xCE, 3, number, size),
                body,
                b"\xce",
            )
        )
    if header_size > body_max:
        raise ValueError(
            f"the message's properties take {header_size + 8} bytes, which exceeds frame_max ({body_max + 8})"
        )
    # No body frame for an empty body (specification 4.2.6.2), several for one larger than a frame.
    header = _pack_content_header(2, number, header_size, 60, 0, size)
    parts: list[bytes | memoryview] = [publish, header, properties, b"\xce"]
    view = memoryview(body)  # or each piece would be a copy, in pages of its own
    for start in range(0, size, body_max):
        piece = view[start : start + body_max]
        parts += (_pack_frame_head(3, number, len(piece)), piece, b"\xce")
    return b"".join(parts)


def settlement_frame(number: int, method_id: int, tag: int, bits: int) -> bytes:
    """basic.ack, basic.reject or basic.nack: all three are a tag and one octet of bits.

    hot: one pack instead of a `Method` object, 0.3 against 1 us.
    """
    return _pack_settlement(1, number, 13, 60, method_id, tag, bits, 0xCE)
