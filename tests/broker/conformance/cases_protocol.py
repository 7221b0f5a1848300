"""The handshake, frames, channels and connections as such."""

from __future__ import annotations

from struct import pack

from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.constants import PROTOCOL_HEADER
from tests.broker.conformance.catalogue import case
from tests.broker.conformance.conversation import Connection, Conversation


def greeted(c: Conversation) -> Connection:
    connection = c.raw()
    connection.send(PROTOCOL_HEADER)
    connection.wait(lambda: bool(connection.zero))
    return connection


@case
def another_protocol(c: Conversation) -> None:
    for header in (b"AMQP\x00\x00\x09\x00", b"AMQP\x00\x01\x00\x00"[:4] + b"\x07\x00\x00\x00", b"GET / HTTP/1.1\r\n"):
        connection = c.raw()
        connection.send(header)
        connection.read_for(1.0)


@case
def an_older_header(c: Conversation) -> None:
    connection = c.raw()
    connection.send(b"AMQP\x01\x01\x00\x09")
    connection.wait(lambda: bool(connection.zero))
    c.say(connection.zero[0].name, connection.zero[0].version_minor)  # type: ignore[attr-defined]


@case
def a_wrong_password(c: Conversation) -> None:
    connection = c.raw()
    connection.open("guest", "wrong")
    connection = c.raw()
    connection.open("nobody", "wrong")


@case
def amqplain(c: Conversation) -> None:
    connection = greeted(c)
    login = b"\x05LOGINS" + pack(">I", 5) + b"guest" + b"\x08PASSWORDS" + pack(">I", 5) + b"guest"
    connection.start(login, "AMQPLAIN")
    connection.wait(lambda: len(connection.zero) > 1)
    c.say(connection.zero[1].name)


@case
def a_virtual_host_that_is_missing(c: Conversation) -> None:
    c.raw().open(vhost="missing")


@case
def a_virtual_host_that_one_may_not_enter(c: Conversation) -> None:
    c.raw().open("stranger")


@case
def frames_too_small(c: Conversation) -> None:
    c.raw().open(frame_max=100)


@case
def the_second_channel_open(c: Conversation) -> None:
    ch = c.channel()
    ch.request(methods.ChannelOpen())


@case
def a_method_on_no_channel(c: Conversation) -> None:
    connection = c.connect()
    connection.send_method(5, methods.QueueDeclare(queue="q"))
    connection.read_for(1.0)


@case
def content_on_no_channel(c: Conversation) -> None:
    connection = c.connect()
    connection.send_frame(3, 5, b"body")
    connection.read_for(1.0)


@case
def a_close_of_no_channel(c: Conversation) -> None:
    connection = c.connect()
    connection.send_method(5, methods.ChannelClose(reply_code=200))
    connection.read_for(1.0)


@case
def a_channel_is_closed_and_opened_again(c: Conversation) -> None:
    connection = c.connect()
    connection.channel(1).close()
    ch = connection.channel(1)
    ch.declare()
    ch.publish()
    ch.get()


@case
def a_refused_channel_is_opened_again(c: Conversation) -> None:
    connection = c.connect()
    connection.channel(1).declare("missing", passive=True)
    connection.channel(1).declare()


@case
def what_follows_a_refusal_is_ignored(c: Conversation) -> None:
    connection = c.connect()
    ch = connection.channel()
    ch.tell(methods.QueueDeclare(queue=c.name("missing"), passive=True))
    ch.tell(methods.QueueDeclare(queue=c.name("ignored"), durable=True))
    ch.publish(b"m", "ignored")
    connection.wait(lambda: not ch.is_open)
    connection.channel(2).declare("ignored", passive=True)


@case
def content_where_a_method_is_expected(c: Conversation) -> None:
    ch = c.channel()
    ch.connection.send_frame(2, 1, pack(">HHQH", 60, 0, 1, 0))
    ch.connection.read_for(1.0)


@case
def a_method_where_a_header_is_expected(c: Conversation) -> None:
    ch = c.channel()
    ch.tell(methods.BasicPublish(routing_key="k"))
    ch.tell(methods.BasicPublish(routing_key="k"))
    ch.connection.read_for(1.0)


@case
def a_header_of_another_class(c: Conversation) -> None:
    ch = c.channel()
    ch.tell(methods.BasicPublish(routing_key="k"))
    ch.connection.send_frame(2, 1, pack(">HHQH", 20, 0, 1, 0))
    ch.connection.read_for(1.0)


