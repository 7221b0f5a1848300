"""From what was asked for to complete settings: defaults, what follows from what, and what does not go together.

A refusal is a ValueError whose text names the flag; it stands beside the group of flags it concerns. What a client
library can't do is not refused here: that is known where the libraries are.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from loadtest import units
from loadtest.scenarios.brokers import EMBEDDED, embedded_refusals
from loadtest.scenarios.faults import NEED_OUR_BROKER, OF_CONSUMERS
from loadtest.scenarios.settings import SMALLEST_STAMP_BYTES, Choices, Role, Settings
from loadtest.scenarios.shapes import parse_shape
from loadtest.scenarios.shares import choose_queues, choose_servers, share_clients
from loadtest.scenarios.traffic import Wanted, refusals, why_not_sought
from loadtest.urls import is_amqp_url, redact, with_vhost

DEFAULT_CLIENTS = 100
DEFAULT_SHARE = 0.5
DEFAULT_WARMUP = 5.0
SEARCH_PER_DURATION, SHORTEST_SEARCH, LONGEST_SEARCH = 1.75, 6.0, 35.0
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
    backlog: str | None = None


def complete(asked: Asked, environment: Mapping[str, str]) -> Settings:
    """The settings that follow from what was asked for. ValueError, with a message, if it makes no sense."""
    shares = _share_out(asked)
    producers, consumers, callers = (shares[role] for role in Role)
    queues, servers = _choose_queues_and_servers(asked, shares)
    _check_load(asked, shares)
    for refusal in refusals(asked, shares, queues):
        raise ValueError(refusal)
    _check_use(asked, shares)
    urls = _find_urls(asked, environment)
    refuse(asked.wait_broker and not urls, "--wait-broker without --url would do nothing: our own broker is awaited")
    each, senders = asked.channels_per_connection, producers or callers
    refuse(asked.json == "", "--json is empty")
    refuse(asked.vhost == "", "--vhost is empty")
    mode = _choose_mode(asked, shares)
    chosen: dict[str, Any] = {each.name: getattr(asked, each.name) for each in fields(Choices)}
    chosen["duration"] = _choose_duration(asked)
    if asked.shape is not None and asked.rate_each:
        chosen["shape"] = str(parse_shape(asked.shape).times(senders))
    settings = Settings(
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
        backlog=complete_scene(asked, shares, urls),
    )
    for refusal in embedded_refusals(settings) if settings.broker == EMBEDDED else ():
        raise ValueError(refusal)
    return settings


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


# --- load ---------------------------------------------------------------------------------------------------------


def _check_load(asked: Asked, shares: dict[Role, int]) -> None:
    someone_sends = shares[Role.PRODUCER] + shares[Role.CALLER]
    is_nobody = not someone_sends and not asked.queue and asked.backlog is None
    refuse(is_nobody, "nobody would send anything: there are neither producers nor callers")
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


_OF_ROLES = {
    Role.PRODUCER: ("window", "mandatory", "transient", "sizes"),
    Role.CONSUMER: ("prefetch", "ack_every"),
    Role.CALLER: ("rpc_timeout",),
}
"""What only clients of one role heed, by the names of the settings."""


def _check_use(asked: Asked, shares: Mapping[Role, int]) -> None:
    """Refuses what nobody would heed."""
    for role, names in _OF_ROLES.items():
        is_there = shares[role] or (role is Role.PRODUCER and asked.backlog is not None)
        for name in names:
            flag = {"sizes": "--size with several"}.get(name, f"--{name.replace('_', '-')}")
            is_given = getattr(asked, name) != getattr(Asked, name)
            refuse(is_given and not is_there, f"{flag} without {role.value}s would do nothing")
    has_queues = shares[Role.PRODUCER] + shares[Role.CONSUMER]
    for flag, is_given in {
        "--queue-type": asked.queue_type != Asked.queue_type,
        "--queue-arg": asked.queue_arguments,
    }.items():
        refuse(is_given and not has_queues, f"{flag} without producers and consumers would do nothing")
    refuse(
        asked.ramp and not shares[Role.PRODUCER] + shares[Role.CALLER],
        "--ramp without producers and callers would do nothing",
    )
    duration = _choose_duration(asked)
    refuse(
        asked.until_idle >= duration,
        f"--until-idle {asked.until_idle:g}s is not within --duration {duration:g}s: it would do nothing",
    )


def _choose_mode(asked: Asked, shares: Mapping[Role, int]) -> str:
    """Both, unless a rate was asked for, or what makes it pointless to seek one."""
    is_rated = asked.rate is not None or asked.rate_each is not None
    reason = why_not_sought(asked, shares) or _why_not_sought_either(asked)
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


def _why_not_sought_either(asked: Asked) -> str | None:
    """The same of the scenario."""
    given = {
        "--churn": asked.churn,
        "--backlog": asked.backlog is not None,
        "--scenario sweep": asked.scenario == "sweep",
    }
    return next((flag for flag, is_given in given.items() if is_given), None)


# --- scenario ------------------------------------------------------------------------------------------------------


def complete_scene(asked: Asked, shares: Mapping[Role, int], urls: Sequence[str]) -> int:
    """The backlog's messages; refuses what does not go together with it, with faults and with churn."""
    consumers, senders = shares[Role.CONSUMER], shares[Role.PRODUCER] + shares[Role.CALLER]
    refuse(asked.churn and asked.connections, "--churn has a connection for each client: leave out --connections")
    refuse(
        asked.churn and (asked.channels_per_connection or 1) > 1,
        "--churn has a connection for each client: leave out --channels-per-connection",
    )
    refuse(
        asked.churn and asked.handshakes != Asked.handshakes,
        "--churn: each client connects when it is its turn to, however many do; leave out --handshakes",
    )
    refuse(asked.churn and asked.reconnect, "--churn closes its connections itself: leave out --reconnect")
    refuse(asked.churn and asked.window > 1, "--churn publishes one message on each connection: leave out --window")
    refuse(asked.churn and asked.messages, "--churn with --messages: it goes on for its --duration")
    refuse(asked.reconnect and asked.no_confirm, "--reconnect with --no-confirm: a client publishes with confirms")
    is_sweep = asked.scenario == "sweep"
    refuse(is_sweep and (asked.rate or asked.rate_each), "--scenario sweep finds its rates itself: leave out --rate")
    refuse(is_sweep and asked.faults, "--scenario sweep takes no --fault: each of its steps is a run")
    refuse(is_sweep and asked.messages, "--scenario sweep takes no --messages: each of its steps lasts its --duration")
    refuse(is_sweep and asked.until_idle, "--scenario sweep takes no --until-idle: each of its steps lasts")
    refuse(is_sweep and not senders, "--scenario sweep without producers and callers: nobody's rate can rise")
    refuse(is_sweep and asked.backlog, "--scenario sweep takes no --backlog: each of its steps is a run")
    duration = _choose_duration(asked)
    for fault in asked.faults:
        refuse(
            fault.at + fault.seconds >= duration,
            f"--fault {str(fault)!r} would not be over by --duration {duration:g}s: make that longer, or say another "
            "--fault",
        )
        refuse(
            fault.action in NEED_OUR_BROKER and urls,
            f"--fault {str(fault)!r}: {fault.action} needs a broker that is started for the run, without --url; on one "
            "that isn't ours there are kill-sockets, pause-consumers and slow-consumers",
        )
        refuse(
            fault.action == "restart" and not asked.reconnect,
            f"--fault {str(fault)!r}: every connection is lost for good, unless there is --reconnect",
        )
        refuse(fault.action in OF_CONSUMERS and not consumers, f"--fault {str(fault)!r}: there are no consumers")
    if asked.backlog is None:
        return 0
    refuse(not consumers, "--backlog: there are no consumers to take it")
    refuse(asked.queue_type == "stream", "--backlog: a stream keeps what was consumed, and has none")
    elsewhere = {"--fanout": asked.fanout, "--topic": asked.topic, "--exchange": asked.exchange, "--queue": asked.queue}
    for flag, value in elsewhere.items():
        refuse(value, f"--backlog with {flag}: a backlog is put into the run's own queues, each message once")
    refuse(asked.reconnect, "--backlog with --reconnect: who fills the queues has no connection that outlives a loss")
    return parse_backlog(asked.backlog, asked.size)


