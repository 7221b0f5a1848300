"""Every flag of a run, as it is written, explained and read.

It owns the fixed names of the flags, and turns a command line into complete settings, or into a message and exit code
2. A flag that would do nothing does not exist. What goes together is decided in `loadtest.scenarios.completing`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from loadtest import units
from loadtest.analysis.thresholds import parse_threshold
from loadtest.drivers import BACKENDS, LIBRARIES
from loadtest.scenarios.completing import DEFAULT_CLIENTS, Asked, complete, refuse
from loadtest.scenarios.settings import SMALLEST_STAMP_BYTES, Argument, Settings
from loadtest.units import format_text
from loadtest.urls import is_encrypted, redact, redact_in

QUEUE_TYPES = ("classic", "quorum", "stream")

T = TypeVar("T")


class _Parser(argparse.ArgumentParser):
    """A parser whose refusals show no password."""

    words: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        """End the program with code 2, saying why."""
        super().error(format_text(redact_in(message, self.words)))


def make_parser() -> _Parser:
    """The parser behind `--help`."""
    parser = _Parser(
        prog="loadtest",
        usage="python -m loadtest [options]",
        description="Load-test RabbitMQ: clients connect, warm up, are measured, drain; each message is accounted for.",
        epilog="Exit codes: 0 all well, 1 messages lost, connections failed or a load not put on, 2 wrong usage, 3 a "
        "requirement not reached, 4 no broker, 130 interrupted (and what was measured is reported). Numbers take k and "
        "m, sizes kB and KiB, durations ms, s, m and h.",
        allow_abbrev=False,
    )
    _add_clients(parser)
    _add_time(parser)
    _add_load(parser)
    _add_broker(parser)
    _add_way(parser)
    _add_results(parser)
    return parser


def parse_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings of a command line. SystemExit(2), with a message on stderr, if it makes no sense; 0 for --help."""
    parser = make_parser()
    parser.words = (*arguments, environment.get("RABBITMQ_URL", ""))
    given = vars(parser.parse_args(arguments))
    try:
        given["queue_arguments"] = {key: _value(text) for key, text in _pairs("--queue-arg", given.pop("queue_arg"))}
        given["labels"] = dict(_pairs("--label", given.pop("label")))
        given["urls"] = given.pop("url")
        settings = complete(Asked(**given), environment)
        _check_driver(settings)
        for text in settings.require:
            parse_threshold(text)
    except ValueError as error:
        parser.error(str(error))
    return settings


# --- the groups of flags ------------------------------------------------------------------------------------------


