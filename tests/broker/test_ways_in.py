"""The ways in beside memory and a plain port: TLS, certificates that log in, Unix sockets; on both backends."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from anyio.lowlevel import checkpoint
from cryptography.x509 import load_pem_x509_certificate

import rabbitry
from rabbitry.broker import Broker, listening
from rabbitry.broker.certificates import name_in_certificate
from tests.broker.test_broker import sessions
from tests.support.helpers import check_channel, until

CA = trustme.CA()


def server_context(verify: ssl.VerifyMode = ssl.CERT_NONE) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("127.0.0.1").configure_cert(context)
    CA.configure_trust(context)
    context.verify_mode = verify
    return context


def certificate(name: str) -> trustme.LeafCert:
    return CA.issue_cert("client.example", common_name=name, organization_name="Tests, Inc.")


def client_context(own: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    if own is not None:
        own.configure_cert(context)
    return context


async def test_tls() -> None:
    async with Broker() as broker:
        await broker.listen(tls=server_context())
        assert broker.url.startswith("amqps://guest:guest@127.0.0.1:")
        async with rabbitry.connect(broker.url, ssl_context=client_context()) as connection:
            async with connection.channel() as channel:
                await check_channel(channel)
        await until(lambda: not sessions(broker))


async def test_who_speaks_no_tls_keeps_nobody_waiting() -> None:
    async with Broker() as broker:
        await broker.listen(tls=server_context())
        port = int(broker.url.rpartition(":")[2])
        async with (
            await anyio.connect_tcp("127.0.0.1", port),
            await anyio.connect_tcp("127.0.0.1", port) as plain,
        ):
            await plain.send(b"AMQP\0\0\x09\x01" * 10)
            with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                while True:
                    await plain.receive()
            async with rabbitry.connect(broker.url, ssl_context=client_context()) as connection:
                async with connection.channel() as channel:
                    await check_channel(channel)


async def test_a_certificate_logs_in() -> None:
    async with Broker() as broker:
        own = certificate("device 7")
        name = load_pem_x509_certificate(own.cert_chain_pems[0].bytes()).subject.rfc4514_string()
        assert name.startswith("CN=device 7,OU=") and name.endswith(",O=Tests\\, Inc.")
        broker.add_user(name, "secret")
        broker.set_permissions(name)
        await broker.listen(tls=server_context(ssl.CERT_OPTIONAL))
        url = broker.url.replace("guest:guest@", "") + "?auth_mechanism=EXTERNAL"
        async with rabbitry.connect(url, ssl_context=client_context(own)) as connection:
            async with connection.channel() as channel:
                await check_channel(channel)
            assert broker.connections[0].user == name
        for context in (client_context(certificate("device 8")), client_context()):
            with pytest.raises(rabbitry.AuthenticationFailed):
                async with rabbitry.connect(url, ssl_context=context):
                    pass


async def test_there_is_no_external_without_tls() -> None:
    async with Broker() as broker:
        broker.add_user("", "")
        with pytest.raises(rabbitry.ConnectFailed):
            async with broker.connect("amqp://x?auth_mechanism=EXTERNAL"):
                pass


@pytest.mark.parametrize("mechanism", ["PLAIN", "AMQPLAIN"])
async def test_passwords(mechanism: str) -> None:
    async with Broker() as broker:
        async with broker.connect(f"amqp://guest:guest@x?auth_mechanism={mechanism}") as connection:
            async with connection.channel() as channel:
                await check_channel(channel)
        with pytest.raises(rabbitry.AuthenticationFailed):
            async with broker.connect(f"amqp://guest:wrong@x?auth_mechanism={mechanism}"):
                pass


@pytest.mark.parametrize("unix_path", [str, Path, os.path.relpath])
async def test_a_unix_socket(tmp_path: Path, unix_path: Callable[[Path], str | Path]) -> None:
    path = tmp_path / "broker.sock"
    async with Broker() as broker:
        await broker.listen(unix_path=unix_path(path))
        assert broker.url == f"amqp+unix://{path}"
        async with rabbitry.connect(broker.url) as connection, connection.channel() as channel:
            await check_channel(channel)
        assert path.exists()
    assert not path.exists()


async def test_a_place_that_can_not_be_had(tmp_path: Path) -> None:
    async with Broker() as one, Broker() as two:
        await one.listen()
        with pytest.raises(OSError):
            await two.listen(port=int(one.url.rpartition(":")[2]))
        with pytest.raises(OSError):
            await two.listen(unix_path=str(tmp_path / "missing" / "socket"))
        await two.listen()


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ({"host": None}, TypeError),
        ({"port": "5672"}, TypeError),
        ({"port": 70000}, ValueError),
        ({"tls": True}, TypeError),
        ({"tls": ssl.create_default_context()}, ValueError),
        ({"unix_path": b"socket"}, TypeError),
    ],
)
async def test_what_is_no_place_is_told_at_once(place: dict[str, Any], error: type[Exception]) -> None:
    async with Broker() as broker:
        with pytest.raises(error, match=next(iter(place))):
            await broker.listen(**place)
        await broker.listen()


@pytest.mark.parametrize("steps", range(1, 12))
async def test_listening_is_cancelled(steps: int) -> None:
    """Whenever that is: it ends, and either listens or can be asked again."""
    with anyio.fail_after(10):
        async with Broker() as broker:
            async with anyio.create_task_group() as tg:
                tg.start_soon(broker.listen)
                for _ in range(steps):
                    await checkpoint()
                tg.cancel_scope.cancel()
            if not broker._is_listening:
                await broker.listen()
            async with rabbitry.connect(broker.url):
                pass


async def test_listening_is_cancelled_once_the_port_is_had() -> None:
    with anyio.fail_after(10):
        async with Broker() as broker, anyio.create_task_group() as tg:
            had = listening.listen

            async def listen(*args: Any, **options: Any) -> listening.Listening:
                place = await had(*args, **options)
                tg.cancel_scope.cancel()
                return place

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("rabbitry.broker.broker.listen", listen)
                await broker.listen()
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", int(broker.url.rpartition(":")[2])))


async def test_listening_twice_at_once() -> None:
    async with Broker() as broker:
        refused = []

        async def listen() -> None:
            try:
                await broker.listen()
            except rabbitry.LocalProtocolError as error:
                refused.append(error)

        async with anyio.create_task_group() as tg:
            tg.start_soon(listen)
            tg.start_soon(listen)
        assert len(refused) == 1 and "already" in str(refused[0])


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        (((("commonName", "guest"),),), "CN=guest"),
        (((("organizationName", "A, B"),), (("commonName", "x"),)), "CN=x,O=A\\, B"),
        (((("commonName", "#1 "),),), "CN=\\#1\\ "),
        (((("commonName", "a"), ("userId", "7")),), "CN=a+UID=7"),
        ((), None),
    ],
)
def test_names_in_certificates(subject: object, name: str | None) -> None:
    assert name_in_certificate({"subject": subject}) == name
    assert name_in_certificate(None) is None and name_in_certificate({}) is None
