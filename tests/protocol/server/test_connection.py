"""The broker's end of a connection without I/O: handshake, commands, closes, heartbeats, content in pieces."""

from __future__ import annotations

from typing import Any

import pytest

from rabbitry.protocol.server.connection import CLOSING_SECONDS, HANDSHAKE_SECONDS, ServerConnection, State
from rabbitry.protocol.server.events import Closing, Command, Ended, Login, Opening
from rabbitry.protocol.server.handshake import credentials
from rabbitry.protocol.server.refusals import Refusal, cut_text, term
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.constants import PROTOCOL_HEADER
from tests.support.protocol_broker import content_frames, method_frame, parse, raw_frame

START_OK = method_frame(0, methods.ConnectionStartOk(response=b"\0guest\0guest"))
TUNE_OK = method_frame(0, methods.ConnectionTuneOk(channel_max=10, frame_max=4096, heartbeat=10))
OPEN = method_frame(0, methods.ConnectionOpen())


def fed(connection: ServerConnection, *data: bytes) -> list[Any]:
    return [event for each in data for event in connection.receive_data(each)]


def opened(**options: Any) -> ServerConnection:
    connection = ServerConnection(properties={"product": "test"}, **options)
    for data in (PROTOCOL_HEADER, START_OK, TUNE_OK, OPEN):
        for event in connection.receive_data(data):
            if isinstance(event, Login):
                connection.accept_login()
            elif isinstance(event, Opening):
                connection.accept_virtual_host()
    connection.data_to_send()
    assert connection.state is State.OPEN
    return connection


def with_channel(**options: Any) -> ServerConnection:
    connection = opened(**options)
    fed(connection, method_frame(1, methods.ChannelOpen()))
    connection.data_to_send()
    return connection


def test_a_handshake_octet_by_octet() -> None:
    connection = ServerConnection(properties={"product": "test"})
    events: list[Any] = []
    for octet in PROTOCOL_HEADER + START_OK + TUNE_OK + OPEN:
        for event in connection.receive_data(bytes([octet])):
            events.append(event)
            if isinstance(event, Login):
                connection.accept_login()
            else:
                connection.accept_virtual_host()
    assert [type(event) for event in events] == [Login, Opening]
    assert credentials(events[0].mechanism, events[0].response) == ("guest", b"guest")
    assert events[1].virtual_host == "/"
    sent = [method.name for _, method in parse(connection.data_to_send())]
    assert sent == ["connection.start", "connection.tune", "connection.open-ok"]
    assert (connection.channel_max, connection.frame_max, connection.heartbeat) == (10, 4096, 10)


def test_no_password_is_shown() -> None:
    login = fed(ServerConnection(properties={}), PROTOCOL_HEADER, START_OK)[0]
    assert "guest" not in repr(login)


@pytest.mark.parametrize(
    ("mechanism", "response", "expected"),
    [
        ("PLAIN", b"\0u\0p", ("u", b"p")),
        ("PLAIN", b"authzid\0u\0p", ("u", b"p")),
        ("PLAIN", b"u\0p", None),
        ("PLAIN", b"", None),
        ("AMQPLAIN", b"\x05LOGINS\0\0\0\x01u\x08PASSWORDS\0\0\0\x01p", ("u", b"p")),
        ("AMQPLAIN", b"\x05LOGINS\0\0\0\x01u", None),
        ("AMQPLAIN", b"\x05LOGINS\0\0", None),
        ("EXTERNAL", b"u", None),
        ("OTHER", b"u", None),
    ],
)
def test_credentials(mechanism: str, response: bytes, expected: object) -> None:
    assert credentials(mechanism, response) == expected


def test_a_refused_login_is_told_to_who_understands() -> None:
    table = {"capabilities": {"authentication_failure_close": True}}
    for properties, sent in ((table, ["connection.close"]), ({}, [])):
        connection = ServerConnection(properties={})
        start_ok = methods.ConnectionStartOk(client_properties=properties, response=b"x")
        connection.receive_data(b"")
        fed(connection, PROTOCOL_HEADER)
        connection.data_to_send()
        events = []
        for event in connection.receive_data(method_frame(0, start_ok)):
            events.append(type(event))
            if isinstance(event, Login):
                connection.refuse_login(Refusal(403, "no"))
        assert [method.name for _, method in parse(connection.data_to_send())] == sent
        assert events == [Login] if sent else [Login, Ended]


