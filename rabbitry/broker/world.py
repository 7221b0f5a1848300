"""All that one broker is: users, virtual hosts, its clients, alarms, faults, what is due when. Pure: whoever calls
brings the time.

What must stay true: what it holds is bounded: above its limit of memory it raises an alarm, as RabbitMQ does, and
publishers wait until it is below.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypeAlias

from rabbitry.broker.compat import COMPAT, Compat
from rabbitry.broker.faults import Faults
from rabbitry.broker.history import History
from rabbitry.broker.timers import Timers
from rabbitry.broker.users import Permissions, User
from rabbitry.broker.vhost import VirtualHost
from rabbitry.protocol.server.handshake import credentials
from rabbitry.protocol.server.refusals import Refusal

__all__ = ["Alarm", "Client", "World"]

Alarm: TypeAlias = Literal["memory", "disk"]

MESSAGE_OCTETS = 500
"""What a message in a queue takes beside its content, about."""
LOOKS = 64
"""How often, while its limit comes in, the memory that is used is added up."""
LOOK_SECONDS = 0.1
"""How often that is done while there is too little."""


class Client(Protocol):
    """A client's session, as all of them see it."""

    @property
    def held_octets(self) -> int:
        """Bodies that were delivered and are not settled, and what waits to be sent."""
        ...

    def unblock(self, now: float) -> None:
        """There is no alarm any more."""
        ...


class World:
    """Nothing in it is shared with another. It begins with the user guest and the virtual host "/".

    `consumer_timeout` is in seconds, `memory_limit` in octets, `history` a number of messages.
    """

    def __init__(
        self,
        version: str,
        *,
        consumer_timeout: float | None = 1800.0,
        memory_limit: int | None = None,
        history: int = 0,
    ) -> None:
        if version not in COMPAT:
            raise ValueError(f"compat must be one of {', '.join(COMPAT)}, not {version!r}")
        self.compat: Compat = COMPAT[version]
        self.timers: Timers = Timers()
        self.consumer_timeout = consumer_timeout
        self.faults: Faults = Faults()
        self.history: History = History(history)
        self.clients: dict[Client, None] = {}
        self.alarms: dict[Alarm, None] = {}
        """Those that are up, for whatever reason: publishers are blocked."""
        self._memory_limit = memory_limit
        self._unlooked = 0  # octets that came since memory was added up
        self._raised: dict[Alarm, None] = {}  # by command
        self._is_full = False  # above the limit: memory is short whatever is commanded
        self.users: dict[str, User] = {}
        self.vhosts: dict[str, VirtualHost] = {}
        self.properties: dict[str, Any] = _properties(self.compat)
        """What clients are told of the broker."""
        self.add_vhost("/")
        self.add_user("guest", "guest").permissions["/"] = Permissions(".*", ".*", ".*")

    def add_vhost(self, name: str) -> VirtualHost:
        """A virtual host with the predeclared exchanges, if it is not there."""
        if name not in self.vhosts:
            self.vhosts[name] = VirtualHost(name, self.compat, self.timers)
        return self.vhosts[name]

    def add_user(self, name: str, password: str) -> User:
        """A user who may do nothing yet."""
        user = self.users[name] = User(name, password)
        return user

    def login(self, mechanism: str, response: bytes, certificate: str | None = None) -> User:
        """Who this is; `certificate` is whom the client's certificate names, if it has one. Raises `Refusal`."""
        if mechanism == "EXTERNAL":
            user = None if certificate is None else self.users.get(certificate)
            is_known = user is not None
        else:
            told = credentials(mechanism, response)
            user = None if told is None else self.users.get(told[0])
            is_known = told is not None and user is not None and user.has_password(told[1])
        if user is None or not is_known:
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

    # --- alarms ----------------------------------------------------------------------------------------------------

    def raise_alarm(self, alarm: Alarm) -> None:
        """By command: who publishes from now on is blocked."""
        self._raised[alarm] = None
        self._find_alarms()

    def clear_alarm(self, alarm: Alarm, now: float) -> None:
        """By command. Once there is none, whoever was blocked goes on."""
        self._raised.pop(alarm, None)
        self._find_alarms()
        self._unblock(now)

    def clear_alarms(self, now: float) -> None:
        """All that were raised by command are over."""
        for alarm in list(self._raised):
            self.clear_alarm(alarm, now)

    def _find_alarms(self) -> None:
        own: dict[Alarm, None] = {"memory": None} if self._is_full else {}
        self.alarms = self._raised | own

    def _unblock(self, now: float) -> None:
        if not self.alarms:
            for client in list(self.clients):
                client.unblock(now)

    def take_in(self, octets: int, now: float) -> None:
        """So much has come from a client: look at the memory from time to time."""
        self._unlooked += octets
        if self._memory_limit is not None and self._unlooked * LOOKS > self._memory_limit:
            self._unlooked = 0
            if not self._is_full and self.used_octets > self._memory_limit:
                self._is_full = True
                self._find_alarms()
                self.timers.schedule(now + LOOK_SECONDS, self._look_at_memory)

    def _look_at_memory(self, now: float) -> None:
        if self._memory_limit is None or self.used_octets <= self._memory_limit:
            self._is_full = False
            self._find_alarms()
            self._unblock(now)
        else:
            self.timers.schedule(now + LOOK_SECONDS, self._look_at_memory)

    @property
    def used_octets(self) -> int:
        """What queues and clients hold, about."""
        queues = [queue for vhost in self.vhosts.values() for queue in vhost.queues.values()]
        in_queues = sum(queue.content_octets + MESSAGE_OCTETS * queue.total for queue in queues)
        return in_queues + sum(client.held_octets for client in self.clients)


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
