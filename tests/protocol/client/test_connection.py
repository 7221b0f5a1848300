"""The connection: handshake, tuning, the end from either side in every state, heartbeats, frames, channel numbers."""

from __future__ import annotations

from typing import Any

import pytest

from rabbitry._errors import (
    AuthenticationFailed,
    ConnectFailed,
    ConnectionClosed,
    LocalProtocolError,
    NotConnected,
)
from rabbitry.protocol.client.connection import ProtocolConnection
from rabbitry.protocol.client.states import ChannelState, ConnectionState
from rabbitry.protocol.wire import methods
from tests.support.protocol_broker import (
    HEARTBEAT,
    PLAIN,
    Dialogue,
    body_frame,
    content_frames,
    deliver,
    get_ok,
    header_frame,
    method_frame,
    raw_frame,
)

CLOSE_OK = method_frame(0, methods.ConnectionCloseOk())
OPEN_OK = method_frame(0, methods.ConnectionOpenOk())
CLOSED_BY_US = "ConnectionClosed: connection closed: the connection was closed by this program"

CHANNEL_CLOSED_BY_US = "ChannelClosed: channel closed: the channel was closed by this program"


def close_frame(code: int = 320, text: str = "CONNECTION_FORCED - shutdown", blamed: tuple[int, int] = (0, 0)) -> bytes:
    close = methods.ConnectionClose(
        reply_code=code, reply_text=text, failing_class_id=blamed[0], failing_method_id=blamed[1]
    )
    return method_frame(0, close)


def in_state(split: str, state: ConnectionState, **options: Any) -> Dialogue:
    """A dialogue that has come so far."""
    dialogue = Dialogue(split, **options)
    steps = [
        (ConnectionState.START, lambda: None),
        (ConnectionState.TUNE, dialogue.start),
        (ConnectionState.OPEN_OK, dialogue.tune),
        (ConnectionState.OPEN, lambda: dialogue.feed(OPEN_OK)),
        (ConnectionState.CLOSING, dialogue.connection.close),
        (ConnectionState.CLOSED, lambda: dialogue.feed(CLOSE_OK)),
    ]
    for reached, step in steps:
        step()
        assert dialogue.connection.state is reached
        if reached is state:
            break
    dialogue.sent()
    dialogue.events()
    return dialogue


# --- handshake -----------------------------------------------------------------------------------------------------


def test_handshake(split: str) -> None:
    dialogue = Dialogue(split, virtual_host="/jobs", client_properties={"product": "rabbitry"}, heartbeat=30)
    connection = dialogue.connection
    assert dialogue.sent() == [("protocol header",)]
    assert connection.awaiting == 1

    assert dialogue.start(server_properties={"product": "RabbitMQ"}) == []
    assert connection.server_properties == {"product": "RabbitMQ"}
    assert dialogue.sent() == [
        (
            0,
            methods.ConnectionStartOk(
                client_properties={"product": "rabbitry"}, mechanism="PLAIN", response=b"\0guest\0guest", locale="en_US"
            ),
        )
    ]
    assert connection.handshake is not None and connection.handshake._mechanisms == ()

    assert dialogue.tune(channel_max=2047, frame_max=131072, heartbeat=60) == []
    assert dialogue.sent() == [
        (0, methods.ConnectionTuneOk(channel_max=2047, frame_max=131072, heartbeat=30)),
        (0, methods.ConnectionOpen(virtual_host="/jobs")),
    ]

    assert dialogue.feed(OPEN_OK) == [("opened",)]
    assert dialogue.sent() == []
    assert connection.state is ConnectionState.OPEN
    assert connection.awaiting == 0


def test_handshake_in_one_piece(split: str) -> None:
    """A broker may not, but a proxy might, deliver everything at once."""
    dialogue = Dialogue(split)
    start = method_frame(0, methods.ConnectionStart())
    tune = method_frame(0, methods.ConnectionTune(frame_max=4096))
    assert dialogue.feed(start, HEARTBEAT, tune, OPEN_OK, HEARTBEAT) == [("opened",)]
    assert [type(frame[-1]) for frame in dialogue.sent()[1:]] == [
        methods.ConnectionStartOk,
        methods.ConnectionTuneOk,
        methods.ConnectionOpen,
    ]


