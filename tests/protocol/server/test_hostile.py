"""Hostile bytes against the server's side: the client fuzzer's mutations of what a client sends, to a whole session.

Nothing may escape, nothing is left behind when the connection has ended, and what the server says can be parsed. Cut up
at random, the same octets have the same effect.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from rabbitry.broker.compat import COMPAT
from rabbitry.broker.session import Session
from rabbitry.broker.world import World
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.constants import PROTOCOL_HEADER
from tests.protocol.fuzz import any_method, mutate
from tests.support.protocol_broker import content_frames, method_frame, parse

HANDSHAKE = [
    PROTOCOL_HEADER,
    method_frame(0, methods.ConnectionStartOk(response=b"\0guest\0guest")),
    method_frame(0, methods.ConnectionTuneOk(channel_max=7, frame_max=8192, heartbeat=10)),
    method_frame(0, methods.ConnectionOpen()),
]


VERSIONS = tuple(COMPAT)
"""Each life is with one of them."""
HEADERS = {compat.unknown_protocol for compat in COMPAT.values()}
"""What answers a header that is wrong."""
QUEUES: dict[str, dict[str, object]] = {
    "a": {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "c", "x-message-ttl": 9000},
    "b": {"x-max-length": 3, "x-overflow": "reject-publish"},
    "c": {
        "x-queue-type": "quorum",
        "x-dead-letter-strategy": "at-least-once",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "b",
        "x-overflow": "reject-publish",
        "x-max-length": 3,
        "x-message-ttl": 5000,
        "x-delivery-limit": 1,
    },
    "d": {"x-queue-type": "stream"},
}
"""What a client declares; a step takes a second."""


class Wire:
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        self.scheduled = True
        self.is_stalled = self.is_reading_paused = False
        self.is_aborted = False

    def send_now(self) -> None: ...

    def send_later(self) -> None: ...

    def flush(self) -> None: ...

    async def wait_unstalled(self) -> None: ...

    def wake_waiting(self) -> None: ...

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def start_timer(self, when: float) -> None: ...

    def abort(self) -> None:
        self.is_aborted = True

    def describe(self) -> str:
        return "wire"


class Client:
    """What a client might send on an open connection; it opens again what is closed, so that lives are long."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.tags = {1: [0], 2: [0]}
        self.to_send = [method_frame(number, methods.ChannelOpen()) for number in self.tags]
        self.is_over = False

    def hear(self, said: bytes) -> None:
        for number, what, *_ in (frame for frame in frames(said) if len(frame) > 1):
            if isinstance(what, methods.ConnectionClose):
                self.is_over = True
            elif isinstance(what, methods.ChannelClose | methods.ChannelCloseOk) and number in self.tags:
                self.tags[number] = [0]
                if isinstance(what, methods.ChannelClose):
                    self.to_send.append(method_frame(number, methods.ChannelCloseOk()))
                self.to_send.append(method_frame(number, methods.ChannelOpen()))
            elif isinstance(what, methods.BasicDeliver | methods.BasicGetOk) and number in self.tags:
                self.tags[number].append(what.delivery_tag)

    def next(self) -> bytes:
        if self.to_send:
            return self.to_send.pop(0)
        random = self.random
        number, queue = random.choice([1, 1, 1, 2]), random.choice("aabbccd")
        tags = self.tags[number]
        tag = tags.pop(random.randrange(len(tags))) if len(tags) > 1 else 0
        exchange = random.choice(["", "amq.topic"])
        choices: list[tuple[int, Callable[[], bytes]]] = [
            (6, lambda: method_frame(number, declaration(queue))),
            (1, lambda: method_frame(number, methods.QueueDeclare(exclusive=True))),
            (1, lambda: method_frame(number, methods.QueueBind(queue=queue, exchange="amq.topic", routing_key="#"))),
            (2, lambda: method_frame(number, methods.BasicConsume(queue=queue, consumer_tag=random.choice("xyzuvw")))),
            (1, lambda: method_frame(number, methods.BasicCancel(consumer_tag=random.choice("xyzuvw")))),
            (1, lambda: method_frame(number, methods.BasicQos(prefetch_count=2, global_=random.random() < 0.5))),
            (4, lambda: method_frame(number, methods.BasicGet(queue=queue))),
            (4, lambda: method_frame(number, methods.BasicAck(delivery_tag=tag, multiple=not tag))),
            (3, lambda: method_frame(number, methods.BasicNack(delivery_tag=tag, multiple=not tag))),
            (2, lambda: method_frame(number, methods.BasicReject(delivery_tag=tag, requeue=False))),
            (1, lambda: method_frame(number, methods.BasicRecover(requeue=True))),
            (1, lambda: method_frame(number, methods.ConfirmSelect())),
            (1, lambda: method_frame(number, methods.QueueDelete(queue=queue))),
            (1, lambda: method_frame(number, methods.ChannelClose(reply_code=200))),
            (1, lambda: method_frame(number, any_method(random))),
            (
                12,
                lambda: b"".join(
                    content_frames(
                        number,
                        methods.BasicPublish(exchange=exchange, routing_key=queue, mandatory=True),
                        b"x" * random.choice([0, 1, 100, 9000]),
                    )
                ),
            ),
        ]
        weights, makers = zip(*choices, strict=True)
        return random.choices(makers, weights)[0]()


