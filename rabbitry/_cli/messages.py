"""Messages as JSON objects and as flags: what `consume --json` writes, `publish --json-lines` reads.

What must stay true: written and read again, a message is the same, whatever octets and types it has. What JSON lacks is
an object with one key: {"$bytes": base64}, {"$time": ISO 8601}, {"$decimal": "1.50"}, {"$float": "nan"}; a real table
that looks like one is inside {"$table": …}.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Any

from rabbitry import Delivery, Message
from rabbitry._cli.values import parse_duration, parse_pairs, parse_value

PROPERTIES = (
    *("content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to"),
    *("expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id"),
)
_KEYS = ("body", "body_base64", "exchange", "routing_key", "redelivered", "properties")


def as_record(delivery: Delivery) -> dict[str, Any]:
    """The delivery as an object for JSON. Its expiration is in seconds."""
    message = delivery.message
    properties: dict[str, Any] = {}
    for name in PROPERTIES:
        value = getattr(message, name)
        if name == "timestamp" and value is not None:
            value = value.isoformat()
        if name == "headers" and value is not None:
            value = _table_to_json(value)
        if value is not None or name == "delivery_mode":
            properties[name] = value
    return {
        "exchange": delivery.exchange,
        "routing_key": delivery.routing_key,
        "redelivered": delivery.redelivered,
        "properties": properties,
        **_body_to_json(delivery.body),
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
    if unknown := record.keys() - set(_KEYS):
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(_KEYS)}")
    properties = record.get("properties", {})
    if not isinstance(properties, dict) or (unknown := properties.keys() - set(PROPERTIES)):
        raise ValueError(f"properties is an object of {', '.join(PROPERTIES)}")
    for name in ("exchange", "routing_key"):
        if not isinstance(record.get(name, ""), str):
            raise ValueError(f"{name} is text")
    found = {name: _property_from_json(name, value) for name, value in properties.items()}
    if "headers" in given and found.get("headers"):
        found["headers"] = {**found["headers"], **given["headers"]}
    merged = {**found, **{name: value for name, value in given.items() if name != "headers" or name not in found}}
    return Message(_body_from_json(record), **merged), record.get("exchange"), record.get("routing_key")


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
        return {key: _from_json(each) for key, each in value.items()}
    if name in ("delivery_mode", "priority", "expiration"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} is a number")
        if name == "delivery_mode" and value not in (1, 2):
            raise ValueError("delivery_mode is 2 (persistent) or 1 (transient)")
        return value
    if not isinstance(value, str):
        raise ValueError(f"{name} is text")
    return _time(value) if name == "timestamp" else value


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


def _table_to_json(table: Mapping[Any, Any]) -> dict[str, Any]:
    return {_key_to_json(key): to_json(value) for key, value in table.items()}


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
            table = _table_to_json(value)
            return {"$table": table} if _is_tagged(table) else table
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
    if not isinstance(inner, str):
        raise ValueError(f"{tag} is text")
    if tag == "$bytes":
        return _base64(inner)
    if tag == "$time":
        return _time(inner)
    try:
        return float(inner) if tag == "$float" else Decimal(inner)
    except (InvalidOperation, ValueError):
        raise ValueError(f"{inner!r} is no number") from None


def _is_tagged(table: Mapping[str, Any]) -> bool:
    return len(table) == 1 and next(iter(table)) in ("$bytes", "$time", "$decimal", "$float", "$table")
