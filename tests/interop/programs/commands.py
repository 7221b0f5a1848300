"""What every peer can do, and the loop that has it do so: a line of JSON on standard input, a line in answer.

A program gives its class, whose methods are the commands. After an error it is opened anew: no command suffers for
another. `commands.js` is the same for Node.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Protocol, TypedDict

from tests.interop.notation import noted, value_of

__all__ = ["Peer", "Received", "fibonacci", "run"]


class Received(TypedDict):
    """A message as the library gives it, in AMQP's names and units: the expiration as text, times as `datetime`."""

    body: bytes
    properties: dict[str, Any]
    """Those that the message has."""


class Peer(Protocol):
    """A connection of the library's own."""

    def __init__(self, url: str) -> None: ...

    def publish(self, queue: str, body: bytes, properties: dict[str, Any]) -> None:
        """Publish one message, and return when the broker has it."""

    def get(self, queue: str) -> Received | None:
        """Take one message."""

    def call(self, queue: str, body: bytes) -> Received:
        """Send a request, and return the reply: by an exclusive queue of its own and a correlation id."""

    def serve(self, queue: str, count: int) -> None:
        """Answer so many requests with the Fibonacci number of the number in their body, one at a time."""

    def close(self) -> None: ...


def fibonacci(body: bytes) -> bytes:
    """The server's work: both numbers are decimal digits."""
    low, high = 0, 1
    for _ in range(int(body)):
        low, high = high, low + high
    return b"%d" % low


def run(peer_class: type[Peer]) -> None:
    """Do as standard input says, until it ends."""
    peer: Peer | None = None
    for line in sys.stdin:
        command, arguments = json.loads(line)
        try:
            peer = peer or peer_class(sys.argv[1])
            answer = {"result": noted(getattr(peer, command)(**value_of(arguments)))}
        except Exception as error:
            answer = {"error": type(error).__name__, "text": str(error)}
            if peer is not None:
                try:
                    peer.close()
                except Exception as second:
                    print(f"while closing: {second!r}", file=sys.stderr)
                peer = None
        print(json.dumps(answer), flush=True)