def _add_clients(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(
        "clients (each has a channel, and a connection of its own unless --connections is less)"
    ).add_argument
    text = f"clients altogether: 45%% produce, 45%% consume, 10%% call RPC (default {DEFAULT_CLIENTS})"
    add("--clients", **_number(), help=text)
    add("--producers", **_number(least=0), help="of these, clients that publish with confirms")
    add("--consumers", **_number(least=0), help="of these, clients that consume and acknowledge")
    add("--callers", **_number(least=0), help="of these, clients that call RPC")
    add("--connections", **_number(), help="sockets that the clients share (default: one each)")
    add("--queues", **_number(), help="queues for producers and consumers (default: one for each 100 producers)")
    text = "RPC servers, on connections beside the clients' (default: one for each 250 callers)"
    add("--servers", **_number(), help=text)


def _add_time(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("time").add_argument
    add("--duration", **_duration("how long to measure", Asked.duration, positive=True))
    add("--warmup", **_duration("how long to run before measuring", Asked.warmup))
    add("--drain", **_duration("how long consumers may take for what is left in the queues", Asked.drain))
    text = "start the clients spread over this time, in the warm-up; longer warm-ups follow from it"
    add("--ramp", **_duration(text, Asked.ramp))


def _add_load(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("load")
    add, either = group.add_argument, group.add_mutually_exclusive_group().add_argument
    text = (
        "messages/s over all producers, on an absolute schedule (open loop); each caller makes as many calls as a "
        "producer sends messages"
    )
    either("--rate", type=_typed(units.parse_rate), metavar="N", help=text)
    text = "the same for each producer and caller (default: a closed loop, where the next one leaves with the answer)"
    either("--rate-each", type=_typed(units.parse_rate), metavar="N", help=text)
    text = f"body size, at least {SMALLEST_STAMP_BYTES} unless there are only callers (default %(default)s)"
    add("--size", type=_typed(units.parse_size), metavar="BYTES", default=Asked.size, help=text)
    text = "publishes in flight for each producer (default %(default)s)"
    add("--window", **_number(), default=Asked.window, help=text)
    text = "messages in flight for each consumer, 0 is unlimited (default %(default)s)"
    add("--prefetch", **_number(least=0, most=65535), default=Asked.prefetch, help=text)
    text = "acknowledge after so many messages, together (default %(default)s)"
    add("--ack-every", **_number(), default=Asked.ack_every, help=text)
    add("--transient", action="store_true", help="delivery mode 1: the broker need not store the messages")
    add("--mandatory", action="store_true", help="have unroutable messages returned, and count them")
    add(
        "--queue-type",
        choices=QUEUE_TYPES,
        default=Asked.queue_type,
        help="(default %(default)s; each consumer of a stream reads all of it)",
    )
    text = 'a queue argument; numbers, true and false are themselves, and text where quoted: K="5" (repeatable)'
    add("--queue-arg", action="append", default=[], metavar="K=V", help=text)
    add("--rpc-timeout", **_duration("how long a caller waits for its reply", Asked.rpc_timeout, positive=True))


def _add_broker(parser: argparse.ArgumentParser) -> None:
    title = "broker (default: a private node, started for the run and removed after it)"
    add = parser.add_argument_group(title).add_argument
    text = "a running broker (repeatable; or $RABBITMQ_URL); amqps:// for TLS, with ?cacertfile= and so on"
    add("--url", action="append", default=[], help=text)
    add("--vhost", help="the virtual host, instead of the URL's")
    text = "load a broker that only $RABBITMQ_URL names, though it is not on this machine, without being asked"
    add("--yes", action="store_true", help=text)


def _add_way(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how").add_argument
    add("--backend", choices=BACKENDS, default=Asked.backend, help="(default %(default)s)")
    add("--driver", choices=tuple(LIBRARIES), default=Asked.driver, help="the client library (default %(default)s)")
    text = "connections being opened, or closed, at a time (default %(default)s)"
    add("--handshakes", **_number(), default=Asked.handshakes, help=text)
    add("--seed", **_number(least=0), help="of everything random (default: a new one, in the result)")


def _check_driver(settings: Settings) -> None:
    name, backend, library = settings.driver, settings.backend, LIBRARIES[settings.driver]
    others = _either(other for other, each in LIBRARIES.items() if backend in each.backends)
    refuse(
        backend not in library.backends,
        f"{name} runs on {_either(library.backends)} only: use --backend {library.backends[0]}, or --driver {others} "
        f"for {backend}",
    )
    others = _either(other for other, each in LIBRARIES.items() if each.has_tls)
    for url in filter(is_encrypted, settings.urls):
        refuse(
            not library.has_tls,
            f"{redact(url)!r}: TLS is for --driver {others}, as other libraries take other options for it",
        )


def _either(names: Iterable[str]) -> str:
    return " or ".join(names)


def _add_results(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("results").add_argument
    add("--output", type=Path, metavar="DIR", help="write DIR/RUN_ID.json and DIR/RUN_ID.svg")
    text = "such as 'confirm.p99 < 50ms' or 'publish.rate >= 10k': exit code 3 if it is not reached, or not known"
    add("--require", action="append", default=[], metavar="EXPR", help=f"{text} (repeatable)")
    add("--json", metavar="FILE", help="write the result there; - for the standard output, and nothing else on it")
    add("--quiet", action="store_true", help="no progress and no summary")
    add("--label", action="append", default=[], metavar="K=V", help="noted in the result (repeatable)")


# --- values -------------------------------------------------------------------------------------------------------


def _pairs(flag: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        key, equals, value = text.partition("=")
        refuse(not equals or not key, f"{flag} {text!r}: write it as key=value")
        pairs.append((key, value))
    return pairs


def _value(text: str) -> Argument:
    """A queue argument's value: what JSON takes for a number, true, false or "text", or else the text as it is."""
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except ValueError:
        return text
    return value if isinstance(value, str | int | float) else text


def _typed(parse: Callable[[str], T]) -> Callable[[str], T]:
    """A flag's type, whose ValueError becomes the message."""

    def convert(value: str) -> T:
        try:
            return parse(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _number(*, least: int = 1, most: float = inf) -> dict[str, Any]:
    """The options of a flag that takes a whole number."""

    def parse(value: str) -> int:
        number = units.parse_count(value)
        refuse(number < least, f"{number} is less than {least}")
        refuse(number > most, f"{number} is more than {most}")
        return number

    return {"type": _typed(parse), "metavar": "N"}


def _duration(text: str, default: float, *, positive: bool = False) -> dict[str, Any]:
    """The options of a flag that takes seconds."""

    def parse(value: str) -> float:
        seconds = units.parse_duration(value)
        refuse(positive and not seconds, "it must be above 0")
        return seconds

    return {"type": _typed(parse), "metavar": "S", "default": default, "help": f"{text} (default {default:g} s)"}