def test_a_message_comes_whole_however_it_is_cut() -> None:
    body = bytes(range(256)) * 40
    publish = methods.BasicPublish(exchange="x", routing_key="k")
    data = b"".join(content_frames(1, publish, body))
    for size in (1, 7, 4096, len(data)):
        connection = with_channel()
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        (command,) = fed(connection, *pieces)
        assert (command.number, command.method, command.body, command.excess) == (1, publish, body, 0)


def test_small_messages_are_read_alike_at_once_and_octet_by_octet() -> None:
    """With each of their octets wrong, too; and where frames of another channel, or an empty method, come between."""

    def heard(*data: bytes) -> Any:
        connection = with_channel(max_message_size=60)
        fed(connection, method_frame(2, methods.ChannelOpen()))
        connection.data_to_send()
        events = fed(connection, *data)
        names = ("number", "method", "properties", "body", "excess")
        told = [(type(event), *(getattr(event, name, None) for name in names)) for event in events]
        return told, connection.data_to_send(), connection.state

    one, other = methods.BasicPublish(routing_key="k"), methods.BasicPublish(routing_key="other")
    messages = [(one, b"1"), (one, b"22"), (other, b""), (other, b"x" * 60), (one, b"x" * 61), (one, b"3")]
    said = b"".join(b"".join(content_frames(1, *message)) for message in messages)
    interrupted = b"".join(content_frames(1, one, b"4")[:1]) + method_frame(2, methods.ChannelClose(reply_code=200))
    variants = [said, said + interrupted, raw_frame(1, 1, b""), said + raw_frame(1, 1, b"")]
    variants += [said[:at] + bytes([said[at] ^ bit]) + said[at + 1 :] for at in range(len(said)) for bit in (1, 128)]
    for variant in variants:
        assert heard(variant) == heard(*(variant[at : at + 1] for at in range(len(variant)))), variant


def test_a_body_too_large_is_dropped_and_told() -> None:
    connection = with_channel(max_message_size=100)
    (command,) = fed(connection, b"".join(content_frames(1, methods.BasicPublish(), b"x" * 9000)))
    assert (command.body, command.excess) == (b"", 9000)


def test_what_follows_a_refusal_on_its_channel_is_dropped() -> None:
    connection = with_channel()
    fed(connection, method_frame(2, methods.ChannelOpen()))
    connection.data_to_send()
    purge = method_frame(1, methods.QueuePurge(queue="q"))
    seen = []
    for event in connection.receive_data(purge + purge + method_frame(2, methods.QueuePurge(queue="other"))):
        seen.append(event)
        if event.number == 1:
            connection.refuse(1, Refusal(404, "no queue 'q' in vhost '/'"), (50, 30))
    assert [event.number for event in seen] == [1, 2]
    ((number, close),) = parse(connection.data_to_send())
    assert (number, close.reply_code, close.reply_text) == (1, 404, "NOT_FOUND - no queue 'q' in vhost '/'")
    assert (close.failing_class_id, close.failing_method_id) == (50, 30)
    connection.send(1, methods.QueuePurgeOk(message_count=0))
    assert connection.data_to_send() == b""
    assert fed(connection, method_frame(1, methods.ChannelCloseOk())) == []
    assert len(fed(connection, method_frame(1, methods.ChannelOpen()))) == 1


def test_a_hard_refusal_closes_the_connection() -> None:
    connection = with_channel()
    for _ in connection.receive_data(method_frame(1, methods.QueuePurge(queue="q"))):
        connection.refuse(1, Refusal(540, "not implemented"), (50, 30))
    assert connection.state is State.CLOSING
    ((number, close),) = parse(connection.data_to_send())
    assert (number, type(close), close.reply_code) == (0, methods.ConnectionClose, 540)
    assert fed(connection, method_frame(1, methods.QueuePurge(queue="q"))) == []
    assert [type(event) for event in fed(connection, method_frame(0, methods.ConnectionCloseOk()))] == [Ended]
    assert connection.state is State.CLOSED
    assert fed(connection, b"anything") == []


