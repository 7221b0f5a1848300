"""What a hostile or broken server can do to a client: a clear error, in time, in bounded memory, with nothing left.

End to end, through the public API over real sockets. The protocol's own tests look at each fault's wording; these hold
that nothing between the socket and the caller turns one into a hang, a leak, a stalled event loop or a cryptic error.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import socket
import ssl
import struct
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from itertools import chain, count, cycle, repeat
from pathlib import Path
from random import Random
from threading import Event
from typing import Any, TypeVar

import anyio
import pytest
import trustme

import rabbitry
from rabbitry import _endpoint
from rabbitry._channel.consumer import MESSAGE_OVERHEAD, PUT_BACK_AFTER, SOFT_MARK
from rabbitry._endpoint import HIGH_WATER
from rabbitry.protocol.client import delivery_tags, settling
from rabbitry.protocol.client.content import PUBLISH_TAG_HEADER
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.methods import METHODS, Method
from rabbitry.protocol.wire.properties import Properties, encode_properties
from rabbitry.testing import PrivateNode
from tests.protocol.client.test_hostile import HOSTILE, nested_table
from tests.support.helpers import until
from tests.support.hostile import (
    PATIENCE,
    SILENCE,
    Flood,
    Replay,
    Requests,
    Script,
    Server,
    answers,
    check_error,
    leaving_nothing,
    recording,
    serving,
)
from tests.support.protocol_broker import (
    HEARTBEAT,
    ack,
    body_frame,
    deliver,
    header_frame,
    method_frame,
    nack,
    raw_frame,
    returned,
)

QUEUE = "hostile"
NO_ROUTE = methods.BasicReturn(reply_code=312, reply_text="NO_ROUTE", exchange="", routing_key="q")
T = TypeVar("T")
TOGETHER = 8
"""Sessions at once, since many wait for servers that say nothing more."""


async def session(url: str) -> list[Any]:
    """A bit of everything, in an order that never varies, and what came of it."""
    found: list[Any] = []
    async with rabbitry.connect(url, name="hostile", connect_timeout=8) as connection:
        async with connection.channel() as channel:
            async with connection.channel(confirm=False) as other:
                found += channel.number, other.number
                await other.declare_queue(QUEUE, durable=False, exclusive=True)
            await channel.publish(b"first", routing_key=QUEUE)
            try:
                await channel.publish(b"nowhere", routing_key="hostile-nowhere", mandatory=True)
            except rabbitry.Unroutable as error:
                found.append(error.reply)
            delivery = await channel.get(QUEUE, no_ack=True)
            if delivery is not None:
                found += delivery.body, delivery.message
            async with channel.consume(QUEUE, consumer_tag="c") as requests, connection.rpc() as rpc:
                answered, failures = anyio.Event(), list[rabbitry.RabbitryError]()
                async with anyio.create_task_group() as tg:
                    tg.start_soon(answer, channel, requests, answered, failures)
                    try:
                        found.append(await rpc.call(QUEUE, 21))
                        await answered.wait()  # its confirm and the reply come in any order
                        for failure in failures:
                            raise failure
                    except rabbitry.RabbitryError as error:
                        found.append(error)
                    tg.cancel_scope.cancel()
                if isinstance(found[-1], rabbitry.RabbitryError):
                    raise found[-1]
    return found


async def answer(
    channel: rabbitry.Channel,
    requests: rabbitry.Consumer,
    answered: anyio.Event,
    failures: list[rabbitry.RabbitryError],
) -> None:
    """Give each request back to its caller. What ends this is noted, as the caller may have its reply by then."""
    try:
        async for request in requests:
            properties = request.properties
            reply = rabbitry.Message(
                request.body, correlation_id=properties.correlation_id, content_type=properties.content_type
            )
            await channel.publish(reply, routing_key=properties.reply_to or "")
            request.ack()
            answered.set()
    except rabbitry.RabbitryError as error:
        failures.append(error)
    finally:
        answered.set()


COMPLETE = [1, 2, (312, "NO_ROUTE"), b"first", rabbitry.Message(b"first"), 21]


@pytest.fixture(scope="module", autouse=True)
def _one_correlation_id() -> Iterator[None]:
    """That of a session's only call, and the mark of its mandatory message, random otherwise: a replayed reply
    has to be for the call, and a replayed return for the message.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rabbitry._rpc.caller.urandom", bytes)
        patch.setattr("rabbitry.protocol.client.publish_tags.urandom", bytes)
        yield


@pytest.fixture(scope="module")
def recorded(node: PrivateNode) -> Script:
    """What the broker says in a session, a piece for each frame."""
    with recording(node.url) as recorder:
        assert anyio.run(session, recorder.url) == COMPLETE
    return recorder.frames


async def outcome(script: Script, **options: Any) -> list[Any] | rabbitry.RabbitryError:
    """How a session ends that has this for an answer: well, or in a proper error; and always in time."""
    with serving(Replay(script, **options).serve) as server, anyio.fail_after(20):
        try:
            return await session(server.url)
        except rabbitry.RabbitryError as error:
            check_error(error)
            return error


async def outcomes(scripts: Sequence[Script], **options: Any) -> list[list[Any] | rabbitry.RabbitryError]:
    """The same for several, in their order."""
    ends: dict[int, list[Any] | rabbitry.RabbitryError] = {}

    async def attempt(number: int) -> None:
        ends[number] = await outcome(scripts[number], **options)

    await all_of(attempt, range(len(scripts)))
    return [ends[number] for number in range(len(scripts))]


async def all_of(attempt: Callable[[T], Awaitable[None]], cases: Iterable[T]) -> None:
    """Attempt all of these, a few at once."""
    following = iter(cases)

    async def work() -> None:
        for case in following:
            await attempt(case)

    async with anyio.create_task_group() as tg:
        for _ in range(TOGETHER):
            tg.start_soon(work)


def with_fault(recorded: Script, position: int, *frames: bytes) -> Script:
    """The session with these octets ahead of the frame at `position`."""
    after, _ = recorded[position]
    return [*recorded[:position], (after, b"".join(frames)), *recorded[position:]]


