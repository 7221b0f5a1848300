"""How values are read, and that no password is shown."""

from __future__ import annotations

import inspect

import pytest

import rabbitry
from rabbitry._cli.program import main
from rabbitry._cli.values import (
    DEFAULT_URL,
    parse_count,
    parse_duration,
    parse_pairs,
    parse_value,
    redact,
    redact_in,
    with_vhost,
)


@pytest.mark.parametrize(
    ("text", "seconds"), [("20", 20), ("500ms", 0.5), ("1.5s", 1.5), (".5", 0.5), ("10m", 600), ("2h", 7200)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "5 weeks", "1e3", "nan", "inf"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


def test_counts() -> None:
    assert [parse_count(text) for text in ("1", "10k", "2m")] == [1, 10_000, 2_000_000]
    for text in ("0", "-1", "1.5", "x"):
        with pytest.raises(ValueError):
            parse_count(text)


def test_values_are_json_or_else_text() -> None:
    texts = ["1", "1.5", "true", "null", '"5"', "[1]", '{"a": 1}', "five", "", "NaN", "1e999", "{"]
    assert [parse_value(text) for text in texts] == [
        *(1, 1.5, True, None, "5", [1], {"a": 1}),
        *("five", "", "NaN", "1e999", "{"),
    ]


def test_pairs() -> None:
    assert parse_pairs(["a=1", "b=x=y", "c="], "--header") == {"a": "1", "b": "x=y", "c": ""}
    for text in ("a", "=1"):
        with pytest.raises(ValueError, match="key=value"):
            parse_pairs([text], "--header")


def test_the_broker_is_the_librarys_unless_it_is_named() -> None:
    assert inspect.signature(rabbitry.connect).parameters["url"].default == DEFAULT_URL


def test_another_virtual_host() -> None:
    assert with_vhost("amqp://u:p@h/x?heartbeat=5", "a/b") == "amqp://u:p@h/a%2Fb?heartbeat=5"
    assert with_vhost("amqp://h", None) == "amqp://h"
    assert with_vhost("amqp:///", "x") == with_vhost("amqp://", "x") == "amqp:///x"
    assert with_vhost("amqps:///?heartbeat=5", "") == "amqps:///?heartbeat=5"
    with pytest.raises(ValueError):
        with_vhost("amqp+unix:///run/socket", "a")


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("amqp://user:secret@host", "amqp://user:***@host"),
        ("--url=amqp://user:se@cret@host", "--url=amqp://user:***@host"),
        ("--url=user:sec=ret@host", "--url=user:***@host"),
        ("user@host", "user@host"),
        ("plain", "plain"),
        ("amqps://h/v?password=secret", "amqps://h/v?password=***"),
        (
            "amqps://u:secret@h/?verify=verify_peer&PASSWORD=sec;ret#x",
            "amqps://u:***@h/?verify=verify_peer&PASSWORD=***",
        ),
        ("amqps://h?p%61ssword=s@cret&heartbeat=5", "amqps://h?p%61ssword=***&heartbeat=5"),
        ("amqps://h?password=secret&password=ret&keyfile=k", "amqps://h?password=***&password=***&keyfile=k"),
        ("--label=from=amqps://h/?password=sec&ret==", "--label=from=amqps://h/?password=***"),
        ("amqps://u:p?password=secret@h", "amqps://u:***"),
        ("amqp://user:secret", "amqp://user:***"),
        ("amqp://a:1,amqp://u:secret@b", "amqp://a:***@b"),
        ("amqp://[::1]:5672/v?heartbeat=5", "amqp://[::1]:5672/v?heartbeat=5"),
        ("amqps://h/?keyfile=/k&cacertfile=/c", "amqps://h/?keyfile=/k&cacertfile=/c"),
    ],
)
def test_passwords_are_masked(word: str, shown: str) -> None:
    assert redact(word) == shown
    assert redact_in(f"unrecognized arguments: {word} {word!r}", [word]) == f"unrecognized arguments: {shown} {shown!r}"


