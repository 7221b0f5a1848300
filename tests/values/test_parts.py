"""An address by keywords: nothing to escape, no part twice, and the password in no message."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

import rabbitry
from rabbitry import blocking
from rabbitry._secrets import Secret, hidden_if_given
from rabbitry._values.address import DEFAULT_URL, Address, parse_uri
from rabbitry._values.parts import address_url

NO_URL = DEFAULT_URL


def address(url: str, **parts: Any) -> Address:
    password = hidden_if_given(parts.pop("password", None))
    return parse_uri(address_url(Secret(url), {**parts, "password": password}))  # type: ignore[typeddict-item]


def found(url: str, **parts: Any) -> tuple[str, int, str, str, str, bool]:
    of = address(url, **parts)
    return of.host, of.port, of.username, of.password.reveal(), of.virtual_host, of.tls


@pytest.mark.parametrize(
    ("url", "parts", "expected"),
    [
        (NO_URL, {}, ("localhost", 5672, "guest", "guest", "/", False)),
        (NO_URL, {"host": "broker"}, ("broker", 5672, "guest", "guest", "/", False)),
        (NO_URL, {"host": "broker", "tls": True}, ("broker", 5671, "guest", "guest", "/", True)),
        (NO_URL, {"host": "broker", "tls": False}, ("broker", 5672, "guest", "guest", "/", False)),
        (NO_URL, {"port": 1}, ("localhost", 1, "guest", "guest", "/", False)),
        (NO_URL, {"host": "::1", "port": 1}, ("::1", 1, "guest", "guest", "/", False)),
        (NO_URL, {"host": "[::1]"}, ("::1", 5672, "guest", "guest", "/", False)),
        (NO_URL, {"host": "fe80::1%eth0"}, ("fe80::1%eth0", 5672, "guest", "guest", "/", False)),
        (NO_URL, {"virtual_host": "/"}, ("localhost", 5672, "guest", "guest", "/", False)),
        (NO_URL, {"virtual_host": "a/b c%2F"}, ("localhost", 5672, "guest", "guest", "a/b c%2F", False)),
        (
            NO_URL,
            {"user": "ä@b:/", "password": "p/#?@:%+ %40ö\n"},
            ("localhost", 5672, "ä@b:/", "p/#?@:%+ %40ö\n", "/", False),
        ),
        # what the URL leaves open
        ("amqp://alice@h:1/v", {"password": "s"}, ("h", 1, "alice", "s", "v", False)),
        ("amqp://alice@h:1/v", {}, ("h", 1, "alice", "guest", "v", False)),
        ("amqp://alice@h", {"port": 3}, ("h", 3, "alice", "guest", "/", False)),
        ("amqp://alice:@h", {"port": 3}, ("h", 3, "alice", "", "/", False)),
        ("amqps://h", {"user": "u", "password": "s"}, ("h", 5671, "u", "s", "/", True)),
        ("amqps://h/", {"virtual_host": "v"}, ("h", 5671, "guest", "guest", "v", True)),
        ("amqp://", {"host": "h", "virtual_host": "v"}, ("h", 5672, "guest", "guest", "v", False)),
        ("amqp:///v", {"host": "h"}, ("h", 5672, "guest", "guest", "v", False)),
        # the same twice
        ("amqp://a:b@H:3//", {"host": "h", "port": 3, "user": "a", "password": "b"}, ("h", 3, "a", "b", "/", False)),
        ("amqp://h//", {"virtual_host": "/"}, ("h", 5672, "guest", "guest", "/", False)),
        ("amqp://h/%2F", {"virtual_host": "/"}, ("h", 5672, "guest", "guest", "/", False)),
        ("amqps://h", {"tls": True}, ("h", 5671, "guest", "guest", "/", True)),
    ],
)
def test_what_it_stands_for(url: str, parts: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert found(url, **parts) == expected


def test_the_query_stays() -> None:
    of = address("amqps://h/?heartbeat=7&cacertfile=/etc/ca.pem", user="u", password="p", virtual_host="v")
    assert (of.heartbeat, of.cacertfile, of.virtual_host) == (7, "/etc/ca.pem", "v")


def test_a_unix_socket() -> None:
    of = address("amqp+unix:///run/a%20b?heartbeat=7", user="u", password="p@", virtual_host="v/&=")
    assert (of.unix_path, of.username, of.password.reveal(), of.virtual_host) == ("/run/a b", "u", "p@", "v/&=")
    assert of.heartbeat == 7
    assert address("amqp+unix:///run/x?vhost=v", virtual_host="v").virtual_host == "v"
    for parts in ({"host": "h"}, {"port": 1}):
        with pytest.raises(ValueError, match="Unix socket has no host"):
            address("amqp+unix:///run/x", **parts)
    with pytest.raises(ValueError, match="virtual_host= contradicts"):
        address("amqp+unix:///run/x?vhost=v", virtual_host="w")


@pytest.mark.parametrize(
    ("url", "parts", "match"),
    [
        ("amqp://h", {"host": "other"}, "host= contradicts"),
        ("amqp://guest:guest@localhost/"[:], {"host": "other"}, "host= contradicts"),
        ("amqp://h:1", {"port": 2}, "port= contradicts"),
        ("amqp://u:p@h", {"user": "w", "password": "p"}, "user= contradicts"),
        ("amqp://u:p@h", {"password": "w"}, "password= contradicts"),
        ("amqp://h/v", {"virtual_host": "w"}, "virtual_host= contradicts"),
        ("amqp://h/%2F", {"virtual_host": "w"}, "virtual_host= contradicts"),
        ("amqps://h", {"tls": False}, "tls= contradicts"),
        ("amqp://h", {"tls": True}, "tls= contradicts"),
        ("", {"host": "h"}, "begins with"),
        ("h", {"port": 3}, "begins with"),
        (NO_URL, {"host": "h:5672"}, "port="),
        (NO_URL, {"host": "amqp://h"}, "URL"),
        (NO_URL, {"host": "[::1"}, "IP address"),
        (NO_URL, {"host": "a b"}, "no host name has"),
        (NO_URL, {"host": "u@h"}, "no host name has"),
        (NO_URL, {"host": ""}, "host is not empty"),
        (NO_URL, {"port": 0}, "port must be 1 to"),
        (NO_URL, {"port": 65536}, "port must be 1 to"),
        (NO_URL, {"user": "u"}, "password="),
        (NO_URL, {"password": "p"}, "user="),
        (NO_URL, {"user": "", "password": "p"}, "user is not empty"),
        (NO_URL, {"user": "u", "password": ""}, "password is not empty"),
        (NO_URL, {"user": "u\0", "password": "p"}, "NUL"),
        (NO_URL, {"user": "u", "password": "p\0"}, "NUL"),
        (NO_URL, {"user": "u", "password": "p\udc80"}, "surrogate"),
        (NO_URL, {"virtual_host": ""}, "virtual_host is not empty"),
        (NO_URL, {"virtual_host": "v" * 256}, "longer than 255"),
    ],
)
def test_contradictions_and_typos(url: str, parts: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        address(url, **parts)


@pytest.mark.parametrize(
    "parts",
    [
        {"host": b"h"},
        {"host": 5},
        {"port": "5672"},
        {"port": True},
        {"port": 5672.0},
        {"user": 5, "password": "p"},
        {"user": "u", "password": b"p"},
        {"user": "u", "password": 5},
        {"virtual_host": 5},
        {"tls": "yes"},
        {"tls": 1},
    ],
)
def test_other_types(parts: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        address(NO_URL, **parts)


# --- at the doors -----------------------------------------------------------------------------------------------------

SECRET = "hunter2-is-secret"


def doors() -> dict[str, Any]:
    return {"connect": rabbitry.connect, "blocking.connect": blocking.connect, "blocking.client": blocking.open_client}


@pytest.mark.parametrize("door", doors())
@pytest.mark.parametrize("parts", [{"port": 0}, {"host": "a b"}, {"user": ""}, {"tls": 5}, {"virtual_host": 3}])
def test_no_frame_shows_the_password(door: str, parts: dict[str, Any]) -> None:
    given = {"user": "u", "password": SECRET, **parts}
    with pytest.raises((ValueError, TypeError)) as caught:
        made = doors()[door](**given)
        if door == "blocking.client":
            with made:
                pass
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    ours = [frame for frame in frames if "/rabbitry/" in frame.f_code.co_filename]
    assert ours
    for frame in ours:
        assert SECRET not in repr(dict(frame.f_locals))


async def test_each_async_door_takes_them(amqp_url: str) -> None:
    given = parse_uri(amqp_url)
    parts: dict[str, Any] = {
        "host": given.host,
        "port": given.port,
        "user": given.username,
        "password": given.password.reveal(),
        "virtual_host": given.virtual_host,
    }
    async with rabbitry.connect(**parts) as connection:
        assert connection.is_open and SECRET not in repr(connection)
    async with rabbitry.open_client(**parts) as client:
        await client.wait_ready()
    async with rabbitry.open_client([amqp_url, amqp_url], user=parts["user"], password=parts["password"]) as client:
        await client.wait_ready()
    async with rabbitry.open_reactor() as reactor:
        async with reactor.connect(**parts) as connection, reactor.open_client(**parts) as client:
            await client.wait_ready()
    with pytest.raises(rabbitry.AuthenticationFailed) as caught:
        async with rabbitry.connect(**{**parts, "password": SECRET}):
            pass
    assert SECRET not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_start_client_takes_them(amqp_url: str) -> None:
    given = parse_uri(amqp_url)
    client = await rabbitry.start_client(
        host=given.host, port=given.port, user=given.username, password=given.password.reveal()
    )
    await client.wait_ready()
    await client.aclose()
    with pytest.raises(TypeError, match="username"):
        await rabbitry.start_client(username="x")  # type: ignore[call-arg]


def test_the_blocking_doors_take_them(amqp_url: str) -> None:
    given = parse_uri(amqp_url)
    parts: dict[str, Any] = {"host": given.host, "port": given.port, "user": "guest", "password": "guest"}
    with blocking.connect(**parts) as connection, blocking.open_client(**parts) as client:
        client.wait_ready(timeout=20)
        assert connection.is_open and client.is_ready


async def test_credentials_are_given_once() -> None:
    async def ask() -> rabbitry.Credentials:
        return rabbitry.Credentials("u", "p")

    with pytest.raises(ValueError, match="credentials="):
        async with rabbitry.open_client(user="u", password="p", credentials=ask):
            pass
