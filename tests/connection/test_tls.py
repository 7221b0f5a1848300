"""amqps:// against a real broker: verified, refused, mutual, renewed; and peers that speak something else."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

import rabbitry
from loadtest.commands import run as program
from rabbitry._connection import settings
from rabbitry.testing import PrivateNode
from rabbitry.testing.rabbitmq.setup import free_ports

USER = "billing"


class Authority:
    """A certificate authority of the test's own, with its files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = trustme.CA()
        self.file = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(self.file)

    def issue(self, name: str, *hosts: str, common_name: str | None = None) -> tuple[Path, Path]:
        """Certificate and key, in two files."""
        issued = self.ca.issue_cert(*hosts, common_name=common_name)
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return certificate, key


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_port(authority: Authority) -> Iterator[int]:
    """The TLS port of a node that knows `USER` by certificate."""
    certificate, key = authority.issue("server", "localhost", "127.0.0.1")
    (port,) = free_ports(1)
    settings: dict[str, str | int] = {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": str(authority.file),
        "ssl_options.certfile": str(certificate),
        "ssl_options.keyfile": str(key),
        "ssl_options.verify": "verify_peer",
        "ssl_options.fail_if_no_peer_cert": "false",
        "auth_mechanisms.1": "PLAIN",
        "auth_mechanisms.2": "EXTERNAL",
        "ssl_cert_login_from": "common_name",
    }
    with PrivateNode(settings=settings, plugins=("rabbitmq_auth_mechanism_ssl",)) as node:
        node.rabbitmqctl("add_user", USER, "unused")
        node.rabbitmqctl("set_permissions", USER, ".*", ".*", ".*")
        yield port


@pytest.fixture
def url(authority: Authority, tls_port: int) -> str:
    return f"amqps://guest:guest@localhost:{tls_port}/?cacertfile={authority.file}"


async def use(url: str, **options: ssl.SSLContext) -> None:
    """Connect, publish, receive."""
    async with rabbitry.connect(url, **options) as connection, connection.channel() as channel:
        queue = (await channel.declare_queue(exclusive=True, durable=False)).name
        await channel.publish(b"through", routing_key=queue)
        delivery = await channel.get(queue)
        assert delivery is not None
        assert delivery.body == b"through"
        delivery.ack()


async def test_verified_by_name_and_by_address(url: str) -> None:
    await use(url)
    await use(url.replace("localhost", "127.0.0.1"))


async def test_everything_large_passes_both_ways(url: str) -> None:
    bodies = [bytes([number % 256]) * size for number, size in enumerate((1, 16_384, 16_385, 1_000_000, 5_000_000))]
    async with rabbitry.connect(url) as connection, connection.channel() as channel:
        queue = (await channel.declare_queue(exclusive=True, durable=False)).name
        async with channel.publisher(window=100) as publisher:
            for body in bodies:
                await publisher.submit(body, routing_key=queue)
            for number in range(5000):
                await publisher.submit(b"%d" % number, routing_key=queue)
        async with channel.consume(queue, prefetch=500) as deliveries:
            for body in [*bodies, *(b"%d" % number for number in range(5000))]:
                delivery = await anext(deliveries)
                assert delivery.body == body
                delivery.ack()


async def test_many_on_one_reactor(url: str) -> None:
    async with rabbitry.open_reactor() as reactor, anyio.create_task_group() as tg:

        async def one() -> None:
            async with reactor.connect(url) as connection, connection.channel() as channel:
                await channel.publish(b"x", routing_key="nowhere")

        for _ in range(50):
            tg.start_soon(one)


async def test_a_context_of_ones_own(url: str, authority: Authority) -> None:
    context = ssl.create_default_context(cafile=str(authority.file))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    await use(url.partition("?")[0], ssl_context=context)
    older = ssl.create_default_context(cafile=str(authority.file))
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    await use(url.partition("?")[0], ssl_context=older)


async def test_the_users_certificate_is_the_credential(url: str, authority: Authority) -> None:
    certificate, key = authority.issue("client", "client.example", common_name=USER)
    external = f"{url}&certfile={certificate}&keyfile={key}&auth_mechanism=external"
    await use(external.replace("guest:guest@", ""))
    with pytest.raises(rabbitry.AuthenticationFailed):
        await use(f"{url}&auth_mechanism=external")