def position_of(recorded: Script, *frames: bytes) -> int:
    """Where these frames begin in the recording."""
    pieces = [piece for _, piece in recorded]
    return next(index for index in range(len(pieces)) if pieces[index : index + len(frames)] == list(frames))


# --- a real conversation, spoilt -----------------------------------------------------------------------------------


async def test_a_replayed_session_completes(recorded: Script, caplog: pytest.LogCaptureFixture) -> None:
    """The control: nothing below fails for the replaying's sake."""
    with leaving_nothing(caplog):
        assert await outcome(recorded) == COMPLETE


@pytest.mark.parametrize("name", HOSTILE)
async def test_each_fault_is_named(name: str, recorded: Script, caplog: pytest.LogCaptureFixture) -> None:
    """On a connection where channel 1 consumes and confirms, 2 was closed, and 3 is being opened."""
    frames, code, words = HOSTILE[name]
    position = position_of(recorded, method_frame(3, methods.ChannelOpenOk()))
    with leaving_nothing(caplog):
        error = await outcome(with_fault(recorded, position, *frames))
    assert isinstance(error, rabbitry.ConnectionClosed)
    assert error.code == code
    assert words in str(error)
    assert isinstance(error.__cause__, rabbitry.RemoteProtocolError)


@pytest.mark.parametrize("part", range(3))
async def test_each_fault_at_each_stage(
    part: int, recorded: Script, caplog: pytest.LogCaptureFixture, anyio_backend: str
) -> None:
    """Ahead of each frame of the session: a tenth of all combinations, and another tenth on the other backend.

    What is closing is not looked at any more, be it a channel or everything.
    """
    first = part + (15 if anyio_backend == "trio" else 0)
    stages = [(position, name) for position in range(len(recorded)) for name in HOSTILE][first::31]
    opened = position_of(recorded, method_frame(0, methods.ConnectionOpenOk()))
    closing = position_of(recorded, method_frame(2, methods.ChannelCloseOk()))
    leaving = position_of(recorded, method_frame(3, methods.ChannelCloseOk()))
    with leaving_nothing(caplog):
        ends = await outcomes([with_fault(recorded, position, *HOSTILE[name][0]) for position, name in stages])
    for (position, name), end in zip(stages, ends, strict=True):
        if position >= leaving or (position == closing and "for a closed channel" in name):
            assert end == COMPLETE, (position, name, end)
            continue
        assert isinstance(end, rabbitry.RabbitryError), (position, name, end)
        assert isinstance(end, rabbitry.ConnectFailed) == (position <= opened), (position, name, end)
        if position:  # (what is no AMQP at all is not said to break its rules)
            assert isinstance(causes(end)[-1], rabbitry.RemoteProtocolError), (position, name, end)
            assert "broke the protocol" in str(end), (position, name, end)


def causes(error: BaseException) -> list[BaseException]:
    """The error and what led to it."""
    return [error, *(causes(error.__cause__) if error.__cause__ is not None else [])]


HARMLESS: dict[str, bytes] = {
    "heartbeats": HEARTBEAT * 1000,
    "an ack for an unknown tag": ack(1, 99),
    "an ack for the largest tag": ack(1, 2**64 - 1),
    "a nack for an unknown tag": nack(1, 99),
    "multiple acks of nothing": ack(1, 1, multiple=True) + ack(1, 2**64 - 1, multiple=True) + ack(1, 0, multiple=True),
    "acks again and again": ack(1, 1) * 1000,
    "an ack where nothing is confirmed": ack(2, 1) + ack(2, 0, multiple=True),
    "a cancel for an unknown consumer": method_frame(1, methods.BasicCancel(consumer_tag="d", nowait=True)),
    "a return of nothing that was published": returned(1, b"what") + returned(1, b""),
    "a return that is not the publish it names": returned(
        1, b"what", encode_properties(Properties(headers={PUBLISH_TAG_HEADER: 99}))
    ),
    "a return with properties too deep": returned(1, b"what", b"\x20\x00" + nested_table(1000)),
    "flow": method_frame(1, methods.ChannelFlow(active=False)),
    "blocked and unblocked": method_frame(0, methods.ConnectionBlocked(reason="r" * 255))
    + method_frame(0, methods.ConnectionUnblocked()),
    "unblocked without blocked": method_frame(0, methods.ConnectionUnblocked()) * 10,
}


@pytest.mark.parametrize("name", HARMLESS)
async def test_what_is_none_of_our_concern(name: str, recorded: Script, caplog: pytest.LogCaptureFixture) -> None:
    """While nothing is published, nothing can be confirmed or returned; the session goes on as if nothing were."""
    position = position_of(recorded, method_frame(2, methods.ChannelCloseOk()))
    with leaving_nothing(caplog):
        assert await outcome(with_fault(recorded, position, HARMLESS[name])) == COMPLETE


@pytest.mark.parametrize("part", range(2))
async def test_cut_off_after_each_octet(
    part: int, recorded: Script, caplog: pytest.LogCaptureFixture, anyio_backend: str
) -> None:
    """Even offsets on one backend, odd ones on the other; where a frame begins, on both."""
    cuts: list[tuple[int, Script]] = []
    for index, (after, frame) in enumerate(recorded):
        for size in range(len(frame)):
            if size < 2 or size % 2 == (anyio_backend == "trio"):
                cuts.append((index, [*recorded[:index], (after, frame[:size])]))
    cuts = cuts[part::2]
    opened = position_of(recorded, method_frame(0, methods.ConnectionOpenOk()))
    leaving = position_of(recorded, method_frame(3, methods.ChannelCloseOk()))
    with leaving_nothing(caplog):
        ends = await outcomes([script for _, script in cuts], hang_up=True)
    for (position, _), end in zip(cuts, ends, strict=True):
        if position >= leaving:
            assert end == COMPLETE
        else:
            assert isinstance(end, rabbitry.RabbitryError)
            assert isinstance(end, rabbitry.ConnectFailed) == (position <= opened)
            assert ("cut off" if position <= opened else "connection lost") in str(end)


