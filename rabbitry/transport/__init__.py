"""The layer that owns sockets. It moves bytes between them and endpoints, and knows nothing of what the bytes mean."""

from __future__ import annotations

from .base import Endpoint, Transport
from .poller import Poller
from .socket import SocketTransport
from .stream import StreamTransport

__all__ = ["Endpoint", "Poller", "SocketTransport", "StreamTransport", "Transport"]
