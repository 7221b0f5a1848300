"""How objects become bodies and back, chosen by content type: JSON, MessagePack, text, raw bytes, and the user's own.

The same codecs serve `Message.encode`, `Delivery.decode` and RPC. What must stay true: a name and a content type mean
one codec for the whole run of the program, once the program has registered its own; whatever goes wrong in decoding is
a `DecodeError`; what a sender's content type can choose costs time and memory in proportion to the body, whatever that
holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, cast
from uuid import UUID

import msgpack

from rabbitry._errors import DecodeError, shown
from rabbitry._values.encodings import charset_of, is_compressed, text_of, undone

__all__ = ["Codec", "codec_named", "decode_body", "decode_from", "register_codec"]

SKIMMED_FROM = 256
"""Bytes of MessagePack from which it is read once without making anything. The head of an array has its place reserved
before its elements are looked at, so a head in a head in a head makes of n bytes n² / 3 places; in a body that was read
to its end all of them together have n.
"""


PACKER_KEPT = 65536
"""Bytes of MessagePack up to which what has packed them is used again."""

_packers: list[msgpack.Packer] = []


@dataclass(frozen=True, slots=True)
class Codec:
    """A body format: its name in this library, the content type it is sent with, and the two functions.

    Give one wherever a codec is asked for (`rpc(codec=…)`, `serve(codec=…)`, `Message.encode`, `delivery.decode`).
    `register_codec` has it chosen by name, and by content type on receipt, which is the sender's to write: register
    what may be decoded from anybody, and give any other where it is wanted. `decode` may raise what it likes: that
    becomes a `DecodeError`.
    """

    name: str
    content_type: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def _encode_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_for_json).encode()


def _encode_msgpack(value: Any) -> bytes:
    # hot: as `msgpack.packb` does, which makes a packer with a buffer of 256 KiB each time: seven eighths of its time.
    # One that raised, or whose buffer has grown, is not kept. Other threads, and encoders amid this, find another.
    try:
        packer = _packers.pop()
    except IndexError:
        packer = msgpack.Packer(datetime=True, default=_for_msgpack)
    body = cast(bytes, packer.pack(value))
    if len(body) <= PACKER_KEPT:
        _packers.append(packer)
    return body


def _for_json(value: Any) -> Any:
    """What stands in JSON for what it has not: `convert` makes it that again."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"JSON has no bytes ({type(value).__name__}): send them in codec 'msgpack'")
    return _plain(value, "JSON")


def _for_msgpack(value: Any) -> Any:
    if isinstance(value, datetime):  # others are what it has
        raise ValueError(f"MessagePack's datetimes are instants: {value.isoformat()} is without a time zone")
    if isinstance(value, int):
        raise OverflowError("Integer value out of range: MessagePack's have 64 bits, those of codec 'json' any size")
    return _plain(value, "MessagePack")


def _plain(value: Any, format: str) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, UUID | Decimal):
        return str(value)
    if isinstance(value, set | frozenset):
        return list(value)
    raise TypeError(
        f"Object of type {type(value).__name__} is not serializable as {format}: send plain values, dataclasses, or "
        "bytes of your own; register_codec has other encoders"
    )


def _decode_msgpack(body: bytes) -> Any:
    # Keys are text or bytes (strict_map_key, the default), whose hashes no sender can foresee.
    if len(body) > SKIMMED_FROM:
        _skim(body)
    try:
        return msgpack.unpackb(body, timestamp=3)
    except ValueError as error:
        if "strict_map_key" in str(error):
            raise ValueError(
                "a map has a key that is no text: codec 'msgpack-any-keys' takes it, where senders are trusted"
            ) from error
        raise


def _decode_msgpack_any_keys(body: bytes) -> Any:
    if len(body) > SKIMMED_FROM:
        _skim(body)
    return msgpack.unpackb(body, timestamp=3, strict_map_key=False)