@pytest.mark.parametrize("seed", range(5))
async def test_mutations(seed: int, recorded: Script, caplog: pytest.LogCaptureFixture, anyio_backend: str) -> None:
    """Whatever it is, it ends: `outcome` sees to that. A few must have got through, and most must not."""
    random = Random(f"{seed}-{anyio_backend}")
    scripts = [mutated(random, recorded) for _ in range(40)]
    with leaving_nothing(caplog):
        ends = await outcomes(scripts, silence=SILENCE)
    assert any(isinstance(end, list) for end in ends)
    assert sum(isinstance(end, rabbitry.RabbitryError) for end in ends) > 10


def mutated(random: Random, recorded: Script) -> Script:
    """The same with an octet or a frame or two changed, lost, repeated, swapped or out of place."""
    script = list(recorded)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        position = random.randrange(len(script))
        after, piece = script[position]
        other = random.randrange(len(script))
        octet = random.randrange(len(piece))
        match random.randrange(9):
            case 0 | 1 | 2:
                script[position] = (
                    after,
                    piece[:octet] + bytes([piece[octet] ^ 1 << random.randrange(8)]) + piece[octet + 1 :],
                )
            case 3:
                script[position] = (
                    after,
                    piece[:octet] + random.choice([b"", b"\0", b"\xff", b"\xce"]) + piece[octet + 1 :],
                )
            case 4:
                del script[position]
            case 5:
                script.insert(position, script[position])
            case 6:
                script[position], script[other] = (after, script[other][1]), (script[other][0], piece)
            case 7:
                script.insert(position, (after, script[other][1]))
            case _:
                script[position] = after, random.choice(list(METHODS.values())).key.join([piece[:7], piece[11:]])
    return script


# --- what a handshake is answered with -----------------------------------------------------------------------------

START = methods.ConnectionStart


def start_with(table: bytes) -> bytes:
    """connection.start with these octets for its table."""
    return raw_frame(1, 0, methods.ConnectionStart.key + b"\0\x09" + table + b"\0\0\0\x05PLAIN\0\0\0\x05en_US")


def tune(**fields: int) -> bytes:
    return method_frame(0, methods.ConnectionTune(**{"channel_max": 0, "frame_max": 131072, "heartbeat": 0, **fields}))


HANDSHAKES: dict[str, tuple[Script, str]] = {
    "hangs up": ([], "before a byte came"),
    "HTTP": ([(1, b"HTTP/1.1 400 Bad Request\r\n\r\n")], "an HTTP server"),
    "speaks first": ([(0, b"220 mail.example ESMTP\r\n")], "not an AMQP server"),
    "echoes": ([(1, b"AMQP\0\0\x09\x01")], "speaks AMQP 0.9.1"),
    "AMQP 1.0": ([(1, b"AMQP\0\x01\0\0")], "speaks AMQP 1.0.0"),
    "TLS": ([(1, b"\x15\x03\x03\0\x02\x02\x46")], "a TLS server"),
    "zeros": ([(1, bytes(10_000))], "not an AMQP server"),
    "nothing but ones": ([(1, b"\x01" * 10_000)], "broke the protocol"),
    "a frame of 4 GiB": ([(1, b"\x01\0\0\xff\xff\xff\xff")], "cut off after"),
    "a frame of 4 GiB, begun": ([(1, b"\x01\0\0\xff\xff\xff\xff" + bytes(100))], "exceeds frame_max"),
    "a table too deep": ([(1, start_with(nested_table(1000)))], "deep"),
    "a table just deep enough, and no more": ([(1, start_with(nested_table(60))), (2, HEARTBEAT)], "after the credent"),
    "a table longer than its frame": ([(1, start_with(b"\xff\xff\xff\xff"))], "connection.start"),
    "a key longer than its table": ([(1, start_with(b"\0\0\0\x03\xffab"))], "connection.start"),
    "an array longer than its table": ([(1, start_with(b"\0\0\0\x07\x01aA\x7f\xff\xff\xff"))], "connection.start"),
    "a value of no known type": ([(1, start_with(b"\0\0\0\x03\x01a?"))], "unknown type"),
    "a table of 130,000 octets": (
        [
            (
                1,
                start_with(
                    (129_993).to_bytes(4, "big") + b"".join(b"\x06%06dV" % each for each in range(16_249)) + b"V"
                ),
            )
        ],
        "connection.start",
    ),
    "no mechanism of ours": ([(1, method_frame(0, START(mechanisms=b"GSSAPI")))], "no common authentication mechanism"),
    "another version": ([(1, method_frame(0, START(mechanisms=b"PLAIN", version_major=8)))], "speaks AMQP 8-9"),
    "secure": (
        [(1, start_with(bytes(4))), (2, method_frame(0, methods.ConnectionSecure(challenge=b"?")))],
        "challenge",
    ),
    "open-ok for start-ok": (
        [(1, start_with(bytes(4))), (2, method_frame(0, methods.ConnectionOpenOk()))],
        "unexpected",
    ),
    "frames too small": ([(1, start_with(bytes(4))), (2, tune(frame_max=100))], "below the minimum 4096"),
    "tuned twice": ([(1, start_with(bytes(4))), (2, tune() + tune())], "unexpected connection.tune"),
    "everything at once, and wrong": (
        [(1, start_with(bytes(4)) + tune() + method_frame(0, methods.ConnectionOpenOk()) + raw_frame(9, 9, b"!"))],
        "unknown frame type 9",
    ),
    "a channel's method": ([(1, start_with(bytes(4))), (2, method_frame(1, methods.ChannelOpenOk()))], "not open"),
    "closes": ([(1, method_frame(0, methods.ConnectionClose(reply_code=320, reply_text="NO")))], r"(320): NO"),
}


@pytest.mark.parametrize("name", HANDSHAKES)
async def test_handshakes(name: str, caplog: pytest.LogCaptureFixture) -> None:
    script, words = HANDSHAKES[name]
    with leaving_nothing(caplog), anyio.fail_after(20):
        with serving(Replay(script, hang_up=True).serve) as server:
            with pytest.raises(rabbitry.RabbitryError) as raised:
                await session(server.url)
    check_error(raised.value)
    assert words in str(raised.value)