@pytest.mark.parametrize(
    ("ours", "theirs", "settled"),
    [
        # channel_max, frame_max, heartbeat; zero is "no limit", for the heartbeat "none"
        ((2047, 131072, 30), (2047, 131072, 60), (2047, 131072, 30)),
        ((2047, 131072, 30), (100, 8192, 10), (100, 8192, 10)),
        ((2047, 131072, 30), (0, 0, 0), (2047, 131072, 30)),
        ((0, 0, 0), (2047, 131072, 60), (2047, 131072, 0)),
        ((0, 0, 0), (0, 0, 0), (65535, 0xFFFFFFFF, 0)),
        ((65535, 0xFFFFFFFF, 65535), (65535, 0xFFFFFFFF, 65535), (65535, 0xFFFFFFFF, 65535)),
        ((1, 4096, 1), (1, 4096, 1), (1, 4096, 1)),
    ],
)
def test_tuning(
    split: str, ours: tuple[int, int, int], theirs: tuple[int, int, int], settled: tuple[int, int, int]
) -> None:
    dialogue = Dialogue(split, channel_max=ours[0], frame_max=ours[1], heartbeat=ours[2])
    dialogue.start()
    dialogue.sent()
    dialogue.tune(*theirs)
    tune_ok = methods.ConnectionTuneOk(channel_max=settled[0], frame_max=settled[1], heartbeat=settled[2])
    assert dialogue.sent()[0] == (0, tune_ok)
    connection = dialogue.connection
    assert (connection.channel_max, connection.frame_max, connection.heartbeat) == settled
    assert dialogue.feed(OPEN_OK) == [("opened",)]


@pytest.mark.parametrize("frame_max", [1, 8, 4095])
def test_tiny_frame_max_is_refused(split: str, frame_max: int) -> None:
    dialogue = in_state(split, ConnectionState.TUNE)
    [ended] = dialogue.tune(frame_max=frame_max)
    assert ended[1] == (
        f"ConnectFailed: the server broke the protocol: the server wants a frame_max of {frame_max}, "
        "below the minimum 4096"
    )
    [(_, close)] = dialogue.sent()
    assert (close.name, close.reply_code) == ("connection.close", 501)


@pytest.mark.parametrize(
    ("ours", "offered", "chosen"),
    [
        (["PLAIN", "AMQPLAIN"], b"AMQPLAIN PLAIN", "PLAIN"),
        (["AMQPLAIN", "PLAIN"], b"AMQPLAIN PLAIN", "AMQPLAIN"),
        (["EXTERNAL", "PLAIN"], b"PLAIN AMQPLAIN", "PLAIN"),
        (["EXTERNAL"], b"PLAIN EXTERNAL", "EXTERNAL"),
    ],
)
def test_mechanisms(ours: list[str], offered: bytes, chosen: str) -> None:
    dialogue = Dialogue(mechanisms=[(name, name.encode()) for name in ours])
    dialogue.sent()
    dialogue.start(mechanisms=offered)
    [(_, start_ok)] = dialogue.sent()
    assert (start_ok.mechanism, start_ok.response) == (chosen, chosen.encode())


def test_no_common_mechanism(split: str) -> None:
    dialogue = in_state(split, ConnectionState.START)
    [ended] = dialogue.start(mechanisms=b"EXTERNAL PLAINER \xff")
    assert ended[1].startswith("AuthenticationFailed: no common authentication mechanism: the server offers EXTERNAL")
    assert ended[1].endswith("this client would use PLAIN")
    assert dialogue.sent() == []


def test_a_challenge_can_not_be_answered(split: str) -> None:
    dialogue = in_state(split, ConnectionState.TUNE)
    [ended] = dialogue.feed(method_frame(0, methods.ConnectionSecure(challenge=b"42?")))
    assert ended[1].startswith("AuthenticationFailed: the server asked a challenge")
    assert isinstance(dialogue.connection.error, AuthenticationFailed)


@pytest.mark.parametrize("greeting", [b"AMQP\x00\x00\x09\x02", b"AMQP\x03\x01\x00\x00", b"AMQP\x01\x01\x08\x00more"])
def test_another_protocol_version(split: str, greeting: bytes) -> None:
    """A broker that can't speak our version answers with the one it can, and closes (specification 4.2.2)."""
    dialogue = in_state(split, ConnectionState.START)
    version = ".".join(map(str, greeting[5:8]))
    text = f"ConnectFailed: the server refused protocol version 0-9-1, it speaks AMQP {version}"
    assert dialogue.feed(greeting) == [("ended", text, [])]
    assert dialogue.sent() == []


def test_start_of_another_version(split: str) -> None:
    dialogue = in_state(split, ConnectionState.START)
    [ended] = dialogue.start(version_major=8, version_minor=0)
    assert ended[1] == "ConnectFailed: the server broke the protocol: the server speaks AMQP 8-0, not 0-9-1"
    assert dialogue.sent() == []


@pytest.mark.parametrize(
    ("greeting", "hint"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "(an HTTP server: the management port is not the AMQP port)"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "(a TLS server: use amqps://)"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "b'SSH-2.0-OpenSSH_9.2\\r\\n'"),
        (b"AMQX", "b'AMQX'"),
        (b"\0" * 1000, "…"),
        (HEARTBEAT, "not an AMQP server"),
    ],
)
def test_not_an_amqp_server(greeting: bytes, hint: str) -> None:
    """Split otherwise, the text would show fewer octets, and be right all the same."""
    dialogue = in_state("whole", ConnectionState.START)
    [ended] = dialogue.feed(greeting)
    assert ended[1].startswith("ConnectFailed: not an AMQP server: it began with b'")
    assert hint in ended[1]
    assert len(ended[1]) < 400
    assert dialogue.sent() == []
    [ended] = in_state("octets", ConnectionState.START).feed(greeting)
    assert ended[1].startswith("ConnectFailed: not an AMQP server")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"virtual_host": "v" * 256}, "connection.open: virtual_host is 256 bytes long"),
        ({"client_properties": {"product": object()}}, "connection.start-ok: client_properties"),
        ({"mechanisms": [("PLAIN", "not bytes")]}, "connection.start-ok: response must be bytes"),
    ],
)
def test_what_can_not_be_encoded_is_our_fault(split: str, options: dict[str, Any], text: str) -> None:
    dialogue = Dialogue(split, **options)
    dialogue.start()
    dialogue.tune()
    error = dialogue.connection.error
    assert type(error) is ConnectFailed
    assert text in str(error)
    assert "server" not in str(error)
    assert isinstance(error.__cause__, (TypeError, ValueError))


