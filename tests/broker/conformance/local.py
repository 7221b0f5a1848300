"""A conversation with an embedded broker that is nothing but a `World`: no socket, no task, no thread. What is sent has
been dealt with when the call returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any

from rabbitry.broker.session import Session
from rabbitry.broker.world import World
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.methods import decode_method
from rabbitry.protocol.wire.properties import decode_properties
from tests.broker.conformance.conversation import PATIENCE, Connection, Conversation
from tests.protocol.server.test_hostile import Wire

_FRAME = Struct(">BHI")


class LocalConversation(Conversation):
    """One with a world of its own."""

    def __init__(self, version: str) -> None:
        super().__init__("", 0, is_embedded=True)
        self.world = World(version)
        self.sent: list[tuple[LocalConnection, bytes]] = []
        """Frames, by whom; none where a connection ends."""

    def dial(self, **options: Any) -> LocalConnection:
        return LocalConnection(self, **options)

    def pause(self, seconds: float = 0.0) -> None:
        """Everything has been done."""

    def told(self, most: int) -> list[str]:
        """What was sent on channels up to this number, to be read: connection, channel, method or content."""
        numbers = dict[LocalConnection, int]()
        lines = list[str]()
        for connection, data in self.sent:
            who = numbers.setdefault(connection, len(numbers))
            if not data:
                lines.append(f"{who} ends")
            lines += [f"{who}.{number} {what}" for number, what in _read(data) if 0 < number <= most]
        return [line.replace(self.prefix, "") for line in lines]


def _read(data: bytes) -> Iterator[tuple[int, object]]:
    if data[:4] == b"AMQP":
        return
    while data:
        kind, number, size = _FRAME.unpack_from(data)
        payload, data = data[7 : 7 + size], data[8 + size :]
        if kind == 1:
            method = decode_method(payload)
            if not isinstance(method, methods.AccessRequest):
                yield number, method
        elif kind == 2:
            yield number, decode_properties(payload, 12)
        else:
            yield number, payload


class LocalConnection(Connection):
    """A session, and whoever talks to it."""

    conversation: LocalConversation

    def dial(self) -> None:
        now = time.monotonic()
        self._session = Session(self.conversation.world, lambda session: None)
        self._session.start(Wire(), now)

    def send(self, data: bytes) -> None:
        if not self.is_over:
            self.conversation.sent.append((self, data))
            now = time.monotonic()
            self.conversation.world.timers.run(now)
            self._session.receive_data(data, now)

    def wait(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        while not self.is_over and (data := self._session.data_to_send()):
            self._take(data)
        return condition()

    def owns(self, owner: object) -> bool:
        """Whether the owner of an exclusive queue is this."""
        return owner is self._session._peer

    def cut(self) -> None:
        self.conversation.sent.append((self, b""))
        self.is_over = True
        self._session.connection_lost(None)
