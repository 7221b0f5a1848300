"""Content encodings and charsets: what lies between a body's bytes and what its codec takes.

What must stay true: names come from a peer, so none reaches Python's registry of codecs, which imports modules by name,
remembers every miss, and knows more than charsets; what a few bytes expand to is bounded; whatever goes wrong is a
`DecodeError` that names the encoding.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from encodings import normalize_encoding
from encodings.aliases import aliases

from rabbitry._errors import DecodeError

__all__ = ["DECOMPRESSED_AT_MOST", "charset_of", "is_compressed", "text_of", "undone"]

DECOMPRESSED_AT_MOST = 64 * 1024 * 1024
"""Bytes that a compressed body may expand to: a thousandth of that can ask for it."""
ENCODINGS_AT_MOST = 4
"""Encodings that a body may have one over the other."""
MEMBERS_AT_MOST = 100
"""Members that a gzip body may have one behind the other; each costs a copy of what follows."""

_NO_CHARSETS = frozenset(
    (
        *("base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "uu_codec", "zlib_codec", "rot_13"),
        *("idna", "punycode", "unicode_escape", "raw_unicode_escape", "utf_7", "mbcs", "undefined"),
    )
)
"""What Python calls encodings, too: bytes to bytes, text to text, escapes, or charsets of one system alone."""
_CHARSETS = {
    **aliases,
    **{module: module for module in aliases.values()},
    **{module: module for module in ("cp720", "cp856", "cp874", "cp875", "cp1006", "koi8_t", "koi8_u", "utf_8_sig")},
}
_PLAIN = frozenset(("", "identity", "binary", "7bit", "8bit", "none"))
"""Says that nothing was done to the body, in the words of some client or other."""
_WITHOUT_ORDER = {"utf_16": "utf_16_be", "utf_32": "utf_32_be"}
"""Big-endian is what they are where no byte order mark says otherwise (RFC 2781, 4.3)."""
_MARKS = {"utf_16": (b"\xff\xfe", b"\xfe\xff"), "utf_32": (b"\xff\xfe\0\0", b"\0\0\xfe\xff")}


# --- charsets ---------------------------------------------------------------------------------------------------------


def charset_of(content_type: str) -> str | None:
    """The `charset` parameter of a content type, if it has one."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip("\"'") or None
    return None


def text_of(body: bytes, charset: str | None) -> str:
    """The text that a body is, UTF-8 unless said otherwise. A byte order mark in front is none of it."""
    known = "utf_8" if charset is None else _known(charset)
    if known is None:
        raise DecodeError(f"the body's charset {charset!r} is none that is known here: decode('raw') gives its bytes")
    if known in _WITHOUT_ORDER and not body.startswith(_MARKS[known]):
        known = _WITHOUT_ORDER[known]
    try:
        text = body.decode(known)
    except ValueError as error:
        raise DecodeError(f"the body is not valid {charset or 'utf-8'}: {error}") from error
    return text[1:] if text[:1] == "\ufeff" and known.startswith("utf") else text


def _known(charset: str) -> str | None:
    """Python's name for a charset; None if there is no such charset."""
    if not charset.isascii():
        return None
    module = _CHARSETS.get(normalize_encoding(charset).lower().replace(".", "_"))
    return None if module in _NO_CHARSETS else module


# --- content encodings ------------------------------------------------------------------------------------------------


def is_compressed(content_encoding: str) -> bool:
    """Whether a body with these encodings is smaller than what it stands for."""
    return any(name in _UNDO for name in _names(content_encoding))


def undone(body: bytes, content_encoding: str) -> tuple[bytes, str | None]:
    """The body with its content encodings undone, the last one first, and the charset that is among them: there are
    clients that say "utf-8" there. Bounded by `DECOMPRESSED_AT_MOST`.
    """
    charset: str | None = None
    encodings = _names(content_encoding)
    if len(encodings) > ENCODINGS_AT_MOST:
        raise DecodeError(f"the body has {len(encodings)} content encodings: at most {ENCODINGS_AT_MOST} are undone")
    for name in reversed(encodings):
        if name in _PLAIN:
            continue
        if (undo := _UNDO.get(name)) is not None:
            try:
                body = undo(body)
            except zlib.error as error:
                raise DecodeError(f"the body is not valid {name}: {error}") from error
        elif _known(name) is not None:
            charset = name
        else:
            raise DecodeError(
                f"the body's content encoding {name!r} is none that is undone here (gzip and deflate are): "
                "its bytes are in delivery.body"
            )
    return body, charset


def _names(content_encoding: str) -> list[str]:
    return [each.strip().lower() for each in content_encoding.split(",")]


def _gunzipped(body: bytes) -> bytes:
    parts: list[bytes] = []
    left = DECOMPRESSED_AT_MOST
    for _ in range(MEMBERS_AT_MOST):
        part, body = _inflated(body, zlib.MAX_WBITS | 16, left)
        parts.append(part)
        left -= len(part)
        body = body.lstrip(b"\0")  # padding, as gzip itself takes it
        if not body:
            return b"".join(parts)
    raise DecodeError(f"the body is gzip of more than {MEMBERS_AT_MOST} members")


def _deflated(body: bytes) -> bytes:
    """ "deflate" is zlib's format by the standard (RFC 9110, 8.4.1.2), and without its header by many a program."""
    is_zlib = len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    if is_zlib:
        try:
            return _inflated(body, zlib.MAX_WBITS, DECOMPRESSED_AT_MOST)[0]
        except zlib.error:
            pass
    return _inflated(body, -zlib.MAX_WBITS, DECOMPRESSED_AT_MOST)[0]


def _inflated(body: bytes, window: int, most: int) -> tuple[bytes, bytes]:
    """What one stream holds, and what follows it."""
    stream = zlib.decompressobj(window)
    data = stream.decompress(body, most + 1)
    if len(data) > most:
        raise DecodeError(f"the body expands to more than {DECOMPRESSED_AT_MOST} bytes, which is the bound")
    if not stream.eof:
        raise zlib.error("it is cut off")
    return data, stream.unused_data


_UNDO: dict[str, Callable[[bytes], bytes]] = {
    "gzip": _gunzipped,
    "x-gzip": _gunzipped,
    "deflate": _deflated,
}