async def test_a_key_with_a_password(url: str, authority: Authority) -> None:
    certificate, key = authority.issue("locked", "client.example", common_name=USER)
    locked = ssl_encrypted(key, "sesame")
    both = f"{url}&certfile={certificate}&keyfile={locked}"
    await use(f"{both}&password=sesame")
    for wrong in ("", "&password=wrong%20secret"):
        with pytest.raises(rabbitry.ConnectFailed, match="can't use certfile") as raised:
            await use(both + wrong)
        assert "wrong secret" not in str(raised.value) + repr(raised.value.__cause__)


def ssl_encrypted(key: Path, password: str) -> Path:
    """The same key behind a password."""
    from cryptography.hazmat.primitives import serialization as form

    loaded = form.load_pem_private_key(key.read_bytes(), None)
    encryption = form.BestAvailableEncryption(password.encode())
    locked = key.with_suffix(".locked")
    locked.write_bytes(loaded.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, encryption))
    return locked


# --- refused ----------------------------------------------------------------------------------------------------------


async def test_an_unknown_authority_is_refused_and_named(url: str) -> None:
    with pytest.raises(rabbitry.ConnectFailed, match=r"certificate of 127\.0\.0\.1:\d+ was not accepted.*cacertfile"):
        await use(url.partition("?")[0])
    await use(url.partition("?")[0] + "?verify=verify_none")


@pytest.mark.parametrize("name", ["other.example", "10.9.8.7"])
async def test_of_another_name_not_the_authority_is_blamed(name: str, url: str) -> None:
    told = rf"for {name}: .*mismatch.*; connect by a name that it has.*server_name_indication="
    with pytest.raises(rabbitry.ConnectFailed, match=told) as raised:
        await use(f"{url}&server_name_indication={name}")
    assert "cacertfile" not in str(raised.value)


async def test_unverified_is_warned_of_once(url: str, caplog: pytest.LogCaptureFixture) -> None:
    settings._warn_unverified.cache_clear()
    unverified = f"{url}&verify=verify_none"
    for _ in range(2):
        await use(unverified)
    async with rabbitry.open_client(unverified) as client:
        await client.publish(b"", routing_key="nowhere")
    warnings = [record for record in caplog.records if "verify_none" in record.getMessage()]
    assert len(warnings) == 1 and warnings[0].levelname == "WARNING"
    assert "guest" not in warnings[0].getMessage()
    caplog.clear()
    await use(url)
    await use(unverified, ssl_context=ssl.create_default_context(cafile=url.partition("cacertfile=")[2]))
    assert "verify_none" not in caplog.text


async def test_the_dot_at_the_end_of_a_name_is_for_the_look_up_only(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    named: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.ca.issue_cert("rabbit.example").configure_cert(context)
    context.sni_callback = lambda _, name, __: named.append(name)

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.recv(8)
            wrapped.sendall(b"AMQP\x00\x00\x01\x00")

    with serving(serve) as port:
        for query in ("", "&server_name_indication=rabbit.example."):
            with pytest.raises(rabbitry.ConnectFailed, match="it speaks AMQP"):  # beyond TLS
                await use(f"amqps://rabbit.example.:{port}/?cacertfile={authority.file}{query}")
    assert asked == ["rabbit.example."] * 2
    assert named == ["rabbit.example"] * 2


async def test_another_name_is_refused(url: str) -> None:
    with pytest.raises(rabbitry.ConnectFailed, match=r"for other\.example: Hostname mismatch.*other\.example"):
        await use(f"{url}&server_name_indication=other.example")
    await use(f"{url}&server_name_indication=disable")
    await use(f"{url}&server_name_indication=other.example&verify=verify_none")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("cacertfile=/nowhere.pem", "can't read /nowhere.pem: No such file"),
        ("cacertfile=/etc/hostname", "can't use cacertfile /etc/hostname"),
        ("certfile=/etc/hostname", "can't use certfile /etc/hostname"),
    ],
)
async def test_files_that_can_not_be_used(query: str, told: str, tls_port: int) -> None:
    with pytest.raises(rabbitry.ConnectFailed) as raised:
        await use(f"amqps://localhost:{tls_port}/?{query}")
    assert told in str(raised.value)