@pytest.mark.usefixtures("quick_close")
async def test_limits_lowered_to_almost_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """One channel, the smallest frames, a heartbeat each second: the session runs into the first, and is told so."""
    script = [*answers()[:1], (2, tune(channel_max=1, frame_max=4096, heartbeat=1)), *answers()[2:]]
    opened = method_frame(1, methods.ChannelOpenOk()) + method_frame(1, methods.ConfirmSelectOk())
    with leaving_nothing(caplog), serving(Replay([*script, (5, opened)]).serve) as server:
        with pytest.raises(rabbitry.LocalProtocolError, match="all 1 channels"):
            await session(server.url)


# --- silence -------------------------------------------------------------------------------------------------------


def silent_after(*pieces: bytes, drip: bytes = b"") -> Callable[[socket.socket], None]:
    """Says these, then an octet of `drip` every so often, or nothing at all; reads on until the client leaves."""

    def serve(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)
        connection.settimeout(0.02 if drip else PATIENCE)
        for octet in cycle(drip or b"-"):
            try:
                while connection.recv(65536):
                    pass
                return
            except TimeoutError:
                connection.sendall(bytes([octet]))

    return serve


GREETING = [piece for _, piece in answers()]
STAGES: dict[str, Callable[[socket.socket], None]] = {
    "nothing": silent_after(),
    "half a start": silent_after(GREETING[0][:20]),
    "start": silent_after(GREETING[0]),
    "tune": silent_after(*GREETING[:2]),
    "half an open-ok": silent_after(*GREETING[:2], GREETING[2][:-1]),
    "an octet now and then": silent_after(drip=b"\x01\0\0\0\x01\xff\xff\0\x0a\0\x0a" + bytes(1000)),
    "a heartbeat now and then": silent_after(GREETING[0], drip=HEARTBEAT),
}


async def test_handshakes_that_never_end(caplog: pytest.LogCaptureFixture) -> None:
    async def connect(name: str) -> None:
        with serving(STAGES[name]) as server:
            began = anyio.current_time()
            with pytest.raises(rabbitry.ConnectFailed, match=r"no connection to .* within 0\.1 s, waiting") as raised:
                async with rabbitry.connect(server.url, connect_timeout=0.1):
                    pass
            assert 0.1 <= anyio.current_time() - began < 10, name
            check_error(raised.value)
            with anyio.move_on_after(0.05) as scope:  # or whatever the caller has patience for
                async with rabbitry.connect(server.url):
                    pass
            assert scope.cancelled_caught, name

    with leaving_nothing(caplog), anyio.fail_after(20):
        async with anyio.create_task_group() as tg:
            for name in STAGES:
                tg.start_soon(connect, name)


async def test_a_server_that_never_accepts(caplog: pytest.LogCaptureFixture) -> None:
    """Its backlog is full: the kernel answers nothing, not even the TCP handshake."""
    with leaving_nothing(caplog), anyio.fail_after(20), socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        with socket.create_connection(address):
            with pytest.raises(rabbitry.ConnectFailed, match=r"within 0\.1 s"):
                async with rabbitry.connect(f"amqp://127.0.0.1:{address[1]}", connect_timeout=0.1):
                    pass


@pytest.fixture
def quick_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a close that is never answered waits less than the five seconds of real life."""
    monkeypatch.setattr(_endpoint, "CLOSE_BOUND", 0.1)
    monkeypatch.setattr(_endpoint, "CLOSE_BOUND_SILENT", 0.05)


async def declare(_: rabbitry.Connection, channel: rabbitry.Channel) -> None:
    await channel.declare_queue("q")


async def publish(_: rabbitry.Connection, channel: rabbitry.Channel) -> None:
    await channel.publish(b"", routing_key="q")


async def publish_many(_: rabbitry.Connection, channel: rabbitry.Channel) -> None:
    async with channel.publisher() as publisher:
        await publisher.submit(b"")


async def get(_: rabbitry.Connection, channel: rabbitry.Channel) -> None:
    await channel.get("q")


async def consume(_: rabbitry.Connection, channel: rabbitry.Channel) -> None:
    async with channel.consume("q"):
        pass


async def open_another(connection: rabbitry.Connection, _: rabbitry.Channel) -> None:
    async with connection.channel():
        pass


async def call(connection: rabbitry.Connection, _: rabbitry.Channel) -> None:
    async with connection.rpc() as rpc:
        await rpc.call("q", 1)


async def serve(connection: rabbitry.Connection, _: rabbitry.Channel) -> None:
    await connection.serve("q", anyio.sleep)


async def update_secret(connection: rabbitry.Connection, _: rabbitry.Channel) -> None:
    await connection.update_secret("s")


OPERATIONS = [declare, publish, publish_many, get, consume, open_another, call, serve, update_secret]


@pytest.mark.usefixtures("quick_close")
async def test_operations_that_are_never_answered(caplog: pytest.LogCaptureFixture) -> None:
    """The caller's time-out holds, and so does the bound of each close on the way out."""
    opened = method_frame(1, methods.ChannelOpenOk()) + method_frame(1, methods.ConfirmSelectOk())

    async def attempt(operation: Callable[[rabbitry.Connection, rabbitry.Channel], Awaitable[None]], url: str) -> None:
        began = anyio.current_time()
        with pytest.raises(TimeoutError), anyio.fail_after(0.1):
            async with rabbitry.connect(url) as connection, connection.channel() as channel:
                await operation(connection, channel)
        assert 0.1 <= anyio.current_time() - began < 10, operation.__name__

    with leaving_nothing(caplog), serving(Replay(answers(b"", opened)).serve) as server:
        async with anyio.create_task_group() as tg:
            for operation in OPERATIONS:
                tg.start_soon(attempt, operation, server.url)


async def test_a_server_that_hangs_up_halfway(caplog: pytest.LogCaptureFixture) -> None:
    """It reads on, but has said its last word: for AMQP that is the end."""

    def serve(connection: socket.socket) -> None:
        for piece in GREETING:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    with leaving_nothing(caplog), serving(serve) as server, anyio.fail_after(20):
        async with rabbitry.connect(server.url) as connection:
            with pytest.raises(rabbitry.ConnectionClosed, match="the peer closed the connection"):
                await connection.wait_closed()
            assert not connection.is_open


