"""What stands twice, as the command line and the load tester may not import each other, says the same in both."""

from __future__ import annotations

import re

import pytest

import loadtest.units
import loadtest.urls
import rabbitry._cli.output
import rabbitry._cli.values
import rabbitry._errors

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
    "amqps://host/v?password=password",
    "amqps://u:password@host/?p%61ssword=pass@word&heartbeat=5",
    "--url=amqps://host/?PASSWORD=pass#word&password=&keyfile=k",
    "amqps://u:p?password=pass@host",
    "amqp://user:password",
    "amqp://[::1]",
    "amqp://a,amqp://u:password@b",
)
TEXTS = (
    "plain",
    "a b",
    "line\nline\ttab\r",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\u202eright to left",
    "\udcff",
    "\u2028",
    "é😀",
)


@pytest.mark.parametrize("word", URLS)
def test_no_password_is_shown(word: str) -> None:
    """The command line shows that there was one, a result does not: both are fixed by what was written before."""
    shown = rabbitry._cli.values.redact(word)
    assert loadtest.urls.redact(word) == shown.replace(":***", "")
    assert "pass" not in re.sub("(password|PASSWORD|p%61ssword)=", "", shown)
    text = f"of --x={word!r} and {word}"
    said = rabbitry._cli.values.redact_in(text, [word, f"--x={word}"])
    assert loadtest.urls.redact_in(text, [word, f"--x={word}"]) == said.replace(":***", "")


@pytest.mark.parametrize("text", TEXTS)
def test_a_peers_text_is_shown_alike(text: str) -> None:
    """The library's errors, the command line and the load tester."""
    assert rabbitry._cli.output.printable(text) == rabbitry._errors.shown(text) == loadtest.units.format_text(text)


@pytest.mark.parametrize("vhost", [None, "", "/", "a/b c", "é"])
@pytest.mark.parametrize("url", [url for url in URLS if url.startswith("amqp")])
def test_a_virtual_host_is_put_in_alike(url: str, vhost: str | None) -> None:
    assert loadtest.urls.with_vhost(url, vhost) == rabbitry._cli.values.with_vhost(url, vhost)