def declaration(queue: str) -> methods.QueueDeclare:
    arguments = QUEUES[queue]
    return methods.QueueDeclare(
        queue=queue, durable="x-queue-type" in arguments, auto_delete=queue == "b", arguments=arguments
    )


def frames(said: bytes) -> list[tuple[Any, ...]]:
    """What the server said, without its answer to a header that is wrong."""
    for header in HEADERS:
        said = said.replace(header, b"")
    return parse(said)


def life(seed: int, *, is_cut: bool) -> bytes:
    """One connection; what the server said."""
    random = Random(seed)
    cuts = Random(-seed)
    world = World(VERSIONS[seed % len(VERSIONS)])
    ended: list[Session] = []
    session = Session(world, ended.append)
    session.start(Wire(), 0.0)
    client = Client(random)
    said, older = b"", list[bytes]()
    script = list(HANDSHAKE)
    for step in range(80):
        if client.is_over:
            break
        world.timers.run(float(step))
        data = script.pop(0) if script else client.next()
        if random.random() < 0.03:
            data = mutate(random, data, older)
        older.append(data)
        answer = b""
        while data:
            size = cuts.randrange(1, len(data) + 1) if is_cut else len(data)
            session.receive_data(data[:size], float(step))
            answer += session.data_to_send()
            data = data[size:]
        client.hear(answer)
        said += answer
    session.connection_lost(None)
    world.timers.run(1e6)
    assert ended, "whoever made it must be told of its end"
    vhost = world.vhosts["/"]
    assert not [queue for queue in vhost.queues.values() if queue.owner is not None or len(queue.consumers)]
    return said


@pytest.mark.parametrize("batch", range(8))
def test_nothing_escapes(batch: int, caplog: pytest.LogCaptureFixture) -> None:
    for seed in range(batch * 150, batch * 150 + 150):
        said = life(seed, is_cut=False)
        for frame in frames(said):
            assert frame
        assert not caplog.records, f"seed {seed}: {caplog.records[0].getMessage()}"


@pytest.mark.parametrize("batch", range(4))
def test_the_cuts_between_chunks_mean_nothing(batch: int) -> None:
    for seed in range(batch * 100, batch * 100 + 100):
        whole, cut = life(seed, is_cut=False), life(seed, is_cut=True)
        assert shape(whole) == shape(cut), f"seed {seed}"


def shape(said: bytes) -> dict[int, list[str]]:
    """What was said on each channel: names only, as made-up names differ; without confirms, which chunks share."""
    shapes: dict[int, list[str]] = {}
    for frame in frames(said):
        name = getattr(frame[1], "name", frame[1])
        if name != "basic.ack":
            shapes.setdefault(frame[0], []).append(name)
    return shapes
