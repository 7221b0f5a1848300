from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.scenarios.plan import Plan, Role, choose_queues, choose_servers, make_plan, share_clients


def plan(producers: int, consumers: int, callers: int, *, queues: int, connections: int = 0, servers: int = 1) -> Plan:
    shares = {Role.PRODUCER: producers, Role.CONSUMER: consumers, Role.CALLER: callers}
    total = connections or sum(shares.values())
    return make_plan(shares, queues=queues, servers=servers, connections=total, prefix="p")


@given(st.integers(0, 20_000), st.sets(st.sampled_from(Role)))
def test_shares_add_up(clients: int, fixed: set[Role]) -> None:
    asked = {role: clients // 4 if role in fixed else None for role in Role}
    if len(fixed) == 3 and clients % 4 + clients // 4:
        with pytest.raises(ValueError, match="don't make"):
            share_clients(clients, asked)
        return
    shares = share_clients(clients, asked)
    assert sum(shares.values()) == clients
    assert all(shares[role] == clients // 4 for role in fixed)
    assert min(shares.values()) >= 0


def test_every_client_has_one_place_and_every_queue_its_consumers() -> None:
    made = plan(450, 450, 100, queues=5, servers=2)
    places = [place for socket in made.sockets for place in socket]
    assert all(len(socket) == 1 for socket in made.sockets)
    assert Counter(place.role for place in places) == {Role.PRODUCER: 450, Role.CONSUMER: 450, Role.CALLER: 100}
    assert {place.index for place in places if place.role is Role.PRODUCER} == set(range(450))
    for role, queues in ((Role.PRODUCER, made.queues), (Role.CONSUMER, made.queues), (Role.CALLER, made.server_queues)):
        crowd = Counter(place.queue for place in places if place.role is role)
        assert set(crowd) == set(queues)
        assert max(crowd.values()) - min(crowd.values()) <= 1


def test_shared_sockets_carry_all_roles() -> None:
    made = plan(45, 45, 10, queues=1, connections=5)
    assert [len(socket) for socket in made.sockets] == [20] * 5
    for socket in made.sockets:
        assert {place.role for place in socket} == set(Role)


def test_defaults_for_queues_and_servers() -> None:
    assert [choose_queues(*roles) for roles in ((4500, 4500), (1, 1), (500, 2), (500, 0), (0, 9), (0, 0))] == [
        45,
        1,
        2,
        5,
        1,
        0,
    ]
    assert [choose_servers(callers) for callers in (0, 1, 250, 251, 1000, 10_000)] == [0, 1, 1, 2, 4, 8]