async def test_what_can_not_be_done_is_refused(tls_port: int) -> None:
    with pytest.raises(ValueError, match="depth"):
        await use(f"amqps://localhost:{tls_port}/?depth=2")
    with pytest.raises(ValueError, match="keyfile without certfile"):
        await use(f"amqps://localhost:{tls_port}/?keyfile=/x")
    with pytest.raises(ValueError, match="ssl_context is for amqps"):
        await use("amqp://localhost/", ssl_context=ssl.create_default_context())


async def test_in_the_clear_to_a_tls_port(url: str, tls_port: int) -> None:
    with pytest.raises(rabbitry.ConnectFailed, match=r"TLS server: use amqps://|is this an AMQP port"):
        await use(f"amqp://localhost:{tls_port}/")


async def test_tls_to_a_port_in_the_clear(node: PrivateNode) -> None:
    with pytest.raises(rabbitry.ConnectFailed, match="answers in the clear: use amqp://"):
        await use(f"amqps://localhost:{node.port}/")


async def test_a_certificate_that_was_renewed_is_read_again(
    tls_port: int, tmp_path: Path, authority: Authority
) -> None:
    file = tmp_path / "authority.pem"
    trustme.CA().cert_pem.write_to_path(file)
    url = f"amqps://guest:guest@localhost:{tls_port}/?cacertfile={file}"
    with pytest.raises(rabbitry.ConnectFailed, match="not accepted"):
        await use(url)
    await anyio.sleep(0.01)
    authority.ca.cert_pem.write_to_path(file)
    await use(url)


# --- servers of our own -----------------------------------------------------------------------------------------------


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that does this with each connection, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []
        connections: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connections.append(connection)
                    threads.append(threading.Thread(target=run, args=(connection,)))
                    threads[-1].start()

        def run(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                serve(connection)

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for connection in connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def tls_server(
    certificate: trustme.LeafCert, ca: trustme.CA, *, mutual: bool = False
) -> Callable[[socket.socket], None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    if mutual:
        ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            while wrapped.recv(1000):
                pass

    return serve


async def test_an_expired_certificate_is_refused(authority: Authority) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    expired = authority.ca.issue_cert("localhost", not_after=past)
    with serving(tls_server(expired, authority.ca)) as port:
        with pytest.raises(rabbitry.ConnectFailed, match="certificate has expired; it has to be renewed") as raised:
            await use(f"amqps://localhost:{port}/?cacertfile={authority.file}")
        assert "cacertfile" not in str(raised.value)


async def test_a_server_that_wants_our_certificate(authority: Authority) -> None:
    with serving(tls_server(authority.ca.issue_cert("localhost"), authority.ca, mutual=True)) as port:
        with pytest.raises(rabbitry.ConnectFailed, match="certificate required"):
            await use(f"amqps://localhost:{port}/?cacertfile={authority.file}")


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x16\x03\x03\xff\xff" + bytes(70_000)])
async def test_servers_that_speak_no_tls(says: bytes, authority: Authority) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(says)

    with serving(serve) as port:
        with pytest.raises(rabbitry.ConnectFailed, match="TLS"):
            await use(f"amqps://localhost:{port}/?cacertfile={authority.file}")


async def test_a_handshake_that_never_ends_is_bounded_and_can_be_cancelled(authority: Authority) -> None:
    def serve(connection: socket.socket) -> None:
        while connection.recv(1000):
            pass

    with serving(serve) as port:
        url = f"amqps://localhost:{port}/?cacertfile={authority.file}"
        with pytest.raises(rabbitry.ConnectFailed, match=r"within 0\.2 s"):
            await use(f"{url}&connection_timeout=200")
        with anyio.move_on_after(0.2) as scope:
            await use(url)
        assert scope.cancelled_caught


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_load_test_over_tls(url: str, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--clients", "20", "--duration", "1", "--warmup", "0.2", "--backend", backend, "--json", "-", "--quiet"]
    assert program.main([*words, "--url", url]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["publish"]["confirmed"] == result["consume"]["unique"] > 50
    assert result["resources"]["broker_cpu_seconds"] > 0
