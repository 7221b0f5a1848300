from __future__ import annotations

from collections import Counter
from dataclasses import replace

from loadtest.scenarios.completing import Asked, complete
from loadtest.scenarios.plan import Plan, make_plan
from loadtest.scenarios.settings import Role


def plan(producers: int, consumers: int, callers: int, *, queues: int, connections: int = 0, servers: int = 1) -> Plan:
    asked = Asked(
        producers=producers,
        consumers=consumers,
        callers=callers,
        queues=queues,
        servers=servers,
        connections=connections or None,
        seed=1,
    )
    return make_plan(complete(asked, {}), "name")


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


def test_the_same_settings_and_name_make_the_same_plan() -> None:
    asked = Asked(clients=100, rate=1000.0, ramp=3.0, seed=7)
    plans = [make_plan(complete(each, {}), "name") for each in (asked, asked, replace(asked, seed=8))]
    assert plans[0] == plans[1] != plans[2]
    assert plans[0].publishing is not None and len(plans[0].publishing) == 45
    assert plans[0].calling is not None and len(plans[0].calling) == 10
    assert len(plans[0].offsets) == 45 and 0 <= min(plans[0].offsets) <= max(plans[0].offsets) <= 3
    assert plans[0].prefix == "loadtest.name"
    assert 0 <= plans[0].tag < 2**32 and make_plan(complete(asked, {}), "other").tag != plans[0].tag


def test_a_closed_loop_has_no_schedules() -> None:
    made = plan(4, 4, 1, queues=1)
    assert (made.publishing, made.calling) == (None, None)
