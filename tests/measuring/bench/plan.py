"""What is run and what must come of it: groups of jobs beside their references, and the table of thresholds.

A group's runs share a round: ours on each backend next to the reference, so that each pair is minutes closer together
than any drift of the machine. All that a reader may want to change is in the two tables of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tests.measuring.bench.measure import Figures

OURS = "rabbitry"
C_CLIENT = "rabbitmq-c"
CONNECTIONS = 10_000


@dataclass(frozen=True)
class Run:
    """One process: a client doing a job; `backend` is given for rabbitry only."""

    client: str
    job: str
    count: int
    backend: str = ""

    @property
    def label(self) -> str:
        return f"{self.client} {self.backend}".rstrip()


@dataclass(frozen=True)
class Group:
    """Jobs of ours that share references. The first job is the one run next to them; a client's first reference is the
    one they are held to."""

    name: str
    jobs: tuple[Run, ...]
    references: tuple[Run, ...] = ()
    backend: str = ""
    """The only one its jobs run on, whichever were asked for; empty: each of those."""
    many_connections: bool = False
    """Needs a node that bears CONNECTIONS, which is set up otherwise, and its own, smaller number of rounds."""

    def reference(self, client: str) -> Run:
        """The run of that client which the jobs are held to."""
        return next(run for run in self.references if run.client == client)

    def backends(self, wanted: Sequence[str]) -> Sequence[str]:
        """Those that its jobs run on."""
        return (self.backend,) if self.backend else wanted

    def in_order(self, wanted: Sequence[str]) -> list[Run]:
        """One round: half of the backends before the references and half after. Odd rounds go through it backwards."""
        backends = self.backends(wanted)
        half = (len(backends) + 1) // 2
        before = [replace(job, backend=backend) for backend in backends[:half] for job in reversed(self.jobs)]
        after = [replace(job, backend=backend) for backend in backends[half:] for job in self.jobs]
        return [*before, *self.references, *after]

    def only(self, wanted: Sequence[str]) -> Group:
        """With these jobs (or all of them, if the group itself is named), and the references that these are held to."""
        jobs = tuple(job for job in self.jobs if self.name in wanted or job.job in wanted)
        held = [threshold for threshold in THRESHOLDS if threshold.job in {job.job for job in jobs}]
        needed = {threshold.of for threshold in held}
        beside = {threshold.of_job for threshold in held}
        jobs = tuple(job for job in self.jobs if job in jobs or job.job in beside)
        return replace(self, jobs=jobs, references=tuple(run for run in self.references if run.client in needed))


# Counts that take a second or two where rabbitmq-c publishes 90,000 messages a second.
GROUPS = (
    Group("publishing", (Run(OURS, "publish", 150_000),), (Run(C_CLIENT, "publish", 150_000),)),
    Group("publishing otherwise", (Run(OURS, "publish_await", 120_000), Run(OURS, "publish_fresh", 80_000))),
    Group("consuming", (Run(OURS, "consume", 70_000),), (Run(C_CLIENT, "consume", 70_000),)),
    Group(
        "pipelined",
        (Run(OURS, "window", 100_000), Run(OURS, "client_window", 100_000)),
        (Run(C_CLIENT, "window", 100_000),),
    ),
    Group("latency", (Run(OURS, "one", 12_000), Run(OURS, "client_one", 12_000)), (Run(C_CLIENT, "one", 12_000),)),
    Group(
        "concurrent",
        (Run(OURS, "tasks", 80_000), Run(OURS, "client_tasks", 80_000)),
        (Run("aio-pika", "tasks", 12_000), Run("aiormq", "tasks", 12_000)),
    ),
    Group("processing", (Run(OURS, "client_process", 40_000), Run(OURS, "client_process_publish", 20_000))),
    Group(
        "rpc",
        (Run(OURS, "rpc_one", 5_000), Run(OURS, "client_rpc_one", 5_000)),
        (
            Run(C_CLIENT, "rpc_one", 5_000),
            Run("aio-pika", "rpc_one", 1_500),
            Run("aio-pika", "rpc_one_unconfirmed", 1_500),
        ),
    ),
    Group(
        "concurrent rpc",
        (Run(OURS, "rpc_tasks", 20_000), Run(OURS, "client_rpc_tasks", 20_000)),
        (Run("aio-pika", "rpc_tasks", 2_000), Run("aio-pika", "rpc_tasks_unconfirmed", 2_000)),
    ),
    Group(
        "blocking",
        (Run(OURS, "publish_many", 80_000),),
        (Run("pika", "publish_many", 4_000),),
        backend="asyncio",
    ),
    Group(
        "blocking without confirms",
        (Run(OURS, "publish_many_unconfirmed", 150_000),),
        (Run("pika", "publish_many_unconfirmed", 30_000),),
        backend="asyncio",
    ),
    Group(
        "blocking one by one",
        (Run(OURS, "blocking_one", 4_000), Run(OURS, "blocking_channel_one", 4_000)),
        (Run("pika", "blocking_one", 4_000),),
        backend="asyncio",
    ),
    Group(
        "blocking processing",
        (Run(OURS, "blocking_process", 20_000),),
        (Run("pika", "blocking_process", 20_000),),
        backend="asyncio",
    ),
    Group(
        "blocking iteration",
        (Run(OURS, "blocking_iterate", 20_000),),
        (Run("pika", "blocking_iterate", 20_000),),
        backend="asyncio",
    ),
    Group("blocking submitting", (Run(OURS, "blocking_submit", 20_000),), backend="asyncio"),
    Group(
        "storm",
        (Run(OURS, "connections", CONNECTIONS), Run(OURS, "clients", CONNECTIONS)),
        (Run("aiormq", "opening", CONNECTIONS), Run("aio-pika", "connections", CONNECTIONS)),
        many_connections=True,
    ),
)

TITLES = {
    "publish": "publish without confirms (`publish_nowait`)",
    "publish_await": "`await channel.publish` without confirms",
    "publish_fresh": "`publish_nowait`, a new `Message` each",
    "consume": "consume with `async for` and `ack()`, prefetch 500",
    "window": "`publisher(window=1000)`, all confirmed",
    "one": "one confirmed publish at a time",
    "tasks": "100 tasks, each confirmed publish awaited",
    "client_window": "`client.publisher(window=1000)`, all confirmed",
    "client_one": "one `client.publish` at a time",
    "client_tasks": "100 tasks, each `client.publish` awaited",
    "client_process": "`client.process`, an empty handler, prefetch 200",
    "client_process_publish": "the same, ten at a time, each with a confirmed publish",
    "rpc_one": "one RPC at a time",
    "rpc_one_unconfirmed": "one RPC at a time, channels without confirms",
    "rpc_tasks": "100 tasks, each RPC awaited",
    "rpc_tasks_unconfirmed": "100 tasks, each RPC awaited, channels without confirms",
    "client_rpc_one": "one `client.rpc()` call at a time",
    "client_rpc_tasks": "100 tasks, each `client.rpc()` call awaited",
    "publish_many": "without async, all confirmed (`client.publish_many`)",
    "publish_many_unconfirmed": "without async, without confirms (`channel.publish_many`)",
    "blocking_one": "without async, one `client.publish` at a time",
    "blocking_channel_one": "without async, one `channel.publish` at a time",
    "blocking_process": "without async, `client.process` with an empty handler, prefetch 500",
    "blocking_iterate": "without async, `for delivery in client.consume(...)` with `ack()`, prefetch 500",
    "blocking_submit": "without async, `publisher().submit` from one thread, all confirmed",
    "connections": "connections with a channel each, held by one task",
    "clients": "connections with a channel each, a task per client",
    "opening": "connections with a channel each",
}


@dataclass(frozen=True)
class Figure:
    """Something that the runs' figures tell."""

    title: str
    unit: str
    of: Callable[[Figures], float]


