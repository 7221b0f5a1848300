"""What is sent of settings has no password, and a worker loads what its own command line allows."""

from __future__ import annotations

import msgpack
import pytest

from loadtest.commands.flags import parse_settings
from loadtest.fleet.sharing import (
    MOST_CLIENTS,
    NotAllowed,
    check_allowed,
    check_rate,
    digest_of,
    read_shared,
    share,
    target_of,
    with_ways,
)
from loadtest.scenarios.settings import Settings

URL = "amqps://user:secret1@broker:5671/a%2Fb?password=secret2&heartbeat=5"


def settings(*words: str) -> Settings:
    return parse_settings(["--url", URL, *words], {})


def test_no_password_is_sent() -> None:
    asked = settings(
        *(
            "--workers",
            "2",
            "--control-url",
            "amqp://me:secret3@bus",
            "--token-file",
            "/secret4",
            "--output",
            "/secret5",
        ),
        *("--label", "url=amqp://me:secret6@x", "--queue-arg", 'x="amqp://me:secret7@x"'),
        *("--management", "http://me:secret8@broker:15672"),
    )
    packed = msgpack.packb(share(asked, asked.urls))
    assert packed is not None
    assert b"secret" not in packed
    assert b"broker:5671" in packed


def test_both_ends_read_the_same() -> None:
    asked = settings("--clients", "20", "--rate", "30")
    plain = share(asked, asked.urls)
    read = read_shared(msgpack.unpackb(msgpack.packb(plain)))
    assert digest_of(share(read, read.urls)) == digest_of(plain)
    assert digest_of(share(settings("--clients", "21"), asked.urls)) != digest_of(plain)


def test_what_this_version_does_not_know_is_refused() -> None:
    plain = share(settings(), [URL])
    with pytest.raises(ValueError, match="there is no 'hack'"):
        read_shared(plain | {"hack": "rm"})
    with pytest.raises(ValueError, match="clients"):
        read_shared(plain | {"clients": "many"})


def test_a_worker_goes_its_own_way_to_the_broker() -> None:
    read = read_shared(share(settings(), [URL]))
    check_allowed(read, [URL])
    assert with_ways(read, [URL]).urls == (URL,)


@pytest.mark.parametrize(
    "other",
    [
        "amqps://user:secret1@broker:5671/a",
        "amqps://user:secret1@broker:5672/a%2Fb",
        "amqp://user:secret1@broker:5671/a%2Fb",
        "amqps://user:secret1@other:5671/a%2Fb",
    ],
)
def test_another_broker_is_not_loaded(other: str) -> None:
    with pytest.raises(NotAllowed, match="--allow-target") as refused:
        check_allowed(read_shared(share(settings(), [URL])), [other])
    assert "secret" not in str(refused.value)
    check_allowed(read_shared(share(settings(), [URL])), [other, URL])
    assert with_ways(read_shared(share(settings(), [URL])), [other, URL]).urls == (URL,)


def test_the_rate_is_bounded() -> None:
    read = read_shared(share(settings("--producers", "10", "--rate", "100"), [URL]))
    check_rate(read, 5, 50.0)
    check_rate(read, 10, None)
    with pytest.raises(NotAllowed, match="at most 50"):
        check_rate(read, 6, 50.0)
    with pytest.raises(NotAllowed, match="closed loop"):
        check_rate(read_shared(share(settings("--mode", "closed"), [URL])), 1, 50.0)


@pytest.mark.parametrize("rate", ["10:60,500:1", "0..500:10", "250+-250:10"])
def test_of_a_rate_that_changes_the_highest_counts(rate: str) -> None:
    read = read_shared(share(settings("--producers", "10", "--consumers", "1", "--rate", rate), [URL]))
    check_rate(read, 10, 500.0)
    with pytest.raises(NotAllowed, match=r"its share is 500\.0"):
        check_rate(read, 10, 499.0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"body": "/etc/passwd"}, "reads no file"),
        ({"clients": MOST_CLIENTS + 1}, "are the most"),
        ({"backlog": 5}, "--backlog"),
        ({"scenario": "queues"}, "--scenario queues"),
        ({"calibrate": True}, "--calibrate"),
    ],
)
def test_a_worker_does_for_nobody_what_it_does_not_do(change: dict[str, object], why: str) -> None:
    """Whoever asks: the coordinator's command line would have refused it, and this one may be another's."""
    with pytest.raises(NotAllowed, match=why):
        check_allowed(read_shared({**share(settings(), [URL]), **change}), [URL])


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("amqp://h", ("amqp", "h", 5672, "/")),
        ("amqp://u:p@H:5672/%2f", ("amqp", "h", 5672, "/")),
        ("amqps://h/x", ("amqps", "h", 5671, "x")),
    ],
)
def test_a_target_is_what_a_url_leads_to(url: str, target: tuple[str, str, int, str]) -> None:
    assert target_of(url) == target
