"""The strategies, each with what it is and where its library documents it; and when one is given up.

1, 3, 4 and 5 are the same library, so that nothing but the way differs among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType


class Way(Enum):
    """How clients hold what they have."""

    CONNECTION_PER_MESSAGE = "connection per message"
    CHANNEL_PER_MESSAGE = "channel per message"
    SHARED_CONNECTIONS = "channel per client on few connections"
    OWN_CONNECTION = "connection per client"
    THREADS = "thread and connection per client"
    POOL = "pools"


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """One way, with one library."""

    title: str
    """For people: what a program does that is written so."""
    driver: str
    """The driver, by its name in the table of drivers."""
    way: Way
    source: str
    """Where it is documented or described."""


CLIENTS_PER_CONNECTION = 1000
"""Channels on each shared connection: a broker admits 2,047, and some room is needed."""
DOCUMENTED_POOL = (2, 10)
"""Connections and channels of aio-pika's pools, as its documentation has them."""

STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {
        "connection-per-message": Strategy(
            title="a connection for each message",
            driver="rabbitry",
            way=Way.CONNECTION_PER_MESSAGE,
            source="what rabbitmq.com/docs/connections#high-connection-churn warns of; consumers stay connected",
        ),
        "threads-pika": Strategy(
            title="a connection and a thread for each client, blocking (pika)",
            driver="pika",
            way=Way.THREADS,
            source="pika.readthedocs.io/en/stable/faq.html: one connection per thread",
        ),
        "threads-rabbitry": Strategy(
            title="a connection and a thread for each client, blocking (rabbitry.blocking)",
            driver="rabbitry-blocking",
            way=Way.THREADS,
            source="rabbitry.blocking: connect",
        ),
        "channel-per-message": Strategy(
            title="a channel for each message, on two shared connections",
            driver="rabbitry",
            way=Way.CHANNEL_PER_MESSAGE,
            source="an asynchronous client as often described; what rabbitmq.com/docs/channels#high-channel-churn "
            "warns of; one connection publishes, the other consumes, with a channel for each consumer",
        ),
        "channel-per-client": Strategy(
            title="a long-lived channel for each client, on few shared connections",
            driver="rabbitry",
            way=Way.SHARED_CONNECTIONS,
            source=f"rabbitmq.com/docs/channels; {CLIENTS_PER_CONNECTION:,} channels on each connection, two at least",
        ),
        "connection-per-client": Strategy(
            title="a connection for each client, on one event loop (rabbitry's reactor)",
            driver="rabbitry",
            way=Way.OWN_CONNECTION,
            source="rabbitry: open_reactor",
        ),
        "aio-pika-pool": Strategy(
            title="aio-pika: robust connections, publishing through pools of 2 connections and 10 channels",
            driver="aio-pika",
            way=Way.POOL,
            source=f"docs.aio-pika.com/quick-start.html: connection pooling; consumers have a channel each, "
            f"{CLIENTS_PER_CONNECTION:,} on each robust connection",
        ),
        "aiormq": Strategy(
            title="aiormq: a connection for each client",
            driver="aiormq",
            way=Way.OWN_CONNECTION,
            source="github.com/mosquito/aiormq: README, simple publisher and consumer",
        ),
    }
)

CONNECT_BOUND = 60.0
"""Seconds in which the clients must be connected."""
LEAST_CONNECTED = 0.99
MOST_FAILED = 0.01
"""The share of publishes that may fail or end unknown."""
PRODUCERS_FOR_ONE = 100
"""There must be one confirm a second for each so many producers."""


def describe_rule(memory_bound: int) -> str:
    """When a strategy is given up, said before it is tried."""
    return (
        f"A strategy is given up where fewer than {LEAST_CONNECTED:.0%} of its clients are connected within "
        f"{CONNECT_BOUND:g} s, its process takes more than {memory_bound / 2**30:.1f} GiB, more than {MOST_FAILED:.0%} "
        f"of its clients or of its publishes fail, a message is lost, fewer than one message a second is confirmed for "
        f"each {PRODUCERS_FOR_ONE} producers, or its process doesn't come to its end in its time. Given up in every "
        "trial, it is not tried with more clients."
    )
