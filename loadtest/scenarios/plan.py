"""Who does what, when, on which queue, over which socket: the whole shape of a run, fixed before the first connection.

It owns where each role's clients stand and the names that the run's queues and connections bear. Every queue has at
least one consumer if there are consumers at all, and producers and consumers are spread evenly over the queues. The
same settings and the same name of the run make the same plan, in whichever process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from zlib import crc32

from loadtest.scenarios.schedule import Schedule, make_schedules
from loadtest.scenarios.settings import Role, Settings


@dataclass(frozen=True, slots=True)
class Place:
    """One client's place in the plan: its role, its number among those of its role, and its queue."""

    role: Role
    index: int
    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run's plan."""

    run_id: str
    prefix: str
    """What the names of all queues and connections begin with."""
    queues: tuple[str, ...]
    """The queues of producers and consumers."""
    server_queues: tuple[str, ...]
    """The queues that RPC servers answer."""
    sockets: tuple[tuple[Place, ...], ...]
    """For each socket the clients that share it."""
    publishing: tuple[Schedule, ...] | None
    """When each producer's messages are meant to leave; None in a closed loop."""
    calling: tuple[Schedule, ...] | None
    """When each caller's calls are meant to leave; None in a closed loop."""
    offsets: tuple[float, ...]
    """Seconds after the begin of the work until the producer, or caller, of that number starts."""

    @property
    def tag(self) -> int:
        """32 bits in each message's stamp, which keep strangers' messages out of the ledger."""
        return crc32(self.run_id.encode())

    def placed(self, role: Role) -> list[int]:
        """The numbers of the clients of a role that have a socket here: all, or those of one process of several."""
        return sorted(place.index for places in self.sockets for place in places if place.role is role)


def make_plan(settings: Settings, run_id: str) -> Plan:
    """Places every client, and draws from the settings' seed when each of them acts."""
    prefix = f"loadtest.{run_id}"
    queues = tuple(f"{prefix}.{number}" for number in range(settings.queues))
    server_queues = tuple(f"{prefix}.rpc.{number}" for number in range(settings.servers))
    random, each = Random(settings.seed), settings.rate_each
    clients = max(settings.producers, settings.callers)
    return Plan(
        run_id=run_id,
        prefix=prefix,
        queues=queues,
        server_queues=server_queues,
        sockets=_place(settings, queues, server_queues),
        publishing=None if each is None else make_schedules(settings.producers, each, random),
        calling=None if each is None else make_schedules(settings.callers, each, random),
        offsets=tuple(random.uniform(0, settings.ramp) for _ in range(clients)),
    )


def _place(settings: Settings, queues: Sequence[str], server_queues: Sequence[str]) -> tuple[tuple[Place, ...], ...]:
    """Roles are mixed along the sockets, so that shared sockets carry all of them."""
    shares = settings.shares
    places = [
        Place(role, index, _pick(server_queues if role is Role.CALLER else queues, index))
        for role, number in shares.items()
        for index in range(number)
    ]
    places.sort(key=lambda place: ((place.index + 0.5) / shares[place.role], place.role.value))
    bounds = [len(places) * socket // settings.connections for socket in range(settings.connections + 1)]
    return tuple(tuple(places[start:end]) for start, end in pairwise(bounds))


def _pick(names: Sequence[str], index: int) -> str:
    return names[index % len(names)]