async def test_a_server_that_resets(caplog: pytest.LogCaptureFixture) -> None:
    def serve(connection: socket.socket) -> None:
        for piece in GREETING:
            connection.sendall(piece)
        connection.recv(65536)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with leaving_nothing(caplog), serving(serve) as server, anyio.fail_after(20):
        with pytest.raises(rabbitry.RabbitryError) as raised:
            async with rabbitry.connect(server.url) as connection:
                await connection.wait_closed()
        assert isinstance(causes(raised.value)[-1], ConnectionResetError)


@pytest.mark.usefixtures("quick_close")
async def test_a_server_that_stops_reading(caplog: pytest.LogCaptureFixture) -> None:
    """Publishing waits in bounded memory, can be cancelled, and leaving takes no longer than the close's bound."""
    sent = 0

    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        Replay(answers(method_frame(1, methods.ChannelOpenOk())), hang_up=True).converse(connection)
        done.wait(PATIENCE)

    async def publish() -> None:
        nonlocal sent
        while True:
            await channel.publish(bytes(10_000), routing_key="q")
            sent += 10_000

    done = Event()
    with leaving_nothing(caplog), serving(serve) as server:
        async with rabbitry.connect(server.url) as connection, connection.channel(confirm=False) as channel:
            tracemalloc.start()
            try:
                async with anyio.create_task_group() as tg:
                    tg.start_soon(publish)
                    await until(lambda: connection._endpoint.protocol.out_size >= HIGH_WATER)
                    await anyio.wait_all_tasks_blocked()
                    tg.cancel_scope.cancel()
                grown, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert sent > HIGH_WATER
            assert grown < 3 * HIGH_WATER
            began = anyio.current_time()
        assert anyio.current_time() - began < 8, "before the server hangs up"
        done.set()


# --- floods --------------------------------------------------------------------------------------------------------

LONGEST_PAUSE = 0.25
"""Seconds of this thread's work for which a flood may keep other tasks waiting: as long as one read takes. What other
threads and programs take from it does not count, for the machine may be busy; and the best of three attempts does, for
a collection of this large process's garbage may fall into one.
"""

FEW_BLOCKS = 5_000
"""Of CPython's small blocks of memory, which everything takes that comes by the thousand, and which can be counted."""
WAITING = 10 * SOFT_MARK // MESSAGE_OVERHEAD
"""The same where deliveries may wait to be iterated: ten for each that fits below the mark."""

OPEN_OK, QOS_OK = method_frame(1, methods.ChannelOpenOk()), method_frame(1, methods.BasicQosOk())
CONSUME_OK = method_frame(1, methods.BasicConsumeOk(consumer_tag="c"))
REPLIES_OK = method_frame(1, methods.BasicConsumeOk(consumer_tag="rabbitry-replies"))

Use = Callable[[rabbitry.Connection], AbstractAsyncContextManager[object]]


def rising_deliveries() -> Iterator[bytes]:
    """Small ones without end for consumer c, a thousand at a time."""
    tag = 0x1122334455667788
    head, _, tail = deliver(1, tag, b"x").partition(tag.to_bytes(8, "big"))
    for first in count(1, 1000):
        yield b"".join(head + each.to_bytes(8, "big") + tail for each in range(first, first + 1000))


@asynccontextmanager
async def idly(connection: rabbitry.Connection) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def with_channel(connection: rabbitry.Connection) -> AsyncIterator[None]:
    async with connection.channel(confirm=False):
        yield


@asynccontextmanager
async def with_consumer(connection: rabbitry.Connection, **options: Any) -> AsyncIterator[rabbitry.Consumer]:
    """One that nobody iterates."""
    async with (
        connection.channel(confirm=False) as channel,
        channel.consume("q", consumer_tag="c", **options) as deliveries,
    ):
        yield deliveries


@asynccontextmanager
async def with_stopped_consumer(connection: rabbitry.Connection) -> AsyncIterator[None]:
    async with with_consumer(connection) as deliveries:
        deliveries.stop()
        await anyio.sleep(1.5 * PUT_BACK_AFTER)  # until then it holds what it was given before
        yield


FLOODS: dict[str, tuple[list[bytes], Callable[[], Iterable[bytes]], Use]] = {
    # what the server answers first, what it then says without end, what the client has open
    "heartbeats": ([], lambda: repeat(HEARTBEAT * 8000), idly),
    "acks of nothing": ([OPEN_OK], lambda: repeat(ack(1, 5) * 3000), with_channel),
    "cancels": (
        [OPEN_OK],
        lambda: repeat(method_frame(1, methods.BasicCancel(consumer_tag="x", nowait=True)) * 3000),
        with_channel,
    ),
    "returns": ([OPEN_OK], lambda: repeat(returned(1, b"x") * 1000), with_channel),
    "returns with large tables": (
        [OPEN_OK],
        lambda: repeat(
            returned(1, b"", encode_properties(Properties(headers={str(each): each for each in range(5000)})))
        ),
        with_channel,
    ),
    "a body in nothing": (
        [OPEN_OK],
        lambda: chain([method_frame(1, NO_ROUTE) + header_frame(1, 10)], repeat(body_frame(1, b"") * 5000)),
        with_channel,
    ),
    "a body in crumbs": (  # of 100 MB
        [OPEN_OK],
        lambda: chain([method_frame(1, NO_ROUTE) + header_frame(1, 100_000_000)], repeat(body_frame(1, b"ab") * 5000)),
        with_channel,
    ),
    "deliveries to nobody": ([OPEN_OK, QOS_OK, CONSUME_OK], rising_deliveries, with_consumer),
    "deliveries to nobody, settled": (
        [OPEN_OK, QOS_OK, CONSUME_OK],
        rising_deliveries,
        lambda connection: with_consumer(connection, no_ack=True),
    ),
    "deliveries to who has left": ([OPEN_OK, QOS_OK, CONSUME_OK], rising_deliveries, with_stopped_consumer),
    "late replies": (
        [OPEN_OK, REPLIES_OK],
        lambda: repeat(deliver(1, 1, b"x", consumer_tag="rabbitry-replies") * 1000),
        rabbitry.Connection.rpc,
    ),
}


