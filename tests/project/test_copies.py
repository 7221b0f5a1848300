"""What stands twice, as the command line and the load tester may not import each other, says the same in both."""

from __future__ import annotations

import pytest

import loadtest.urls
import rabbitry._cli.values

URLS = (
    "amqp://user:password@host",
    "amqp://user:pass:word@host:5672/v?heartbeat=3",
    "--url=amqps://user:pass@[::1]:5671/%2F#here",
    "--url=user:pa=ss@host",
    "user:password@host",
    "amqp://user@host",
    "amqp://host/vhost",
    "--clients",
    "@",
)


@pytest.mark.parametrize("word", URLS)
def test_no_password_is_shown(word: str) -> None:
    """The command line shows that there was one, a result does not: both are fixed by what was written before."""
    shown = rabbitry._cli.values.redact(word)
    assert loadtest.urls.redact(word) == shown.replace(":***", "")
    assert "pass" not in shown


@pytest.mark.parametrize("vhost", [None, "", "/", "a/b c", "é"])
@pytest.mark.parametrize("url", [url for url in URLS if url.startswith("amqp")])
def test_a_virtual_host_is_put_in_alike(url: str, vhost: str | None) -> None:
    assert loadtest.urls.with_vhost(url, vhost) == rabbitry._cli.values.with_vhost(url, vhost)
