"""What one run is asked to do, as one frozen value: complete, consistent, and free of anything that lives.

It says nothing of how it was asked for (a command line, a file) and nothing of how it is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from loadtest.scenarios.faults import Fault

Argument = str | int | float | bool
"""A queue argument's value."""

STAMP_BYTES = 24
"""Bytes of a body that say whose it is, which it is and when it was meant to leave."""
SMALLEST_STAMP_BYTES = 10
"""Bytes of a body that say whose it is and which it is: no message of a run is smaller, or it could not be counted."""


class Role(Enum):
    """What a client does."""

    PRODUCER = "producer"
    CONSUMER = "consumer"
    CALLER = "caller"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What is taken as it was asked for, with each flag's default. Durations are seconds, sizes bytes."""

    scenario: str = "c10k"
    churn: bool = False
    faults: Sequence[Fault] = ()
    reconnect: bool = False

    duration: float = 20.0
    drain: float = 30.0
    ramp: float = 0.0

    size: int = 128
    window: int = 1
    prefetch: int = 100
    ack_every: int = 1
    transient: bool = False
    mandatory: bool = False
    queue_type: str = "classic"
    queue_arguments: Mapping[str, Argument] = field(default_factory=dict)
    rpc_timeout: float = 30.0

    sizes: str | None = None
    """Several sizes of bodies, as they were written; `size` is their mean then."""
    body: str | None = None
    """What bodies are filled with and checked for: `zeros`, `random`, `text`, or a file. None is zeros, unchecked."""
    shape: str | None = None
    """How the rate changes, as it was written, for all together; `rate` is its mean then."""
    messages: int | None = None
    """How many all producers send together; the run ends with the last of them."""
    until_idle: float = 0.0
    """Seconds without any message after which the run ends; 0 is never."""
    no_confirm: bool = False
    auto_ack: bool = False
    work: str | None = None
    """How long consumers work on each message, as it was written."""
    requeue: float = 0.0
    reject: float = 0.0
    """Shares of the deliveries that consumers put back, or reject."""
    priorities: int = 0
    headers: Mapping[str, Argument] = field(default_factory=dict)
    skew: str | None = None
    """How unevenly producers choose among the queues, as it was written; None is their own queue."""
    fanout: int = 0
    topic: int = 0
    """To how many queues each message goes, by an exchange of that kind; 0 is to one, without an exchange."""
    exchange: str | None = None
    routing_key: str | None = None
    """An exchange that is there already, to which producers publish, and with which key; None is the queue's name."""
    consume_foreign: bool = False
    wait_broker: float = 0.0

    broker: str = "auto"
    """Which kind was asked for, or chosen: `auto`, `rabbitmq` or `embedded`."""
    vhost: str | None = None
    backend: str = "asyncio"
    driver: str = "rabbitry"
    handshakes: int = 200

    repeat: int = 1
    """How many trials of each cell."""
    vary: Sequence[str] = ()
    """The flags that differ between cells, with their values, as they were written."""
    processes: int = 1
    workers: int = 0
    """How many workers join from elsewhere; 0 for a run of this machine's own processes."""
    control_url: str | None = None
    token_file: Path | None = None
    join_timeout: float = 60.0

    metrics: tuple[str, int] | None = None
    """Where Prometheus may ask for the counters: a host and a port."""
    management: str | None = None
    """The broker's management API, with user and password."""
    require: Sequence[str] = ()
    """What the result must reach, as it was written."""
    abort_on: Sequence[str] = ()
    """What ends the run as soon as it is true, as it was written."""
    abort_after: float = 1.0
    """For how long it must have been measured before that."""
    calibrate: bool = False
    output: Path | None = None
    json: str | None = None
    quiet: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Settings(Choices):
    """What one run is asked to do. Rates are messages per second."""

    clients: int
    producers: int
    consumers: int
    callers: int
    connections: int
    queues: int
    servers: int

    mode: str
    """`closed`: the next one leaves with the answer; `paced`: at a given rate; `both`: the rate that can be kept up is
    sought first, and latency is measured on a schedule at a share of it.
    """
    share: float
    """The share of the rate that can be kept up at which latency is measured."""
    search: float
    """Seconds that the search for that rate may take, about; 0 where there is none."""
    warmup: float
    rate: float | None
    """What all producers send together, or all callers make if there are no producers; None is not known beforehand."""
    urls: tuple[str, ...]
    """The brokers; empty for one that is started for the run."""
    publish_urls: tuple[str, ...] = ()
    consume_urls: tuple[str, ...] = ()
    """Where producers and consumers connect to instead."""
    existing: tuple[str, ...] = ()
    """Queues that are there already: nothing is declared then, nor deleted."""
    confirmed: bool = True
    """Whether the brokers may be loaded without asking: they were named on the command line, or `--yes` was said."""
    seed: int
    backlog: int = 0
    """Messages that are in the queues before the first consumer subscribes."""
    workload: str = ""
    """Its name among several of one run."""
    workloads: tuple[Settings, ...] = ()
    """What runs at the same time on the same broker, each as a run of its own; these settings are their sum then."""

    @property
    def loop(self) -> str:
        """`open` if a schedule says when messages and calls that are measured leave, `closed` if answers do."""
        return "closed" if self.mode == "closed" else "open"

    @property
    def rate_each(self) -> float | None:
        """What each producer sends, and as many calls each caller makes; None is not known beforehand."""
        return None if self.rate is None else self.rate / (self.producers or self.callers)

    @property
    def is_stream(self) -> bool:
        """Whether the queues are streams: what was consumed stays, and each consumer reads all."""
        return self.queue_type == "stream"

    @property
    def is_existing(self) -> bool:
        """Whether the queues, or the exchange, are there already: nothing is declared then, nor deleted."""
        return bool(self.existing) or self.exchange is not None

    @property
    def copies(self) -> int:
        """How many queues each message goes to."""
        return self.fanout or self.topic or 1

    @property
    def all_urls(self) -> tuple[str, ...]:
        """Every broker that is connected to; empty for one that is started for the run."""
        return tuple(dict.fromkeys((*self.urls, *self.publish_urls, *self.consume_urls)))

    @property
    def shares(self) -> dict[Role, int]:
        """The number of clients of each role."""
        return {Role.PRODUCER: self.producers, Role.CONSUMER: self.consumers, Role.CALLER: self.callers}