FIGURES = {
    "rate": Figure("rate", "/s", lambda figures: figures["messages"] / figures["seconds"]),
    "cpu_us": Figure("CPU per message", "µs", lambda figures: figures["cpu_seconds"] / figures["messages"] * 1e6),
    "system_us": Figure(
        "system CPU per message", "µs", lambda figures: figures["system_seconds"] / figures["messages"] * 1e6
    ),
    "p50_us": Figure("p50", "µs", lambda figures: figures["p50_us"]),
    "connect_seconds": Figure("wall time to connect", "s", lambda figures: figures["connect_seconds"]),
    "kilobytes": Figure("memory per connection", "KB", lambda figures: figures["bytes_per_connection"] / 1024),
    "confirmed_rate": Figure("confirmed publishes", "/s", lambda figures: figures["messages"] / figures["seconds"]),
}


@dataclass(frozen=True)
class Threshold:
    """A bound for a figure of a job of ours: as it is, or as its ratio to the figure of another client (`of`), or of
    another job of ours on the same backend (`of_job`)."""

    job: str
    figure: str
    of: str | None = None
    of_job: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    backend: str | None = None
    """Where the bound holds; None: everywhere."""

    @property
    def reference(self) -> str | None:
        return self.of or (self.of_job and TITLES[self.of_job])

    @property
    def bound(self) -> float:
        bound = self.at_most if self.at_least is None else self.at_least
        assert bound is not None
        return bound

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.at_least is not None else value <= self.bound


