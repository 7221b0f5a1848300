"""Credentials never show: in no log, repr, error, traceback or statistic, at no stage of a life, however it ends.

Every test uses a password and a token found nowhere else, collects whatever a program or its operator could come to
see, and looks through it for both, whole or in part, plain or in the forms in which they travel.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import logging
import pickle
import ssl
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus

import anyio
import pytest
import trustme
from anyio.abc import ByteStream
from anyio.streams.memory import MemoryObjectReceiveStream

import rabbitry
import rabbitry.blocking
from rabbitry import Backoff, Credentials
from rabbitry._transport import SocketTransport
from rabbitry.protocol.wire import methods
from rabbitry.testing import PrivateNode
from tests.support.helpers import until
from tests.support.hostile import Replay, Script, answers, serving
from tests.support.protocol_broker import method_frame, raw_frame

TESTS = str(Path(__file__).parents[1])
USER = "keeper"
PASSWORD = "Zw9kQ/h\u00fcrde&%xVb4T"
TOKEN = "eyJhbGciOi.Jr5tN/\u00f1 Wc8pL"
WRONG = "Gm2sX@wr\u00f6ng:Hd6vK"
KEY_PASSWORD = "Pf3yR#kl\u00e4sse?Bn7jD"
SECRETS = [PASSWORD, TOKEN, WRONG, KEY_PASSWORD]
TELLING = ["Zw9kQ", "xVb4T", "eyJhb", "Jr5tN", "Wc8pL", "Gm2sX", "Hd6vK", "Pf3yR", "Bn7jD"]
"""Parts of them that look the same plain, percent-encoded and in the repr of bytes; each shows even a cut-off one."""

QUICK = Backoff(initial=0.001, maximum=0.005, attempts=3)


def forms(secret: str) -> Iterator[str]:
    """Everything a secret may look like."""
    octets = secret.encode()
    yield from (
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        octets.hex(),
        json.dumps(secret)[1:-1],
    )
    yield from (octets.hex(), json.dumps(secret)[1:-1])
    yield from (repr(secret)[1:-1], repr(octets)[2:-1], ascii(secret)[1:-1], octets.decode("latin-1"))
    for lead in range(3):  # base64 of it amid something else looks different by where it begins
        for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
            start = 0 if lead == 0 else 4
            whole = (len(octets) - (3 - lead) % 3) // 3 * 4 if lead else len(octets) // 3 * 4
            yield encode(bytes(lead) + octets).decode()[start : start + whole]


NEEDLES = sorted({*TELLING, *(form for secret in SECRETS for form in forms(secret))})


def shown(value: object) -> Iterator[str]:
    """What an error reporter shows of a variable."""
    yield repr(value)
    if isinstance(value, Mapping):
        yield from (text for each in value.values() for text in shown(each))
    elif isinstance(value, (tuple, list, set)):
        yield from (text for each in value for text in shown(each))


class Evidence:
    """Everything there was to see, each with where it was seen."""

    def __init__(self, log: pytest.LogCaptureFixture | None = None) -> None:
        self.seen: list[tuple[str, str]] = []
        self.log = log

    def note(self, where: str, *things: object) -> None:
        """Look at things as a print, a debugger's list of attributes or a serializer would."""
        for thing in things:
            if isinstance(thing, BaseException):
                self.note_error(where, thing)
                continue
            self.seen += (f"{where}: repr", repr(thing)), (f"{where}: str", str(thing))
            if not type(thing).__module__.startswith("rabbitry"):
                continue
            for name in dir(thing):
                if name.startswith("_") or (isinstance(thing, Credentials) and name == "password"):
                    continue
                try:
                    value = getattr(thing, name)
                except Exception as error:
                    self.note_error(f"{where}: {name}", error)
                else:
                    if not callable(value):
                        self.seen.append((f"{where}: {name}", repr(value)))

    def note_error(self, where: str, error: BaseException) -> None:
        """An error with all that led to it, also what `from None` hides from a traceback."""
        self.seen.append((f"{where}: traceback", "".join(traceback.TracebackException.from_exception(error).format())))
        following, known = [error], set[int]()
        while following:
            each = following.pop()
            if id(each) in known:
                continue
            known.add(id(each))
            place = f"{where}: {type(each).__name__}"
            self.seen += [(place, str(each)), (place, repr(each)), (place, repr(each.args)), (place, repr(vars(each)))]
            for name in ("object", "filename", "filename2", "doc", "message", "text", "strerror", "verify_message"):
                self.seen.append((f"{place}.{name}", repr(getattr(each, name, None))))
            following += [one for one in (each.__cause__, each.__context__) if one is not None]
            self._note_locals(place, each.__traceback__)
            if isinstance(each, BaseExceptionGroup):
                following += each.exceptions

    def _note_locals(self, where: str, frames: TracebackType | None) -> None:
        """The variables of each frame but the tests' own, as error reporters show them: containers are opened."""
        for frame, _ in traceback.walk_tb(frames):
            code = frame.f_code
            if not code.co_filename.startswith(TESTS):
                for name, value in frame.f_locals.items():
                    place = f"{where}: {name} in {code.co_qualname}"
                    self.seen += [(place, text) for text in shown(value)]

    def check(self) -> None:
        """Nothing of what was seen holds a secret."""
        for where, text in self.seen:
            for needle in NEEDLES:
                assert needle not in text, f"{where} shows {needle!r}: {text!a}"


