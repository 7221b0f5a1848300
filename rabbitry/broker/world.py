"""All that one broker is: users, virtual hosts, what is due when. Pure: whoever calls brings the time."""

from __future__ import annotations

from typing import Any

from rabbitry.broker.compat import COMPAT, Compat
from rabbitry.broker.timers import Timers
from rabbitry.broker.users import Permissions, User
from rabbitry.broker.vhost import VirtualHost
from rabbitry.protocol.server.handshake import credentials
from rabbitry.protocol.server.refusals import Refusal

__all__ = ["World"]


class World:
    """Nothing in it is shared with another. It begins with the user guest and the virtual host "/"."""

    def __init__(self, version: str) -> None:
        if version not in COMPAT:
            raise ValueError(f"compat must be one of {', '.join(COMPAT)}, not {version!r}")
        self.compat: Compat = COMPAT[version]
        self.timers = Timers()
        self._wall_offset = 0.0
        self.users: dict[str, User] = {}
        self.vhosts: dict[str, VirtualHost] = {}
        self.properties = _properties(self.compat)
        """What clients are told of the broker."""
        self.add_vhost("/")
        self.add_user("guest", "guest").permissions["/"] = Permissions(".*", ".*", ".*")

    def tell_time_of_day(self, wall_offset: float) -> None:
        """What is to be added to `now` for the time of day, which deaths of messages are stamped with."""
        self._wall_offset = wall_offset
        for vhost in self.vhosts.values():
            vhost.wall_offset = wall_offset

    def add_vhost(self, name: str) -> VirtualHost:
        """A virtual host with the predeclared exchanges, if it is not there."""
        if name not in self.vhosts:
            self.vhosts[name] = VirtualHost(name, self.compat, self.timers, self._wall_offset)
        return self.vhosts[name]

    def add_user(self, name: str, password: str) -> User:
        """A user who may do nothing yet."""
        user = self.users[name] = User(name, password)
        return user

    def login(self, mechanism: str, response: bytes) -> User:
        """Who this is. Raises `Refusal`."""
        told = credentials(mechanism, response)
        user = None if told is None else self.users.get(told[0])
        if told is None or user is None or not user.has_password(told[1]):
            raise Refusal(
                403,
                f"Login was refused using authentication mechanism {mechanism}. For details see the broker logfile.",
                (0, 0),
            )
        return user

    def enter(self, name: str, user: User) -> VirtualHost:
        """The virtual host, for this user. Raises `Refusal`."""
        vhost = self.vhosts.get(name)
        if vhost is None:
            raise Refusal(530, f"vhost {name} not found")
        if name not in user.permissions:
            raise Refusal(530, f"access to vhost '{name}' refused for user '{user.name}'")
        return vhost


def _properties(compat: Compat) -> dict[str, Any]:
    capabilities = (
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    )
    return {
        "product": "RabbitMQ",
        "version": compat.version,
        "platform": "rabbitry embedded broker: a test double",
        "copyright": "",
        "information": "This is not RabbitMQ, but behaves like it where a test would notice.",
        "capabilities": dict.fromkeys(capabilities, True),
    }
