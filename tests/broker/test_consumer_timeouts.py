"""Deliveries that are held too long, with time as an argument: a whole session over a transport that keeps what is
sent. What RabbitMQ does is compared in `conformance/test_conditions.py`.
"""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from rabbitry.broker.session import Session
from rabbitry.broker.world import World
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.constants import PROTOCOL_HEADER
from rabbitry.protocol.wire.methods import Method
from tests.protocol.server.test_hostile import HANDSHAKE, Wire
from tests.support.protocol_broker import content_frames, method_frame, parse


class Timed(Wire):
    """Remembers the earliest deadline, as a transport does."""

    def __init__(self) -> None:
        super().__init__()
        self.deadline = inf

    def start_timer(self, when: float) -> None:
        self.deadline = min(self.deadline, when)


class Client:
    """A session, and what it says."""

    def __init__(self, world: World) -> None:
        self.wire = Timed()
        self.session = Session(world, lambda session: None)
        self.session.start(self.wire, 0.0)  # type: ignore[arg-type]
        self.now = 0.0
        self.say(*HANDSHAKE, method_frame(1, methods.ChannelOpen()), method_frame(1, methods.ConfirmSelect()))

    def say(self, *frames: bytes) -> list[Any]:
        self.session.receive_data(b"".join(frames), self.now)
        return self.hear()

    def do(self, *asked: Method) -> list[Any]:
        return self.say(*(method_frame(1, each) for each in asked))

    def hear(self) -> list[Any]:
        said = parse(self.session.data_to_send().replace(PROTOCOL_HEADER, b""))
        return [each[1] for each in said if len(each) > 1 and isinstance(each[1], Method)]

    def pass_time(self, until: float) -> list[Any]:
        """Every deadline on the way, each at its time; the client's heartbeats, too."""
        for _ in range(1000):
            when = self.wire.deadline
            if when > until:
                break
            self.now, self.wire.deadline = max(self.now, when), inf
            self.session.receive_data(b"\x08\0\0\0\0\0\0\xce", self.now)
            following = self.session.handle_timer(self.now)
            if following is not None:
                self.wire.start_timer(following)
        self.now = until
        return self.hear()


def holding(version: str, arguments: dict[str, Any] | None = None, **options: Any) -> Client:
    """A client that has been given a message of the queue q, 5 seconds ago at most."""
    client = Client(World(version, consumer_timeout=100.0, **options))
    client.do(
        methods.QueueDeclare(queue="q", durable=True, arguments=arguments or {}),
        methods.BasicConsume(queue="q", consumer_tag="c"),
    )
    publish(client)
    return client


def publish(client: Client, body: bytes = b"m") -> list[Any]:
    return client.say(*content_frames(1, methods.BasicPublish(routing_key="q"), body))


@pytest.mark.parametrize("version", ["3.10", "4.0"])
def test_the_channel_is_closed_in_time(version: str) -> None:
    client = holding(version)
    assert client.pass_time(99.9) == []
    [closed] = client.pass_time(101.0)
    assert isinstance(closed, methods.ChannelClose) and closed.reply_code == 406
    assert "channel 1 timed out. Timeout value used: 100000 ms." in closed.reply_text


def test_what_is_settled_in_time_counts_no_more() -> None:
    client = holding("3.10")
    client.pass_time(60.0)
    publish(client)
    client.do(methods.BasicAck(delivery_tag=1))
    assert client.pass_time(159.0) == []
    assert [type(each) for each in client.pass_time(161.0)] == [methods.ChannelClose]


def test_queues_have_their_own_time_in_4_0_and_not_before() -> None:
    for version, expected in (("3.10", []), ("4.0", [methods.ChannelClose])):
        client = holding(version, {"x-consumer-timeout": 2000})
        assert [type(each) for each in client.pass_time(5.0)] == expected


def test_an_older_delivery_of_a_patient_queue_hides_a_younger_one() -> None:
    client = holding("4.0")
    client.do(methods.QueueDeclare(queue="hasty", arguments={"x-consumer-timeout": 1000}))
    client.do(methods.BasicConsume(queue="hasty", consumer_tag="h"))
    client.say(*content_frames(1, methods.BasicPublish(routing_key="hasty"), b"m"))
    assert client.pass_time(50.0) == [], "RabbitMQ looks at the oldest delivery alone"
    client.do(methods.BasicAck(delivery_tag=1))
    assert [type(each) for each in client.pass_time(52.0)] == [methods.ChannelClose]


def test_classic_queues_have_time_in_4_3() -> None:
    assert holding("4.3").pass_time(1000.0) == []


def test_a_quorum_queue_of_4_3_takes_back_and_gives_again_once_that_is_settled() -> None:
    client = Client(World("4.3", consumer_timeout=100.0))
    client.session._connection.client_properties = {"capabilities": {"consumer_cancel_notify": True}}
    client.do(methods.QueueDeclare(queue="q", durable=True, arguments={"x-queue-type": "quorum"}))
    client.do(methods.BasicConsume(queue="q", consumer_tag="c"))
    publish(client)
    [cancelled] = client.pass_time(101.0)
    assert isinstance(cancelled, methods.BasicCancel) and cancelled.consumer_tag == "c"
    [again] = client.do(methods.BasicAck(delivery_tag=1))
    assert isinstance(again, methods.BasicDeliver) and again.redelivered


def test_who_got_a_message_and_held_it_too_long_is_not_counted_any_more() -> None:
    client = Client(World("4.3", consumer_timeout=100.0))
    client.do(methods.QueueDeclare(queue="q", durable=True, arguments={"x-queue-type": "quorum"}))
    publish(client)
    client.do(methods.BasicGet(queue="q"))
    [counted] = client.do(methods.QueueDeclare(queue="q", passive=True))
    assert (counted.message_count, counted.consumer_count) == (0, 1)
    [closed] = client.pass_time(101.0)
    assert isinstance(closed, methods.ChannelClose)
    client.do(methods.ChannelCloseOk(), methods.ChannelOpen())
    [counted] = client.do(methods.QueueDeclare(queue="q", passive=True))
    assert (counted.message_count, counted.consumer_count) == (1, 0)


def test_nobody_is_timed_where_there_is_no_time() -> None:
    client = Client(World("4.0", consumer_timeout=None))
    client.do(methods.QueueDeclare(queue="q"), methods.BasicConsume(queue="q", consumer_tag="c"))
    publish(client)
    assert client.pass_time(10_000.0) == []


def test_heartbeats_keep_their_rhythm_beside_deadlines() -> None:
    """Ten seconds were agreed: a client that says nothing is given up after two whole intervals, not sooner."""
    client = Client(World("4.0", consumer_timeout=0.5))
    client.do(methods.QueueDeclare(queue="q", arguments={"x-consumer-timeout": 3_600_000}))
    client.do(methods.BasicConsume(queue="q", consumer_tag="c"))
    publish(client)
    looks = 0
    while not client.wire.is_aborted and looks < 100:
        now, client.wire.deadline = client.wire.deadline, inf
        following = client.session.handle_timer(now)
        client.session.data_to_send()
        looks += 1
        if following is not None:
            client.wire.start_timer(following)
    assert 15.0 <= now <= 25.0