def parse_backlog(text: str, size: int) -> int:
    """Messages, from a number of them or from the size of all their bodies. ValueError for neither, or for none."""
    try:
        messages = units.parse_count(text)
    except ValueError:
        messages = units.parse_size(text) // max(1, size)
    refuse(not messages, f"--backlog {text}: that is no message")
    return messages


# --- broker -------------------------------------------------------------------------------------------------------


def _choose_duration(asked: Asked) -> float:
    """A number of messages ends a run by itself, unless it was said how long it may take."""
    return LONGEST if asked.messages and asked.duration == Asked.duration else asked.duration


def _with_vhost(asked: Asked, url: str | None) -> tuple[str, ...]:
    if url is None:
        return ()
    refuse(not is_amqp_url(url), f"{redact(url)!r} is no AMQP URL (amqp://user:password@host:port/vhost)")
    return (with_vhost(url, asked.vhost),)


def _find_urls(asked: Asked, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The brokers' URLs, with the virtual host; none for a broker that is started for the run."""
    named = {"--url": asked.urls, "--publish-url": asked.publish_url, "--consume-url": asked.consume_url}
    for flag, value in named.items() if asked.broker == EMBEDDED else ():
        refuse(value, f"--broker embedded starts a broker of its own: leave out {flag}")
    if asked.broker == EMBEDDED:
        return ()
    beside = tuple(filter(None, (asked.consume_url or asked.publish_url,)))
    urls = tuple(asked.urls) or beside or tuple(filter(None, (environment.get("RABBITMQ_URL"),)))
    for url in urls:
        refuse(not is_amqp_url(url), f"{redact(url)!r} is no AMQP URL (amqp://user:password@host:port/vhost)")
    return tuple(with_vhost(url, asked.vhost) for url in urls)