@pytest.fixture
def evidence(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> Iterator[Evidence]:
    """Checked at the end, with all that was logged, printed into the log's arguments, or warned of."""
    caplog.set_level(logging.DEBUG)
    evidence = Evidence(caplog)
    yield evidence
    for record in (*caplog.get_records("setup"), *caplog.get_records("call")):  # (`records` are the teardown's here)
        where = f"log of {record.name}"
        evidence.note(where, record.getMessage(), caplog.handler.format(record), repr(record.args))
        if record.exc_info is not None and record.exc_info[1] is not None:
            evidence.note_error(where, record.exc_info[1])
    for warning in recwarn:
        evidence.note("warning", str(warning.message))
    assert evidence.seen
    evidence.check()


@contextmanager
def failing(evidence: Evidence, *kinds: type[BaseException]) -> Iterator[None]:
    """The body raises one of these, which is noted."""
    with pytest.raises(kinds or rabbitry.RabbitryError) as raised:
        yield
    evidence.note("raised", raised.value)


def url_of(netloc: str, password: str = PASSWORD, scheme: str = "amqp", rest: str = "/") -> str:
    return f"{scheme}://{USER}:{quote(password, safe='')}@{netloc}{rest}"


@pytest.fixture(scope="module")
def netloc(node: PrivateNode) -> Iterator[str]:
    """Host and port of the broker, which knows the user."""
    node.rabbitmqctl("add_user", USER, PASSWORD)
    node.rabbitmqctl("set_permissions", USER, ".*", ".*", ".*")
    yield f"127.0.0.1:{node.port}"
    node.rabbitmqctl("delete_user", USER)


def test_whoever_looks_finds() -> None:
    """Each form of each secret, amid anything, would be found."""
    for secret in SECRETS:
        response = b"\0" + USER.encode() + b"\0" + secret.encode()
        told = [f"<{form}>" for form in forms(secret)]
        told += [repr(response), base64.b64encode(response).decode(), response.hex(), f"…{secret[-6:]}", secret[:5]]
        for text in told:
            evidence = Evidence()
            evidence.note("here", text)
            with pytest.raises(AssertionError, match="shows"):
                evidence.check()
            try:
                raise KeyError from ValueError(text)
            except KeyError as error:
                evidence = Evidence()
                evidence.note("here", error)
            with pytest.raises(AssertionError, match="shows"):
                evidence.check()


# --- all is well ---------------------------------------------------------------------------------------------------


async def test_a_life(netloc: str, evidence: Evidence) -> None:
    """Every object of the raw layer, before, in and after its block."""
    async with rabbitry.open_reactor() as reactor:
        connection = reactor.connect(url_of(netloc), name="keeper's")
        evidence.note("not entered", reactor, connection)
        async with connection:
            await connection.update_secret(TOKEN)
            channel = connection.channel()
            evidence.note("channel not entered", channel)
            async with channel:
                info = await channel.declare_queue(exclusive=True)
                await channel.publish(b"1", routing_key=info.name)
                async with (
                    channel.publisher(window=10) as publisher,
                    channel.consume(info.name) as deliveries,
                    connection.rpc() as rpc,
                ):
                    confirmation = await publisher.submit(b"2", routing_key=info.name)
                    delivery = await anext(deliveries)
                    evidence.note("open", reactor, connection, channel, info, publisher, confirmation, deliveries)
                    evidence.note("open", delivery, delivery.message, rpc, connection.server_properties)
                    delivery.ack()
            evidence.note("channel left", channel, publisher, deliveries, delivery, rpc)
            with failing(evidence):
                await channel.publish(b"")
        evidence.note("left", connection, reactor)
        with failing(evidence):
            await connection.__aenter__()
    evidence.note("closed", reactor, connection)


async def test_a_client(netloc: str, evidence: Evidence) -> None:
    """And the same across a loss, with credentials that are asked for and renewed."""
    asked = 0

    async def credentials() -> Credentials:
        nonlocal asked
        asked += 1
        found = Credentials(USER, PASSWORD, expires_in=0.05)
        evidence.note("credentials", found)
        return found

    with anyio.fail_after(30):
        url = url_of(netloc, TOKEN)
        async with rabbitry.open_client(url, credentials=credentials, reconnect=QUICK, name="keeper's") as client:
            evidence.note("idle", client, client.statistics())
            with client.changes() as changes:
                await client.publish(b"", routing_key="nowhere")
                links = client._publishing, client._consuming
                evidence.note("open", client, client.statistics(), client.last_error, *links)
                while asked < 3:
                    await anyio.sleep(0.005)
                connection = await client._publishing.connection("fail")
                connection._endpoint.drop()
                while client.statistics()["publishing_lives"] < 2:
                    await client.publish(b"", routing_key="nowhere")
                evidence.note("second life", client, client.statistics(), client.last_error)
                note_changes(evidence, changes)
    evidence.note("closed", client, client.statistics(), client.last_error)
    with failing(evidence):
        await client.publish(b"")


def note_changes(evidence: Evidence, changes: MemoryObjectReceiveStream[rabbitry.Change]) -> None:
    """Those that there were so far."""
    count = changes.statistics().current_buffer_used
    assert count
    for _ in range(count):
        evidence.note("change", changes.receive_nowait())


# --- no connection -------------------------------------------------------------------------------------------------


async def connect(url: str, **options: Any) -> None:
    """All that can go wrong goes wrong in here."""
    async with rabbitry.connect(url, **options) as connection:
        await connection.wait_closed()


async def through_client(url: str, **options: Any) -> None:
    """The same with the client that reconnects."""
    async with rabbitry.open_client(url, reconnect=QUICK, **options) as client:
        await client.publish(b"", routing_key="q")


@pytest.fixture(params=[connect, through_client], ids=["connection", "client"])
def attempt(request: pytest.FixtureRequest) -> Callable[..., Awaitable[None]]:
    way: Callable[..., Awaitable[None]] = request.param
    return way


async def test_nobody_listens(attempt: Callable[..., Awaitable[None]], evidence: Evidence, tmp_path: Path) -> None:
    with serving(lambda connection: None) as server:
        port = server.port
    with failing(evidence, rabbitry.ConnectFailed):
        await attempt(url_of(f"127.0.0.1:{port}"))
    with failing(evidence, rabbitry.ConnectFailed):
        await attempt(url_of("nowhere.invalid"))
    with failing(evidence, rabbitry.ConnectFailed):
        await attempt(url_of("", scheme="amqp+unix", rest=f"{tmp_path}/no.socket"))


async def test_refused(netloc: str, attempt: Callable[..., Awaitable[None]], evidence: Evidence) -> None:
    with failing(evidence, rabbitry.AuthenticationFailed):
        await attempt(url_of(netloc, WRONG))
    with failing(evidence, rabbitry.AuthenticationFailed):
        await attempt(url_of(netloc, WRONG, rest="/?auth_mechanism=amqplain"))
    with failing(evidence, rabbitry.AuthenticationFailed):
        await attempt(url_of(netloc, rest="/no-such-host"))
    with failing(evidence, rabbitry.AuthenticationFailed):
        await attempt(url_of(netloc, rest="/?auth_mechanism=external"))


async def test_time_outs(attempt: Callable[..., Awaitable[None]], evidence: Evidence) -> None:
    with serving(Replay(answers()[:1]).serve) as server:
        with failing(evidence, rabbitry.ConnectFailed):
            await attempt(url_of(f"127.0.0.1:{server.port}"), connect_timeout=0.02)
        with failing(evidence, TimeoutError), anyio.fail_after(0.05):
            await attempt(url_of(f"127.0.0.1:{server.port}"))


def mirror(connection: Any) -> None:
    """Begins as a broker and then gives back whatever it gets, credentials and all."""
    connection.recv(8)
    connection.sendall(answers()[0][1])
    while data := connection.recv(65536):
        connection.sendall(data)


AMQPLAIN = method_frame(0, methods.ConnectionStart(mechanisms=b"AMQPLAIN", locales=b"en_US"))
HOSTILE: dict[str, Script] = {
    "zeros": [(1, bytes(100))],
    "HTTP": [(1, b"HTTP/1.1 400 Bad Request\r\n\r\n")],
    "no mechanism": [(1, method_frame(0, methods.ConnectionStart(mechanisms=b"GSSAPI")))],
    "hangs up on the credentials": [*answers()[:1], (2, b"")],
    "hangs up on AMQPLAIN": [(1, AMQPLAIN), (2, b"")],
    "asks on": [*answers()[:1], (2, method_frame(0, methods.ConnectionSecure(challenge=b"?")))],
    "refuses": [*answers()[:1], (2, method_frame(0, methods.ConnectionClose(reply_code=403, reply_text="REFUSED")))],
    "refuses the host": [*answers()[:2], (3, method_frame(0, methods.ConnectionClose(reply_code=530)))],
    "a wrong frame": [*answers()[:1], (2, raw_frame(9, 0, b""))],
    "a wrong method": [*answers()[:1], (2, method_frame(0, methods.ConnectionOpenOk()))],
}
ONCE_OPEN: dict[str, Script] = {
    "a wrong frame": [*answers(), (3, raw_frame(9, 0, b""))],
    "closes": [*answers(), (3, method_frame(0, methods.ConnectionClose(reply_code=320, reply_text="BYE")))],
}


@pytest.mark.parametrize("name", [*HOSTILE, "a mirror"])
async def test_hostile_servers(name: str, attempt: Callable[..., Awaitable[None]], evidence: Evidence) -> None:
    serve = mirror if name == "a mirror" else Replay(HOSTILE[name], hang_up=True).serve
    with serving(serve) as server, failing(evidence), anyio.fail_after(30):
        await attempt(url_of(f"127.0.0.1:{server.port}"))


@pytest.mark.parametrize("name", ONCE_OPEN)
async def test_servers_that_are_hostile_once_open(name: str, evidence: Evidence) -> None:
    """A client begins another life then, again and again."""
    with serving(Replay(ONCE_OPEN[name], hang_up=True).serve) as server, anyio.fail_after(30):
        url = url_of(f"127.0.0.1:{server.port}")
        with failing(evidence, rabbitry.ConnectionClosed):
            await connect(url)
        patience = dataclasses.replace(QUICK, attempts=None)
        async with rabbitry.open_client(url, reconnect=patience) as client:
            with client.changes() as changes:
                async with anyio.create_task_group() as tg:
                    tg.start_soon(lambda: client.publish(b"", routing_key="q"))
                    await until(lambda: changes.statistics().current_buffer_used >= 6)  # two lives
                    tg.cancel_scope.cancel()
                evidence.note("after it", client, client.last_error, client.statistics())
                note_changes(evidence, changes)
        with failing(evidence, rabbitry.ConnectFailed):
            async with rabbitry.open_client(url, reconnect=QUICK) as client:
                await client.publish(b"", routing_key="q")


# --- TLS -----------------------------------------------------------------------------------------------------------


async def test_tls(netloc: str, attempt: Callable[..., Awaitable[None]], evidence: Evidence, tmp_path: Path) -> None:
    """Not spoken, not trusted, not for this name; and a key whose password is wrong."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    locked = tmp_path / "key.pem"
    locked.write_bytes(encrypted(certificate.private_key_pem.bytes()))

    def serve(connection: Any) -> None:
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as wrapped:
            Replay(answers()[:1], hang_up=True).serve(wrapped)

    with serving(serve) as server:
        at = f"localhost:{server.port}"
        for where, rest in [
            (netloc, "/"),
            (at, "/"),
            (at, f"/?cacertfile={tmp_path}/ca.pem&server_name_indication=other.example"),
            (at, f"/?cacertfile={tmp_path}/ca.pem"),
            (at, f"/?cacertfile={tmp_path}/missing.pem"),
            (at, f"/?certfile={tmp_path}/cert.pem&keyfile={locked}&password={quote(WRONG, safe='')}"),
            (at, f"/?certfile={tmp_path}/cert.pem&keyfile={tmp_path}/ca.pem&password={quote(KEY_PASSWORD, safe='')}"),
        ]:
            with failing(evidence, rabbitry.ConnectFailed):
                await attempt(url_of(where, scheme="amqps", rest=rest))
        with_key = f"/?certfile={tmp_path}/cert.pem&keyfile={locked}&password={quote(KEY_PASSWORD, safe='')}"
        connection = rabbitry.connect(url_of(at, scheme="amqps", rest=f"{with_key}&cacertfile={tmp_path}/ca.pem"))
        with failing(evidence, rabbitry.ConnectFailed):
            await connection.__aenter__()
        evidence.note("with a key", connection)


def encrypted(key: bytes) -> bytes:
    """The same key behind a password."""
    from cryptography.hazmat.primitives import serialization as form

    loaded = form.load_pem_private_key(key, None)
    encryption = form.BestAvailableEncryption(KEY_PASSWORD.encode())
    return loaded.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, encryption)


# --- URIs and arguments --------------------------------------------------------------------------------------------

Q = {secret: quote(secret, safe="") for secret in SECRETS}
BAD_URIS = [
    f"http://{USER}:{Q[PASSWORD]}@host/",
    f"{USER}:{Q[PASSWORD]}@host",
    f"amqp://{USER}:{Q[PASSWORD]}@host:port/",
    f"amqp://{USER}:{Q[PASSWORD]}@host:99999/",
    f"amqp://{USER}:{Q[PASSWORD]}@[::1/",
    f"amqp://{USER}:{Q[PASSWORD]}@[nonsense]/",
    f"amqp://{USER}:{Q[PASSWORD]}@host:1:2/",
    f"amqp://{USER}:{Q[PASSWORD]}@host/a/b",
    f"amqp://{USER}:{Q[PASSWORD]}@host/?heartbeat=soon",
    f"amqp://{USER}:{Q[PASSWORD]}@host/?no_such=1",
    f"amqp://{USER}:{Q[PASSWORD]}@host/?cacertfile=x",
    f"amqp://{USER}:{Q[PASSWORD]}@host/ ",
    f"amqp://{USER}:{Q[PASSWORD]}%00@host/",
    f"amqp://{USER}:{Q[PASSWORD]}@host/#fragment",
    f"amqp://{USER}:{WRONG}/{WRONG}@host/",
    f"amqp://{USER}:{WRONG}?{WRONG}@host/",
    f"amqp://{USER}:{WRONG}#{WRONG}@host/",
    f"amqp://{USER}:{PASSWORD}@host/",
    f"amqp://{USER}:{Q[PASSWORD]}%zz@host/",
    f"amqp+unix://{USER}:{Q[PASSWORD]}@host/socket",
    f"amqp+unix://{USER}:{Q[PASSWORD]}@",
    f"amqps://host/?password={Q[KEY_PASSWORD]}&password={Q[KEY_PASSWORD]}",
    f"amqps://host/?password={KEY_PASSWORD}",
    f"amqps://host/?password={Q[KEY_PASSWORD]}%",
    f"amqp://host/?password={Q[KEY_PASSWORD]}",
]


@pytest.mark.parametrize("uri", BAD_URIS, ids=range(len(BAD_URIS)))
async def test_bad_uris(uri: str, evidence: Evidence) -> None:
    with failing(evidence, ValueError):
        rabbitry.connect(uri)
    with failing(evidence, ValueError):
        async with rabbitry.open_client(["amqp://host", uri]):
            pass
    async with rabbitry.open_reactor() as reactor:
        with failing(evidence, ValueError):
            reactor.connect(uri)


@pytest.mark.parametrize(
    "uri",
    [f"amqp://{USER}:{Q[PASSWORD]}%ff@host/", f"amqp://{USER}:{Q[PASSWORD]}\udcff@host/"],
    ids=["percent-encoded", "surrogate"],
)
async def test_a_uri_that_is_no_utf_8(uri: str) -> None:
    evidence = Evidence()
    with failing(evidence, ValueError):
        rabbitry.connect(uri)
    evidence.check()


async def test_a_key_password_with_an_ampersand() -> None:
    evidence = Evidence()
    with failing(evidence, ValueError):
        rabbitry.connect(f"amqps://host/?password=half&other{'half'}=rest")
    assert not any("otherhalf" in text for _, text in evidence.seen)


async def test_bad_arguments(netloc: str, evidence: Evidence) -> None:
    """Each refused together with a URL that is right."""
    arguments: list[dict[str, Any]] = [
        {"heartbeat": -1},
        {"heartbeat": timedelta(days=99)},
        {"connect_timeout": 0},
        {"frame_max": 1},
        {"channel_max": 99999},
        {"max_message_size": 0},
        {"client_properties": {"x": object()}},
        {"ssl_context": ssl.create_default_context()},
    ]
    for options in arguments:
        with failing(evidence, TypeError, ValueError):
            await connect(url_of(netloc), **options)
    with failing(evidence, ValueError):
        await connect(url_of(netloc, rest="/?auth_mechanism=gssapi"))
    with failing(evidence, ValueError, rabbitry.ConnectFailed):
        await connect(url_of(netloc, rest=f"/{'v' * 255}"))
    with failing(evidence, TypeError):
        await rabbitry.connect(url_of(netloc))
    with failing(evidence, ValueError, TypeError):
        rabbitry.connect(url_of(netloc).encode())  # type: ignore[arg-type]

    async def no_stream(host: str, port: int) -> Any:
        return None

    with failing(evidence, TypeError):
        await connect(url_of(netloc), dial=no_stream)


# --- tokens --------------------------------------------------------------------------------------------------------

UPDATES: dict[str, bytes] = {
    "refused": method_frame(0, methods.ConnectionClose(reply_code=530, reply_text="NOT_ALLOWED", failing_class_id=10)),
    "another answer": method_frame(0, methods.ConnectionOpenOk()),
    "given back": method_frame(0, methods.ConnectionUpdateSecret(new_secret=TOKEN.encode(), reason=TOKEN)),
    "a wrong frame": raw_frame(9, 0, TOKEN.encode()),
    "hangs up": b"",
}


@pytest.mark.parametrize("name", UPDATES)
async def test_a_token_that_can_not_be_renewed(name: str, evidence: Evidence) -> None:
    script = answers(UPDATES[name])
    with serving(Replay(script, hang_up=True).serve) as server, anyio.fail_after(30):
        async with rabbitry.connect(url_of(f"127.0.0.1:{server.port}")) as connection:
            with failing(evidence):
                await connection.update_secret(TOKEN)
            evidence.note("after it", connection)
            with failing(evidence):
                await connection.update_secret(TOKEN.encode(), reason="again")
    with failing(evidence):
        await connection.update_secret(TOKEN)


async def test_a_token_that_can_not_be_sent(netloc: str, evidence: Evidence) -> None:
    async with rabbitry.connect(url_of(netloc)) as connection:
        for secret, reason in [(TOKEN * 10_000, "r"), (TOKEN, "r" * 999), (TOKEN, "\udcff")]:
            with failing(evidence, ValueError):
                await connection.update_secret(secret, reason)
        with failing(evidence):
            await rabbitry.Connection(connection._settings, None).update_secret(TOKEN)


async def test_a_client_whose_token_can_not_be_renewed(evidence: Evidence) -> None:
    """Each life ends with the renewal; the client says so in its log, and goes on."""

    async def credentials() -> Credentials:
        return Credentials(USER, TOKEN, expires_in=0.01)

    script = answers(UPDATES["refused"])
    with serving(Replay(script, hang_up=True).serve) as server, anyio.fail_after(30):
        url = url_of(f"127.0.0.1:{server.port}")
        async with rabbitry.open_client(url, credentials=credentials, reconnect=QUICK) as client:
            await client._publishing.connection("wait")  # whose first request the renewal is
            while client.last_error is None:
                await anyio.sleep(0.005)
            evidence.note("after it", client, client.last_error, client.statistics())
    assert evidence.log is not None
    assert "could not be renewed" in evidence.log.text


async def test_credentials_that_are_no_text() -> None:
    evidence = Evidence()

    async def credentials() -> Credentials:
        return Credentials(USER, PASSWORD + "\udcff")

    with serving(Replay(answers()).serve) as server, pytest.raises(Exception) as raised:
        await through_client(server.url, credentials=credentials)
    evidence.note("raised", raised.value)
    evidence.check()
    assert isinstance(raised.value, ValueError)


async def test_a_token_that_is_no_text(netloc: str) -> None:
    evidence = Evidence()
    async with rabbitry.connect(url_of(netloc)) as connection:
        with failing(evidence, Exception):
            await connection.update_secret(TOKEN + "\udcff")
    evidence.check()


# --- the variables of frames -----------------------------------------------------------------------------------------


async def test_what_fails_inside_a_block(netloc: str, evidence: Evidence) -> None:
    """The frames around the block are part of the traceback, and live as long as it does."""
    with failing(evidence, ZeroDivisionError):
        async with rabbitry.open_client(url_of(netloc)):
            raise ZeroDivisionError
    with failing(evidence, ZeroDivisionError):
        async with rabbitry.open_client([url_of(netloc), url_of(netloc, TOKEN)]) as client:
            await client.publish(b"", routing_key="nowhere")
            raise ZeroDivisionError
    with failing(evidence, ZeroDivisionError):
        async with rabbitry.connect(url_of(netloc)):
            raise ZeroDivisionError


@pytest.mark.parametrize("returned", [ValueError(), (USER, PASSWORD, 1.0, "one too many"), PASSWORD], ids=range(3))
async def test_a_source_of_credentials_that_fails(returned: Any, evidence: Evidence) -> None:
    async def credentials() -> Any:
        if isinstance(returned, Exception):
            raise returned
        return returned

    with failing(evidence, rabbitry.ConnectFailed):
        await through_client("amqp://127.0.0.1:1", credentials=credentials)


class Severed(ByteStream):
    """A stream that fails as the credentials are to leave, in a frame that has them."""

    def __init__(self) -> None:
        self._received = answers()[0][1]
        self._sends = 0

    async def send(self, item: bytes) -> None:
        self._sends += 1
        if self._sends > 1:
            assert PASSWORD.encode() in item
            raise anyio.BrokenResourceError from OSError(32, "Broken pipe")

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self._received:
            await anyio.sleep_forever()
        received, self._received = self._received, b""
        return received

    async def send_eof(self) -> None: ...
    async def aclose(self) -> None: ...


async def test_a_stream_lost_as_the_credentials_are_sent(evidence: Evidence) -> None:
    async def dial(host: str, port: int) -> Severed:
        return Severed()

    with failing(evidence, rabbitry.ConnectFailed):
        await connect(url_of("127.0.0.1:1"), dial=dial)


async def test_a_socket_lost_as_the_credentials_are_sent(
    netloc: str, attempt: Callable[..., Awaitable[None]], evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = SocketTransport._send

    def severed(self: SocketTransport, data: bytes | memoryview) -> None:
        if PASSWORD.encode() in bytes(data):
            self._socket.close()
        send(self, data)

    monkeypatch.setattr(SocketTransport, "_send", severed)
    with failing(evidence, rabbitry.ConnectFailed):
        await attempt(url_of(netloc))


def test_threads(netloc: str, evidence: Evidence) -> None:
    refused = f"127.0.0.1:{free_port()}"
    with failing(evidence, ValueError):
        rabbitry.blocking.connect(url_of(netloc, rest="/?no_such=1"))
    for url, error in [
        (url_of(refused), rabbitry.ConnectFailed),
        (url_of(netloc, WRONG), rabbitry.AuthenticationFailed),
        (url_of(netloc, rest="/?no_such=1"), ValueError),
    ]:
        if error is not ValueError:
            with failing(evidence, error), rabbitry.blocking.connect(url):
                pass
        with failing(evidence, error), rabbitry.blocking.open_client(url, reconnect=QUICK) as client:
            client.publish(b"", routing_key="nowhere")
    with failing(evidence, ZeroDivisionError), rabbitry.blocking.open_client(url_of(netloc)) as client:
        raise ZeroDivisionError
    with rabbitry.blocking.connect(url_of(netloc)) as connection:
        with failing(evidence, rabbitry.LocalProtocolError):
            connection.update_secret(TOKEN * 10_000)


def free_port() -> int:
    with serving(lambda connection: None) as server:
        return server.port


def test_values_that_are_written_down(evidence: Evidence) -> None:
    """The values that hold secrets, as a debugger, a serializer or a copy would have them."""
    url = url_of("host", scheme="amqps", rest=f"/?password={quote(KEY_PASSWORD, safe='')}")
    connection = rabbitry.connect(url)
    settings = connection._settings
    for value in (settings, settings.address):
        evidence.note("value", value, dataclasses.asdict(value), copy.copy(value))
        with failing(evidence, TypeError):
            pickle.dumps(value)
    evidence.note("deep copy", copy.deepcopy(settings.address), f"{settings.address.password}")
    assert copy.deepcopy(settings.address) == settings.address
    assert settings.address.password.reveal() == PASSWORD
    credentials = Credentials(USER, PASSWORD)
    evidence.note("credentials", credentials)
