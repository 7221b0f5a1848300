"""What a run of several processes doesn't do, and why: the command line says it, and a worker that is asked for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loadtest.scenarios.settings import Settings

COUNTED = {
    "connect": ("connections", "failed", "dropped"),
    "publish": ("sent", "confirmed", "nacked", "returned", "unknown"),
    "consume": ("received", "unique", "redelivered", "foreign", "cancelled"),
    "rpc": ("calls", "replies", "timeouts", "unanswered", "errors", "servers_lost"),
    "errors": ("total",),
}
"""What is known of all workers together while a run goes on, by the result's sections: what they tell each second."""


def find_limits(settings: Settings) -> Iterator[tuple[str, str]]:
    """The flags that such a run doesn't take, and for each the reason."""
    if settings.workload or settings.workloads:
        yield "--scenario FILE with [[workload]]s", "several processes share out one workload: start a run for each"
    if settings.scenario == "queues":
        yield "--scenario queues", "one process declares all queues and times that: more of them would not show more"
    if settings.scenario == "sweep" and settings.workers:
        yield "--scenario sweep", "its steps are runs of their own, and workers join for one: use --processes"
    if settings.workers and (settings.repeat > 1 or settings.vary):
        flag = "--repeat" if settings.repeat > 1 else "--vary"
        yield flag, "each trial is a run of its own, and workers join for one: use --processes"
    if settings.backlog:
        yield "--backlog", "the time to drain it is one process's to tell"
    if settings.faults:
        yield "--fault", "outages are told to 20 ms, and workers tell what they counted each second"
    if settings.calibrate:
        yield "--calibrate", "it tells what one generator reaches, and not what several do beside each other"


def is_counted(path: Sequence[str]) -> bool:
    """Whether that value of the result is known while several processes are at work."""
    return len(path) == 2 and path[1] in COUNTED.get(path[0], ())