# --- the end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        (ConnectionState.START, ConnectFailed, ["cut off", "is this an AMQP port?"]),
        (ConnectionState.TUNE, ConnectFailed, ["cut off after the credentials were sent", "refused?"]),
        (ConnectionState.OPEN_OK, ConnectFailed, ["cut off at connection.open", "does virtual host '/' exist"]),
        (ConnectionState.OPEN, ConnectionClosed, ["connection lost"]),
        (ConnectionState.CLOSING, ConnectionClosed, ["closed by this program"]),
    ],
)
@pytest.mark.parametrize("reason", [None, ConnectionResetError(104, "Connection reset by peer")])
def test_cut_off(state: ConnectionState, error: type[Exception], words: list[str], reason: Exception | None) -> None:
    dialogue = in_state("whole", state)
    dialogue.connection.eof_received(reason)
    [ended] = dialogue.events()
    assert dialogue.connection.state is ConnectionState.CLOSED
    assert type(dialogue.connection.error) is error
    assert dialogue.connection.error.__cause__ is reason
    for word in words:
        assert word in ended[1]
    if state is not ConnectionState.CLOSING:
        assert ("Connection reset by peer" if reason else "the peer closed the connection") in ended[1]
    dialogue.connection.eof_received(None)
    assert dialogue.events() == []


def test_cut_off_shows_what_came() -> None:
    dialogue = in_state("whole", ConnectionState.START)
    dialogue.feed(b"AMQ")
    dialogue.connection.eof_received(None)
    assert "cut off after b'AMQ'" in dialogue.events()[0][1]


@pytest.mark.parametrize(
    ("state", "code", "text"),
    [
        (ConnectionState.START, 320, "ConnectFailed: the broker refused the connection (320): reason"),
        (ConnectionState.TUNE, 403, "AuthenticationFailed: the broker refused the credentials (403): reason"),
        (ConnectionState.TUNE, 320, "ConnectFailed: the broker refused the connection (320): reason"),
        (ConnectionState.OPEN_OK, 530, "AuthenticationFailed: the broker refused virtual host '/' (530): reason"),
        (ConnectionState.OPEN_OK, 403, "AuthenticationFailed: the broker refused virtual host '/' (403): reason"),
        (ConnectionState.OPEN_OK, 541, "ConnectFailed: the broker refused the connection (541): reason"),
        (ConnectionState.OPEN, 320, "ConnectionClosed: connection closed (320): reason"),
        (ConnectionState.CLOSING, 320, CLOSED_BY_US),
    ],
)
def test_the_broker_closes(split: str, state: ConnectionState, code: int, text: str) -> None:
    dialogue = in_state(split, state)
    assert dialogue.feed(close_frame(code, "reason"), HEARTBEAT) == [("ended", text, [])]
    assert dialogue.sent() == [(0, methods.ConnectionCloseOk())]
    assert dialogue.connection.ended_here is (state is ConnectionState.CLOSING)


def test_the_broker_says_what_it_blames() -> None:
    dialogue = Dialogue().open()
    dialogue.feed(close_frame(504, "CHANNEL_ERROR - expected 'channel.open'", (60, 40)))
    error = dialogue.connection.error
    assert isinstance(error, ConnectionClosed)
    assert (error.code, error.method) == (504, "basic.publish")
    assert str(error) == "connection closed (504): CHANNEL_ERROR - expected 'channel.open', caused by basic.publish"


@pytest.mark.parametrize("state", [ConnectionState.START, ConnectionState.TUNE, ConnectionState.OPEN_OK])
def test_we_close_before_it_is_open(state: ConnectionState) -> None:
    dialogue = in_state("whole", state)
    dialogue.connection.close()
    text = "ConnectionClosed: connection closed: the connection was closed by this program before it was open"
    assert dialogue.events() == [("ended", text, [])]
    assert dialogue.sent() == []
    assert dialogue.connection.ended_here


def test_we_close(split: str) -> None:
    dialogue = Dialogue(split).open()
    connection = dialogue.connection
    channel = dialogue.open_channel()
    channel.request(methods.QueueDeclare(queue="q"), "declare")
    dialogue.sent()
    connection.close()
    connection.close()
    assert dialogue.sent() == [(0, methods.ConnectionClose(reply_code=200, reply_text="closed by the client"))]
    assert dialogue.events() == [("channel ended", 1, CLOSED_BY_US, ["declare"], [], [], [])]
    assert dialogue.feed(CLOSE_OK) == [("ended", CLOSED_BY_US, [])]
    assert dialogue.sent() == []
    connection.close()
    assert (dialogue.events(), dialogue.sent()) == ([], [])


