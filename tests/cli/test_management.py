"""The operator's view, of a node with the management plugin: by HTTP and by rabbitmqctl."""

from __future__ import annotations

import http.server
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

import rabbitry
import rabbitry.blocking
from rabbitry.testing import PrivateNode
from tests.cli.conftest import Cli
from tests.support.helpers import unique

pytestmark = pytest.mark.skipif("RABBITMQ_URL" in os.environ, reason="needs a node with the management plugin")

SAMPLING = {
    "collect_statistics_interval": 100,  # ms, default 5 s
    **{f"management.sample_retention_policies.{kind}.minute": 1 for kind in ("global", "basic", "detailed")},
}


@pytest.fixture(scope="module")
def node() -> Iterator[PrivateNode]:
    """In the place of the node that other tests share: statistics each second, on a port that is free."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"management.tcp.port": port, "management.tcp.ip": "127.0.0.1", **SAMPLING}
    with PrivateNode(plugins=["rabbitmq_management"], settings=settings) as node:
        node.management = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
        yield node


@pytest.fixture(scope="module")
def amqp_url(node: PrivateNode) -> str:
    return node.url


@pytest.fixture
def management(node: PrivateNode, monkeypatch: pytest.MonkeyPatch) -> str:
    url: str = node.management  # type: ignore[attr-defined]
    monkeypatch.setenv("RABBITRY_MANAGEMENT_URL", url)
    return url


@pytest.fixture(scope="module")
def situation(node: PrivateNode) -> Iterator[dict[str, str]]:
    """Queues by what is wrong with them."""
    names = {kind: unique(kind) for kind in ("forgotten", "taken", "busy", "growing", "waiting")}
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_situation(node.url, names)):
        yield names


def _situation(url: str, names: dict[str, str]) -> object:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def situation():  # type: ignore[no-untyped-def]
        async with rabbitry.connect(url, name="forgetful") as connection, connection.channel(prefetch=3) as channel:
            for name in names.values():
                await channel.declare_queue(name)
            for kind in ("forgotten", "taken", "waiting"):
                for _ in range(5):
                    await channel.publish(b"x", routing_key=names[kind])
            await channel.get(names["taken"])

            async def grow() -> None:
                while True:
                    await channel.publish(b"x", routing_key=names["growing"])
                    await channel.publish(b"x", routing_key=names["busy"])
                    await anyio.sleep(0.05)

            async def work() -> None:
                """Its prefetch is always full, too."""
                for _ in range(50):
                    await channel.publish(b"x", routing_key=names["busy"])
                async with channel.consume(names["busy"]) as deliveries:
                    async for delivery in deliveries:
                        await anyio.sleep(0.05)
                        delivery.ack()

            async with channel.consume(names["forgotten"]) as deliveries, anyio.create_task_group() as tg:
                await anext(deliveries)
                tg.start_soon(grow)
                tg.start_soon(work)
                yield
                tg.cancel_scope.cancel()

    return situation()


def eventually(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Statistics take their time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_looks_wrong(cli: Cli, management: str, situation: dict[str, str]) -> None:
    found: dict[str, list[str]] = {}

    def look() -> bool:
        done = cli("queues", "--json", "--window", "2")
        assert done.code == 0, done.err
        found.update({row["name"]: [note["kind"] for note in row["notes"]] for row in done.records})
        return all(found[situation[kind]] for kind in ("forgotten", "taken", "growing"))

    eventually(look)
    assert {kind: found[name] for kind, name in situation.items()} == {
        "forgotten": ["unacknowledged"],
        "taken": ["unacknowledged"],
        "busy": [],
        "growing": ["unconsumed"],
        "waiting": [],
    }
    text = ""

    def check() -> bool:
        nonlocal text
        checked = cli("queues", "--check", "--window", "2")
        assert checked.code == 1
        text = checked.out.decode()
        return situation["growing"] in text  # which a busy machine may keep from growing for a moment

    eventually(check)
    assert situation["busy"] not in text and situation["waiting"] not in text
    assert f"! {situation['forgotten']}: 3 unacknowledged: some all through" in text
    assert "The prefetch of 1 consumer is full (3)" in text
    assert f"! {situation['growing']}: no consumer, and it grows:" in text
    assert cli("queues", "--check", "--window", "10m").code == 0  # nobody is accused before so much has been seen


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_growth_shows_where_samples_are_taken_once_a_minute(
    cli: Cli, management: str, situation: dict[str, str], node: PrivateNode, backend: str
) -> None:
    """As they are by nodes for many connections: the queues are asked then, and none is accused without need."""
    names = {kind: unique(kind) for kind in ("growing", "still", "gone")}
    stop = threading.Event()

    def grow() -> None:
        with rabbitry.blocking.connect(node.url) as connection, connection.channel() as channel:
            while not stop.wait(0.05):
                channel.publish(b"x", routing_key=names["growing"])

    def row(kind: str, ready: int, published: list[int]) -> dict[str, Any]:
        samples = [{"sample": ready, "timestamp": 1000 * second} for second in (60, 30, 0)]
        counter = [{"sample": each, "timestamp": 30_000 * place} for place, each in enumerate(published)]
        return {
            "name": names[kind],
            "vhost": "/",
            "type": "classic",
            "messages_ready": ready,
            "messages_ready_details": {"samples": samples},
            "message_stats": {"publish_details": {"samples": counter}},
        }

    for kind in ("growing", "still"):
        cli("declare", "queue", names[kind])
    cli("publish", "--routing-key", names["still"], "x")
    growing = threading.Thread(target=grow)
    growing.start()
    try:
        eventually(
            lambda: bool(cli("declare", "queue", names["growing"], "--passive", "--json").records[0]["messages"])
        )
        rows = [row("growing", 0, [0, 0, 0]), row("still", 1, [1, 1, 1]), row("gone", 5, [5, 5, 5])]
        with web_server(200, {}, json.dumps(rows).encode()) as (url, _):
            words = "queues", "--check", "--management", url, "--backend", backend
            (found,) = cli(*words, "--json").records
            assert found["name"] == names["growing"]
            assert [note["kind"] for note in found["notes"]] == ["unconsumed"]
            assert "more ready than when the broker took its last sample" in found["notes"][0]["text"]
            assert cli(*words).code == 1
            assert cli(*words, "--url", "amqp://127.0.0.1:1").code == 0  # the management alone can be had
            assert cli(*words, "--window", "10m").code == 0  # it has not been seen for so long
        rows = [row("growing", 0, [0, 5, 9])]  # samples are taken often enough to tell
        with web_server(200, {}, json.dumps(rows).encode()) as (url, _):
            assert cli("queues", "--check", "--management", url).code == 0
    finally:
        stop.set()
        growing.join()
        for kind in ("growing", "still"):
            cli("delete", "queue", names[kind])


def test_what_a_queue_has(cli: Cli, management: str, situation: dict[str, str]) -> None:
    def row() -> dict[str, object]:
        rows = {each["name"]: each for each in cli("queues", "--json").records}
        return dict(rows[situation["forgotten"]])

    eventually(lambda: row()["unacknowledged"] == 3)
    found = row()
    assert found["memory_bytes"]
    assert {key: found[key] for key in ("vhost", "type", "ready", "consumers", "durable", "state")} == {
        "vhost": "/",
        "type": "classic",
        "ready": 2,
        "consumers": 1,
        "durable": True,
        "state": "running",
    }
    table = cli("queues", "--all-vhosts").out.decode().splitlines()
    assert table[0].split() == ["vhost", "queue", "type", "ready", "unacked", "consumers", "memory", "state"]


def test_exchanges_bindings_and_connections(cli: Cli, management: str, situation: dict[str, str]) -> None:
    queue = situation["waiting"]
    assert cli("bind", "queue", queue, "amq.topic", "--routing-key", "a.#").code == 0
    exchanges = {row["name"]: row for row in cli("exchanges", "--json").records}
    assert exchanges["amq.topic"]["type"] == "topic"
    bindings = [row for row in cli("bindings", "--json").records if row["destination"] == queue]
    assert [(row["source"], row["routing_key"]) for row in bindings] == [("", queue), ("amq.topic", "a.#")]
    eventually(lambda: b"forgetful" in cli("connections").out)
    for command, heading in (("exchanges", "exchange"), ("bindings", "exchange"), ("connections", "connection")):
        done = cli(command)
        assert (done.code, done.err) == (0, "")
        assert done.out.decode().startswith(heading)
    (record,) = [
        row
        for row in cli("connections", "--json").records
        if (row["client_properties"] or {}).get("connection_name") == "forgetful"
    ]
    assert (record["user"], record["vhost"], record["state"]) == ("guest", "/", "running")


def test_by_rabbitmqctl(
    cli: Cli, node: PrivateNode, situation: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in node._environment.items():
        monkeypatch.setenv(key, value)
    command = f"{node._scripts / 'rabbitmqctl'} --node {node.name}"
    rows = {row["name"]: row for row in cli("queues", "--json", "--rabbitmqctl", command).records}
    row = rows[situation["forgotten"]]
    assert (row["ready"], row["unacknowledged"], row["consumers"]) == (2, 3, 1)
    assert [note["kind"] for note in row["notes"]] == ["prefetch-full"]
    assert [note["kind"] for note in rows[situation["waiting"]]["notes"]] == ["no-consumer"]
    (connection,) = cli("connections", "--json", "--rabbitmqctl", command).records
    assert connection["client_properties"]["connection_name"] == "forgetful"
    for failing in ("sh -c 'echo no such node >&2; exit 69'", "echo no JSON"):
        failed = cli("queues", "--rabbitmqctl", failing)
        assert (failed.code, "rabbitmqctl list_queues" in failed.err) == (3, True)


def test_refusals(cli: Cli, management: str) -> None:
    wrong = cli("queues", "--management", management.replace("//", "//guest:wrong@"))
    assert (wrong.code, "wrong" in wrong.err, "refuses" in wrong.err) == (3, False, True)
    assert cli("queues", "--vhost", unique()).code == 1
    assert cli("queues", "--management", "http://127.0.0.1:1").code == 3
    not_http = cli(
        "queues", "--management", os.environ["RABBITMQ_URL"].replace("amqp://", "http://").partition("/%2F")[0]
    )
    assert (not_http.code, "did not answer" in not_http.err) == (3, True)


@contextmanager
def web_server(status: int, headers: dict[str, str], body: bytes) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """What is no RabbitMQ; its URL, and the headers of the requests it gets."""
    seen: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_credentials_follow_no_redirect_and_no_proxy(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with web_server(200, {}, b"[]") as (thief, stolen), web_server(302, {"Location": thief}, b"") as (url, seen):
        monkeypatch.setenv("http_proxy", thief)
        assert cli("queues", "--management", url).code == 3
    assert seen and "Authorization" in seen[0]
    assert not stolen


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[" * 100_000], ids=["", "html", "object", "nested"])
def test_what_is_no_management(cli: Cli, body: bytes) -> None:
    with web_server(200, {}, body) as (url, _):
        assert cli("queues", "--management", url).code == 3


@pytest.mark.parametrize("kind", ["queues", "exchanges", "bindings", "connections"])
def test_a_row_may_lack_anything(cli: Cli, kind: str) -> None:
    """As that of a connection does while it is opened or closed."""
    row = {"messages_ready": 3, "messages_ready_details": {"samples": [{}]}}
    with web_server(200, {}, json.dumps([{}, row]).encode()) as (url, _):
        for flags in ((), ("--json",), ("--all-vhosts",)):
            done = cli(kind, "--management", url, *flags)
            assert (done.code, done.err) == (0, "")
            assert len(done.out.splitlines()) == (2 if flags == ("--json",) else 3)


def test_names_make_no_lines_and_steer_no_terminal(cli: Cli) -> None:
    """Who may declare a queue says nothing of others."""
    name = "a\n! jobs: all is well\x1b]0;title\x07\u202e"
    row = {"name": name, "vhost": name, "type": name, "state": name, "source": name, "routing_key": name, "user": name}
    row |= {"arguments": {name: name}, "client_properties": {"connection_name": name}, "messages_ready": 3}
    with web_server(200, {}, json.dumps([row]).encode()) as (url, _):
        for kind in ("queues", "exchanges", "bindings", "connections"):
            for flags in ((), ("--json",), ("--all-vhosts",)):
                done = cli(kind, "--management", url, *flags)
                assert (done.code, done.err) == (0, "")
                found = done.out.decode().splitlines()
                assert all(line.isprintable() for line in found)
                assert len(found) == 1 + (not flags or flags == ("--all-vhosts",)) + (
                    kind == "queues" and flags != ("--json",)
                )
                assert not any(line.startswith("! jobs") for line in found)


def test_tls_is_verified(cli: Cli, tmp_path: Path) -> None:
    import ssl

    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = http.server.HTTPServer(("127.0.0.1", 0), _Empty)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        url = f"https://127.0.0.1:{server.server_port}"
        refused = cli("exchanges", "--management", url)
        assert (refused.code, "CERTIFICATE_VERIFY_FAILED" in refused.err) == (3, True)
        assert cli("exchanges", "--management", url, "--cacert", str(tmp_path / "ca.pem")).code == 0
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Empty(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_: object) -> None:
        pass
