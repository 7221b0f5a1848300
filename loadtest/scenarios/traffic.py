"""What of the traffic goes together: answers, confirms, routes, counts, existing queues. A refusal names its flag."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from loadtest.scenarios.settings import STAMP_BYTES, Choices, Role

MOST_REQUEUED = 0.9
"""Share of deliveries that may be put back: each of those messages comes ten times then."""


@dataclass(frozen=True, kw_only=True)
class Wanted(Choices):
    """What was asked for of sockets, queues and brokers, beside the choices that are taken as they are."""

    connections: int | None = None
    channels_per_connection: int | None = None
    queues: int | None = None
    queue: Sequence[str] = ()
    urls: Sequence[str] = ()
    publish_url: str | None = None
    consume_url: str | None = None


def refusals(asked: Wanted, shares: Mapping[Role, int], queues: int) -> Iterator[str]:
    """What doesn't go together, the first of which is told."""
    producers, consumers = shares[Role.PRODUCER], shares[Role.CONSUMER]
    yield from _consuming(asked, consumers)
    yield from _publishing(asked, producers, queues)
    yield from _routes(asked)
    yield from _existing(asked, shares)
    if asked.shape is not None and asked.ramp:
        yield "--ramp with a --rate that changes: write the ramp into the rate, as in 0..1000:10,1000"
    if asked.channels_per_connection and asked.connections:
        yield "--channels-per-connection and --connections: each says how many sockets there are"
    is_shared = asked.connections or (asked.channels_per_connection or 1) > 1
    if (asked.publish_url or asked.consume_url) and is_shared:
        yield "--publish-url and --consume-url need a connection for each client: some would publish and consume"
    if asked.publish_url and not producers:
        yield "--publish-url without producers would do nothing"
    if asked.consume_url and not consumers:
        yield "--consume-url without consumers would do nothing"


def why_not_sought(asked: Wanted, shares: Mapping[Role, int]) -> str | None:
    """What makes it pointless to seek the rate that can be kept up, by its flag; None if nothing does."""
    if not shares[Role.PRODUCER] + shares[Role.CALLER]:
        return "consumers alone"
    given = {
        "--messages": asked.messages,
        "--until-idle": asked.until_idle,
        "--no-confirm": asked.no_confirm,
        "--exchange": asked.exchange,
    }
    return next((flag for flag, value in given.items() if value), None)


def _consuming(asked: Wanted, consumers: int) -> Iterator[str]:
    given = {"--work": asked.work, "--requeue": asked.requeue, "--reject": asked.reject, "--auto-ack": asked.auto_ack}
    for flag, value in given.items():
        if value and not consumers:
            yield f"{flag} without consumers would do nothing"
    is_answered = {"--ack-every": asked.ack_every > 1, "--requeue": asked.requeue, "--reject": asked.reject}
    for flag, is_given in is_answered.items():
        if asked.auto_ack and is_given:
            yield f"{flag} with --auto-ack: nothing is answered then"
    if asked.requeue > MOST_REQUEUED:
        yield f"--requeue {asked.requeue:g}: at most {MOST_REQUEUED:g}, or messages would come for ever"
    if asked.requeue + asked.reject > 1:
        yield "--requeue and --reject: together more than all"
    if asked.queue_type == "stream":
        for flag in ("requeue", "reject", "auto_ack", "priorities", "fanout", "topic"):
            if getattr(asked, flag):
                yield f"--{flag.replace('_', '-')} with --queue-type stream: streams don't have it"


def _publishing(asked: Wanted, producers: int, queues: int) -> Iterator[str]:
    given = {
        "--no-confirm": asked.no_confirm,
        "--messages": asked.messages,
        "--priorities": asked.priorities,
        "--header": asked.headers,
        "--skew": asked.skew,
        "--body": asked.body,
    }
    for flag, value in given.items():
        if value and not producers:
            yield f"{flag} without producers would do nothing"
    if asked.no_confirm and asked.window > 1:
        yield "--window with --no-confirm: nothing says when there is room in it"
    if asked.no_confirm and asked.mandatory:
        yield "--mandatory with --no-confirm: nothing says which message came back"
    if asked.messages is not None and asked.messages < producers:
        yield f"--messages {asked.messages} for {producers} producers: some would send none"
    if asked.skew is not None and queues < 2:
        yield "--skew needs at least two queues"
    if (asked.body is not None or asked.sizes is not None) and asked.size < STAMP_BYTES:
        yield f"--size {asked.size} with --body: at least {STAMP_BYTES} bytes"


def _routes(asked: Wanted) -> Iterator[str]:
    if asked.fanout and asked.topic:
        yield "--fanout and --topic: a message takes one way"
    for flag, number in {"--fanout": asked.fanout, "--topic": asked.topic}.items():
        others = {"--queues": asked.queues, "--queue": asked.queue, "--exchange": asked.exchange, "--skew": asked.skew}
        for other, value in others.items():
            if number and value:
                yield f"{flag} and {other}: {flag} says to which queues each message goes, to all of its own"
    if asked.exchange is not None and asked.skew is not None:
        yield "--skew with --exchange: the exchange chooses the queues"
    if asked.routing_key is not None and asked.exchange is None:
        yield "--routing-key without --exchange would do nothing (--queue NAME publishes to a queue)"


def _existing(asked: Wanted, shares: Mapping[Role, int]) -> Iterator[str]:
    is_existing = bool(asked.queue) or asked.exchange is not None
    if asked.consume_foreign and not (asked.queue and shares[Role.CONSUMER]):
        yield "--consume-foreign without --queue and consumers would do nothing"
    if not is_existing:
        return
    if len(set(asked.queue)) < len(asked.queue) or "" in asked.queue:
        yield "--queue: each needs a name of its own"
    if shares[Role.CALLER]:
        yield "--callers with --queue or --exchange: callers need queues that this program declares"
    if asked.queues:
        yield "--queues with --queue or --exchange: nothing is declared then"
    if asked.queue_arguments:
        yield "--queue-arg with --queue or --exchange: nothing is declared then"
    if asked.queue_type == "stream":
        yield "--queue-type stream with --queue or --exchange: only streams that this program declares are read"
    if not asked.queue and shares[Role.CONSUMER]:
        yield "consumers with --exchange: say --queue, whose messages they take"
    if not shares[Role.PRODUCER] and not asked.consume_foreign:
        yield (
            "consumers alone would take messages that are not this program's: say --consume-foreign if they may "
            "be taken and acknowledged"
        )
    if asked.auto_ack and shares[Role.CONSUMER] and not asked.consume_foreign:
        yield "--auto-ack with --queue would take others' messages, too: say --consume-foreign if it may"
    if not shares[Role.PRODUCER] and asked.exchange is not None:
        yield "--exchange without producers would do nothing"
    if not (asked.urls or asked.publish_url or asked.consume_url):
        yield "--queue and --exchange are a running broker's: say --url, too"
