"""A conversation with an embedded broker that is nothing but a `World`: no socket, no task, no thread. What is sent has
been dealt with when the call returns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rabbitry.broker.session import Session
from rabbitry.broker.world import World
from tests.broker.conformance.conversation import PATIENCE, Connection, Conversation
from tests.protocol.server.test_hostile import Wire


class LocalConversation(Conversation):
    """One with a world of its own."""

    def __init__(self, version: str) -> None:
        super().__init__("", 0, is_embedded=True)
        self.world = World(version)

    def dial(self, **options: Any) -> LocalConnection:
        return LocalConnection(self, **options)

    def pause(self, seconds: float = 0.0) -> None:
        """Everything has been done."""


class LocalConnection(Connection):
    """A session, and whoever talks to it."""

    conversation: LocalConversation

    def dial(self) -> None:
        now = time.monotonic()
        self._session = Session(self.conversation.world, lambda session: None)
        self._session.start(Wire(), now)

    def send(self, data: bytes) -> None:
        if not self.is_over:
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
        self.is_over = True
        self._session.connection_lost(None)
