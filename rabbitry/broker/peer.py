"""What the channels of one connection share: who the client is, where it is, and how it is written to."""

from __future__ import annotations

from collections.abc import Callable

from rabbitry.broker.compat import Compat
from rabbitry.broker.users import Access, User
from rabbitry.broker.vhost import VirtualHost
from rabbitry.broker.world import World
from rabbitry.protocol.server.connection import ServerConnection

__all__ = ["ROOM", "Peer"]

ROOM = 4 * 1024 * 1024
"""Octets that may wait to be sent to a client before its consumers get no more: it doesn't read."""


class Peer:
    """One client. An exclusive queue's owner is compared with it."""

    __slots__ = ("compat", "connection", "user", "vhost", "wake", "was_full", "watch", "world")

    def __init__(
        self,
        connection: ServerConnection,
        user: User,
        vhost: VirtualHost,
        world: World,
        *,
        wake: Callable[[], None],
        watch: Callable[[float], None],
    ) -> None:
        self.connection: ServerConnection = connection
        self.user: User = user
        self.vhost: VirtualHost = vhost
        self.world: World = world
        self.compat: Compat = world.compat
        self.wake: Callable[[], None] = wake
        """Has what is queued sent."""
        self.watch: Callable[[float], None] = watch
        """Has the channels looked at, at that time or before: somebody may hold a delivery for too long."""
        self.was_full: bool = False
        """Whether a consumer was passed over as too much waits to be sent."""

    @property
    def has_room(self) -> bool:
        """Whether the client reads what it is sent."""
        if self.connection.out_size < ROOM:
            return True
        self.was_full = True
        return False

    def check(self, access: Access, kind: str, name: str) -> None:
        """Raise the `Refusal` of what the user may not do."""
        self.user.check(access, kind, name, self.vhost.name, self.compat)