THRESHOLDS = (
    Threshold("publish", "rate", of=C_CLIENT, at_least=0.95),
    Threshold("publish", "cpu_us", at_most=1.3),
    Threshold("publish_await", "cpu_us", at_most=4),
    Threshold("window", "rate", of=C_CLIENT, at_least=0.95),
    Threshold("consume", "rate", of=C_CLIENT, at_least=1.1),
    Threshold("consume", "cpu_us", of=C_CLIENT, at_most=3),
    Threshold("tasks", "rate", of="aio-pika", at_least=6),
    Threshold("one", "p50_us", of=C_CLIENT, at_most=1.6, backend="asyncio"),
    Threshold("one", "p50_us", of=C_CLIENT, at_most=1.6, backend="uvloop"),
    Threshold("one", "p50_us", of=C_CLIENT, at_most=1.8, backend="trio"),
    Threshold("client_window", "cpu_us", of_job="window", at_most=1.3),
    Threshold("client_one", "cpu_us", of_job="one", at_most=1.3),
    Threshold("client_tasks", "cpu_us", of_job="tasks", at_most=1.3),
    Threshold("rpc_one", "p50_us", of="aio-pika", at_most=0.5),
    Threshold("rpc_one", "p50_us", of=C_CLIENT, at_most=2),
    Threshold("client_rpc_one", "p50_us", of="aio-pika", at_most=0.5),
    Threshold("client_rpc_one", "p50_us", of=C_CLIENT, at_most=2),
    Threshold("rpc_tasks", "rate", of="aio-pika", at_least=8),
    Threshold("client_rpc_tasks", "rate", of="aio-pika", at_least=8),
    Threshold("publish_many", "rate", of="pika", at_least=2),
    Threshold("publish_many_unconfirmed", "rate", of="pika", at_least=2),
    Threshold("blocking_one", "rate", of="pika", at_least=1.2),
    Threshold("blocking_one", "cpu_us", of="pika", at_most=1),
    Threshold("blocking_channel_one", "rate", of="pika", at_least=1.2),
    Threshold("blocking_channel_one", "cpu_us", of="pika", at_most=1),
    Threshold("blocking_process", "rate", of="pika", at_least=1.5),
    Threshold("blocking_process", "cpu_us", of="pika", at_most=1),
    Threshold("blocking_iterate", "rate", of="pika", at_least=2),
    Threshold("blocking_iterate", "cpu_us", of="pika", at_most=1),
    Threshold("blocking_submit", "cpu_us", at_most=20),
    Threshold("connections", "kilobytes", at_most=8),
    Threshold("clients", "kilobytes", at_most=16),
    Threshold("connections", "connect_seconds", of="aiormq", at_most=0.6),
    Threshold("connections", "confirmed_rate", of="aio-pika", at_least=6),
)


def group_of(job: str) -> Group:
    """The one that has this job of ours."""
    return next(group for group in GROUPS if job in {run.job for run in group.jobs})


def choose(only: Sequence[str], scale: float, connections: int) -> Iterator[Group]:
    """The groups to run, with the counts scaled; connections are as many as asked for."""

    def resized(run: Run, group: Group) -> Run:
        return replace(run, count=connections if group.many_connections else max(100, round(run.count * scale)))

    for group in GROUPS:
        chosen = group.only(only) if only else group
        if chosen.jobs:
            yield replace(
                chosen,
                jobs=tuple(resized(run, group) for run in chosen.jobs),
                references=tuple(resized(run, group) for run in chosen.references),
            )


def names() -> list[str]:
    """What --only takes."""
    return [name for group in GROUPS for name in dict.fromkeys((group.name, *(job.job for job in group.jobs)))]
