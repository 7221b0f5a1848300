from __future__ import annotations

import pytest

from loadtest.urls import find_address, is_loopback, redact, redact_in, with_vhost


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
    assert redact("amqps://me:sec@host?password=ret&heartbeat=5") == "amqps://me@host?password=***&heartbeat=5"
    assert (
        redact_in("dialling amqps://me:secret@host?PASSWORD=s#x, twice")
        == "dialling amqps://me@host?PASSWORD=***, twice"
    )


@pytest.mark.parametrize(
    "url",
    [
        *("amqp://localhost", "amqps://LOCALHOST.:5671", "amqp://me@a.localhost/v", "amqp://127.0.0.1", "amqp://"),
        *("amqp://127.9.9.9:1", "amqp://[::1]:5672", "amqp://[::ffff:127.0.0.1]", "amqp://127.0.0%2E1"),
    ],
)
def test_urls_of_this_machine(url: str) -> None:
    assert is_loopback(url)


@pytest.mark.parametrize(
    "url",
    [
        *("amqp://localhost.example", "amqp://notlocalhost", "amqp://broker", "amqp://10.0.0.1", "amqp://[fe80::1]"),
        *("amqp://127.0.0.1@10.0.0.1", "amqp://[::ffff:10.0.0.1]", "amqp://0.0.0.0", "amqp://127.0.0.1.example"),
    ],
)
def test_urls_beyond_this_machine(url: str) -> None:
    assert not is_loopback(url)


def test_another_virtual_host_changes_nothing_else() -> None:
    assert with_vhost("amqp://me:secret@host:1/v?heartbeat=5", "/") == "amqp://me:secret@host:1/%2F?heartbeat=5"
    assert with_vhost("amqp://host", "a b") == "amqp://host/a%20b"
    assert with_vhost("amqp://host/v", None) == "amqp://host/v"
    assert with_vhost("amqp:///", "x") == "amqp:///x"


def test_where_a_url_leads() -> None:
    assert find_address("amqp://host:1/v") == ("host", 1)
    assert find_address("amqp://") == ("localhost", 5672)
    assert find_address("amqps://me:secret@[::1]") == ("::1", 5671)
