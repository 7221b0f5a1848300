"""Who does what, when, on which queue, over which socket: the whole shape of a run, fixed before the first connection.

It owns where each role's clients stand and the names that the run's queues and connections bear. Every queue has at
least one consumer if there are consumers at all, and producers and consumers are spread evenly over the queues. The
same settings and the same name of the run make the same plan, in whichever process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from random import Random
from zlib import crc32

from loadtest.scenarios.distributions import draw_exactly, parse_skew
from loadtest.scenarios.schedule import Schedule, make_schedules
from loadtest.scenarios.settings import Role, Settings
from loadtest.scenarios.shapes import Shape, make_shaped_schedules, parse_shape


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
    exchange: str = ""
    """Where producers publish to."""
    exchange_kind: str | None = None
    """Of which kind the exchange is that this run declares; None if it declares none."""
    bindings: tuple[tuple[str, str], ...] = ()
    """The queues that are bound to it, each with its key."""
    keys: tuple[str, ...] | None = None
    """The queues that producers publish to one after the other, again and again; None is each to its own."""
    quotas: tuple[int, ...] | None = None
    """How many messages each producer sends; None is until the run ends."""

    def quota(self, producer: int) -> int | None:
        """How many messages the producer of that number sends."""
        return None if self.quotas is None else self.quotas[producer]

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
    queues = settings.existing or tuple(f"{prefix}.{number}" for number in range(settings.queues))
    server_queues = tuple(f"{prefix}.rpc.{number}" for number in range(settings.servers))
    random, clients = Random(settings.seed), max(settings.producers, settings.callers)
    kind = "fanout" if settings.fanout else "topic" if settings.topic else None
    return Plan(
        run_id=run_id,
        prefix=prefix,
        queues=queues,
        server_queues=server_queues,
        sockets=_place(settings, queues, server_queues),
        publishing=_schedules(settings, settings.producers, random),
        calling=_schedules(settings, settings.callers, random),
        offsets=tuple(random.uniform(0, settings.ramp) for _ in range(clients)),
        exchange=settings.exchange or (f"{prefix}.exchange" if kind else ""),
        exchange_kind=kind,
        bindings=tuple(zip(queues, cycle(_PATTERNS), strict=False)) if kind else (),
        keys=_draw_keys(settings, queues, random),
        quotas=_quotas(settings),
    )


_PATTERNS = ("loadtest.#", "loadtest.*.message", "#.message", "*.*.message")
"""By which a topic exchange's queues are bound, in turn: each fits each message's key."""
_KEYS = 4096
"""How many messages' queues are drawn; then they come again, in the same order."""


def _schedules(settings: Settings, clients: int, random: Random) -> tuple[Schedule, ...] | None:
    if settings.rate_each is None:
        return None
    if settings.shape is None:
        return make_schedules(clients, settings.rate_each, random)
    shape = parse_shape(settings.shape).times(1 / (settings.producers or settings.callers))
    return make_shaped_schedules(clients, Shape(shape.segments, lead=settings.warmup), random)


def _draw_keys(settings: Settings, queues: Sequence[str], random: Random) -> tuple[str, ...] | None:
    if settings.skew is None:
        return None
    return tuple(draw_exactly(queues, parse_skew(settings.skew)(len(queues)), random, _KEYS))


def _quotas(settings: Settings) -> tuple[int, ...] | None:
    if settings.messages is None:
        return None
    each, more = divmod(settings.messages, settings.producers)
    return tuple(each + (number < more) for number in range(settings.producers))


def _place(settings: Settings, queues: Sequence[str], server_queues: Sequence[str]) -> tuple[tuple[Place, ...], ...]:
    """Roles are mixed along the sockets, so that shared sockets carry all of them."""
    shares = settings.shares
    names = {Role.PRODUCER: _targets(settings, queues), Role.CONSUMER: queues, Role.CALLER: server_queues}
    places = [
        Place(role, index, _pick(names[role], index)) for role, number in shares.items() for index in range(number)
    ]
    places.sort(key=lambda place: ((place.index + 0.5) / shares[place.role], place.role.value))
    bounds = [len(places) * socket // settings.connections for socket in range(settings.connections + 1)]
    return tuple(tuple(places[start:end]) for start, end in pairwise(bounds))


def _targets(settings: Settings, queues: Sequence[str]) -> Sequence[str]:
    """What producers publish to, in turn: queues, or routing keys."""
    if settings.exchange is not None:
        return (settings.routing_key,) if settings.routing_key is not None else queues or ("",)
    if settings.fanout or settings.topic:
        return tuple(f"loadtest.{number}.message" for number in range(settings.producers))
    return queues


def _pick(names: Sequence[str], index: int) -> str:
    return names[index % len(names)]