def _skim(body: bytes) -> None:
    """Read it without making anything: whatever it announces is there."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(body), strict_map_key=False)
    unpacker.feed(body)
    try:
        unpacker.skip()
    except msgpack.OutOfData:
        raise ValueError("incomplete input") from None


def _encode_text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"codec 'text' takes a str, not {type(value).__name__}: choose another codec, such as 'json'")
    return value.encode()


def _encode_raw(value: Any) -> bytes:
    """The body as it is. `bytes` itself would not do: to it 5 means five zeros."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"codec 'raw' takes bytes, not {type(value).__name__}: choose another codec, such as 'json'")
    return bytes(value)


_CODECS = (
    Codec("json", "application/json", _encode_json, json.loads),
    Codec("msgpack", "application/msgpack", _encode_msgpack, _decode_msgpack),
    Codec("text", "text/plain", _encode_text, lambda body: text_of(body, None)),
    Codec("raw", "application/octet-stream", _encode_raw, bytes),
)
_BY_CONTENT_TYPE = {codec.content_type: codec for codec in _CODECS}
_BY_NAME = {codec.name: codec for codec in _CODECS}
_JSON, _TEXT = _CODECS[0], _CODECS[2]
# By its name alone: numbers that are made for it have one hash, and 450 kB of them take a dict five seconds.
_BY_NAME["msgpack-any-keys"] = Codec(
    "msgpack-any-keys", "application/msgpack", _encode_msgpack, _decode_msgpack_any_keys
)
_BUILT_IN = tuple(_BY_NAME.values())
_BY_CONTENT_TYPE |= {"application/x-msgpack": _BY_NAME["msgpack"], "application/vnd.msgpack": _BY_NAME["msgpack"]}


def register_codec(codec: Codec, *content_types: str, replace: bool = False) -> None:
    """Have `codec` chosen by its name, and on receipt by its content type and these further ones, in the whole program.

    Once, at import: `rabbitry.register_codec(Codec("yaml", "application/yaml", dump, load), "text/yaml")`. To register
    the same again does no harm. `ValueError` if its name or a content type belongs to another codec: then nothing is
    registered.

    With `replace` it takes the place of one that came with this library, by name and by content types:
    `register_codec(Codec("json", "application/json", orjson.dumps, orjson.loads), replace=True)`. That can be done once
    for each: what the program registered is not replaced. An RPC, or a `serve`, that has begun keeps the codec that it
    looked up then; `Message.json`, `delivery.decode()` and `process` go by the new one from now on.
    """
    kinds = [_kind(each) for each in (codec.content_type, *content_types)]
    if not codec.name or not all(kinds):
        raise ValueError(f"a codec has a name and content types that are not empty: {codec.name!r}, {kinds}")
    former = _BY_NAME.get(codec.name, codec)
    if former != codec and not (replace and former in _BUILT_IN):
        raise ValueError(
            f"there is another codec named {codec.name!r}: choose another name"
            + (", or take its place by replace=True" if former in _BUILT_IN else "")
        )
    for kind in kinds:
        found = _BY_CONTENT_TYPE.get(kind, codec)
        if found != codec and not (replace and found in _BUILT_IN):
            raise ValueError(f"content type {kind!r} belongs to codec {found.name!r} already")
    if former != codec:  # it had further content types
        kinds += [kind for kind, found in _BY_CONTENT_TYPE.items() if found == former]
    _BY_NAME[codec.name] = codec
    _BY_CONTENT_TYPE.update(dict.fromkeys(kinds, codec))


