"""From what was asked for to complete settings: defaults, what follows from what, and what does not go together.

A refusal is a ValueError whose text names the flag; it stands beside the group of flags it concerns. What a client
library can't do is not refused here: that is known where the libraries are.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from loadtest.scenarios.settings import SMALLEST_STAMP_BYTES, Choices, Role, Settings
from loadtest.scenarios.shapes import parse_shape
from loadtest.scenarios.traffic import Wanted, refusals, why_not_sought
from loadtest.urls import is_amqp_url, redact, with_vhost

DEFAULT_CLIENTS = 100
DEFAULT_SHARE = 0.5
DEFAULT_WARMUP = 5.0
SEARCH_PER_DURATION, SHORTEST_SEARCH, LONGEST_SEARCH = 1.25, 6.0, 25.0
"""How long the search for the rate may take, by the time that is measured, and between which bounds; in seconds."""
LONGEST = 3600.0
"""Seconds that a given number of messages may take."""


@dataclass(frozen=True, kw_only=True)
class Asked(Wanted):
    """What was asked for, flag by flag. None follows from the others."""

    clients: int | None = None
    producers: int | None = None
    consumers: int | None = None
    callers: int | None = None
    servers: int | None = None

    mode: str | None = None
    share: float | None = None
    search: float | None = None
    warmup: float | None = None
    rate: float | None = None
    rate_each: float | None = None
    yes: bool = False
    seed: int | None = None


def complete(asked: Asked, environment: Mapping[str, str]) -> Settings:
    """The settings that follow from what was asked for. ValueError, with a message, if it makes no sense."""
    shares = _share_out(asked)
    producers, consumers, callers = (shares[role] for role in Role)
    queues, servers = _choose_queues_and_servers(asked, shares)
    _check_load(asked, shares)
    for refusal in refusals(asked, shares, queues):
        raise ValueError(refusal)
    urls = _find_urls(asked, environment)
    each, senders = asked.channels_per_connection, producers or callers
    refuse(asked.json == "", "--json is empty")
    refuse(asked.vhost == "", "--vhost is empty")
    mode = _choose_mode(asked, shares)
    chosen: dict[str, Any] = {each.name: getattr(asked, each.name) for each in fields(Choices)} | _choose_time(asked)
    if asked.shape is not None and asked.rate_each:
        chosen["shape"] = str(parse_shape(asked.shape).times(senders))
    return Settings(
        **chosen,
        existing=tuple(asked.queue),
        publish_urls=_with_vhost(asked, asked.publish_url),
        consume_urls=_with_vhost(asked, asked.consume_url),
        clients=sum(shares.values()),
        producers=producers,
        consumers=consumers,
        callers=callers,
        connections=asked.connections or -(-sum(shares.values()) // (each or 1)),
        queues=queues,
        servers=servers,
        mode=mode,
        share=DEFAULT_SHARE if asked.share is None else asked.share,
        search=_choose_search(asked) if mode == "both" else 0.0,
        warmup=max(_choose_warmup(asked, mode), asked.ramp),
        rate=asked.rate or (asked.rate_each and asked.rate_each * senders) or None,
        urls=urls,
        confirmed=bool(asked.urls or asked.publish_url or asked.consume_url) or asked.yes,
        seed=asked.seed if asked.seed is not None else secrets.randbelow(2**32),
    )


def refuse(condition: object, message: str) -> None:
    """ValueError with that message where the condition holds."""
    if condition:
        raise ValueError(message)


# --- clients ------------------------------------------------------------------------------------------------------


def _share_out(asked: Asked) -> dict[Role, int]:
    roles = {Role.PRODUCER: asked.producers, Role.CONSUMER: asked.consumers, Role.CALLER: asked.callers}
    if asked.queue or asked.exchange is not None:  # nothing is declared, as callers need it
        roles[Role.CALLER] = roles[Role.CALLER] or 0
        if not asked.queue:
            roles[Role.CONSUMER] = roles[Role.CONSUMER] or 0
    clients = asked.clients
    if clients is None:
        clients = sum(number or 0 for number in roles.values())
        if any(roles.values()) or any(each is not None for each in (asked.producers, asked.consumers, asked.callers)):
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
    queues = asked.queues or asked.fanout or asked.topic or len(asked.queue)
    if not queues and asked.exchange is None:
        queues = choose_queues(producers, consumers)
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
    refuse(not someone_sends and not asked.queue, "nobody would send anything: there are neither producers nor callers")
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


def _choose_mode(asked: Asked, shares: Mapping[Role, int]) -> str:
    """Both, unless a rate was asked for, or what makes it pointless to seek one."""
    is_rated = asked.rate is not None or asked.rate_each is not None
    reason = why_not_sought(asked, shares)
    mode = asked.mode or ("paced" if is_rated else "closed" if reason else "both")
    refuse(mode == "both" and reason, f"--mode both with {reason}: no rate to be kept up can be sought")
    refuse(mode == "paced" and not is_rated, "--mode paced: say at which --rate")
    refuse(mode != "paced" and is_rated, f"--rate with --mode {mode}: a given rate is paced")
    for flag, value in (("--share", asked.share), ("--search", asked.search)):
        refuse(value is not None and mode != "both", f"{flag} is for --mode both: {mode} seeks no rate")
    return mode


def _choose_search(asked: Asked) -> float:
    if asked.search is not None:
        return asked.search
    return min(LONGEST_SEARCH, max(SHORTEST_SEARCH, SEARCH_PER_DURATION * asked.duration))


def _choose_warmup(asked: Asked, mode: str) -> float:
    """A run that seeks its rate goes on warming up while it does so."""
    if asked.warmup is not None:
        return asked.warmup
    if asked.messages is not None:
        return 0.0
    return min(DEFAULT_WARMUP, max(1.0, asked.duration / 4)) if mode == "both" else DEFAULT_WARMUP


# --- broker -------------------------------------------------------------------------------------------------------


def _choose_time(asked: Asked) -> dict[str, float]:
    """A number of messages ends a run by itself, unless it was said how long it may take."""
    return {"duration": LONGEST} if asked.messages and asked.duration == Asked.duration else {}


def _with_vhost(asked: Asked, url: str | None) -> tuple[str, ...]:
    if url is None:
        return ()
    refuse(not is_amqp_url(url), f"{redact(url)!r} is no AMQP URL (amqp://user:password@host:port/vhost)")
    return (with_vhost(url, asked.vhost),)


def _find_urls(asked: Asked, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The brokers' URLs, with the virtual host; none for a private node."""
    beside = tuple(filter(None, (asked.consume_url or asked.publish_url,)))
    urls = tuple(asked.urls) or beside or tuple(filter(None, (environment.get("RABBITMQ_URL"),)))
    for url in urls:
        refuse(not is_amqp_url(url), f"{redact(url)!r} is no AMQP URL (amqp://user:password@host:port/vhost)")
    return tuple(with_vhost(url, asked.vhost) for url in urls)
