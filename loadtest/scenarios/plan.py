"""Who does what, on which queue, over which socket: the whole shape of a run, fixed before the first connection.

It owns the roles, their shares of the clients and the names of the queues. Every queue has at least one consumer if
there are consumers at all, and producers and consumers are spread evenly over the queues. Pure: it knows no broker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise


class Role(Enum):
    """What a client does."""

    PRODUCER = "producer"
    CONSUMER = "consumer"
    CALLER = "caller"


@dataclass(frozen=True, slots=True)
class Place:
    """One client's place in the plan: its role, its number among those of its role, and its queue."""

    role: Role
    index: int
    queue: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The queues, the servers' queues, and for each socket the clients that share it."""

    queues: tuple[str, ...]
    server_queues: tuple[str, ...]
    sockets: tuple[tuple[Place, ...], ...]


def share_clients(clients: int, asked: dict[Role, int | None]) -> dict[Role, int]:
    """Shares the clients out among the roles for which no number was asked: 45 % produce, 45 % consume, 10 % call.

    A single one produces. ValueError if the numbers that were asked for don't fit.
    """
    weights = {Role.PRODUCER: 45, Role.CONSUMER: 45, Role.CALLER: 10}
    shares = {role: number for role, number in asked.items() if number is not None}
    left = clients - sum(shares.values())
    open_roles = [role for role in Role if role not in shares]
    if left < 0 or (left and not open_roles):
        parts = " + ".join(f"{number} {role.value}s" for role, number in shares.items())
        raise ValueError(f"{parts} don't make {clients} clients")
    while open_roles:  # each share is rounded, the last role takes what remains
        role = open_roles.pop(0)
        total = weights[role] + sum(weights[other] for other in open_roles)
        shares[role] = round(left * weights[role] / total) or int(role is Role.PRODUCER and left == 1)
        left -= shares[role]
    return {role: shares[role] for role in Role}


def choose_queues(producers: int, consumers: int) -> int:
    """One queue for each hundred producers, never more than there are consumers; none if there are neither."""
    if not producers and not consumers:
        return 0
    wanted = max(1, -(-producers // 100))
    return min(wanted, consumers) if consumers else wanted


def choose_servers(callers: int) -> int:
    """A few servers: one for each 250 callers, at most 8."""
    return min(8, -(-callers // 250))


def make_plan(shares: dict[Role, int], *, queues: int, servers: int, connections: int, prefix: str) -> Plan:
    """Places every client. Roles are mixed along the sockets, so that shared sockets carry all of them."""
    names = tuple(f"{prefix}.{number}" for number in range(queues))
    server_names = tuple(f"{prefix}.rpc.{number}" for number in range(servers))
    places = [
        Place(role, index, _pick(server_names if role is Role.CALLER else names, index))
        for role, number in shares.items()
        for index in range(number)
    ]
    places.sort(key=lambda place: ((place.index + 0.5) / shares[place.role], place.role.value))
    bounds = [len(places) * socket // connections for socket in range(connections + 1)]
    return Plan(names, server_names, tuple(tuple(places[start:end]) for start, end in pairwise(bounds)))


def _pick(names: Sequence[str], index: int) -> str:
    return names[index % len(names)]
