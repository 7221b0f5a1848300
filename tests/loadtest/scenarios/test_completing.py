from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.scenarios.completing import Asked, complete
from loadtest.scenarios.settings import Role
from loadtest.scenarios.shares import choose_queues, choose_servers, share_clients


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


def test_what_was_not_asked_for_follows() -> None:
    settings = complete(Asked(clients=10_000), {})
    assert (settings.producers, settings.consumers, settings.callers) == (4500, 4500, 1000)
    assert (settings.connections, settings.queues, settings.servers) == (10_000, 45, 4)
    assert complete(Asked(ramp=10, warmup=2), {}).warmup == 10
    assert complete(Asked(producers=10, rate_each=5.0), {}).rate == 50
    assert complete(Asked(seed=0), {}).seed == 0


def test_a_refusal_names_the_flag() -> None:
    with pytest.raises(ValueError, match=r"^--ack-every 6 with --prefetch 5: the consumer would wait for ever$"):
        complete(Asked(prefetch=5, ack_every=6), {})
    with pytest.raises(ValueError, match=r"^'amqp://me@host:0' is no AMQP URL"):
        complete(Asked(urls=["amqp://me:secret@host:0"]), {})


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