def test_closing_discards_everything_else(split: str) -> None:
    """What was on its way when we closed: replies, deliveries and halves of them, also what would be wrong."""
    dialogue = Dialogue(split).open()
    first, second = dialogue.open_channel(), dialogue.open_channel(methods.ConfirmSelect())
    dialogue.consume(first)
    first.request(methods.QueueDeclare(queue="q"), "declare")
    first.get(methods.BasicGet(queue="q"), "get")
    second.publish(b"\0\0", b"body", "", "q", False, "message")
    delivery, header, body = content_frames(
        1, methods.BasicDeliver(consumer_tag="c", delivery_tag=1, exchange="", routing_key="q"), b"body"
    )
    assert dialogue.feed(delivery, header) == []
    dialogue.connection.close()
    dialogue.events()
    dialogue.sent()
    assert (
        dialogue.feed(
            body,
            method_frame(1, methods.QueueDeclareOk(queue="q", message_count=0, consumer_count=0)),
            get_ok(1, 2),
            deliver(1, 3, consumer_tag="unknown"),
            deliver(7, 3),
            method_frame(2, methods.BasicAck(delivery_tag=1)),
            method_frame(2, methods.ChannelClose(reply_code=404, reply_text="NOT_FOUND")),
            method_frame(2, methods.ChannelCloseOk()),
            method_frame(0, methods.ConnectionBlocked(reason="memory")),
            method_frame(0, methods.ConnectionOpenOk()),
            header_frame(1, 100),
            body_frame(1, b"half"),
            HEARTBEAT,
        )
        == []
    )
    assert dialogue.sent() == []
    assert dialogue.connection.state is ConnectionState.CLOSING
    assert dialogue.feed(CLOSE_OK) == [("ended", CLOSED_BY_US, [])]
    assert dialogue.sent() == []


def test_both_close_at_once(split: str) -> None:
    dialogue = Dialogue(split).open()
    dialogue.connection.close()
    dialogue.sent()
    assert dialogue.feed(close_frame(), CLOSE_OK) == [("ended", CLOSED_BY_US, [])]
    assert dialogue.sent() == [(0, methods.ConnectionCloseOk())]


def test_acks_leave_before_the_close() -> None:
    dialogue = Dialogue().open()
    channel = dialogue.open_channel()
    dialogue.consume(channel)
    dialogue.feed(deliver(1, 1))
    channel.ack(1)
    dialogue.connection.close()
    assert [frame[1].name for frame in dialogue.sent()] == ["basic.ack", "connection.close"]


def test_the_end_tells_everybody(split: str) -> None:
    dialogue = Dialogue(split).open()
    connection = dialogue.connection
    plain, confirming, closing = (
        dialogue.open_channel(),
        dialogue.open_channel(methods.ConfirmSelect()),
        dialogue.open_channel(),
    )
    dialogue.consume(plain)
    plain.request(methods.QueueDeclare(queue="q"), "declare")
    plain.request(methods.QueueDeclare(queue="r"), "abandoned").abandon()
    confirming.publish(b"\0\0", b"1", "", "q", False, "sent")
    closing.close("close")
    connection.update_secret(b"token", "renewed", "secret")
    connection.open_channel("opening")
    dialogue.events()
    dialogue.sent()
    confirming.publish(b"\0\0", b"2", "", "q", False, "queued")
    confirming.publish(b"\0\0", b"", "", "q", False, "empty, queued")
    lost = "ConnectionClosed: connection closed (320): gone"
    ended = dialogue.feed(close_frame(text="gone"))
    assert ended == [
        ("channel ended", 1, lost, ["declare"], ["c"], [], []),
        ("channel ended", 2, lost, [], [], ["sent"], ["queued", "empty, queued"]),
        ("channel ended", 3, CHANNEL_CLOSED_BY_US, ["close"], [], [], []),
        ("channel ended", 4, lost, ["opening"], [], [], []),
        ("ended", lost, ["secret"]),
    ]
    assert connection.awaiting == 0
    # The messages were reported as certainly not sent, so they must not leave now.
    assert dialogue.sent() == [(0, methods.ConnectionCloseOk())]


