"""The command line: every flag, its default, and what does not go together.

It owns the fixed names of the flags and turns them into one frozen `Settings`, complete and consistent, or into a
message and exit code 2. A flag that would do nothing does not exist. Nothing here connects, measures or looks at the
machine.
"""

from __future__ import annotations

import argparse
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

from loadtest import units
from loadtest.execution.body import OVERHEAD
from loadtest.scenarios.plan import Role, choose_queues, choose_servers, share_clients

BACKENDS = ("asyncio", "trio")
DRIVERS = ("rabbitry", "aiormq")
QUEUE_TYPES = ("classic", "quorum")
DEFAULT_CLIENTS = 100

T = TypeVar("T")
Argument = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one run is asked to do. Durations are seconds, sizes bytes, rates messages per second."""

    clients: int
    producers: int
    consumers: int
    callers: int
    connections: int
    queues: int
    servers: int

    duration: float
    warmup: float
    drain: float
    ramp: float

    rate: float | None
    """Over all producers, or all callers if there are no producers; None is a closed loop."""
    size: int
    window: int
    prefetch: int
    ack_every: int
    transient: bool
    mandatory: bool
    queue_type: str
    queue_arguments: Mapping[str, Argument]
    rpc_timeout: float

    urls: tuple[str, ...]
    """Empty: a private node."""
    vhost: str | None
    backend: str
    driver: str
    handshakes: int
    seed: int

    output: Path | None
    json: str | None
    quiet: bool
    labels: Mapping[str, str]

    @property
    def loop(self) -> str:
        """`open` if a schedule says when messages and calls leave, `closed` if confirms and replies do."""
        return "closed" if self.rate is None else "open"

    @property
    def rate_each(self) -> float | None:
        """Messages of each producer, and calls of each caller; None is a closed loop."""
        return None if self.rate is None else self.rate / (self.producers or self.callers)

    @property
    def shares(self) -> dict[Role, int]:
        """The number of clients of each role."""
        return {Role.PRODUCER: self.producers, Role.CONSUMER: self.consumers, Role.CALLER: self.callers}


def make_parser() -> argparse.ArgumentParser:
    """The parser behind `--help`."""
    parser = argparse.ArgumentParser(
        prog="loadtest",
        usage="python -m loadtest [options]",
        description="Load-test RabbitMQ: clients connect, warm up, are measured, drain; each message is accounted for.",
        epilog="Exit codes: 0 all well, 1 messages lost or connections failed, 2 wrong usage, 130 interrupted (and "
        "what was measured is reported). Numbers take k and m, sizes kB and KiB, durations ms, s, m and h.",
        allow_abbrev=False,
    )
    add = parser.add_argument_group(
        "clients (each has a channel, and a connection of its own unless --connections is less)"
    )
    _number(
        add, "--clients", f"clients altogether: 45%% produce, 45%% consume, 10%% call RPC (default {DEFAULT_CLIENTS})"
    )
    _number(add, "--producers", "of these, clients that publish with confirms", least=0)
    _number(add, "--consumers", "of these, clients that consume and acknowledge", least=0)
    _number(add, "--callers", "of these, clients that call RPC", least=0)
    _number(add, "--connections", "sockets that the clients share (default: one each)")
    _number(add, "--queues", "queues for producers and consumers (default: one for each 100 producers)")
    _number(add, "--servers", "RPC servers, on connections beside the clients' (default: one for each 250 callers)")

    add = parser.add_argument_group("time")
    _duration(add, "--duration", 20.0, "how long to measure", positive=True)
    _duration(add, "--warmup", 5.0, "how long to run before measuring")
    _duration(add, "--drain", 30.0, "how long consumers may take for what is left in the queues")
    _duration(
        add, "--ramp", 0.0, "start the clients spread over this time, in the warm-up; longer warm-ups follow from it"
    )

    add = parser.add_argument_group("load")
    either = add.add_mutually_exclusive_group()
    _typed(
        either,
        "--rate",
        units.parse_rate,
        "N",
        "messages/s over all producers, on an absolute schedule (open loop); each caller makes as many calls as a "
        "producer sends messages",
    )
    text = "the same for each producer and caller (default: a closed loop, where the next one leaves with the answer)"
    _typed(either, "--rate-each", units.parse_rate, "N", text)
    _typed(add, "--size", units.parse_size, "BYTES", f"body size, at least {OVERHEAD} (default %(default)s)", 128)
    _number(add, "--window", "publishes in flight for each producer (default %(default)s)", 1)
    text = "messages in flight for each consumer, 0 is unlimited (default %(default)s)"
    _number(add, "--prefetch", text, 100, least=0, most=65535)
    _number(add, "--ack-every", "acknowledge after so many messages, together (default %(default)s)", 1)
    add.add_argument("--transient", action="store_true", help="delivery mode 1: the broker need not store the messages")
    add.add_argument("--mandatory", action="store_true", help="have unroutable messages returned, and count them")
    add.add_argument("--queue-type", choices=QUEUE_TYPES, default="classic", help="(default %(default)s)")
    text = 'a queue argument; numbers, true and false are themselves, and text where quoted: K="5" (repeatable)'
    add.add_argument("--queue-arg", action="append", default=[], metavar="K=V", help=text)
    _duration(add, "--rpc-timeout", 30.0, "how long a caller waits for its reply", positive=True)

    add = parser.add_argument_group("broker (default: a private node, started for the run and removed after it)")
    text = "a running broker (repeatable; or $RABBITMQ_URL); amqps:// for TLS, with ?cacertfile= and so on"
    add.add_argument("--url", action="append", default=[], help=text)
    add.add_argument("--vhost", help="the virtual host, instead of the URL's")

    add = parser.add_argument_group("how")
    add.add_argument("--backend", choices=BACKENDS, default="asyncio", help="(default %(default)s)")
    add.add_argument("--driver", choices=DRIVERS, default="rabbitry", help="the client library (default %(default)s)")
    _number(add, "--handshakes", "connections being opened, or closed, at a time (default %(default)s)", 200)
    _number(add, "--seed", "of everything random (default: a new one, in the result)", least=0)

    add = parser.add_argument_group("results")
    add.add_argument("--output", type=Path, metavar="DIR", help="write DIR/RUN_ID.json and DIR/RUN_ID.svg")
    add.add_argument(
        "--json", metavar="FILE", help="write the result there; - for the standard output, and nothing else on it"
    )
    add.add_argument("--quiet", action="store_true", help="no progress and no summary")
    add.add_argument("--label", action="append", default=[], metavar="K=V", help="noted in the result (repeatable)")
    return parser


def parse_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings of a command line. SystemExit(2), with a message on stderr, if it makes no sense; 0 for --help."""
    parser = make_parser()
    given = parser.parse_args(arguments)
    try:
        return _complete(given, environment)
    except ValueError as error:
        parser.error(str(error))