@pytest.mark.usefixtures("quick_close")
@pytest.mark.parametrize("name", FLOODS)
async def test_floods(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Memory stays bounded, other tasks keep their pace, and the block can be left."""
    replies, chunks, use = FLOODS[name]
    flood = Flood(answers(*replies), chunks())
    with leaving_nothing(caplog), serving(flood.serve) as server:
        before = sys.getallocatedblocks()
        async with rabbitry.connect(server.url) as connection, use(connection):
            await until(lambda: flood.sent > 500_000)
            assert await longest_pause() < LONGEST_PAUSE
            assert sys.getallocatedblocks() - before < (WAITING if "nobody" in name else FEW_BLOCKS)
            assert connection.is_open
            began = anyio.current_time()
        assert anyio.current_time() - began < 10


@pytest.mark.usefixtures("quick_close")
async def test_an_endless_body(caplog: pytest.LogCaptureFixture) -> None:
    """It has an end: the size that its header may say. Only so much is ever held."""
    head, piece = method_frame(1, NO_ROUTE) + header_frame(1, 1_000_000), body_frame(1, bytes(500))
    flood = Flood(answers(OPEN_OK), chain([head], repeat(piece * 100)))
    with leaving_nothing(caplog), serving(flood.serve) as server:
        tracemalloc.start()
        try:
            async with rabbitry.connect(server.url, max_message_size=1_000_000) as connection:
                async with with_channel(connection):
                    with pytest.raises(rabbitry.ConnectionClosed, match="unexpected content body"):
                        await connection.wait_closed()
            assert tracemalloc.get_traced_memory()[1] < 5_000_000
        finally:
            tracemalloc.stop()


async def longest_pause(seconds: float = 0.1) -> float:
    """How long this thread worked at worst before a task had its turn that wants it every 5 ms; the best of three."""
    found = []
    for _ in range(3):
        pauses, end = [], anyio.current_time() + seconds
        while len(pauses) < 10 or anyio.current_time() < end:
            before = time.thread_time()
            await anyio.sleep(0.005)
            pauses.append(time.thread_time() - before)
        found.append(max(pauses))
        if found[-1] < LONGEST_PAUSE / 2:
            break
    return min(found)


@pytest.mark.usefixtures("quick_close")
async def test_a_flood_of_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few octets that cost a line of the log each would fill a disk, and take the loop's time with it."""
    chunk = method_frame(0, methods.ConnectionBlocked(reason="r")) + method_frame(0, methods.ConnectionUnblocked())
    logger = logging.getLogger("rabbitry")
    records = queue.SimpleQueue[logging.LogRecord]()
    handler = logging.handlers.QueueHandler(records)
    monkeypatch.setattr(logger, "propagate", False)  # (pytest would keep them all)
    logger.addHandler(handler)
    flood = Flood(answers(), repeat(chunk * 3000))
    try:
        with serving(flood.serve) as server:
            async with rabbitry.connect(server.url) as connection:
                await until(lambda: flood.sent > 10_000 * len(chunk))
                assert connection.is_open
            assert records.qsize() < flood.sent / len(chunk) / 100
    finally:
        logger.removeHandler(handler)


@pytest.mark.usefixtures("quick_close")
async def test_a_flood_from_a_server_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put back for a consumer that has left can't leave, nor be coalesced while a delivery is in hand."""
    monkeypatch.setattr(settling, "UNREAD_MAX", 10_000)
    flood = Flood(answers(OPEN_OK, QOS_OK, CONSUME_OK), rising_deliveries(), reads=False)

    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        flood.serve(connection)

    with serving(serve) as server:
        async with rabbitry.connect(server.url) as connection, with_consumer(connection) as deliveries:
            await anext(deliveries)
            deliveries.stop()
            with pytest.raises(rabbitry.ConnectionClosed, match="deliveries that go back, and the peer reads none"):
                await connection.wait_closed()


@pytest.mark.usefixtures("quick_close")
async def test_a_flood_instead_of_recover_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_tags, "UNREAD_MAX", 10_000)
    flood = Flood(answers(OPEN_OK, QOS_OK, CONSUME_OK), rising_deliveries())
    with serving(flood.serve) as server:
        async with (
            rabbitry.connect(server.url) as connection,
            connection.channel(confirm=False) as channel,
            channel.consume("q", consumer_tag="c") as deliveries,
        ):
            deliveries.stop()
            with pytest.raises(rabbitry.ConnectionClosed, match=r"no answer to basic\.recover"):
                await channel.recover()


# --- what the server says of itself --------------------------------------------------------------------------------

EVIL = b"no\r\nCRITICAL forged \x1b[2J\xff\xe2\x80\xae"
"""A line break, a terminal's escape sequence, an octet that is not UTF-8, and a right-to-left override."""


def evil(method: Method, number: int = 0) -> bytes:
    """The method, with that for its text, which stands for `TEXT`."""
    frame = method_frame(number, method).replace(b"\x04TEXT", bytes([len(EVIL)]) + EVIL)
    return frame[:3] + (len(frame) - 8).to_bytes(4, "big") + frame[7:]


SAYINGS: dict[str, Script] = {
    "of the credentials": [*answers()[:1], (2, evil(methods.ConnectionClose(reply_code=403, reply_text="TEXT")))],
    "of the virtual host": [*answers()[:2], (3, evil(methods.ConnectionClose(reply_code=530, reply_text="TEXT")))],
    "of the connection": [*answers(), (4, evil(methods.ConnectionClose(reply_code=320, reply_text="TEXT")))],
    "of the channel": answers(evil(methods.ChannelClose(reply_code=404, reply_text="TEXT"), 1)),
    "of mechanisms": [(1, method_frame(0, START(mechanisms=EVIL * 1000)))],
    "of a block": [*answers(), (3, evil(methods.ConnectionBlocked(reason="TEXT")))],
}


