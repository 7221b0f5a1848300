"""One plan, shared out: all parts together are the whole, whoever makes them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.commands.flags import parse_settings
from loadtest.fleet.segments import find_idle, producers_by_worker, take_segment
from loadtest.scenarios.plan import Plan, make_plan
from loadtest.scenarios.settings import Role


def plan(*words: str) -> Plan:
    return make_plan(parse_settings(["--seed", "5", *words], {}), "run")


@given(
    clients=st.integers(1, 120),
    of=st.integers(1, 9),
    sockets=st.integers(1, 120),
    rate=st.sampled_from([(), ("--rate", "50")]),
)
def test_the_segments_make_the_plan(clients: int, of: int, sockets: int, rate: tuple[str, ...]) -> None:
    whole = plan("--clients", str(clients), "--connections", str(min(sockets, clients)), *rate)
    parts = [take_segment(whole, number, of) for number in range(of)]
    assert Counter(places for part in parts for places in part.sockets) == Counter(whole.sockets)
    assert Counter(queue for part in parts for queue in part.server_queues) == Counter(whole.server_queues)
    assert all(part.publishing == whole.publishing and part.tag == whole.tag for part in parts)
    assert sorted(index for part in parts for index in part.placed(Role.PRODUCER)) == whole.placed(Role.PRODUCER)


@pytest.mark.parametrize("of", [2, 3, 5])
def test_the_parts_are_even(of: int) -> None:
    whole = plan("--clients", "1000")
    sizes = [len(take_segment(whole, number, of).sockets) for number in range(of)]
    assert max(sizes) - min(sizes) <= len(Role)
    assert find_idle(whole, of) == []


def test_who_would_be_idle_is_known() -> None:
    """A client goes where its queue's others are, so that few of them may leave a worker without any."""
    assert find_idle(plan("--producers", "2", "--consumers", "2"), 4) == [2, 3]
    assert find_idle(plan("--producers", "1", "--consumers", "1"), 2) == [1]


def test_consumers_read_what_their_own_workers_producers_write() -> None:
    whole = plan("--producers", "40", "--consumers", "40", "--queues", "4")
    for number in range(2):
        part = take_segment(whole, number, 2)
        queues = {
            role: {each.queue for places in part.sockets for each in places if each.role is role} for role in Role
        }
        assert queues[Role.PRODUCER] == queues[Role.CONSUMER]
        assert len(queues[Role.PRODUCER]) == 2


def test_it_is_known_whose_a_producer_is() -> None:
    whole = plan("--clients", "60", "--connections", "12")
    owners = producers_by_worker(whole, 3)
    for number in range(3):
        assert take_segment(whole, number, 3).placed(Role.PRODUCER) == [
            p for p, owner in owners.items() if owner == number
        ]


@pytest.mark.parametrize(("number", "of"), [(2, 2), (-1, 2), (0, 0)])
def test_there_is_no_other_worker(number: int, of: int) -> None:
    with pytest.raises(ValueError, match="there is no worker"):
        take_segment(plan(), number, of)
