"""Direct reply-to: the addresses that replies are sent to, and who listens at them.

What must stay true: an address is one channel's, cannot be guessed, and is told from one that another broker has made.
"""

from __future__ import annotations

import secrets
from base64 import b64decode, b64encode
from itertools import count
from struct import pack
from typing import Protocol

from rabbitry.broker.compat import Compat
from rabbitry.broker.messages import Message

__all__ = ["REPLY_PREFIX", "REPLY_TO", "ReplyAddresses", "ReplyConsumer"]

REPLY_TO = "amq.rabbitmq.reply-to"
"""The pseudo-queue, and what a caller writes into its reply-to."""
REPLY_PREFIX = REPLY_TO + "."


class ReplyConsumer(Protocol):
    """A channel that consumes from the pseudo-queue."""

    def deliver_reply(self, message: Message) -> None:
        """Send it to the client."""
        ...


class ReplyAddresses:
    """Those of one virtual host."""

    def __init__(self, compat: Compat) -> None:
        self._compat = compat
        self._node = b"\x83Xv\x00\x0ereply@%08d" % secrets.randbelow(10**8)  # as Erlang begins a process id
        self._numbers = count(1)
        self._consumers: dict[str, ReplyConsumer] = {}

    def __contains__(self, address: str) -> bool:
        """Whether somebody listens there."""
        return address in self._consumers

    def add(self, consumer: ReplyConsumer) -> str:
        """Its address, shaped as RabbitMQ's: an Erlang process id and a key. Clients tell from the former which
        addresses are of one broker."""
        process = self._node + pack(">III", next(self._numbers), 0, 0x67000000)
        key = secrets.token_bytes(16)
        address = f"{REPLY_PREFIX}{b64encode(process).decode()}.{b64encode(key).decode()}"
        self._consumers[address] = consumer
        return address

    def remove(self, address: str) -> None:
        """Nobody listens there any more, if somebody did."""
        self._consumers.pop(address, None)

    def find(self, address: str) -> ReplyConsumer | None:
        """Who listens there."""
        return self._consumers.get(address)

    def has_made(self, address: str) -> bool:
        """Whether it is or was an address here."""
        return _process(address).startswith(self._node)

    def stumbles_over(self, address: str) -> bool:
        """Whether RabbitMQ would at this address, where nobody listens."""
        if self._compat.stumbles_over == "foreign":
            return address.count(".") == 4 and not self.has_made(address)
        return (
            self._compat.stumbles_over == "malformed" and address.count(".") == 4 and _process(address)[:1] != b"\x83"
        )


def _process(address: str) -> bytes:
    """The process id in an address; nothing if there is none."""
    try:
        return b64decode(address.removeprefix(REPLY_PREFIX).partition(".")[0], validate=True)
    except ValueError:
        return b""
