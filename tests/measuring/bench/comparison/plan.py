"""The libraries, what is asked of them, and how much: all that a reader may want to change is in the tables here.

How much each does is chosen for about a second where a message is small. What must stay true: a job differs between
libraries by its count alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

C_CLIENT = "rabbitmq-c"
SIZES = (128, 4096, 2**20)
"""Bytes of the bodies."""
AHEAD = {128: 100, 4096: 100, 2**20: 10}
"""Messages without a confirm, or without an acknowledgement, at a time: a hundred large ones nobody holds at once."""
LARGE_COUNTS = {"publish": 150, "publish_one": 100, "consume": 150}
"""Messages of 1 MiB, for every library that is not slower than that by far."""
MIDDLE_SHARE = 0.6
"""Of the messages of 128 B so many of 4 KiB."""
CONNECTIONS = 500
"""In the job of connections: few enough for a node whose sockets are as RabbitMQ has them by itself."""
TIMEOUT = 40.0
"""Seconds for a run."""


@dataclass(frozen=True)
class Library:
    """A library as it is run: `module` has its jobs; None is the C program's."""

    name: str
    title: str
    package: str
    module: str | None
    counts: dict[str, int]
    """Messages of 128 bytes for each job."""
    ways: dict[str, str]
    """How each job is done, for people."""
    source: str
    """Where that is documented."""
    backend: str = "asyncio"
    is_ours: bool = False

    def count(self, job: str, size: int) -> int:
        """How many messages, or connections."""
        if job == "connections":
            return CONNECTIONS
        if size > 4096:
            return min(self.counts[job], LARGE_COUNTS[job])
        return round(self.counts[job] * (1 if size == 128 else MIDDLE_SHARE))


@dataclass(frozen=True)
class Job:
    """What is asked, and for bodies of which sizes."""

    name: str
    row: str
    """Its name for --only."""
    title: str
    sizes: tuple[int, ...]


_TASKS = "as many tasks as may be ahead, each awaits its confirm"
ONE_AT_A_TIME = "one at a time: it has no other way to wait for confirms"
"""How a way of publishing begins that has one message without a confirm at most."""


def _ours(backend: str) -> Library:
    return Library(
        f"rabbitry-{backend}",
        f"rabbitry on {backend}",
        "rabbitry",
        "rabbitry",
        {"publish": 40_000, "publish_one": 6_000, "consume": 40_000},
        {"publish": _TASKS, "consume": "`async for`, `delivery.ack()`"},
        "docs/guides/connections.md, “One connection”; docs/guides/many_connections.md",
        backend,
        is_ours=True,
    )


LIBRARIES = (
    *map(_ours, ("asyncio", "uvloop", "trio")),
    Library(
        "rabbitry.blocking",
        "rabbitry.blocking",
        "rabbitry",
        "rabbitry_blocking",
        {"publish": 40_000, "publish_one": 4_000, "consume": 40_000},
        {"publish": "`publisher(window=…)`, `submit`", "consume": "`for`, `delivery.ack()`"},
        "docs/guides/blocking.md",
        is_ours=True,
    ),
    Library(
        "aio-pika",
        "aio-pika",
        "aio-pika",
        "aio_pika",
        {"publish": 8_000, "publish_one": 2_000, "consume": 6_000},
        {"publish": _TASKS, "consume": "`queue.iterator()`, `await message.ack()`"},
        "<https://docs.aio-pika.com/quick-start.html>",
    ),
    Library(
        "aiormq",
        "aiormq",
        "aiormq",
        "aiormq",
        {"publish": 8_000, "publish_one": 2_000, "consume": 6_000},
        {"publish": _TASKS, "consume": "a callback that awaits `basic_ack`"},
        "<https://github.com/mosquito/aiormq>",
    ),
    Library(
        "pika",
        "pika (blocking)",
        "pika",
        "pika",
        {"publish": 4_000, "publish_one": 4_000, "consume": 10_000},
        {"publish": ONE_AT_A_TIME, "consume": "a callback with `basic_ack`, `start_consuming`"},
        "<https://pika.readthedocs.io/en/stable/examples.html>",
    ),
    Library(
        "amqpstorm",
        "AMQPStorm (blocking)",
        "amqpstorm",
        "amqpstorm",
        {"publish": 100, "publish_one": 100, "consume": 8_000},
        {"publish": ONE_AT_A_TIME + ", and looks for one every 10 ms", "consume": "a callback with `message.ack()`"},
        "<https://www.amqpstorm.io/>",
    ),
    Library(
        C_CLIENT,
        "rabbitmq-c (C)",
        "librabbitmq",
        None,
        {"publish": 60_000, "publish_one": 8_000, "consume": 50_000},
        {
            "publish": "a loop that reads confirms where no more may be ahead",
            "consume": "`amqp_consume_message`, `amqp_basic_ack`",
        },
        "<https://github.com/alanxz/rabbitmq-c>, examples",
    ),
)

JOBS = (
    Job("publish", "libraries publishing", "Publishing, each message confirmed", SIZES),
    Job("consume", "libraries consuming", "Consuming, each message acknowledged", SIZES),
    Job("publish_one", "libraries one by one", "One confirmed publish after the other", SIZES[:1]),
    Job("connections", "libraries connecting", "Connections with a channel each", SIZES[:1]),
)
ALL = "libraries"
"""All jobs, for --only."""

_C_JOBS = {"publish": "window", "publish_one": "one"}


@dataclass(frozen=True)
class Cell:
    """One library doing one job with bodies of one size: one process."""

    library: str
    job: str
    size: int
    count: int

    @property
    def ahead(self) -> int:
        return AHEAD[self.size]

    @property
    def c_job(self) -> str:
        """The C program's name for it."""
        return _C_JOBS.get(self.job, self.job)


def library_of(name: str) -> Library:
    return next(library for library in LIBRARIES if library.name == name)


def rows() -> list[str]:
    """What --only takes of this comparison."""
    return [ALL, *(job.row for job in JOBS)]


def choose(
    only: Sequence[str] = (), libraries: Sequence[str] = (), sizes: Sequence[int] = (), scale: float = 1.0
) -> list[list[Cell]]:
    """The cells in blocks: all libraries with the same job and size. Empty arguments choose everything."""

    def count(library: Library, job: Job, size: int) -> int:
        # as many as may be ahead, lest another kind of work be measured
        return max(AHEAD[size] if job.name != "connections" else 10, round(library.count(job.name, size) * scale))

    chosen = [library for library in LIBRARIES if not libraries or library.name in libraries]
    return [
        [Cell(library.name, job.name, size, count(library, job, size)) for library in chosen]
        for job in JOBS
        if not only or ALL in only or job.row in only
        for size in job.sizes
        if not sizes or size in sizes or job.name == "connections"
    ]


def shuffled(blocks: Sequence[Sequence[Cell]], seed: int, round: int) -> Iterator[list[Cell]]:
    """The blocks of a round in an order of its own, and so the cells in each of them.

    Libraries meet each other within a block, seconds apart, so that no drift of the machine is one library's.
    """
    chance = Random(f"{seed} {round}")
    for block in chance.sample(list(blocks), len(blocks)):
        yield chance.sample(list(block), len(block))