def test_urls_are_masked_in_any_text() -> None:
    """Also those that nobody typed, and a part of a word."""
    assert redact_in("at 'amqps://h/?password=secret', (amqp://u:secret@h).") == (
        "at 'amqps://h/?password=***', (amqp://u:***@h)."
    )
    assert redact_in("no choice: 'u:secret@h'", ["--backend=u:secret@h"]) == "no choice: 'u:***@h'"
    for text in ("no management at http://127.0.0.1:15672: refused", "write amqp://user@host:5672/vhost, or [amqp://]"):
        assert redact_in(text) == text


@pytest.mark.parametrize(
    "words",
    [
        ("ping", "--url", "amqps://127.0.0.1:1/?password=secret"),
        ("ping", "--url", "amqps://127.0.0.1:1/?password=secret&keyfile=/none"),
        ("ping", "--url", "amqp://127.0.0.1:1/?password=secret"),
        ("ping", "--url", "amqps://127.0.0.1:1/?heartbeat=x&password=secret"),
        ("ping", "amqps://host?password=secret"),
        ("--url", "amqps://user:p?password=secret@host", "ping", "more"),
        ("ping", "--wait=amqps://host?PASSWORD=secret"),
        ("consume", "q", "--backend=user:secret@host"),
        ("publish", "--header", "amqps://host?p%61ssword:secret@x"),
        ("queues", "--url", "amqps://127.0.0.1:1/?password=secret"),
        ("queues", "--management", "https://127.0.0.1:1/?password=secret"),
        ("ping", "amqp://user:secret@host"),
        ("ping", "--url", "amqp://user:secret@127.0.0.1:1"),
        ("ping", "--url", "amqp://user:sec/ret@127.0.0.1:1"),
        ("ping", "--url", "http://user:secret@host"),
        ("ping", "--url", "amqp://user:secret@127.0.0.1:1", "--vhost", "a\nb"),
        ("amqp://user:secret@host",),
        ("--url=amqp://user:secret@host", "ping"),
        ("ping", "--wait", "amqp://user:secret@host"),
        ("consume", "q", "--backend", "amqp://user:secret@host"),
        ("queues", "--management", "http://user:secret@127.0.0.1:1"),
        ("queues", "--management", "user:secret@127.0.0.1:1"),
        ("queues", "--management", "http://127.0.0.1:1/secret@127.0.0.1:1"),
        ("queues", "--url", "amqp://127.0.0.1:1/secret@127.0.0.1:1", "--management", "http://127.0.0.1:1"),
        ("queues", "--management", "http://user:secret@127.0.0.1:1x"),
        ("queues", "--url", "amqp://user:secret@127.0.0.1:1", "--management", "http://127.0.0.1:1"),
        ("queues", "--url", "amqp://user:secret@[::1"),
        ("queues", "--url", "amqp://user:secret@127.0.0.1", "--rabbitmqctl", "/nonexistent"),
        ("queues", "--url", "amqp://user:secret@ho\u2100st"),
        ("queues", "--management", "http://user:secret@ho\u2100st"),
        ("ping", "--url", "amqp://user:secret@ho\u2100st", "--vhost", "v"),
    ],
)
def test_no_output_has_the_password(
    words: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RABBITMQ_URL", "amqp://127.0.0.1:1")
    assert main(words) in (2, 3)
    out, err = capfd.readouterr()
    assert err
    assert "sec" not in out + err and "ret@" not in out + err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "url",
    ["amqps://h:x/?password=secret", "amqp://u:secret", "amqps://h/?depth=x&password=secret", "amqp://u:secret@h@h"],
)
def test_no_output_has_the_password_of_the_environment(
    url: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RABBITMQ_URL", url)
    for words in (("ping",), ("queues",), ("ping", "--vhost", "v")):
        assert main(words) in (2, 3)
        out, err = capfd.readouterr()
        assert err
        assert "secret" not in out + err
