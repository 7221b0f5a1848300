"""`Addresses`: which direct reply-to addresses may be published to on a connection that others share.

RabbitMQ up to 4.1 closes the connection (541) over an address that has the form of one and names no node of the
cluster, or a process that can't be; and anybody can write an address into a request. A genuine one is base64 of an
Erlang process identifier, whose node is a number for the node's name, a dot, and base64 of 16 random octets
(rabbit_direct_reply_to:compute_key_and_suffix_v2, from 3.10; rabbit_volatile_queue:new_name, from 4.2).

What must stay true: an address is harmless once it has the form of a genuine one and its node is known to be one of the
cluster's; the broker alone can make a node known.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import suppress
from os import urandom
from struct import Struct
from typing import Literal

import anyio

from rabbitry._channel.channel import Channel, life_of
from rabbitry._errors import RabbitryError
from rabbitry._rpc.envelope import DIRECT, DIRECT_PREFIX
from rabbitry.protocol.client.content import Content
from rabbitry.protocol.wire.properties import Properties, encode_properties

__all__ = ["Addresses", "node_of", "own_address"]

KNOWN_AT_MOST = 1000
"""Addresses that are remembered as harmless, to not take them apart again."""
NODES_AT_MOST = 1000
"""Nodes that are remembered; a cluster has a few, and who forges addresses has no way to add one."""
LEARNING_BOUND = 5.0
"""Seconds that the broker may take to tell this connection's own address."""

_HEAD = b"\x83Xv"
"""A term, a process identifier with 32-bit fields, an atom of UTF-8 with two octets of length."""
_NODE = re.compile(rb"[a-z]{1,32}@[0-9]{1,10}")
_IDENTIFIER = Struct(">III")  # id, serial, creation
_IDS, _SERIALS = (1 << 28) - 1, 1 << 13
"""Erlang/OTP 25 takes no others from the wire."""
_KEY_OCTETS = 16


class Addresses:
    """What one server knows of addresses."""

    __slots__ = ("_form", "_life", "_lock", "_nodes", "known")

    def __init__(self) -> None:
        self.known: set[str] = set()
        """Some of those that are harmless."""
        self._nodes: set[bytes] = set()
        # Whether the broker's own addresses have the form of RabbitMQ's. Where they have not, any will do.
        self._form: Literal["unknown", "RabbitMQ's", "another"] = "unknown"
        self._life = -1
        self._lock = anyio.Lock()

    def are_known(self, address: str) -> bool:
        """Whether this address, or its node, is harmless."""
        if address in self.known:
            return True
        node = node_of(address)
        if node not in self._nodes and self._form != "another":
            return False
        if len(self.known) >= KNOWN_AT_MOST:
            self.known.clear()
        self.known.add(address)
        return True

    def are_malformed(self, address: str) -> bool:
        """Whether this can be no address of the broker's."""
        return self._form == "RabbitMQ's" and node_of(address) is None

    async def learn(self, life: int, channel: Callable[[], Channel]) -> None:
        """Have the broker tell this connection's own address, once in a life, on such a channel without confirms."""
        async with self._lock:
            if self._life == life:
                return
            own = await own_address(channel())
            self._life = life
            if own is not None:
                self._form = "another" if node_of(own) is None else "RabbitMQ's"
                self.prove(own)

    def prove(self, address: str) -> None:
        """This address did no harm: nor will others of its node."""
        node = node_of(address)
        if node is not None and len(self._nodes) < NODES_AT_MOST:
            self._nodes.add(node)

    def forget(self) -> None:
        """The broker has closed a connection over one that was taken for harmless: its node has left the cluster."""
        self.known.clear()
        self._nodes.clear()
        self._life = -1


def node_of(address: str) -> bytes | None:
    """The node in an address; None if it has not the form of a genuine one."""
    if not address.startswith(DIRECT_PREFIX):
        return None
    encoded, _, key = address[len(DIRECT_PREFIX) :].partition(".")
    identifier = _decoded(encoded)
    if identifier is None or len(_decoded(key) or b"") != _KEY_OCTETS or not identifier.startswith(_HEAD):
        return None
    start = len(_HEAD) + 2
    end = start + int.from_bytes(identifier[len(_HEAD) : start], "big")
    node = identifier[start:end]
    if len(identifier) != end + _IDENTIFIER.size or not _NODE.fullmatch(node):
        return None
    number, serial, _ = _IDENTIFIER.unpack_from(identifier, end)
    return node if number < _IDS and serial < _SERIALS else None


def _decoded(encoded: str) -> bytes | None:
    """What this is the base64 of, to the last bit; None if it is of nothing."""
    try:
        data = b64decode(encoded, validate=True)
    except ValueError:
        return None
    return data if b64encode(data).decode() == encoded else None


async def own_address(channel: Channel) -> str | None:
    """The direct reply-to address of a channel without confirms, to be entered here; None if it can't be had.

    The broker writes it into what is published with the pseudo-queue as `reply_to`: a mandatory message for no queue
    comes back with it.
    """
    returned = anyio.Event()
    address: str | None = None

    def on_return(code: int, text: str, content: Content) -> None:
        nonlocal address
        with suppress(RabbitryError):
            address = content.properties.reply_to
        returned.set()

    with suppress(RabbitryError):
        async with channel:
            life = life_of(channel)
            protocol, endpoint = life.live, life.endpoint
            protocol.on_return = on_return
            async with channel.consume(DIRECT, no_ack=True):
                while not endpoint.make_room():
                    protocol.check_open()
                    await endpoint.wait_room()
                request = encode_properties(Properties(reply_to=DIRECT, delivery_mode=1))
                protocol.publish(request, b"", "", f"rabbitry-{urandom(8).hex()}", True)
                endpoint.wrote()
                while not returned.is_set():
                    with anyio.move_on_after(LEARNING_BOUND):
                        await returned.wait()
                    if endpoint.blocked_reason is None:  # else the broker does not read before that is over
                        break
    return address
