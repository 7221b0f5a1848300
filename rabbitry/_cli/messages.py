"""Messages as JSON objects and as flags: what `consume --json` writes, `publish --json-lines` reads.

What must stay true: written and read again, a message is the same, whatever octets and types it has. What JSON lacks
is an object with one key: {"$bytes": base64}, {"$time": ISO 8601}, {"$decimal": "1.50"}, {"$float": "nan"}, and where a
text is no UTF-8 {"$text": base64}; a real table that looks like one is inside {"$table": …}, one with such texts as
keys is a list of pairs in there.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Any

from rabbitry import DecodeError, Delivery, Message
from rabbitry._cli.values import parse_duration, parse_pairs, parse_value

PROPERTIES = (
    *("content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to"),
    *("expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id"),
)
PUBLISH_TAG = "x-rabbitry-publish-tag"
"""A header of the library's own, of no meaning to those who receive the message."""
_KEYS = ("body", "body_base64", "exchange", "routing_key", "redelivered", "properties")


def as_record(delivery: Delivery) -> dict[str, Any]:
    """The delivery as an object for JSON. One whose properties can't be decoded has none, and says why in "error": it
    is no line for `publish`.
    """
    try:
        record = record_of(delivery.message, delivery.exchange, delivery.routing_key)
    except DecodeError as error:
        record = record_of(Message(delivery.body), delivery.exchange, delivery.routing_key)
        record |= {"properties": None, "error": str(error)}
    return {**dict(list(record.items())[:2]), "redelivered": delivery.redelivered, **record}


def record_of(message: Message, exchange: str, routing_key: str) -> dict[str, Any]:
    """The message as an object for JSON. Its expiration is in seconds."""
    properties: dict[str, Any] = {}
    for name in PROPERTIES:
        value = getattr(message, name)
        if name == "timestamp" and value is not None:
            value = value.isoformat()
        elif name == "headers" and value is not None:
            table = {key: each for key, each in value.items() if key != PUBLISH_TAG}
            value = _table_to_json(table) if table or not value else None
        elif isinstance(value, str):
            value = _text_to_json(value)
        if value is not None or name == "delivery_mode":
            properties[name] = value
    return {
        "exchange": _text_to_json(exchange),
        "routing_key": _text_to_json(routing_key),
        "properties": properties,
        **_body_to_json(bytes(message.body)),
    }


def parse_record(line: bytes, given: Mapping[str, Any]) -> tuple[Message, str | None, str | None]:
    """The message, exchange and routing key of such an object, its properties under those `given`. ValueError says what
    is wrong.
    """
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError('not an object such as {"body": "hello", "routing_key": "jobs"}')
    if "error" in record:
        raise ValueError(f"not published, as its properties were not to be read: {record['error']}")
    if unknown := record.keys() - set(_KEYS):
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(_KEYS)}")
    properties = record.get("properties", {})
    if not isinstance(properties, dict) or (unknown := properties.keys() - set(PROPERTIES)):
        raise ValueError(f"properties is an object of {', '.join(PROPERTIES)}")
    exchange, routing_key = (
        _text_from_json(name, record[name]) if name in record else None for name in ("exchange", "routing_key")
    )
    found = {name: _property_from_json(name, value) for name, value in properties.items()}
    if "headers" in given and found.get("headers"):
        found["headers"] = {**found["headers"], **given["headers"]}
    merged = {**found, **{name: value for name, value in given.items() if name != "headers" or name not in found}}
    return Message(_body_from_json(record), **merged), exchange, routing_key


def parse_properties(properties: list[str], headers: list[str]) -> dict[str, Any]:
    """What `--property` and `--header` ask for, as arguments of `Message`. ValueError says what is wrong."""
    found: dict[str, Any] = {}
    for key, text in parse_pairs(properties, "--property").items():
        name = key.replace("-", "_")
        if name not in PROPERTIES or name == "headers":
            others = ", ".join(each for each in PROPERTIES if each != "headers")
            raise ValueError(f"--property {key}: there are {others}; headers are given by --header")
        found[name] = _property_from_text(name, text)
    if headers:
        found["headers"] = {
            key: _from_json(parse_value(text)) for key, text in parse_pairs(headers, "--header").items()
        }
    return found


