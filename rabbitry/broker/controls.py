"""What a test can see of a broker, and do to it: looking, helping itself, breaking. Each takes effect at once."""

from __future__ import annotations

from rabbitry import Message
from rabbitry._concurrency.clock import monotonic
from rabbitry.broker import inspection
from rabbitry.broker.checks import check_int
from rabbitry.broker.commands import cancel_consumers, drain, publish
from rabbitry.broker.inspection import Published, QueueState, StoredMessage
from rabbitry.broker.served import ServedConnection
from rabbitry.broker.session import Session
from rabbitry.broker.vhost import VirtualHost
from rabbitry.broker.world import Alarm, World

__all__ = ["Controls"]

ALARMS = ("memory", "disk")


class Controls:
    """A part of `Broker`. To be called where the broker runs: on its event loop's thread."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sessions: dict[Session, None] = {}

    # --- looking -----------------------------------------------------------------------------------------------------

    @property
    def connections(self) -> list[ServedConnection]:
        """Those that are open, the oldest first: what they are, and what can be done to them."""
        return [ServedConnection(session) for session in self._sessions if session.is_open]

    def queues(self, virtual_host: str = "/") -> dict[str, QueueState]:
        """All queues by name: what is in them, and who consumes. `LookupError` for a virtual host that is not there."""
        vhost = self._vhost(virtual_host)
        channels = [channel for session in self._sessions for channel in session.channels.values()]
        return {name: inspection.queue_state(vhost, queue, channels) for name, queue in vhost.queues.items()}

    def queue(self, name: str, virtual_host: str = "/") -> QueueState:
        """One of them. `LookupError` for a queue or a virtual host that is not there."""
        vhost = self._vhost(virtual_host)
        if name not in vhost.queues:
            raise LookupError(f"there is no queue {name!r} in virtual host {virtual_host!r}")
        channels = [channel for session in self._sessions for channel in session.channels.values()]
        return inspection.queue_state(vhost, vhost.queues[name], channels)

    def published(self, exchange: str | None = None, routing_key: str | None = None) -> list[Published]:
        """What was published lately, the oldest first, and the queues that it went to; all, or to that exchange, or
        with that key. The last 1000 are kept (see `history`), and 16 MiB of them at most."""
        return [
            inspection.published(record)
            for record in self._world.history.records()
            if exchange in (None, record.message.exchange) and routing_key in (None, record.message.routing_keys[0])
        ]

    def publish(
        self, message: Message | bytes, routing_key: str = "", *, exchange: str = "", virtual_host: str = "/"
    ) -> tuple[str, ...]:
        """Publish without a client; the names of the queues that have taken it, which may be none.

        A reply to a call of a client's, whose routing key is the request's reply-to, goes to whom it is for.
        `LookupError` for an exchange or a virtual host that is not there; what can't be sent raises `ValueError` or
        `TypeError`.
        """
        for name, value in (("routing_key", routing_key), ("exchange", exchange)):
            _check_short(name, value)
        made = message if isinstance(message, Message) else Message(message)
        properties = made.encoded_properties()
        vhost = self._vhost(virtual_host)
        return publish(self._world, vhost, exchange, routing_key, properties, made.body, monotonic())

    def drain(self, queue: str, virtual_host: str = "/") -> list[StoredMessage]:
        """Take all messages that wait in a queue, as a client's gets would, and tell what they were. A stream keeps
        what it tells. `LookupError` for a queue or a virtual host that is not there."""
        return drain(self._vhost(virtual_host), queue, monotonic())

    # --- breaking ----------------------------------------------------------------------------------------------------

    def refuse_connections(self, refuse: bool = True) -> None:
        """Refuse whoever connects from now on, or accept them again. Those that are open stay."""
        self._world.faults.refuses_connections = refuse

    def nack_publishes(self, count: int = 1) -> None:
        """Have the next `count` messages that are published with confirms nacked, and not enqueued."""
        self._world.faults.arm(nacks=_checked(count))

    def return_publishes(self, count: int = 1) -> None:
        """Have the next `count` mandatory messages come back as unroutable, though there are queues for them."""
        self._world.faults.arm(returns=_checked(count))

    def duplicate_deliveries(self, count: int = 1) -> None:
        """Have the next `count` deliveries to consumers made twice, the second time marked as redelivered."""
        self._world.faults.arm(duplicates=_checked(count))

    def cancel_consumers(self, queue: str, virtual_host: str = "/") -> int:
        """Cancel all consumers of a queue, as RabbitMQ does when a queue becomes unavailable; how many there were. The
        clients are told. `LookupError` for a queue or a virtual host that is not there."""
        return cancel_consumers(self._vhost(virtual_host), queue, monotonic())

    def raise_alarm(self, alarm: Alarm = "memory") -> None:
        """As if memory or disk were short: who publishes is told (connection.blocked), and waits for `clear_alarm`."""
        self._world.raise_alarm(_checked_alarm(alarm))

    def clear_alarm(self, alarm: Alarm = "memory") -> None:
        """The alarm is over; once none is left, publishers go on (connection.unblocked). What the broker raises itself,
        above its `memory_limit`, stays until there is less."""
        self._world.clear_alarm(_checked_alarm(alarm), monotonic())

    def stop_faults(self) -> None:
        """Nothing that was asked for here goes wrong any more: no alarm, no fault that is still to come, and
        connections are accepted and read."""
        self._world.faults.disarm()
        self._world.clear_alarms(monotonic())
        for session in list(self._sessions):
            session.resume(monotonic())

    def _vhost(self, name: str) -> VirtualHost:
        if name not in self._world.vhosts:
            raise LookupError(f"there is no virtual host {name!r}: add it first")
        return self._world.vhosts[name]


def _check_short(name: str, value: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {value!r}")
    if len(value.encode()) > 255:
        raise ValueError(f"{name} must have at most 255 octets: {value!r}")


def _checked(count: int) -> int:
    check_int("count", count)
    if count < 0:
        raise ValueError(f"count must be 0 or more, not {count}")
    return count


def _checked_alarm(alarm: Alarm) -> Alarm:
    if alarm not in ALARMS:
        raise ValueError(f"alarm must be one of {', '.join(ALARMS)}, not {alarm!r}")
    return alarm