def _kind(content_type: str) -> str:
    """A content type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def codec_named(codec: str | Codec) -> Codec:
    """The codec of that name ("json", "msgpack", "msgpack-any-keys", "text", "raw", or one registered); a `Codec` is
    itself. `ValueError` names the valid ones.
    """
    if isinstance(codec, Codec):
        return codec
    try:
        return _BY_NAME[codec]
    except (KeyError, TypeError):
        raise ValueError(f"no codec named {codec!r}; there are {', '.join(_BY_NAME)}") from None


def _found(content_type: str) -> Codec | None:
    """The codec of a content type, if there is one."""
    kind = _kind(content_type)
    found = _BY_CONTENT_TYPE.get(kind)
    if found is None and kind.startswith("text/"):
        return _BY_CONTENT_TYPE[_TEXT.content_type]
    if found is None and kind.endswith("+json"):
        return _BY_CONTENT_TYPE[_JSON.content_type]
    return found


def decode_body(
    body: bytes, content_type: str | None, codec: str | Codec | None, content_encoding: str | None = None
) -> Any:
    """The object a body stands for, by `codec` or else by its content type. `DecodeError` if that can't be done."""
    chosen = _found(content_type or "") if codec is None else codec_named(codec)
    if chosen is None:
        raise DecodeError(
            f"no codec for content type {content_type!r}: name one, as in decode('json'), or use register_codec"
        )
    return _decoded(chosen, body, content_type, content_encoding)


def decode_from(
    body: bytes,
    content_type: str | None,
    expected: Codec,
    content_encoding: str | None = None,
    *,
    is_request: bool = False,
) -> Any:
    """The object a body stands for, by its content type; by `expected` where it has none, or that one's.

    A request's is by `expected` and by nothing else: `DecodeError` where it says that it is something else, or is
    compressed, which a sender could make anything of.
    """
    if content_encoding is None and (content_type is None or content_type == expected.content_type):  # hot: nearly all
        try:
            return expected.decode(body)
        except DecodeError:
            raise
        except Exception as exc:
            raise _invalid(expected, content_type, exc) from exc
    if is_request:
        _check_request(content_type, expected, content_encoding)
    elif not _is_of(content_type, expected):
        return decode_body(body, content_type, None, content_encoding)
    return _decoded(expected, body, content_type, content_encoding)


def _check_request(content_type: str | None, expected: Codec, content_encoding: str | None) -> None:
    if not _is_of(content_type, expected) and _kind(content_type or "") != "application/octet-stream":
        found = _found(content_type or "")
        if found is None or found.content_type != expected.content_type:
            raise DecodeError(
                f"requests are taken as {expected.content_type} here (codec {expected.name!r}), not {content_type!r}"
            )
    if content_encoding and is_compressed(content_encoding):
        raise DecodeError(f"no compressed requests are taken here ({content_encoding!r}): send them as they are")


def _is_of(content_type: str | None, codec: Codec) -> bool:
    """Whether a content type is the codec's, or says nothing."""
    if not content_type or content_type == codec.content_type:
        return True
    return _kind(content_type) == _kind(codec.content_type)


def _decoded(codec: Codec, body: bytes, content_type: str | None, content_encoding: str | None) -> Any:
    charset: str | None = None
    if content_encoding:
        body, charset = undone(body, content_encoding)
    try:
        if _is_text(codec):
            if content_type and ";" in content_type:
                charset = charset_of(content_type) or charset
            if charset is not None:
                body = text_of(body, charset).encode()
        return codec.decode(body)
    except DecodeError:
        raise
    except Exception as exc:
        raise _invalid(codec, content_type, exc) from exc


def _is_text(codec: Codec) -> bool:
    """Whether it takes text in UTF-8, whatever charset that comes in: text, JSON, and what has their places."""
    return any(codec is each or codec is _BY_CONTENT_TYPE[each.content_type] for each in (_TEXT, _JSON))


def _invalid(codec: Codec, content_type: str | None, exc: Exception) -> DecodeError:
    """What is raised for what a codec raised."""
    sent_as = f", sent as {content_type!r}," if content_type else ""
    told = shown(str(exc)) or type(exc).__name__
    return DecodeError(f"the body{sent_as} is not valid {codec.name}: {told}")