def test_the_client_closes() -> None:
    connection = with_channel()
    events = fed(connection, method_frame(0, methods.ConnectionClose(reply_code=200)))
    assert [type(event) for event in events] == [Closing, Ended]
    assert [method.name for _, method in parse(connection.data_to_send())] == ["connection.close-ok"]


def test_a_channels_close_is_answered_once_it_has_been_handled() -> None:
    connection = with_channel()
    for event in connection.receive_data(method_frame(1, methods.ChannelClose(reply_code=200))):
        assert isinstance(event, Command) and connection.data_to_send() == b""
    assert parse(connection.data_to_send()) == [(1, methods.ChannelCloseOk())]


def test_content_goes_out_in_frames_of_the_agreed_size() -> None:
    connection = with_channel()
    body = b"x" * 10000
    get_ok = methods.BasicGetOk(delivery_tag=1, exchange="", routing_key="q", message_count=0)
    connection.send_content(1, get_ok.encode(), b"\0\0", body)
    assert connection.out_size == 10000 + 3 * 8 + 14 + 8 + len(get_ok.encode()) + 8
    _, header, *pieces = parse(connection.data_to_send())
    assert header[1] == "header" and [len(piece[2]) for piece in pieces] == [4088, 4088, 1824]
    assert connection.out_size == 0


def test_an_empty_body_has_no_frame() -> None:
    connection = with_channel()
    connection.send_content(1, methods.BasicReturn(reply_code=312, exchange="", routing_key="").encode(), b"\0\0", b"")
    assert len(parse(connection.data_to_send())) == 2


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_handshake_that_takes_too_long_is_given_up() -> None:
    connection = ServerConnection(properties={})
    assert connection.handle_timer(100.0) == (100.0 + HANDSHAKE_SECONDS, False)
    fed(connection, b"AMQ")
    assert connection.handle_timer(100.0 + HANDSHAKE_SECONDS) == (None, True)


def test_heartbeats_go_out_when_nothing_else_does() -> None:
    connection = opened()
    connection.handle_timer(100.0)
    connection.data_to_send()
    assert connection.handle_timer(105.0) == (110.0, False)
    assert parse(connection.data_to_send()) == [(0, "heartbeat")]
    fed(connection, method_frame(1, methods.ChannelOpen()))
    connection.data_to_send()
    connection.handle_timer(110.0)
    assert connection.data_to_send() == b""


def test_a_silent_client_is_given_up_after_two_intervals() -> None:
    connection = opened()
    now, is_over, count = 0.0, False, 0
    while not is_over:
        following, is_over = connection.handle_timer(now)
        now, count = following or now, count + 1
        assert count < 10
    assert 15.0 <= now <= 20.0
    connection = opened()
    for tick in range(20):
        fed(connection, raw_frame(8, 0, b""))
        assert not connection.handle_timer(tick * 5.0)[1]


def test_a_client_that_does_not_answer_a_close_is_given_up() -> None:
    connection = opened()
    connection.close(320, "reason")
    following, is_over = connection.handle_timer(50.0)
    assert following is not None and not is_over
    assert connection.handle_timer(50.0 + CLOSING_SECONDS) == (None, True)


# --- texts -----------------------------------------------------------------------------------------------------------


def test_texts_fit_a_short_string() -> None:
    assert cut_text("x" * 255) == "x" * 255
    assert cut_text("x" * 256) == "x" * 252 + "..."
    assert len(cut_text("é" * 200).encode()) <= 255
    assert cut_text("\udcff") == "?"


def test_terms_are_written_as_erlang_writes_them() -> None:
    assert term(b"text") == '<<"text">>'
    assert term(b"\x00\xff") == "<<0,255>>"
    assert term(b"") == "<<>>"
