"""The states of a connection and of a channel. What is legal in which, the tables beside the handlers say."""

from __future__ import annotations

from enum import Enum

__all__ = ["ChannelState", "ConnectionState", "Mode"]


class ConnectionState(Enum):
    """What the connection waits for."""

    START = "connection.start"
    TUNE = "connection.tune"
    OPEN_OK = "connection.open-ok"
    OPEN = "open"
    CLOSING = "connection.close-ok"
    CLOSED = "closed"


class ChannelState(Enum):
    """Where a channel stands; requests are legal in the first two only."""

    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Mode(Enum):
    """What the channel was switched to: a channel confirms or has transactions, never both (RabbitMQ refuses it)."""

    PLAIN = "plain"
    CONFIRM = "confirm"
    TRANSACTION = "transaction"
