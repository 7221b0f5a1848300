"""What a result's broker is called."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.output.naming import name_broker

TOLD = {"product": "RabbitMQ", "version": "3.10.8"}


@pytest.mark.parametrize(
    ("broker", "name"),
    [
        ({**TOLD, "kind": "rabbitmq", "private_node": True}, "RabbitMQ 3.10.8 (private node)"),
        ({**TOLD, "private_node": False}, "RabbitMQ 3.10.8"),
        ({**TOLD, "kind": "embedded"}, "the embedded broker (like RabbitMQ 3.10.8, which it is not)"),
        ({"product": "Other\nMQ", "version": None, "kind": "other"}, "Other\\nMQ"),
        ({}, "broker"),
        (None, "broker"),
    ],
)
def test_the_embedded_one_is_never_called_rabbitmq(broker: dict[str, Any] | None, name: str) -> None:
    assert name_broker(broker) == name
