"""The layer that owns sockets. It moves bytes between them and endpoints, and knows nothing of what the bytes mean."""

from __future__ import annotations

import select

from rabbitry._concurrency.virtual import is_virtual
from rabbitry._transport.contracts import Endpoint, Transport
from rabbitry._transport.poller import Poller
from rabbitry._transport.socket import SocketTransport
from rabbitry._transport.stream import StreamTransport
from rabbitry._transport.stream_poller import StreamPoller
from rabbitry._transport.tls import TlsLayer

__all__ = [
    "Endpoint",
    "Poller",
    "SocketTransport",
    "StreamPoller",
    "StreamTransport",
    "TlsLayer",
    "Transport",
    "make_poller",
]


def make_poller() -> Poller | StreamPoller:
    """The best this system has; where time is virtual, the one without a descriptor of its own, which would hold it."""
    return Poller() if hasattr(select, "epoll") and not is_virtual() else StreamPoller()
