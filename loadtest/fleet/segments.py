"""Which part of a plan is whose: each worker takes some of the sockets, and all of them together take each one once.

Everybody makes the whole plan, from the same settings and the same name of the run, and leaves out what is not his. So
nothing is shared out while the run goes on, and the load of several processes is that of one. Where the number of
queues is a multiple of that of workers, the consumers of a worker read what its own producers write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from loadtest.scenarios.plan import Place, Plan
from loadtest.scenarios.settings import Role


def take_segment(plan: Plan, number: int, of: int) -> Plan:
    """The part of worker `number` of `of`. ValueError if there is no such worker."""
    _check(number, of)
    return replace(
        plan,
        sockets=tuple(places for socket, places in enumerate(plan.sockets) if _owner(socket, places, of) == number),
        server_queues=plan.server_queues[number::of],
    )


def producers_by_worker(plan: Plan, of: int) -> dict[int, int]:
    """Which worker has which producer, by its index."""
    return {
        place.index: _owner(socket, places, of)
        for socket, places in enumerate(plan.sockets)
        for place in places
        if place.role is Role.PRODUCER
    }


def find_idle(plan: Plan, of: int) -> list[int]:
    """Which workers would have no socket at all."""
    busy = {_owner(socket, places, of) for socket, places in enumerate(plan.sockets)}
    return [number for number in range(of) if number not in busy]


def _owner(socket: int, places: Sequence[Place], of: int) -> int:
    """A client with a socket of its own goes where its queue's others are; a shared socket has clients of all."""
    return (places[0].index if len(places) == 1 else socket) % of


def _check(number: int, of: int) -> None:
    if not 0 <= number < of:
        raise ValueError(f"there is no worker {number} of {of}")
