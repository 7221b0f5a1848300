"""Charsets and content encodings: what says how a body is to be read is heeded, or refused by its name."""

from __future__ import annotations

import gzip
import json
import zlib
from encodings import _cache  # type: ignore[attr-defined]
from functools import partial
from time import process_time
from typing import Any

import pytest

import rabbitry
from rabbitry._values.codecs import decode_body
from rabbitry._values.encodings import DECOMPRESSED_AT_MOST

TEXT, JSON = "text/plain", "application/json"


def raw_deflated(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain", "ž€".encode()),
        ("text/plain", b"\xef\xbb\xbf" + "ž€".encode()),
        ("text/plain; charset=utf-8", b"\xef\xbb\xbf" + "ž€".encode()),
        ("text/plain; charset=UTF-16LE", "ž€".encode("utf-16-le")),
        ('text/html; q=1; Charset="utf-16be"', "ž€".encode("utf-16-be")),
        ("text/plain;charset='UTF-16'", b"\xff\xfe" + "ž€".encode("utf-16-le")),
        ("text/plain; charset=utf-16", b"\xfe\xff" + "ž€".encode("utf-16-be")),
        ("text/plain; charset=utf-16", "ž€".encode("utf-16-be")),
        ("text/plain; charset=utf_32", "ž€".encode("utf-32-be")),
        ("text/plain; charset=windows-1250", b"\x9e\x80"),
        ("text/plain; charset=", "ž€".encode()),
    ],
)
def test_text_is_read_by_its_charset(content_type: str, body: bytes) -> None:
    assert decode_body(body, content_type, None) == "ž€"
    assert decode_body(body, content_type, "text") == "ž€"
    assert decode_body(body, content_type, "raw") == body


@pytest.mark.parametrize("charset", ["UTF-16BE", "utf-8", "ISO-8859-15", "us-ascii"])
def test_a_charset_in_the_wrong_place_is_one_all_the_same(charset: str) -> None:
    """Celery and kombu say "utf-8" as the content encoding."""
    text = "plain" if charset == "us-ascii" else "é€"
    assert decode_body(text.encode(charset), TEXT, None, charset) == text
    assert decode_body(f'{{"a":"{text}"}}'.encode(charset), JSON, None, charset) == {"a": text}
    assert decode_body(text.encode("utf-16"), f"{TEXT}; charset=utf-16", None, charset) == text


@pytest.mark.parametrize("charset", ["utf-16le", "UTF-16", "utf-8", "cp1252"])
def test_json_is_read_by_its_charset(charset: str) -> None:
    assert decode_body('["é"]'.encode(charset), f"application/hal+json; charset={charset}", None) == ["é"]


@pytest.mark.parametrize(
    "charset",
    [
        *("rot13", "rot-13", "idna", "punycode", "unicode_escape", "raw-unicode-escape", "zlib", "base64", "hex"),
        *("mbcs", "uu", "bz2", "quopri", "utf-7", "undefined", "nonsense", "../os", "é", "x" * 200),
    ],
)
def test_what_is_no_charset_is_refused_by_its_name(charset: str) -> None:
    """And never asked of Python, which would remember each miss, and knows text as the encoding of text."""
    known = set(_cache)
    with pytest.raises(rabbitry.DecodeError, match="charset"):
        decode_body(b"abc", f"{TEXT}; charset={charset}", None)
    with pytest.raises(rabbitry.DecodeError, match="content encoding"):
        decode_body(b"abc", TEXT, None, charset)
    assert set(_cache) == known


@pytest.mark.parametrize(
    ("content_type", "body", "told"),
    [
        (f"{TEXT}; charset=utf-16", b"abc", "not valid utf-16"),
        (f"{TEXT}; charset=ascii", b"\xff", "not valid ascii"),
        (TEXT, b"\xff", "not valid utf-8"),
        (f"{JSON}; charset=utf-16le", b'{"a":1}x', "not valid json"),
    ],
)
def test_a_body_that_is_not_what_it_says(content_type: str, body: bytes, told: str) -> None:
    with pytest.raises(rabbitry.DecodeError, match=told):
        decode_body(body, content_type, None)


VALUE = {"ž": list(range(500))}
gzipped = partial(gzip.compress, mtime=0)  # the same bytes in each worker, as they are in the tests' names
BODY = json.dumps(VALUE).encode()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzipped(BODY)),
        ("x-gzip", gzipped(BODY)),
        ("GZIP ", gzipped(BODY[:9]) + gzipped(BODY[9:]) + b"\0" * 100),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflated(BODY)),
        ("deflate, gzip", gzipped(zlib.compress(BODY))),
        ("identity", BODY),
        ("", BODY),
        ("utf-16be, gzip", gzipped(json.dumps(VALUE).encode("utf-16-be"))),
        ("gzip, binary", gzipped(BODY)),
    ],
)
def test_content_encodings_are_undone(encoding: str, body: bytes) -> None:
    assert decode_body(body, JSON, None, encoding) == VALUE


def test_what_is_compressed_without_need_is_undone_for_any_codec() -> None:
    message = rabbitry.Message.msgpack(VALUE)
    assert decode_body(gzipped(message.body), message.content_type, None, "gzip") == VALUE
    assert decode_body(gzipped(b"x"), None, "raw", "gzip") == b"x"


@pytest.mark.parametrize(
    ("encoding", "body", "told"),
    [
        ("br", b"abc", "content encoding 'br' is none"),
        ("gzip, zstd", gzipped(b"1"), "content encoding 'zstd' is none"),
        ("gzip", b"abc", "not valid gzip"),
        ("gzip", gzipped(b"12345")[:-1], "not valid gzip: it is cut off"),
        ("gzip", gzipped(b"12345") + b"more", "not valid gzip"),
        ("gzip", gzipped(b"") * 1000, "more than 100 members"),
        ("deflate", b"\x78\x9cabc", "not valid deflate"),
        ("deflate", b"", "not valid deflate"),
        ("gzip,gzip,gzip,gzip,gzip", b"", "5 content encodings"),
        ("gzip\x1b[2J", b"", r"'gzip\\x1b\[2j'"),
    ],
)
def test_content_encodings_that_can_not_be_undone_are_named(encoding: str, body: bytes, told: str) -> None:
    with pytest.raises(rabbitry.DecodeError, match=told):
        decode_body(body, JSON, None, encoding)


def bomb(size: int) -> bytes:
    stream = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    parts = [stream.compress(bytes(1024 * 1024)) for _ in range(size // (1024 * 1024))]
    return b"".join(parts) + stream.flush()


def test_what_a_few_bytes_expand_to_is_bounded() -> None:
    exact = bomb(DECOMPRESSED_AT_MOST)
    assert len(decode_body(exact, None, "raw", "gzip")) == DECOMPRESSED_AT_MOST
    over = bomb(DECOMPRESSED_AT_MOST + 1024 * 1024)
    for body, encoding in ((over, "gzip"), (gzipped(over), "gzip, gzip"), (exact + exact, "gzip")):
        with pytest.raises(rabbitry.DecodeError, match="expands to more than 67108864 bytes"):
            decode_body(body, None, "raw", encoding)


def test_members_without_end_take_no_time() -> None:
    body = gzipped(b"") * 20_000
    began = process_time()
    with pytest.raises(rabbitry.DecodeError, match="members"):
        decode_body(body, None, "raw", "gzip")
    assert process_time() - began < 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), {"a": [float("nan")]}])
def test_what_is_no_json_is_not_made(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        rabbitry.Message.json(value)
