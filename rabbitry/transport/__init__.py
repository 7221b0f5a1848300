"""The layer that owns sockets. It moves bytes between them and endpoints, and knows nothing of what the bytes mean."""

from __future__ import annotations

import select

from .base import Endpoint, Transport
from .poller import Poller
from .socket import SocketTransport
from .stream import StreamTransport
from .stream_poller import StreamPoller

__all__ = ["Endpoint", "Poller", "SocketTransport", "StreamPoller", "StreamTransport", "Transport", "make_poller"]


def make_poller() -> Poller | StreamPoller:
    """The best this system has."""
    return Poller() if hasattr(select, "epoll") else StreamPoller()