@pytest.mark.parametrize("saying", SAYINGS)
async def test_the_servers_words_are_shown_safely(saying: str, caplog: pytest.LogCaptureFixture) -> None:
    """An error's text and a line of the log can be printed, are one line, and have an end."""
    texts: list[str] = []
    with serving(Replay(SAYINGS[saying], hang_up=True).serve) as server, anyio.fail_after(20):
        try:
            await session(server.url)
        except rabbitry.RabbitryError as error:
            texts = [str(each) for each in causes(error)]
    for text in texts + [record.getMessage() for record in caplog.records if record.name == "rabbitry"]:
        assert text.isprintable(), ascii(text)
        assert len(text) < 1000


# --- TLS -----------------------------------------------------------------------------------------------------------


class Authority:
    """One that nobody knows but the test, and its certificate for this machine."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.file = directory / "ca.pem"
        authority.cert_pem.write_to_path(self.file)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(self.context)

    def url(self, server: Server) -> str:
        return f"amqps://guest:guest@localhost:{server.port}/?cacertfile={self.file}"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("hostile-tls"))


class TlsServer:
    """Speaks TLS through `spoil`, which gets each flight of the server's octets and gives what is sent instead.

    None hangs up. Once TLS stands it says `script`.
    """

    def __init__(
        self, context: ssl.SSLContext, script: Script = (), spoil: Callable[[bytes], bytes | None] = bytes
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._script = script
        self._spoil = spoil
        self._requests = Requests()

    def serve(self, connection: socket.socket) -> None:
        if self._spoil is not bytes:
            connection.settimeout(SILENCE)
        with suppress(EOFError, ssl.SSLError):
            self._pump(connection, self._tls.do_handshake)
            for after, piece in self._script:
                while self._requests.count < after:
                    self._requests.feed(self._pump(connection, lambda: self._tls.read(65536)))
                self._tls.write(piece)
                self._send(connection)
            while True:
                self._pump(connection, lambda: self._tls.read(65536))

    def _pump(self, connection: socket.socket, step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._send(connection)
                if not (data := connection.recv(65536)):
                    raise EOFError from None
                self._incoming.write(data)
            finally:
                self._send(connection)

    def _send(self, connection: socket.socket) -> None:
        if data := self._outgoing.read():
            if (spoilt := self._spoil(data)) is None:
                raise EOFError
            connection.sendall(spoilt)


async def outcome_over_tls(
    authority: Authority, script: Script, spoil: Callable[[bytes], bytes | None] = bytes
) -> list[Any] | rabbitry.RabbitryError:
    """As `outcome`."""
    with serving(lambda connection: TlsServer(authority.context, script, spoil).serve(connection)) as server:
        with anyio.fail_after(20):
            try:
                return await session(authority.url(server))
            except rabbitry.RabbitryError as error:
                check_error(error)
                return error


async def test_a_session_over_tls_completes(
    authority: Authority, recorded: Script, caplog: pytest.LogCaptureFixture
) -> None:
    with leaving_nothing(caplog):
        assert await outcome_over_tls(authority, recorded) == COMPLETE


@pytest.mark.parametrize("position", [0, 5, 30])
async def test_faults_over_tls(
    position: int, authority: Authority, recorded: Script, caplog: pytest.LogCaptureFixture
) -> None:
    names = list(HOSTILE)[position % 7 :: 7]
    with leaving_nothing(caplog):
        for name in names:
            end = await outcome_over_tls(authority, with_fault(recorded, position, *HOSTILE[name][0]))
            assert end == COMPLETE if position == 30 else isinstance(end, rabbitry.RabbitryError), name


ALERT = b"\x15\x03\x03\0\x02\x02\x28"
"""A fatal handshake_failure, in the clear."""

INSTEAD_OF_TLS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "closed the connection during the TLS handshake"),
    "AMQP": (GREETING[0], "does not speak TLS"),
    "AMQP's refusal": (b"AMQP\0\0\x09\x01", "answers in the clear: use amqp://"),
    "HTTP": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak TLS"),
    "zeros": (bytes(10_000), "does not speak TLS"),
    "an alert": (ALERT, "handshake failure"),
    "an alert of no known kind": (b"\x15\x03\x03\0\x02\x02\xfe", "no TLS with"),
    "half an alert": (ALERT[:-1], "closed the connection during the TLS handshake"),
    "a warning again and again": (b"\x15\x03\x03\0\x02\x01\x5a" * 1000, "no TLS with"),
    "a record too large": (b"\x16\x03\x03\xff\xff" + bytes(70_000), "no TLS with"),
    "an empty record": (b"\x16\x03\x03\0\0" * 1000, "no TLS with"),
    "a handshake message of 16 MB": (b"\x16\x03\x03\x40\0\x02\xff\xff\xff" + bytes(16_380), "no TLS with"),
    "application data": (b"\x17\x03\x03\0\x04AMQP", "no TLS with"),
    "a change of cipher": (b"\x14\x03\x03\0\x01\x01" * 1000, "no TLS with"),
    "our own hello": (b"\x16\x03\x01\0\x05\x01\0\0\x01\0", "no TLS with"),
    "SSL 2": (b"\x80\x2e\x04\0\x01\0\x02", "does not speak TLS"),
    "random octets": (b"\x16\x03\x03" + Random(1).randbytes(50_000), "no TLS with"),
}


@pytest.mark.parametrize("name", INSTEAD_OF_TLS)
async def test_instead_of_tls(name: str, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    said, words = INSTEAD_OF_TLS[name]

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    with leaving_nothing(caplog), serving(serve) as server, anyio.fail_after(20):
        with pytest.raises(rabbitry.ConnectFailed) as raised:
            await session(authority.url(server))
    check_error(raised.value)
    assert words in str(raised.value)


@pytest.mark.parametrize("ending", ["truncated", "flipped", "random", "clear", "alert", "renegotiating"])
async def test_tls_spoilt_on_the_way(
    ending: str, authority: Authority, recorded: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """After so many octets of the server's, in its handshake and behind it."""
    spoilt = {
        "truncated": lambda rest: None,
        "flipped": lambda rest: bytes([rest[0] ^ 0x10]) + rest[1:],
        "random": lambda rest: Random(ending).randbytes(len(rest) + 100),
        "clear": lambda rest: GREETING[1],
        "alert": lambda rest: ALERT,
        "renegotiating": lambda rest: b"\x16\x03\x03\0\x04\0\0\0\0",
    }[ending]

    async def attempt(offset: int) -> None:
        end = await outcome_over_tls(authority, recorded, spoiling(offset, spoilt))
        assert isinstance(end, rabbitry.RabbitryError), (offset, end)

    with leaving_nothing(caplog):
        await all_of(attempt, [0, 1, 4, 5, 6, 60, 100, 130, 300, 700, 1000, 1300, 1800, 2500])


