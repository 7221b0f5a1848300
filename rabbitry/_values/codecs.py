"""How objects become bodies and back, chosen by content type: JSON, MessagePack, text, raw bytes, and the user's own.

The same codecs serve `Message.encode`, `Delivery.decode` and RPC. What must stay true: a name and a content type mean
one codec for the whole run of the program; whatever goes wrong in decoding is a `DecodeError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import msgpack

from rabbitry._errors import DecodeError

__all__ = ["Codec", "codec_named", "decode_body", "decode_from", "register_codec"]


@dataclass(frozen=True, slots=True)
class Codec:
    """A body format: its name in this library, the content type it is sent with, and the two functions.

    Give one wherever a codec is asked for (`rpc(codec=…)`, `serve(codec=…)`, `Message.encode`, `delivery.decode`).
    `register_codec` has it chosen by name, and by content type on receipt. `decode` may raise what it likes: that
    becomes a `DecodeError`.
    """

    name: str
    content_type: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def _encode_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _encode_msgpack(value: Any) -> bytes:
    return cast(bytes, msgpack.packb(value, datetime=True))


def _decode_msgpack(body: bytes) -> Any:
    return msgpack.unpackb(body, timestamp=3, strict_map_key=False)


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
    Codec("text", "text/plain", _encode_text, lambda body: body.decode()),
    Codec("raw", "application/octet-stream", _encode_raw, bytes),
)
_BY_NAME = {codec.name: codec for codec in _CODECS}
_BY_CONTENT_TYPE = {codec.content_type: codec for codec in _CODECS}
_BY_CONTENT_TYPE |= {"application/x-msgpack": _BY_NAME["msgpack"], "application/vnd.msgpack": _BY_NAME["msgpack"]}


def register_codec(codec: Codec, *content_types: str) -> None:
    """Have `codec` chosen by its name, and on receipt by its content type and these further ones, in the whole program.

    Once, at import: `rabbitry.register_codec(Codec("yaml", "application/yaml", dump, load), "text/yaml")`. To register
    the same again does no harm. `ValueError` if its name or a content type belongs to another codec: then nothing is
    registered.
    """
    kinds = [_kind(each) for each in (codec.content_type, *content_types)]
    if not codec.name or not all(kinds):
        raise ValueError(f"a codec has a name and content types that are not empty: {codec.name!r}, {kinds}")
    if _BY_NAME.get(codec.name, codec) != codec:
        raise ValueError(f"there is another codec named {codec.name!r}: choose another name")
    for kind in kinds:
        if (found := _BY_CONTENT_TYPE.get(kind, codec)) != codec:
            raise ValueError(f"content type {kind!r} belongs to codec {found.name!r} already")
    _BY_NAME[codec.name] = codec
    _BY_CONTENT_TYPE.update(dict.fromkeys(kinds, codec))


def _kind(content_type: str) -> str:
    """A content type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def codec_named(codec: str | Codec) -> Codec:
    """The codec of that name ("json", "msgpack", "text", "raw", or one registered); a `Codec` is itself. `ValueError`
    names the valid ones.
    """
    if isinstance(codec, Codec):
        return codec
    try:
        return _BY_NAME[codec]
    except KeyError:
        raise ValueError(f"no codec named {codec!r}; there are {', '.join(_BY_NAME)}") from None


def decode_body(body: bytes, content_type: str | None, codec: str | Codec | None) -> Any:
    """The object a body stands for, by `codec` or else by its content type. `DecodeError` if that can't be done."""
    if codec is not None:
        chosen = codec_named(codec)
    else:
        kind = _kind(content_type or "")
        found = _BY_CONTENT_TYPE.get(kind)
        if found is None and kind.startswith("text/"):
            found = _BY_NAME["text"]
        if found is None and kind.endswith("+json"):
            found = _BY_NAME["json"]
        if found is None:
            raise DecodeError(
                f"no codec for content type {content_type!r}: name one, as in decode('json'), or use register_codec"
            )
        chosen = found
    try:
        return chosen.decode(body)
    except Exception as exc:
        sent_as = f", sent as {content_type!r}," if content_type else ""
        raise DecodeError(f"the body{sent_as} is not valid {chosen.name}: {str(exc) or type(exc).__name__}") from exc


def decode_from(body: bytes, content_type: str | None, expected: Codec) -> Any:
    """The object a body stands for, by its content type; by `expected` where it has none, or that one's."""
    is_expected = (
        not content_type or content_type == expected.content_type or _kind(content_type) == _kind(expected.content_type)
    )
    return decode_body(body, content_type, expected if is_expected else None)