def test_nothing_is_possible_after_the_end(split: str) -> None:
    dialogue = Dialogue(split).open()
    connection = dialogue.connection
    channel = dialogue.open_channel()
    consumer = dialogue.consume(channel)
    dialogue.feed(deliver(1, 1))
    slot = channel.request(methods.BasicConsume(queue="q", consumer_tag="d"), "waiter")
    dialogue.feed(close_frame())
    dialogue.sent()
    for action in (
        lambda: connection.open_channel("token"),
        lambda: connection.update_secret(b"", "", "token"),
        lambda: channel.request(methods.QueueDeclare(), "token"),
        lambda: channel.send(methods.BasicRecoverAsync()),
        lambda: channel.publish(b"\0\0", b"body", "", "q", False),
        lambda: channel.consume(methods.BasicConsume(queue="q", consumer_tag="e"), "token", "waiter"),
        lambda: channel.recover("token"),
    ):
        errors = []
        for _ in range(2):
            with pytest.raises(ConnectionClosed, match="CONNECTION_FORCED") as raised:
                action()
            errors.append(raised.value)
        assert errors[0] is not errors[1]
    assert channel.close("token") is None
    assert channel.cancel(consumer, "token") is None
    slot.abandon()
    connection.close()
    connection.abort(ConnectionClosed("again"))
    connection.receive_data(deliver(1, 2) + b"garbage")
    assert connection.handle_timer(1.0) is None
    assert (dialogue.events(), dialogue.sent()) == ([], [])


def test_abort() -> None:
    dialogue = Dialogue().open()
    channel = dialogue.open_channel(methods.ConfirmSelect())
    channel.publish(b"\0\0", b"body", "", "q", False, "message")
    dialogue.connection.abort(ConnectionClosed("given up"))
    gone = "ConnectionClosed: connection closed: given up"
    assert dialogue.events() == [("channel ended", 1, gone, [], [], [], ["message"]), ("ended", gone, [])]
    assert dialogue.sent() == []
    assert dialogue.connection.ended_here


def test_nothing_queued_behind_a_lost_publish_is_sent() -> None:
    """The acknowledgement of a request must not reach the broker when the result published before it did not."""
    dialogue = Dialogue().open()
    channel, other = dialogue.open_channel(), dialogue.open_channel()
    dialogue.consume(channel)
    dialogue.feed(deliver(1, 1), deliver(1, 2))
    channel.ack(1)
    channel.publish(b"\0\0", b"result", "", "q", False)
    channel.ack(2)
    other.request(methods.QueueDeclare(queue="q"), "declare")
    dialogue.feed(raw_frame(77, 1, b""))
    assert [frame[1].name for frame in dialogue.sent()] == ["basic.ack", "connection.close"]


def test_a_close_that_cannot_be_said_changes_nothing() -> None:
    dialogue = Dialogue().open()
    with pytest.raises(ValueError):
        dialogue.connection.close(text="x" * 300)
    assert dialogue.connection.state is ConnectionState.OPEN
    assert not dialogue.connection.ended_here
    assert dialogue.sent() == []


def test_nothing_can_be_asked_before_the_connection_is_open() -> None:
    connection = Dialogue().connection
    for action in (lambda: connection.open_channel("token"), lambda: connection.update_secret(b"", "", "token")):
        with pytest.raises(NotConnected, match="not open yet"):
            action()


def test_the_first_cause_stays() -> None:
    dialogue = Dialogue().open()
    dialogue.feed(close_frame(text="first"))
    dialogue.connection.abort(ConnectionClosed("second"))
    assert "first" in str(dialogue.connection.error)


# --- heartbeats ----------------------------------------------------------------------------------------------------


def test_heartbeats_are_sent_when_idle() -> None:
    dialogue = Dialogue(heartbeat=10).open()
    connection = dialogue.connection
    now, following = 1000.0, connection.handle_timer(1000.0)
    assert following == now + 5
    assert dialogue.sent() == []  # the handshake has just been sent
    for tick in range(4):
        dialogue.feed(HEARTBEAT)
        assert connection.handle_timer(now + 5 * tick) == now + 5 * tick + 5
        # The heartbeat itself counts as something sent.
        assert dialogue.sent() == ([(0, "heartbeat")] if tick % 2 == 0 else [])


@pytest.mark.parametrize("has_ticked", [False, True])
def test_who_left_no_time_for_heartbeats_is_told(has_ticked: bool) -> None:
    """Whether the tick or the end is looked at first when the loop runs again."""
    for late, told in (0.0, False), (9.0, False), (11.0, True), (100.5, True):
        dialogue = Dialogue(heartbeat=10).open()
        connection = dialogue.connection
        due = connection.next_tick(1000.0)
        assert due == 1005.0
        if has_ticked:
            connection.handle_timer(due + late)
        connection.eof_received(None, due + late)
        assert ("event loop" in str(connection.error)) == told
        if told:
            assert "the peer closed the connection, after this program had kept its event loop" in str(connection.error)
            assert f"for at least {late:.1f} s" in str(connection.error)


def test_a_late_tick_of_long_ago_is_not_blamed() -> None:
    connection = Dialogue(heartbeat=10).open().connection
    following = connection.handle_timer(connection.next_tick(0.0) + 50)
    assert following is not None
    connection.receive_data(HEARTBEAT)
    connection.handle_timer(following)
    connection.eof_received(OSError("reset"), following + 1)
    assert str(connection.error) == "connection closed: connection lost: reset"


def test_without_heartbeats_nobody_is_blamed() -> None:
    connection = Dialogue(heartbeat=0).open().connection
    connection.eof_received(None, 1e6)
    assert str(connection.error) == "connection closed: connection lost: the peer closed the connection"


