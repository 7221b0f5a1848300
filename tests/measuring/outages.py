"""`python -m tests.measuring.outages URL`: from when to when did a broker not answer, as another client saw it?

It publishes through pika, in a process of its own, one small message after another, each confirmed, into a queue that
keeps one; and prints, in seconds of the monotonic clock, when each publish was sent and confirmed that took longer than
`NOTICED`, as a line of JSON. It begins with an empty line once it publishes, and ends when its standard input does.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

import pika

NOTICED = 0.1
PAUSE = 0.001
"""Seconds between one confirm and the next publish."""
PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Outage:
    """The broker took nothing in between: `answered` is the first confirm after it."""

    sent: float
    answered: float


@contextmanager
def watch(url: str) -> Iterator[list[Outage]]:
    """Looks for outages in the block; the list has them after it."""
    outages: list[Outage] = []
    words = [sys.executable, "-m", "tests.measuring.outages", url]
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
        raise RuntimeError(f"{' '.join(words[1:3])} ended with {child.returncode}")


def main(url: str) -> None:
    """Publishes until standard input ends."""
    connection = pika.BlockingConnection(pika.URLParameters(f"{url}?heartbeat=0"))
    channel = connection.channel()
    channel.confirm_delivery()
    queue = channel.queue_declare("", exclusive=True, arguments={"x-max-length": 1}).method.queue
    print(flush=True)
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        sent = monotonic()
        channel.basic_publish("", queue, b"is anybody there?")
        answered = monotonic()
        if answered - sent > NOTICED:
            print(json.dumps([sent, answered]), flush=True)
    connection.close()


if __name__ == "__main__":
    main(sys.argv[1])