def spoiling(offset: int, spoilt: Callable[[bytes], bytes | None]) -> Callable[[bytes], bytes | None]:
    """Passes on so many octets, then what `spoilt` makes of the rest of that flight, then hangs up."""
    passed = 0

    def spoil(data: bytes) -> bytes | None:
        nonlocal passed
        start, passed = passed, passed + len(data)
        if start > offset:
            return None
        if passed <= offset:
            return data
        rest = spoilt(data[offset - start :])
        return None if rest is None else data[: offset - start] + rest

    return spoil


async def test_a_tls_handshake_that_never_ends(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """Silence, an octet now and then, and silence once TLS stands."""
    servers: list[Callable[[socket.socket], None]] = [
        silent_after(),
        silent_after(drip=b"\x16\x03\x03\x10\x00\x02" + bytes(1000)),
        lambda connection: TlsServer(authority.context).serve(connection),
    ]

    async def connect(serve: Callable[[socket.socket], None]) -> None:
        with serving(serve) as server:
            began = anyio.current_time()
            with pytest.raises(rabbitry.ConnectFailed, match=r"within 0\.1 s, waiting for"):
                async with rabbitry.connect(authority.url(server), connect_timeout=0.1):
                    pass
            assert 0.1 <= anyio.current_time() - began < 10

    with leaving_nothing(caplog), anyio.fail_after(20):
        async with anyio.create_task_group() as tg:
            for serve in servers:
                tg.start_soon(connect, serve)


@pytest.mark.usefixtures("quick_close")
async def test_a_flood_over_tls(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """Records without end, of deliveries that nobody iterates: reading pauses there, too."""

    def serve(connection: socket.socket) -> None:
        with authority.context.wrap_socket(connection, server_side=True) as wrapped:
            flood.serve(wrapped)

    flood = Flood(answers(OPEN_OK, QOS_OK, CONSUME_OK), rising_deliveries(), reads=False)
    with leaving_nothing(caplog), serving(serve) as server:
        before = sys.getallocatedblocks()
        async with rabbitry.connect(authority.url(server)) as connection, with_consumer(connection):
            await until(lambda: flood.sent > 500_000)
            assert await longest_pause() < LONGEST_PAUSE
            assert sys.getallocatedblocks() - before < WAITING


# --- a client that spans reconnects --------------------------------------------------------------------------------

AGAIN = rabbitry.Backoff(initial=0.001, maximum=0.005)


@pytest.mark.parametrize("name", ["hangs up", "HTTP", "a frame of 4 GiB, begun", "a table too deep", "closes"])
async def test_a_client_among_hostile_hosts(name: str, node: PrivateNode, caplog: pytest.LogCaptureFixture) -> None:
    """One host of three is the broker: the client finds it, and says why the others were none."""
    script, words = HANDSHAKES[name]
    with leaving_nothing(caplog), anyio.fail_after(10):
        with serving(Replay(script, hang_up=True).serve) as server:
            while not server.accepted:
                hosts = [server.url, server.url, node.url]  # tried in random order
                async with rabbitry.open_client(hosts, reconnect=AGAIN) as client:
                    await client.publish(b"through", routing_key="nowhere")
                    error = client.last_error
            assert error is not None
            assert words in str(error)
            check_error(error)


async def test_a_client_of_a_hostile_host_gives_up(caplog: pytest.LogCaptureFixture) -> None:
    patience = rabbitry.Backoff(initial=0.001, maximum=0.005, attempts=3)
    with leaving_nothing(caplog), anyio.fail_after(20):
        with serving(Replay(HANDSHAKES["zeros"][0]).serve) as server:
            with pytest.raises(
                rabbitry.ConnectFailed, match=r"given up after 3 attempts: .*not an AMQP server"
            ) as raised:
                async with rabbitry.open_client(server.url, reconnect=patience) as client:
                    await client.publish(b"", routing_key="q")
            assert server.accepted == 3
    check_error(raised.value)


async def test_a_client_whose_every_life_is_spoilt(caplog: pytest.LogCaptureFixture) -> None:
    """What was under way when the broker broke the rules has an unknown outcome; the next life begins, and ends so."""
    opened = method_frame(1, methods.ChannelOpenOk()) + method_frame(1, methods.ConfirmSelectOk())
    script = answers(b"", opened, raw_frame(9, 1, b"!"))
    with leaving_nothing(caplog), anyio.fail_after(20), serving(Replay(script).serve) as server:
        async with rabbitry.open_client(server.url, reconnect=AGAIN) as client:
            for _ in range(3):
                with pytest.raises(rabbitry.OutcomeUnknown, match="unknown frame type 9") as raised:
                    await client.publish(b"", routing_key="q")
                check_error(raised.value)
            assert client.statistics()["publishing_lives"] >= 3
            assert client.last_error is not None
            check_error(client.last_error)


async def test_mutations_against_a_client(
    recorded: Script, caplog: pytest.LogCaptureFixture, anyio_backend: str
) -> None:
    """However its lives go, the client's own block raises nothing but what the body does."""

    async def attempt(script: Script) -> None:
        with serving(Replay(script, silence=SILENCE).serve) as server, anyio.move_on_after(0.1):
            try:
                async with rabbitry.open_client(server.url, reconnect=AGAIN, name="hostile") as client:
                    await client.publish(b"", routing_key="q")
            except rabbitry.RabbitryError as error:
                check_error(error)

    random = Random(anyio_backend)
    with leaving_nothing(caplog), anyio.fail_after(20):
        await all_of(attempt, [mutated(random, recorded[:5]) for _ in range(40)])
