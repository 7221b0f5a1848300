"""Can this machine bear the run? The arithmetic, done before the first connection, and shown when the answer is no.

`look_at_machine` is the only part that touches the machine; the rest turns a plan and a machine into sentences. The
soft limit of descriptors is raised as far as needed and allowed, never lowered.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadtest.scenarios.brokers import EMBEDDED, RABBITMQ
from rabbitry.testing import connections_admitted

ADMINISTRATION = 4
"""How many connections there are beside those of clients and servers: more than are ever open at once."""

SPARE_DESCRIPTORS = 64
"""What else is open: standard streams, event loop, signals, log and result files, the administrator's connection."""

CLIENT_BYTES = 80_000_000
"""What this process takes before its first connection."""

TLS_BYTES = 30_000
"""What each connection takes more if it is encrypted."""

BROKER_BYTES = {RABBITMQ: 200_000_000, EMBEDDED: 40_000_000}
"""What a broker takes before its first connection."""
BROKER_BYTES_PER_CONNECTION = {RABBITMQ: 135_000, EMBEDDED: 10_000}
"""RabbitMQ's own published figure: 5.41 GB for 40,000 connections with two channels each. The embedded one's
were 5 kB at 2,200 connections, each with a channel; as much again is for what is in flight.
"""

KERNEL_BYTES_PER_SOCKET = 4_000
"""Two sockets for each connection when the broker is on this machine; idle ones, whose buffers are empty."""


class Refused(Exception):
    """The run is impossible here; the message has the arithmetic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What there is to use."""

    soft_descriptors: int
    hard_descriptors: int
    ports: int
    """How many outgoing connections there can be to each address and port of a broker."""
    memory_bytes: int
    """How much is available now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the run needs."""

    connections: int
    """The sockets of clients and servers."""
    destinations: int
    """How many different addresses of brokers there are to connect to."""
    client_bytes: int
    """How much memory each client takes in this process."""
    clients: int
    own_broker: str | None
    """The kind of the broker that is started here for the run; None if it runs already."""
    processes: int = 1
    """How many processes share the connections evenly."""

    @property
    def descriptors(self) -> int:
        """How many each process will have open."""
        return -(-self.connections // self.processes) + SPARE_DESCRIPTORS


def look_at_machine() -> Machine:
    """Reads the limits of this process and the machine's free memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except (OSError, ValueError):
        low, high = 49152, 65535  # IANA's range, which other systems use
    return Machine(
        soft_descriptors=_bounded(soft),
        hard_descriptors=_bounded(hard),
        ports=high - low + 1,
        memory_bytes=psutil.virtual_memory().available,
    )


def _bounded(limit: int) -> int:
    return 2**31 if limit == resource.RLIM_INFINITY else limit


def find_obstacles(demand: Demand, machine: Machine) -> list[str]:
    """Why the run is impossible, each with its arithmetic; empty if it is possible."""
    return [
        *_missing_descriptors(demand, machine),
        *_missing_sockets(demand, machine),
        *_missing_descriptors_of_embedded(demand, machine),
        *_missing_ports(demand, machine),
        *_missing_memory(demand, machine),
    ]


def prepare(demand: Demand) -> None:
    """Raises this process's soft limit of descriptors where needed. Refused if the run is impossible."""
    machine = look_at_machine()
    if obstacles := find_obstacles(demand, machine):
        raise Refused("\n".join(("this machine can't bear the run:", *(f"  - {text}" for text in obstacles))))
    if demand.descriptors > machine.soft_descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (demand.descriptors, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def _missing_descriptors(demand: Demand, machine: Machine) -> list[str]:
    if demand.descriptors <= machine.hard_descriptors:
        return []
    each = demand.descriptors - SPARE_DESCRIPTORS
    in_one = "" if demand.processes == 1 else f" in each of {demand.processes} processes"
    return [
        f"descriptors: {each:,} connections{in_one} + {SPARE_DESCRIPTORS} others = {demand.descriptors:,}, and the "
        f"hard limit is {machine.hard_descriptors:,} (ulimit -Hn): raise it, share sockets with --connections, or use "
        "more --processes"
    ]


def _missing_sockets(demand: Demand, machine: Machine) -> list[str]:
    admitted = connections_admitted(machine.hard_descriptors)
    if demand.own_broker != RABBITMQ or demand.connections + ADMINISTRATION <= admitted:
        return []
    return [
        f"the private node's sockets: {demand.connections:,} connections, {ADMINISTRATION} more to administer; under a "
        "hard limit of "
        f"{machine.hard_descriptors:,} descriptors RabbitMQ admits ({machine.hard_descriptors:,} − 100) × 0.9 − 2 = "
        f"{admitted:,}: raise the limit, use --connections, or a broker of your own with --url"
    ]


def _missing_descriptors_of_embedded(demand: Demand, machine: Machine) -> list[str]:
    needed = demand.connections + ADMINISTRATION + SPARE_DESCRIPTORS
    if demand.own_broker != EMBEDDED or needed <= machine.hard_descriptors:
        return []
    return [
        f"the embedded broker's descriptors: {demand.connections:,} connections, {ADMINISTRATION} more to administer, "
        f"{SPARE_DESCRIPTORS} others = {needed:,}, and the hard limit is {machine.hard_descriptors:,} (ulimit -Hn): "
        "raise it, use --connections, or a broker of your own with --url"
    ]


def _missing_ports(demand: Demand, machine: Machine) -> list[str]:
    available = machine.ports * demand.destinations
    if demand.connections <= available:
        return []
    return [
        f"ports: {demand.connections:,} connections, and {machine.ports:,} ports (net.ipv4.ip_local_port_range) × "
        f"{demand.destinations} broker address(es) = {available:,}: widen the range, use --connections, or name more "
        "addresses of the broker with --url"
    ]


def _missing_memory(demand: Demand, machine: Machine) -> list[str]:
    processes = CLIENT_BYTES * demand.processes
    here = processes + demand.clients * demand.client_bytes
    base, each = (table.get(demand.own_broker or "", 0) for table in (BROKER_BYTES, BROKER_BYTES_PER_CONNECTION))
    broker = base + demand.connections * each
    kernel = demand.connections * KERNEL_BYTES_PER_SOCKET * (2 if demand.own_broker else 1)
    total = here + broker + kernel
    if total <= machine.memory_bytes:
        return []
    parts = [
        f"here {_mb(processes)} + {demand.clients:,} clients × {_kb(demand.client_bytes)} = {_mb(here)}",
        f"the broker {_mb(base)} + {demand.connections:,} × {_kb(each)} = {_mb(broker)}",
        f"the kernel's sockets {_mb(kernel)}",
    ]
    told = ", ".join(parts if demand.own_broker else parts[::2])
    return [f"memory: {told}; together {_mb(total)}, and {_mb(machine.memory_bytes)} are available: use fewer clients"]


def _kb(size: int) -> str:
    return f"{size / 1e3:,.0f} kB"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
