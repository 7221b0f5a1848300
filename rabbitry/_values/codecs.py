"""How objects become bodies and back, chosen by content type: JSON, MessagePack, text, raw bytes, and the user's own.

The same codecs serve `Message.encode`, `Delivery.decode` and RPC. What must stay true: a name and a content type mean
one codec for the whole run of the program; whatever goes wrong in decoding is a `DecodeError`; what a sender's content
type can choose costs time and memory in proportion to the body, whatever that holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import msgpack

from rabbitry._errors import DecodeError, shown
from rabbitry._values.encodings import charset_of, is_compressed, text_of, undone

__all__ = ["Codec", "codec_named", "decode_body", "decode_from", "decode_request", "register_codec"]

SKIMMED_FROM = 256
"""Bytes of MessagePack from which it is read once without making anything. The head of an array has its place reserved
before its elements are looked at, so a head in a head in a head makes of n bytes n² / 3 places; in a body that was read
to its end all of them together have n.
"""


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
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _encode_msgpack(value: Any) -> bytes:
    return cast(bytes, msgpack.packb(value, datetime=True))


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
_JSON, _TEXT = _BY_NAME["json"], _BY_NAME["text"]
# By its name alone: numbers that are made for it have one hash, and 450 kB of them take a dict five seconds.
_BY_NAME["msgpack-any-keys"] = Codec(
    "msgpack-any-keys", "application/msgpack", _encode_msgpack, _decode_msgpack_any_keys
)
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
        return _TEXT
    if found is None and kind.endswith("+json"):
        return _JSON
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


def decode_from(body: bytes, content_type: str | None, expected: Codec, content_encoding: str | None = None) -> Any:
    """The object a body stands for, by its content type; by `expected` where it has none, or that one's."""
    if content_encoding is None and content_type == expected.content_type:  # hot: nearly all
        try:
            return expected.decode(body)
        except DecodeError:
            raise
        except Exception as exc:
            raise _invalid(expected, content_type, exc) from exc
    if _is_of(content_type, expected):
        return _decoded(expected, body, content_type, content_encoding)
    return decode_body(body, content_type, None, content_encoding)


def decode_request(body: bytes, content_type: str | None, expected: Codec, content_encoding: str | None = None) -> Any:
    """The object a request's body stands for, by `expected` and by nothing else: `DecodeError` where it says that it is
    something else, or is compressed, which a sender could make anything of.
    """
    if content_encoding is None and (content_type is None or content_type == expected.content_type):  # hot: nearly all
        try:
            return expected.decode(body)
        except DecodeError:
            raise
        except Exception as exc:
            raise _invalid(expected, content_type, exc) from exc
    if not _is_of(content_type, expected) and _kind(content_type or "") != "application/octet-stream":
        found = _found(content_type or "")
        if found is None or found.content_type != expected.content_type:
            raise DecodeError(
                f"requests are taken as {expected.content_type} here (codec {expected.name!r}), not {content_type!r}"
            )
    if content_encoding and is_compressed(content_encoding):
        raise DecodeError(f"no compressed requests are taken here ({content_encoding!r}): send them as they are")
    return _decoded(expected, body, content_type, content_encoding)


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
        if codec is _TEXT or codec is _JSON:
            if content_type and ";" in content_type:
                charset = charset_of(content_type) or charset
            if charset is not None:
                text = text_of(body, charset)
                return text if codec is _TEXT else json.loads(text)
        return codec.decode(body)
    except DecodeError:
        raise
    except Exception as exc:
        raise _invalid(codec, content_type, exc) from exc


def _invalid(codec: Codec, content_type: str | None, exc: Exception) -> DecodeError:
    """What is raised for what a codec raised."""
    sent_as = f", sent as {content_type!r}," if content_type else ""
    told = shown(str(exc)) or type(exc).__name__
    return DecodeError(f"the body{sent_as} is not valid {codec.name}: {told}")