def redact(word: str) -> str:
    """A word of the command line without the password of a URL in it, well-formed or not."""
    before, at, after = word.rpartition("@")
    if "://" in before:
        start = before.index("://") + 3
    else:  # of `--url=user:password@host`, the flag is kept; a password may hold a "=", too
        start = before.find("=") + 1 if word.startswith("--") else 0
    return before[:start] + before[start:].partition(":")[0] + at + after


def _is_amqp_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("amqp", "amqps") and parts.port != 0
    except ValueError:  # a port that is none
        return False


def with_vhost(url: str, vhost: str | None) -> str:
    """The URL with another virtual host; unchanged for None."""
    return url if vhost is None else urlsplit(url)._replace(path="/" + quote(vhost, safe="")).geturl()


def _complete(given: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    asked = {Role.PRODUCER: given.producers, Role.CONSUMER: given.consumers, Role.CALLER: given.callers}
    clients = given.clients
    if clients is None:
        clients = sum(number or 0 for number in asked.values())
        if any(number is not None for number in asked.values()):
            asked = {role: number or 0 for role, number in asked.items()}
        else:
            clients = DEFAULT_CLIENTS
    shares = share_clients(clients, asked)
    producers, consumers, callers = (shares[role] for role in Role)
    _refuse(not clients, "there are no clients")
    _refuse(
        (given.connections or 0) > clients, f"{given.connections} connections for {clients} clients: some would be idle"
    )

    queues = given.queues or choose_queues(producers, consumers)
    _refuse(given.queues and not producers + consumers, "--queues without producers and consumers would do nothing")
    _refuse(consumers and queues > consumers, f"{queues} queues for {consumers} consumers: some queues would have none")
    servers = given.servers or choose_servers(callers)
    _refuse(given.servers and not callers, "--servers without callers would do nothing")
    _refuse(servers > callers, f"{servers} servers for {callers} callers: some would be idle")

    _refuse(not producers + callers, "nobody would send anything: there are neither producers nor callers")
    rate = given.rate or (given.rate_each and given.rate_each * (producers or callers)) or None
    _refuse(given.size < OVERHEAD, f"--size {given.size}: each body carries {OVERHEAD} bytes of stamp, so no less")
    _refuse(
        0 < given.prefetch < given.ack_every,
        f"--ack-every {given.ack_every} with --prefetch {given.prefetch}: the consumer would wait for ever",
    )
    _refuse(
        given.driver == "aiormq" and given.backend == "trio",
        "aiormq runs on asyncio only: use --backend asyncio, or --driver rabbitry for trio",
    )
    urls = tuple(given.url) or tuple(filter(None, (environment.get("RABBITMQ_URL"),)))
    for url in urls:
        _refuse(not _is_amqp_url(url), f"{redact(url)!r} is no AMQP URL (amqp://user:password@host:port/vhost)")
        _refuse(
            url.startswith("amqps") and given.driver != "rabbitry",
            f"{redact(url)!r}: TLS is for --driver rabbitry, as other libraries take other options for it",
        )
    for flag, value in (("--json", given.json), ("--vhost", given.vhost)):
        _refuse(value == "", f"{flag} is empty")
    arguments = {key: _value(text) for key, text in _pairs("--queue-arg", given.queue_arg).items()}
    _refuse("x-queue-type" in arguments, "--queue-arg x-queue-type: use --queue-type")
    return Settings(
        clients=clients,
        producers=producers,
        consumers=consumers,
        callers=callers,
        connections=given.connections or clients,
        queues=queues,
        servers=servers,
        duration=given.duration,
        warmup=max(given.warmup, given.ramp),
        drain=given.drain,
        ramp=given.ramp,
        rate=rate,
        size=given.size,
        window=given.window,
        prefetch=given.prefetch,
        ack_every=given.ack_every,
        transient=given.transient,
        mandatory=given.mandatory,
        queue_type=given.queue_type,
        queue_arguments=arguments,
        rpc_timeout=given.rpc_timeout,
        urls=tuple(with_vhost(url, given.vhost) for url in urls),
        vhost=given.vhost,
        backend=given.backend,
        driver=given.driver,
        handshakes=given.handshakes,
        seed=given.seed if given.seed is not None else secrets.randbelow(2**32),
        output=given.output,
        json=given.json,
        quiet=given.quiet,
        labels=_pairs("--label", given.label),
    )


def _refuse(condition: object, message: str) -> None:
    if condition:
        raise ValueError(message)


def _pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        _refuse(not equals or not key, f"{flag} {text!r}: write it as key=value")
        pairs[key] = value
    return pairs


def _value(text: str) -> Argument:
    """A queue argument's value: what JSON takes for a number, true, false or "text", or else the text as it is."""
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except ValueError:
        return text
    return value if isinstance(value, str | int | float) else text


def _typed(
    group: argparse._ActionsContainer,
    flag: str,
    parse: Callable[[str], T],
    metavar: str,
    text: str,
    default: T | None = None,
) -> None:
    def convert(value: str) -> T:
        try:
            return parse(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    group.add_argument(flag, type=convert, metavar=metavar, default=default, help=text)


def _number(
    group: argparse._ActionsContainer,
    flag: str,
    text: str,
    default: int | None = None,
    *,
    least: int = 1,
    most: float = inf,
) -> None:
    def parse(value: str) -> int:
        number = units.parse_count(value)
        _refuse(number < least, f"{number} is less than {least}")
        _refuse(number > most, f"{number} is more than {most}")
        return number

    _typed(group, flag, parse, "N", text, default)


def _duration(
    group: argparse._ActionsContainer, flag: str, default: float, text: str, *, positive: bool = False
) -> None:
    def parse(value: str) -> float:
        seconds = units.parse_duration(value)
        _refuse(positive and not seconds, "it must be above 0")
        return seconds

    _typed(group, flag, parse, "S", f"{text} (default {default:g} s)", default)
