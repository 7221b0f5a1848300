"""What one run is asked to do, as one frozen value: complete, consistent, and free of anything that lives.

It says nothing of how it was asked for (a command line, a file) and nothing of how it is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

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

    vhost: str | None = None
    backend: str = "asyncio"
    driver: str = "rabbitry"
    handshakes: int = 200

    processes: int = 1
    workers: int = 0
    """How many workers join from elsewhere; 0 for a run of this machine's own processes."""
    control_url: str | None = None
    token_file: Path | None = None
    join_timeout: float = 60.0

    require: Sequence[str] = ()
    """What the result must reach, as it was written."""
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
    """The brokers; empty for a private node."""
    confirmed: bool = True
    """Whether the brokers may be loaded without asking: they were named on the command line, or `--yes` was said."""
    seed: int

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
    def shares(self) -> dict[Role, int]:
        """The number of clients of each role."""
        return {Role.PRODUCER: self.producers, Role.CONSUMER: self.consumers, Role.CALLER: self.callers}
