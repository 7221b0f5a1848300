"""`python -m tests.measuring.outages confirm|rpc URL`: from when to when did a broker not answer, as another client saw
it?

It goes on through pika, in a process of its own, one small message after another: a publish until it is confirmed, into
a queue that keeps one; or a request until its reply, which a second connection sends. It prints, in seconds of the
monotonic clock, when each was sent and answered that took longer than `NOTICED`, as a line of JSON. It begins with an
empty line once it is at work, and ends when its standard input does.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import pika

NOTICED = 0.1
PAUSE = 0.001
"""Seconds between one answer and the next message."""
PATIENCE = 30.0
OWN = "amq.rabbitmq.reply-to"


@dataclass(frozen=True, slots=True)
class Outage:
    """The broker answered nothing in between: `answered` is the first answer after it."""

    sent: float
    answered: float


@contextmanager
def watch(kind: str, url: str) -> Iterator[list[Outage]]:
    """Looks for outages in the block, of a "confirm" or of "rpc"; the list has them after it."""
    outages: list[Outage] = []
    words = [sys.executable, "-m", "tests.measuring.outages", kind, url]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            yield outages
            told, _ = child.communicate(timeout=PATIENCE)
        finally:
            child.kill()
    outages.extend(Outage(*json.loads(line)) for line in told.splitlines())
    if child.returncode:
        raise RuntimeError(f"{' '.join(words[1:4])} ended with {child.returncode}")


def publisher(connection: Any) -> Callable[[], None]:
    """What publishes, and returns once that is confirmed."""
    channel = connection.channel()
    channel.confirm_delivery()
    queue = channel.queue_declare("", exclusive=True, arguments={"x-max-length": 1}).method.queue
    return lambda: channel.basic_publish("", queue, b"is anybody there?")


def caller(connection: Any, replying: Any) -> Callable[[], None]:
    """What asks, and returns once the reply is there, which a thread sends on the other connection."""
    answering = replying.channel()
    queue = answering.queue_declare("", exclusive=True).method.queue
    answering.basic_consume(
        queue, lambda channel, _, about, body: channel.basic_publish("", about.reply_to, body), auto_ack=True
    )
    threading.Thread(target=answering.start_consuming, daemon=True).start()
    channel, replies = connection.channel(), list[bytes]()
    channel.basic_consume(OWN, lambda *replied: replies.append(replied[3]), auto_ack=True)

    def call() -> None:
        replies.clear()
        channel.basic_publish("", queue, b"is anybody there?", pika.BasicProperties(reply_to=OWN))
        while not replies:
            connection.process_data_events(time_limit=PATIENCE)

    return call


def main(kind: str, url: str) -> None:
    """Goes on until standard input ends."""
    parameters = pika.URLParameters(f"{url}?heartbeat=0")
    connection = pika.BlockingConnection(parameters)
    once = publisher(connection) if kind == "confirm" else caller(connection, pika.BlockingConnection(parameters))
    once()
    print(flush=True)
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        sent = monotonic()
        once()
        answered = monotonic()
        if answered - sent > NOTICED:
            print(json.dumps([sent, answered]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
