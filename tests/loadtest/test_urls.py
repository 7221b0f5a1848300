from __future__ import annotations

from loadtest.urls import find_address, redact, with_vhost


def test_passwords_stay_out_of_results() -> None:
    assert redact("amqp://me:secret@host:1/v") == "amqp://me@host:1/v"
    assert redact("amqp://host/v") == "amqp://host/v"
    assert redact("--url=amqp://me:secret@host:1/v") == "--url=amqp://me@host:1/v"
    assert redact("u:secret@host") == "u@host"
    assert redact("amqp://me:sec/r@et@host") == "amqp://me@host"
    assert redact("--label=a:b") == "--label=a:b"
    assert redact("amqp://me:c2VjcmV0==@host") == "amqp://me@host"
    assert redact("--url=amqp://me:se=cret@host") == "--url=amqp://me@host"
    assert redact("me:se=cret@host") == "me@host"


def test_another_virtual_host_changes_nothing_else() -> None:
    assert with_vhost("amqp://me:secret@host:1/v?heartbeat=5", "/") == "amqp://me:secret@host:1/%2F?heartbeat=5"
    assert with_vhost("amqp://host", "a b") == "amqp://host/a%20b"
    assert with_vhost("amqp://host/v", None) == "amqp://host/v"


def test_where_a_url_leads() -> None:
    assert find_address("amqp://host:1/v") == ("host", 1)
    assert find_address("amqp://") == ("localhost", 5672)
    assert find_address("amqps://me:secret@[::1]") == ("::1", 5671)
