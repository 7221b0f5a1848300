"""Messages as JSON: what is written can be read again, and is the same."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from rabbitry import Message
from rabbitry._cli.messages import _from_json, as_record, parse_properties, parse_record, to_json
from rabbitry._cli.output import as_json


@pytest.mark.parametrize(
    "value",
    [
        *(
            None,
            True,
            5,
            2**62,
            1.5,
            "text",
            "\udcff lone",
            b"\x00\xff",
            Decimal("1.50"),
            [1, [b"x"]],
            {"a": {"b": b"c"}},
        ),
        datetime(2026, 1, 31, 12, tzinfo=UTC),
        *(
            float("inf"),
            {"$float": "inf"},
            {"$bytes": "AA=="},
            {"$table": {"$time": "x"}},
            {"$decimal": {"$bytes": "x"}},
            {"$other": 1},
            {},
            {"\udcff": "\udcfe", "b": b"x"},
            {"$table": [1]},
            {"$table": [["a", 1]]},
            {"$text": "AA=="},
            [{"\udc80": [{"$text": 1}]}],
        ),
    ],
)
def test_header_values_come_back_as_they_were(value: Any) -> None:
    line = as_json(to_json(value))
    assert _from_json(json.loads(line)) == value
    assert "\\ud" not in line.lower() and line.isprintable()


def test_a_record_is_a_message() -> None:
    record = {
        "exchange": "e",
        "routing_key": "k",
        "redelivered": True,
        "properties": {
            "headers": {"n": 1, "b": {"$bytes": "AAE="}},
            "delivery_mode": None,
            "expiration": 1.5,
            "timestamp": "2026-01-31T12:00:00+00:00",
        },
        "body_base64": "/wA=",
    }
    message, exchange, routing_key = parse_record(json.dumps(record).encode(), {"priority": 3, "headers": {"n": 2}})
    assert (exchange, routing_key) == ("e", "k")
    assert message == Message(
        b"\xff\x00",
        headers={"n": 2, "b": b"\x00\x01"},
        delivery_mode=None,
        expiration=1.5,
        timestamp=datetime(2026, 1, 31, 12, tzinfo=UTC),
        priority=3,
    )


def test_texts_that_are_no_utf8_come_back_as_they_were() -> None:
    """JSON's readers need not take half a surrogate pair."""
    properties = {
        "content_type": "\udcff",
        "correlation_id": "a\udc80b",
        "headers": {"\udcff": "\udcfe", "t": "x\udcff", "x-rabbitry-publish-tag": 5},
    }
    delivery = SimpleNamespace(
        message=Message(b"\xff", **properties),
        body=b"\xff",
        exchange="e\udcff",
        routing_key="\udcff",
        redelivered=False,
    )
    line = as_json(as_record(delivery))  # type: ignore[arg-type]
    line.encode()
    assert "\\ud" not in line
    del properties["headers"]["x-rabbitry-publish-tag"]  # type: ignore[attr-defined]
    message = Message(b"\xff", **properties)
    assert parse_record(line.encode(), {}) == (message, "e\udcff", "\udcff")


@pytest.mark.parametrize("text", ["\ud800", "a\udfff\n", "\ud83d\ude00"])
def test_json_never_has_half_a_pair(text: str) -> None:
    """Though a reply in JSON may have brought one."""
    json.loads(as_json([text]))[0].encode()


def test_what_is_not_said_is_the_default() -> None:
    assert parse_record(b'{"body": "x"}', {}) == (Message(b"x"), None, None)


@pytest.mark.parametrize(
    "line",
    [
        *(b"x", b"[]", b"{}", b'{"body": 1}', b'{"body": "x", "body_base64": "AA=="}', b'{"body_base64": "?"}'),
        *(b'{"body": "x", "key": 1}', b'{"body": "x", "routing_key": 1}', b'{"body": "x", "properties": []}'),
        *(b'{"body": "x", "properties": {"colour": 1}}', b'{"body": "x", "properties": {"priority": "1"}}'),
        *(b'{"body": "x", "properties": {"timestamp": "x"}}', b'{"body": "x", "properties": {"type": 1}}'),
        *(
            b'{"body": "x", "properties": {"headers": 1}}',
            b'{"body": "x", "properties": {"headers": {"a": {"$time": 1}}}}',
        ),
        b'{"body": "x", "properties": {"headers": {"a": {"$decimal": "x"}}}}',
        b'{"body": "x", "properties": {"headers": {"$table": [["a"]]}}}',
        b'{"body": "x", "properties": {"headers": {"$table": [[1, 2]]}}}',
        b'{"body": "x", "routing_key": {"$text": "?"}}',
        b'{"body": "x", "properties": {"type": {"$bytes": "AA=="}}}',
    ],
)
def test_other_records_are_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse_record(line, {})


def test_properties_of_the_command_line() -> None:
    found = parse_properties(
        ["content-type=text/plain", "priority=5", "expiration=500ms", "timestamp=2026-01-31T12:00:00Z", "type="],
        ["n=1", "text=one", 'b={"$bytes": "AAE="}'],
    )
    assert found == {
        "content_type": "text/plain",
        "priority": 5,
        "expiration": 0.5,
        "timestamp": datetime(2026, 1, 31, 12, tzinfo=UTC),
        "type": "",
        "headers": {"n": 1, "text": "one", "b": b"\x00\x01"},
    }


@pytest.mark.parametrize(
    "text", ["colour=red", "headers=x", "priority=300", "priority=x", "timestamp=x", "expiration=x", "type"]
)
def test_other_properties_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_properties([text], [])
