from __future__ import annotations

import resource
from dataclasses import replace

import pytest

from loadtest.machine import preflight
from loadtest.machine.preflight import Demand, Machine, Refused, find_obstacles

MACHINE = Machine(soft_descriptors=1024, hard_descriptors=20_000, ports=28_232, memory_bytes=16 * 10**9)
DEMAND = Demand(connections=10_004, destinations=1, client_bytes=20_000, clients=10_004, own_broker="rabbitmq")


def test_ten_thousand_clients_fit_here() -> None:
    assert find_obstacles(DEMAND, MACHINE) == []


@pytest.mark.parametrize(
    ("demand", "machine", "arithmetic"),
    [
        (DEMAND, replace(MACHINE, hard_descriptors=10_000), ["10,004 connections + 64 others = 10,068", "10,000"]),
        (replace(DEMAND, connections=18_000), MACHINE, ["18,000", "(20,000 − 100) × 0.9 − 2 = 17,908"]),
        (DEMAND, replace(MACHINE, ports=9_000), ["10,004 connections", "9,000 ports", "× 1 broker", "= 9,000"]),
        (
            DEMAND,
            replace(MACHINE, memory_bytes=10**9),
            ["80 MB + 10,004 clients × 20 kB = 280 MB", "135 kB", "1,000 MB"],
        ),
    ],
)
def test_what_is_missing_is_told_with_the_arithmetic(demand: Demand, machine: Machine, arithmetic: list[str]) -> None:
    told = "\n".join(find_obstacles(demand, machine))
    assert told.count("\n") < 2
    for part in arithmetic:
        assert part in told


def test_several_processes_share_the_descriptors() -> None:
    """15,000 clients on a private node fit into two processes of 10,000 descriptors each, and not into one."""
    demand, machine = replace(DEMAND, connections=15_000, clients=15_000), replace(MACHINE, hard_descriptors=20_000)
    assert find_obstacles(replace(demand, processes=2), machine) == []
    small = replace(demand, own_broker=None)
    assert find_obstacles(replace(small, processes=2), replace(MACHINE, hard_descriptors=7_564)) == []
    (told,) = find_obstacles(replace(small, processes=2), replace(MACHINE, hard_descriptors=7_563))
    assert "7,500 connections in each of 2 processes + 64 others = 7,564" in told
    assert "more --processes" in told
    (told,) = find_obstacles(replace(demand, processes=2), replace(MACHINE, memory_bytes=10**9))
    assert "here 160 MB" in told


def test_a_broker_elsewhere_needs_no_sockets_and_memory_here() -> None:
    demand = replace(DEMAND, connections=18_000, own_broker=None)
    assert find_obstacles(demand, replace(MACHINE, memory_bytes=10**9)) == []
    assert find_obstacles(replace(demand, destinations=2), replace(MACHINE, ports=9_000)) == []


def test_the_embedded_broker_needs_less() -> None:
    """Ten thousand connections: it admits as many as there are descriptors, and takes a tenth of RabbitMQ's memory."""
    demand = replace(DEMAND, own_broker="embedded")
    machine = replace(MACHINE, memory_bytes=10**9)
    assert find_obstacles(demand, replace(machine, hard_descriptors=10_072)) == []
    (told,) = find_obstacles(demand, replace(machine, hard_descriptors=10_071))
    assert "the embedded broker's descriptors: 10,004 connections, 4 more to administer, 64 others = 10,072" in told
    (told,) = find_obstacles(demand, replace(MACHINE, memory_bytes=10**8))
    assert "the broker 40 MB + 10,004 × 10 kB = 140 MB" in told


def test_the_soft_limit_is_raised_but_never_lowered() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 400
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        preflight.prepare(replace(DEMAND, connections=wanted, own_broker=None))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (wanted + preflight.SPARE_DESCRIPTORS, hard)
        preflight.prepare(replace(DEMAND, connections=1, own_broker=None))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == wanted + preflight.SPARE_DESCRIPTORS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_impossible_is_refused() -> None:
    with pytest.raises(Refused, match="can't bear the run"):
        preflight.prepare(replace(DEMAND, connections=10**10))