def test_no_heartbeat_while_something_is_queued() -> None:
    dialogue = Dialogue(heartbeat=10).open()
    channel = dialogue.open_channel()
    dialogue.connection.handle_timer(0.0)
    channel.publish(b"\0\0", b"body", "", "q", False)
    dialogue.connection.handle_timer(5.0)
    assert (0, "heartbeat") not in dialogue.sent()


def silent_ticks(dialogue: Dialogue, **options: bool) -> int:
    """Half intervals without data until the connection ends, at most 100."""
    for tick in range(1, 100):
        if dialogue.connection.handle_timer(5.0 * tick, **options) is None:
            return tick
    return 100


def test_silence_ends_the_connection() -> None:
    dialogue = Dialogue(heartbeat=10).open()
    dialogue.connection.handle_timer(0.0)
    assert silent_ticks(dialogue) == 4  # two intervals
    assert dialogue.events() == [
        ("ended", "ConnectionClosed: connection closed (320): no heartbeat: nothing came from the broker for 20 s", [])
    ]
    assert dialogue.sent() in ([], [(0, "heartbeat")])


def test_any_data_counts_as_life() -> None:
    dialogue = Dialogue(heartbeat=10).open()
    for tick in range(50):
        if tick % 4 == 0:
            dialogue.feed(HEARTBEAT[:3] if tick % 8 == 0 else HEARTBEAT[3:])
        assert dialogue.connection.handle_timer(5.0 * tick) is not None


def test_silence_is_counted_from_the_last_octet() -> None:
    dialogue = Dialogue(heartbeat=10).open()
    dialogue.connection.handle_timer(0.0)
    dialogue.feed(HEARTBEAT)  # just after a tick: up to two intervals and a half pass
    assert silent_ticks(dialogue) == 5


def test_silence_means_nothing_while_we_do_not_read() -> None:
    dialogue = Dialogue(heartbeat=10).open()
    assert silent_ticks(dialogue, reading=False) == 100
    assert silent_ticks(dialogue) < 10


def test_a_long_sleep_counts_as_one_tick() -> None:
    dialogue = Dialogue(heartbeat=10).open()
    assert dialogue.connection.handle_timer(0.0) == 5.0
    assert dialogue.connection.handle_timer(5000.0) == 5005.0


def test_no_heartbeat_was_agreed() -> None:
    dialogue = Dialogue(heartbeat=0).open(heartbeat=60)
    assert dialogue.connection.handle_timer(0.0) is None
    assert dialogue.sent() == []


# --- frames --------------------------------------------------------------------------------------------------------


def test_a_frame_of_exactly_frame_max(split: str) -> None:
    dialogue = Dialogue(split).open(frame_max=4096)
    channel = dialogue.open_channel()
    dialogue.consume(channel)
    body = bytes(range(256)) * 16
    [content] = dialogue.feed(deliver(1, 1, body[:4088], piece=4088))
    assert content[-1] == body[:4088]
    [content] = dialogue.feed(deliver(1, 2, body, piece=4088))
    assert content[-1] == body
    events = dialogue.feed(deliver(1, 3, body[:4089], piece=4089))
    assert events[-1][1] == (
        "ConnectionClosed: connection closed (501): the broker broke the protocol: "
        "a frame of 4097 bytes exceeds frame_max (4096)"
    )


