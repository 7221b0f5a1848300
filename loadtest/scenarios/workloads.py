"""Several workloads of one run: each is complete settings of its own, and their sum is what the machine has to bear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from loadtest.scenarios.settings import Settings

_ADDED = ("clients", "producers", "consumers", "callers", "connections", "queues", "servers", "backlog")


def join_workloads(workloads: Sequence[Settings]) -> Settings:
    """The settings of all together. What can't be added up is that of the first one; a rate is told if all have one."""
    rates = [each.rate for each in workloads]
    return replace(
        workloads[0],
        **{name: sum(getattr(each, name) for each in workloads) for name in _ADDED},
        rate=None if None in rates else sum(filter(None, rates)),
        workload="",
        workloads=tuple(workloads),
    )