@case
def a_method_where_a_body_is_expected(c: Conversation) -> None:
    ch = c.channel()
    ch.tell(methods.BasicPublish(routing_key="k"))
    ch.connection.send_frame(2, 1, pack(">HHQH", 60, 0, 1, 0))
    ch.tell(methods.BasicQos())
    ch.connection.read_for(1.0)


@case
def a_wrong_frame_end(c: Conversation) -> None:
    connection = c.connect()
    connection.send_frame(1, 1, b"\x00\x14\x00\x0a\x00", b"\x00")
    connection.wait(lambda: connection.is_over)


@case
def a_frame_too_large(c: Conversation) -> None:
    connection = c.connect()
    connection.send_frame(3, 1, b"x" * 8200)
    connection.wait(lambda: connection.is_over)


@case
def a_frame_of_an_unknown_type(c: Conversation) -> None:
    connection = c.connect()
    connection.send_frame(4, 1, b"x")
    connection.read_for(1.0)


@case
def a_heartbeat_on_a_channel(c: Conversation) -> None:
    ch = c.channel()
    ch.connection.send_frame(8, 1, b"")
    ch.connection.read_for(1.0)


@case
def a_heartbeat_that_says_something(c: Conversation) -> None:
    connection = c.connect()
    connection.send_frame(8, 0, b"x")
    connection.read_for(1.0)


@case
def heartbeats_are_welcome(c: Conversation) -> None:
    ch = c.channel()
    ch.connection.send_frame(8, 0, b"")
    ch.declare()


@case
def arguments_that_cannot_be_decoded(c: Conversation) -> None:
    ch = c.channel()
    ch.connection.send_frame(1, 1, pack(">HHH", 50, 10, 0) + b"\xffq")
    ch.connection.read_for(1.0)


@case
def methods_that_only_brokers_send(c: Conversation) -> None:
    for method in (methods.BasicGetEmpty(), methods.QueueDeclareOk(queue="q", message_count=0, consumer_count=0)):
        ch = c.channel()
        ch.tell(method)
        ch.connection.read_for(1.0)


@case
def a_channels_method_on_channel_zero(c: Conversation) -> None:
    connection = c.connect()
    connection.send_method(0, methods.QueueDeclare(queue="q"))
    connection.read_for(1.0)


@case
def a_connections_method_on_a_channel(c: Conversation) -> None:
    ch = c.channel()
    ch.tell(methods.ConnectionClose(reply_code=200))
    ch.connection.read_for(1.0)


@case
def a_tune_ok_too_late(c: Conversation) -> None:
    connection = c.connect()
    connection.send_method(0, methods.ConnectionTuneOk())
    connection.read_for(1.0)


@case
def too_many_channels(c: Conversation) -> None:
    connection = c.raw()
    connection.open(channel_max=2)
    connection.channel()
    connection.channel()
    connection.channel()


@case
def the_connection_is_closed(c: Conversation) -> None:
    connection = c.connect()
    connection.send_method(0, methods.ConnectionClose(reply_code=200))
    connection.wait(lambda: len(connection.zero) > 3)
    c.say(connection.zero[-1].name)
    connection.read_for(0.5)


@case
def a_secret_is_renewed(c: Conversation) -> None:
    connection = c.connect()
    connection.send_method(0, methods.ConnectionUpdateSecret(new_secret=b"guest", reason="test"))
    connection.wait(lambda: len(connection.zero) > 3, 1.0)
    c.say(connection.zero[-1].name)


@case
def an_access_request(c: Conversation) -> None:
    c.channel().request(methods.AccessRequest())


@case
def a_text_that_is_too_long(c: Conversation) -> None:
    c.channel().declare("q" * 240, passive=True)


@case
def requests_that_want_no_answer(c: Conversation) -> None:
    ch = c.channel()
    name = c.name("q")
    ch.tell(methods.QueueDeclare(queue=name, exclusive=True, nowait=True))
    ch.tell(methods.QueueBind(queue=name, exchange="amq.direct", routing_key=name, nowait=True))
    ch.tell(methods.ConfirmSelect(nowait=True))
    ch.publish(b"m", name, "amq.direct")
    ch.get()


@case
def a_refusal_of_what_wants_no_answer(c: Conversation) -> None:
    ch = c.channel()
    ch.tell(methods.QueueDeclare(queue=c.name("missing"), passive=True, nowait=True))
    ch.sync()