def _property_from_text(name: str, text: str) -> Any:
    if name == "delivery_mode" and text not in ("1", "2"):
        raise ValueError(f"--property delivery_mode: 2 (persistent) or 1 (transient), not {text!r}")
    if name in ("delivery_mode", "priority"):
        if not text.isdecimal() or int(text) > 255:
            raise ValueError(f"--property {name}: a number of 0 to 255, not {text!r}")
        return int(text)
    if name == "expiration":
        return parse_duration(text)
    if name == "timestamp":
        return datetime.now(UTC) if text == "now" else _time(text)
    return text


def _property_from_json(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name == "headers":
        if not isinstance(value, dict):
            raise ValueError("headers is an object")
        inner = value.get("$table")
        return _from_json(value if len(value) == 1 and isinstance(inner, dict | list) else {"$table": value})
    if name in ("delivery_mode", "priority", "expiration"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} is a number")
        if name == "delivery_mode" and value not in (1, 2):
            raise ValueError("delivery_mode is 2 (persistent) or 1 (transient)")
        return value
    text = _text_from_json(name, value)
    return _time(text) if name == "timestamp" else text


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time such as 2026-01-31T12:00:00Z") from None
    return time if time.tzinfo is not None else time.astimezone()


# --- bodies and header values ---------------------------------------------------------------------------------------


def _body_to_json(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": b64encode(body).decode()}


def _body_from_json(record: Mapping[str, Any]) -> bytes:
    text, encoded = record.get("body"), record.get("body_base64")
    if isinstance(text, str) and encoded is None:
        return text.encode()
    if isinstance(encoded, str) and text is None:
        return _base64(encoded)
    raise ValueError("it needs a body, which is text, or a body_base64")


def _base64(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"not base64: {error}") from None


def _text_to_json(text: str) -> str | dict[str, str]:
    """The text; where its octets were no UTF-8, which the library has as surrogate escapes, their base64."""
    try:
        text.encode()
    except UnicodeEncodeError:
        with suppress(UnicodeEncodeError):
            return {"$text": b64encode(text.encode(errors="surrogateescape")).decode()}
    return text


def _text_from_json(name: str, value: Any) -> str:
    if isinstance(value, dict) and value.keys() == {"$text"}:
        value = _from_json(value)
    if not isinstance(value, str):
        raise ValueError(f"{name} is text")
    return value


def _table_to_json(table: Mapping[Any, Any]) -> dict[str, Any]:
    keys = [_text_to_json(key) if isinstance(key, str) else key for key in table]
    if any(isinstance(key, dict) for key in keys):
        return {"$table": [[key, to_json(value)] for key, value in zip(keys, table.values(), strict=True)]}
    found = {_key_to_json(key): to_json(value) for key, value in table.items()}
    return {"$table": found} if _is_tagged(found) else found


def _key_to_json(key: Any) -> Any:
    """Text, or what JSON makes text of; MessagePack has other keys."""
    if isinstance(key, bytes):
        return key.decode(errors="backslashreplace")
    return key if key is None or isinstance(key, str | int | float) else str(key)


def to_json(value: Any) -> Any:
    """The value, with what JSON lacks as such objects."""
    match value:
        case bytes() | bytearray() | memoryview():
            return {"$bytes": b64encode(value).decode()}
        case datetime():
            return {"$time": value.isoformat()}
        case Decimal():
            return {"$decimal": str(value)}
        case float() if not isfinite(value):
            return {"$float": str(value)}
        case list() | tuple():
            return [to_json(each) for each in value]
        case Mapping():
            return _table_to_json(value)
        case str():
            return _text_to_json(value)
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(each) for each in value]
    if not isinstance(value, dict):
        return value
    if not _is_tagged(value):
        return {key: _from_json(each) for key, each in value.items()}
    ((tag, inner),) = value.items()
    if tag == "$table" and isinstance(inner, dict):
        return {key: _from_json(each) for key, each in inner.items()}
    if tag == "$table" and isinstance(inner, list):
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in inner):
            raise ValueError("$table is an object, or a list of pairs")
        return {_text_from_json("a key", key): _from_json(each) for key, each in inner}
    if not isinstance(inner, str):
        raise ValueError(f"{tag} is text")
    if tag == "$bytes":
        return _base64(inner)
    if tag == "$text":
        return _base64(inner).decode(errors="surrogateescape")
    if tag == "$time":
        return _time(inner)
    try:
        return float(inner) if tag == "$float" else Decimal(inner)
    except (InvalidOperation, ValueError):
        raise ValueError(f"{inner!r} is no number") from None


def _is_tagged(table: Mapping[str, Any]) -> bool:
    return len(table) == 1 and next(iter(table)) in ("$bytes", "$text", "$time", "$decimal", "$float", "$table")
