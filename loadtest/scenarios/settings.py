"""What one run is asked to do, as one frozen value: complete, consistent, and free of anything that lives.

It says nothing of how it was asked for (a command line, a file) and nothing of how it is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one run is asked to do. Durations are seconds, sizes bytes, rates messages per second."""

    clients: int
    producers: int
    consumers: int
    callers: int
    connections: int
    queues: int
    servers: int

    duration: float
    warmup: float
    drain: float
    ramp: float

    rate: float | None
    """What all producers send together, or all callers make if there are no producers; None is a closed loop."""
    size: int
    window: int
    prefetch: int
    ack_every: int
    transient: bool
    mandatory: bool
    queue_type: str
    queue_arguments: Mapping[str, Argument]
    rpc_timeout: float

    urls: tuple[str, ...]
    """The brokers; empty for a private node."""
    confirmed: bool = True
    """Whether the brokers may be loaded without asking: they were named on the command line, or `--yes` was said."""
    vhost: str | None
    backend: str
    driver: str
    handshakes: int
    seed: int

    require: tuple[str, ...] = ()
    """What the result must reach, as it was written."""
    output: Path | None
    json: str | None
    quiet: bool
    labels: Mapping[str, str]

    @property
    def loop(self) -> str:
        """`open` if a schedule says when messages and calls leave, `closed` if confirms and replies do."""
        return "closed" if self.rate is None else "open"

    @property
    def rate_each(self) -> float | None:
        """What each producer sends, and as many calls each caller makes; None is a closed loop."""
        return None if self.rate is None else self.rate / (self.producers or self.callers)

    @property
    def is_stream(self) -> bool:
        """Whether the queues are streams: what was consumed stays, and each consumer reads all."""
        return self.queue_type == "stream"

    @property
    def shares(self) -> dict[Role, int]:
        """The number of clients of each role."""
        return {Role.PRODUCER: self.producers, Role.CONSUMER: self.consumers, Role.CALLER: self.callers}
