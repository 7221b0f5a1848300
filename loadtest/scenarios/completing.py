"""From what was asked for to complete settings: defaults, what follows from what, and what does not go together.

A refusal is a ValueError whose text names the flag; it stands beside the group of flags it concerns. What a client
library can't do is not refused here: that is known where the libraries are.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.scenarios.settings import SMALLEST_STAMP_BYTES, Argument, Role, Settings
from loadtest.urls import is_amqp_url, redact, with_vhost

DEFAULT_CLIENTS = 100


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked for, flag by flag, and each flag's default. None follows from the others."""

    clients: int | None = None
    producers: int | None = None
    consumers: int | None = None
    callers: int | None = None
    connections: int | None = None
    queues: int | None = None
    servers: int | None = None

    duration: float = 20.0
    warmup: float = 5.0
    drain: float = 30.0
    ramp: float = 0.0

    rate: float | None = None
    rate_each: float | None = None
    size: int = 128
    window: int = 1
    prefetch: int = 100
    ack_every: int = 1
    transient: bool = False
    mandatory: bool = False
    queue_type: str = "classic"
    queue_arguments: Mapping[str, Argument] = field(default_factory=dict)
    rpc_timeout: float = 30.0

    urls: Sequence[str] = ()
    yes: bool = False
    vhost: str | None = None
    backend: str = "asyncio"
    driver: str = "rabbitry"
    handshakes: int = 200
    seed: int | None = None

    require: Sequence[str] = ()
    output: Path | None = None
    json: str | None = None
    quiet: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


def complete(asked: Asked, environment: Mapping[str, str]) -> Settings:
    """The settings that follow from what was asked for. ValueError, with a message, if it makes no sense."""
    shares = _share_out(asked)
    producers, consumers, callers = (shares[role] for role in Role)
    queues, servers = _choose_queues_and_servers(asked, shares)
    _check_load(asked, shares)
    urls = _find_urls(asked, environment)
    refuse(asked.json == "", "--json is empty")
    refuse(asked.vhost == "", "--vhost is empty")
    return Settings(
        clients=sum(shares.values()),
        producers=producers,
        consumers=consumers,
        callers=callers,
        connections=asked.connections or sum(shares.values()),
        queues=queues,
        servers=servers,
        duration=asked.duration,
        warmup=max(asked.warmup, asked.ramp),
        drain=asked.drain,
        ramp=asked.ramp,
        rate=asked.rate or (asked.rate_each and asked.rate_each * (producers or callers)) or None,
        size=asked.size,
        window=asked.window,
        prefetch=asked.prefetch,
        ack_every=asked.ack_every,
        transient=asked.transient,
        mandatory=asked.mandatory,
        queue_type=asked.queue_type,
        queue_arguments=asked.queue_arguments,
        rpc_timeout=asked.rpc_timeout,
        urls=urls,
        confirmed=bool(asked.urls) or asked.yes,
        vhost=asked.vhost,
        backend=asked.backend,
        driver=asked.driver,
        handshakes=asked.handshakes,
        seed=asked.seed if asked.seed is not None else secrets.randbelow(2**32),
        require=tuple(asked.require),
        output=asked.output,
        json=asked.json,
        quiet=asked.quiet,
        labels=asked.labels,
    )


def refuse(condition: object, message: str) -> None:
    """ValueError with that message where the condition holds."""
    if condition:
        raise ValueError(message)


# --- clients ------------------------------------------------------------------------------------------------------


def _share_out(asked: Asked) -> dict[Role, int]:
    roles = {Role.PRODUCER: asked.producers, Role.CONSUMER: asked.consumers, Role.CALLER: asked.callers}
    clients = asked.clients
    if clients is None:
        clients = sum(number or 0 for number in roles.values())
        if any(number is not None for number in roles.values()):
            roles = {role: number or 0 for role, number in roles.items()}
        else:
            clients = DEFAULT_CLIENTS
    shares = share_clients(clients, roles)
    refuse(not clients, "there are no clients")
    refuse(
        (asked.connections or 0) > clients, f"{asked.connections} connections for {clients} clients: some would be idle"
    )
    return shares


def share_clients(clients: int, asked: Mapping[Role, int | None]) -> dict[Role, int]:
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


def _choose_queues_and_servers(asked: Asked, shares: dict[Role, int]) -> tuple[int, int]:
    producers, consumers, callers = (shares[role] for role in Role)
    queues = asked.queues or choose_queues(producers, consumers)
    refuse(asked.queues and not producers + consumers, "--queues without producers and consumers would do nothing")
    refuse(consumers and queues > consumers, f"{queues} queues for {consumers} consumers: some queues would have none")
    servers = asked.servers or choose_servers(callers)
    refuse(asked.servers and not callers, "--servers without callers would do nothing")
    refuse(servers > callers, f"{servers} servers for {callers} callers: some would be idle")
    return queues, servers


def choose_queues(producers: int, consumers: int) -> int:
    """One queue for each hundred producers, never more than there are consumers; none if there are neither."""
    if not producers and not consumers:
        return 0
    wanted = max(1, -(-producers // 100))
    return min(wanted, consumers) if consumers else wanted


def choose_servers(callers: int) -> int:
    """A few servers: one for each 250 callers, at most 8."""
    return min(8, -(-callers // 250))


# --- load ---------------------------------------------------------------------------------------------------------


def _check_load(asked: Asked, shares: dict[Role, int]) -> None:
    someone_sends = shares[Role.PRODUCER] + shares[Role.CALLER]
    refuse(not someone_sends, "nobody would send anything: there are neither producers nor callers")
    refuse(
        shares[Role.PRODUCER] and asked.size < SMALLEST_STAMP_BYTES,
        f"--size {asked.size}: each message carries {SMALLEST_STAMP_BYTES} bytes that tell it from others, so no less",
    )
    refuse(asked.queue_type == "stream" and not asked.prefetch, "--prefetch 0: a stream's consumers need a limit")
    refuse(
        0 < asked.prefetch < asked.ack_every,
        f"--ack-every {asked.ack_every} with --prefetch {asked.prefetch}: the consumer would wait for ever",
    )
    refuse("x-queue-type" in asked.queue_arguments, "--queue-arg x-queue-type: use --queue-type")


# --- broker -------------------------------------------------------------------------------------------------------


def _find_urls(asked: Asked, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The brokers' URLs, with the virtual host; none for a private node."""
    urls = tuple(asked.urls) or tuple(filter(None, (environment.get("RABBITMQ_URL"),)))
    for url in urls:
        refuse(not is_amqp_url(url), f"{redact(url)!r} is no AMQP URL (amqp://user:password@host:port/vhost)")
    return tuple(with_vhost(url, asked.vhost) for url in urls)