def test_messages_are_cut_into_frames() -> None:
    dialogue = Dialogue().open(frame_max=4096)
    channel = dialogue.open_channel()
    for size in (0, 1, 4087, 4088, 4089, 8176, 8177):
        body = bytes(index % 251 for index in range(size))
        channel.publish(b"\0\0", body, "", "q", False)
        publish, header, *pieces = dialogue.sent()
        assert publish == (1, methods.BasicPublish(routing_key="q"))
        assert header[2] == b"\0\x3c\0\0" + size.to_bytes(8, "big") + b"\0\0"
        assert b"".join(piece[2] for piece in pieces) == body
        assert all(0 < len(piece[2]) <= 4088 for piece in pieces)
        assert len(pieces) == -(-size // 4088)


def test_what_fits_no_frame_is_refused() -> None:
    """A method or a header can't be cut up: RabbitMQ would end the connection with 501."""
    dialogue = Dialogue().open(frame_max=4096)
    channel = dialogue.open_channel(methods.ConfirmSelect())
    connection = dialogue.connection
    with pytest.raises(ValueError, match=r"queue.declare.*frame_max \(4096\)"):
        channel.request(methods.QueueDeclare(queue="q", arguments={"x": "a" * 4096}), "declare")
    with pytest.raises(ValueError, match=r"connection.update-secret.*frame_max \(4096\)"):
        connection.update_secret(b"s" * 4096, "", "secret")
    for body in (b"", b"body", b"a" * 10000):
        with pytest.raises(ValueError, match=r"properties.*frame_max \(4096\)"):
            channel.publish(b"\0" * 4077, body, "", "q", False, "message")
    assert (connection.awaiting, channel.confirms.following, channel.slots, channel.confirms.pending) == (0, 1, [], {})
    assert dialogue.sent() == []
    channel.publish(b"\0" * 4076, b"body", "", "q", False, "message")
    assert len(dialogue.sent()[1][2]) == 4088


def test_taking_what_is_queued() -> None:
    dialogue = Dialogue().open()
    connection = dialogue.connection
    assert connection.data_to_send() == b""
    channel = dialogue.open_channel()
    for number in range(3):
        channel.publish(b"\0\0", b"%d" % number, "", "q", False)
    assert connection.out_size > 0
    assert [frame[2] for frame in dialogue.sent() if frame[1] == "body"] == [b"0", b"1", b"2"]
    assert connection.out_size == 0
    assert connection.data_to_send() == b""


# --- channel numbers -----------------------------------------------------------------------------------------------


def test_a_number_is_free_after_close_ok_only(split: str) -> None:
    dialogue = Dialogue(split).open(channel_max=2)
    connection = dialogue.connection
    first, second = dialogue.open_channel(), dialogue.open_channel()
    assert (first.number, second.number) == (1, 2)
    first.close("close")
    dialogue.events()
    with pytest.raises(LocalProtocolError, match=r"all 2 channels .* are open"):
        connection.open_channel("third")
    assert connection.awaiting == 1
    assert dialogue.feed(method_frame(1, methods.ChannelCloseOk())) == [("replied", "close", methods.ChannelCloseOk())]
    third, _ = connection.open_channel("third")
    assert third.number == 1
    assert third.state is ChannelState.OPENING


def test_a_channel_the_broker_closed_frees_its_number(split: str) -> None:
    dialogue = Dialogue(split).open(channel_max=1)
    dialogue.open_channel()
    dialogue.feed(method_frame(1, methods.ChannelClose(reply_code=404, reply_text="NOT_FOUND")))
    assert dialogue.open_channel().number == 1


def test_numbers_go_round() -> None:
    """A number just freed is the last to be used again, which keeps the logs of both sides readable."""
    dialogue = Dialogue().open(channel_max=3)
    numbers = []
    for _ in range(7):
        channel = dialogue.open_channel()
        numbers.append(channel.number)
        channel.close(None)
        dialogue.feed(method_frame(channel.number, methods.ChannelCloseOk()))
    assert numbers == [1, 2, 3, 1, 2, 3, 1]


def test_the_search_for_a_number_stays_below_channel_max() -> None:
    dialogue = Dialogue().open(channel_max=3)
    channels = [dialogue.open_channel() for _ in range(3)]
    for channel in (channels[1], channels[0]):
        channel.close(None)
        dialogue.feed(method_frame(channel.number, methods.ChannelCloseOk()))
        assert dialogue.open_channel().number == channel.number


def test_all_numbers() -> None:
    connection = Dialogue(channel_max=0).open(channel_max=0).connection
    numbers = [connection.open_channel(None)[0].number for _ in range(65535)]
    assert numbers == list(range(1, 65536))
    with pytest.raises(LocalProtocolError):
        connection.open_channel(None)


# --- the rest of channel 0 -----------------------------------------------------------------------------------------


def test_update_secret(split: str) -> None:
    dialogue = Dialogue(split).open()
    connection = dialogue.connection
    connection.update_secret(b"one", "renewed", "first")
    connection.update_secret(b"two", "renewed", "second").abandon()
    connection.update_secret(b"three", "renewed", "third")
    assert [frame[1].new_secret for frame in dialogue.sent()] == [b"one", b"two", b"three"]
    assert connection.awaiting == 3
    ok = methods.ConnectionUpdateSecretOk()
    assert dialogue.feed(*[method_frame(0, ok)] * 3) == [("replied", "first", ok), ("replied", "third", ok)]
    events = dialogue.feed(method_frame(0, ok))
    assert events[-1][1].endswith("the broker broke the protocol: unexpected connection.update-secret-ok")


def test_blocked(split: str) -> None:
    dialogue = Dialogue(split).open()
    blocked = method_frame(0, methods.ConnectionBlocked(reason="low on memory"))
    unblocked = method_frame(0, methods.ConnectionUnblocked())
    assert dialogue.feed(blocked) == [("blocked", "low on memory")]
    assert dialogue.feed(unblocked) == [("unblocked",)]
    assert dialogue.feed(blocked, unblocked, HEARTBEAT, blocked)[-1] == ("blocked", "low on memory")
    assert dialogue.sent() == []


def test_a_flood_of_alarms_is_told_once() -> None:
    dialogue = Dialogue("whole").open()
    blocked = method_frame(0, methods.ConnectionBlocked(reason="low on memory"))
    unblocked = method_frame(0, methods.ConnectionUnblocked())
    assert dialogue.feed(*[blocked, unblocked] * 1000, blocked) == [("blocked", "low on memory")]


def test_credentials_are_not_kept() -> None:
    connection = ProtocolConnection(mechanisms=PLAIN)
    connection.close()
    assert connection.handshake is None


# --- whom the broker means -----------------------------------------------------------------------------------------

DECLARE = methods.ExchangeDeclare(exchange="x", type="fanuot")
UNKNOWN_TYPE = "COMMAND_INVALID - unknown exchange type 'fanuot'"
REFUSED = f"ConnectionClosed: connection closed (503): {UNKNOWN_TYPE}, caused by exchange.declare"
CRASHED = "ConnectionClosed: connection closed (541): INTERNAL_ERROR"


def blamed(dialogue: Dialogue, close: bytes) -> tuple[list[tuple[Any, ...]], str]:
    """Who is told apart, and what all others are told by the end of the connection."""
    events = dialogue.feed(close)
    error = dialogue.connection.error
    assert isinstance(error, ConnectionClosed)
    return [event for event in events if event[0] == "failed"], error.blame


def test_a_close_names_the_method_of_one_request(split: str) -> None:
    dialogue = in_state(split, ConnectionState.OPEN)
    one, other = dialogue.open_channel(), dialogue.open_channel()
    one.request(methods.QueueDeclare(queue="q"), "innocent, too")
    other.request(DECLARE, "culprit")
    other.request(methods.QueueBind(queue="q", exchange="x"), "innocent")
    events = dialogue.feed(close_frame(503, UNKNOWN_TYPE, (40, 10)))
    assert events[0] == ("failed", "culprit", "this", REFUSED)
    assert [event[:4] for event in events[1:3]] == [
        ("channel ended", one.number, REFUSED, ["innocent, too"]),
        ("channel ended", other.number, REFUSED, ["innocent"]),
    ]
    error = dialogue.connection.error
    assert isinstance(error, ConnectionClosed) and error.blame == "another"


def test_a_close_names_the_method_of_several_requests(split: str) -> None:
    dialogue = in_state(split, ConnectionState.OPEN)
    for token in ("one", "other"):
        dialogue.open_channel().request(DECLARE, token)
    dialogue.open_channel().request(methods.QueueDeclare(queue="q"), "innocent")
    assert blamed(dialogue, close_frame(503, UNKNOWN_TYPE, (40, 10))) == (
        [("failed", "one", "perhaps", REFUSED), ("failed", "other", "perhaps", REFUSED)],
        "another",
    )


def test_a_crash_of_the_broker_names_none(split: str) -> None:
    """Then whatever is under way may be what it crashed over, a message or an acknowledgement as well."""
    dialogue = in_state(split, ConnectionState.OPEN)
    dialogue.open_channel().request(DECLARE, "one")
    dialogue.connection.update_secret(b"", "", "other")
    assert blamed(dialogue, close_frame(541, "INTERNAL_ERROR")) == (
        [("failed", "other", "perhaps", CRASHED), ("failed", "one", "perhaps", CRASHED)],
        "perhaps",
    )


def test_a_failure_of_the_broker_is_no_refusal_though_it_names_the_method() -> None:
    dialogue = in_state("whole", ConnectionState.OPEN)
    dialogue.open_channel().request(DECLARE, "one")
    [(_, token, blame, _)], others = blamed(dialogue, close_frame(541, "INTERNAL_ERROR - timeout", (40, 10)))
    assert (token, blame, others) == ("one", "perhaps", "another")


@pytest.mark.parametrize("code", [0, 200, 320])
def test_a_broker_that_goes_blames_nobody(code: int) -> None:
    dialogue = in_state("whole", ConnectionState.OPEN)
    dialogue.open_channel().request(DECLARE, "one")
    assert blamed(dialogue, close_frame(code, "CONNECTION_FORCED", (40, 10))) == ([], "")


@pytest.mark.parametrize("method", [(60, 40), (60, 120), (50, 10)])
def test_what_has_no_reply_or_was_answered_is_nobodys(method: tuple[int, int]) -> None:
    """basic.publish, basic.nack; and a request of that method was answered before."""
    dialogue = in_state("whole", ConnectionState.OPEN)
    dialogue.open_channel(methods.QueueDeclare(queue="q")).request(DECLARE, "one")
    assert blamed(dialogue, close_frame(540, "NOT_IMPLEMENTED", method)) == ([], "")


def test_who_waits_for_the_second_of_two_requests_is_told_of_the_first() -> None:
    dialogue = in_state("whole", ConnectionState.OPEN)
    channel, _ = dialogue.connection.open_channel(None)
    channel.request(methods.ConfirmSelect(), "who opens it")
    [(_, token, blame, _)], _others = blamed(dialogue, close_frame(530, "NOT_ALLOWED - too many", (20, 10)))
    assert (token, blame) == ("who opens it", "this")


def test_an_abandoned_request_is_blamed_and_nobody_else() -> None:
    dialogue = in_state("whole", ConnectionState.OPEN)
    channel = dialogue.open_channel()
    channel.request(DECLARE, "gone").abandon()
    channel.request(methods.QueueDeclare(queue="q"), "innocent")
    assert blamed(dialogue, close_frame(503, UNKNOWN_TYPE, (40, 10))) == ([], "another")
