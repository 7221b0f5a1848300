"""What is sent and taken, and how fast."""

from __future__ import annotations

import argparse

from loadtest.commands.flags.traffic import checked_shape, checked_sizes
from loadtest.commands.parsing import duration, number, typed
from loadtest.scenarios.completing import Asked
from loadtest.scenarios.distributions import SIZES
from loadtest.scenarios.settings import SMALLEST_STAMP_BYTES, STAMP_BYTES
from loadtest.scenarios.shapes import EXAMPLES

QUEUE_TYPES = ("classic", "quorum", "stream")


def add_load(parser: argparse.ArgumentParser) -> None:
    """Adds the group's flags."""
    group = parser.add_argument_group("load")
    add, either = group.add_argument, group.add_mutually_exclusive_group().add_argument
    text = (
        "messages/s over all producers, on an absolute schedule (open loop); each caller makes as many calls as a "
        "producer sends messages"
    )
    text += (
        f"; or a rate that changes: {EXAMPLES.partition(', ')[2]} (MEAN+-SWING:PERIOD is a wave; the row is repeated "
    )
    text += "unless its last rate has no seconds)"
    either("--rate", type=typed(checked_shape), metavar="N", help=text)
    text = "the same for each producer and caller (default: the rate is sought, see --mode)"
    either("--rate-each", type=typed(checked_shape), metavar="N", help=text)
    text = f"body size, or several: {SIZES.partition(', ')[2]}; at least {SMALLEST_STAMP_BYTES}, or {STAMP_BYTES} of "
    text += "several, unless there are only callers (default %(default)s)"
    add("--size", type=typed(checked_sizes), metavar="BYTES", default=Asked.size, help=text.replace("10%", "10%%"))
    text = "publishes in flight for each producer (default %(default)s)"
    add("--window", **number(), default=Asked.window, help=text)
    text = "messages in flight for each consumer, 0 is unlimited (default %(default)s)"
    add("--prefetch", **number(least=0, most=65535), default=Asked.prefetch, help=text)
    text = "acknowledge after so many messages, together (default %(default)s)"
    add("--ack-every", **number(), default=Asked.ack_every, help=text)
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
    add("--rpc-timeout", **duration("how long a caller waits for its reply", Asked.rpc_timeout, positive=True))
