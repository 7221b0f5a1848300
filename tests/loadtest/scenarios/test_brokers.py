"""Which kinds of broker there are, who is of which, and what is not asked of the embedded one."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.commands.flags import parse_settings
from loadtest.scenarios.brokers import EMBEDDED, OTHER, RABBITMQ, kind_of, recorded_kind

DOUBLE = {"product": "RabbitMQ", "version": "3.10.8", "platform": "rabbitry embedded broker: a test double"}
URL = "amqp://localhost:5673"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"product": "RabbitMQ", "platform": "Erlang/OTP 25.2.3"}, RABBITMQ),
        ({"product": b"RabbitMQ", "platform": b"Erlang/OTP 25.2.3"}, RABBITMQ),
        (DOUBLE, EMBEDDED),
        ({name: value.encode() for name, value in DOUBLE.items()}, EMBEDDED),
        ({"product": "null sink"}, OTHER),
        ({}, OTHER),
    ],
)
def test_a_broker_is_what_it_says(said: dict[str, Any], kind: str) -> None:
    assert kind_of(said) == kind


@pytest.mark.parametrize(
    ("broker", "kind"),
    [
        ({"kind": EMBEDDED, "product": "RabbitMQ"}, EMBEDDED),
        ({"product": "RabbitMQ", "version": "3.10.8", "private_node": True}, RABBITMQ),
        (DOUBLE, EMBEDDED),
        ({"private_node": False}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_result_from_before_tells_it_too(broker: dict[str, Any] | None, kind: str | None) -> None:
    assert recorded_kind(broker) == kind


def test_the_embedded_one_is_taken_whatever_the_environment_names() -> None:
    settings = parse_settings(["--broker", "embedded"], {"RABBITMQ_URL": URL})
    assert (settings.broker, settings.urls) == ("embedded", ())
    settings = parse_settings(["--broker", "rabbitmq"], {"RABBITMQ_URL": URL})
    assert settings.urls and settings.broker == "rabbitmq"
    assert parse_settings([], {"RABBITMQ_URL": URL}).urls


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--url", URL], "leave out --url"),
        (["--publish-url", URL], "leave out --publish-url"),
        (["--consume-url", URL], "leave out --consume-url"),
        (["--reconnect", "--fault", "5s restart"], "'5s restart' needs a RabbitMQ: all that the embedded broker has"),
        (["--management", "http://localhost:15672"], "has no management API"),
        (["--workers", "2"], "--workers needs --url"),
        (["--wait-broker", "5s"], "--wait-broker without --url"),
    ],
)
def test_what_is_no_use_with_it_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_settings(["--broker", "embedded", *words], {})
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_what_any_process_bears_it_bears() -> None:
    words = ["--broker", "embedded", "--fault", "5s stop 1s", "--fault", "8s alarm 1s", "--processes", "1"]
    assert len(parse_settings(words, {}).faults) == 2


def test_a_kind_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_settings(["--broker", "activemq"], {})
    assert "activemq" in capsys.readouterr().err
