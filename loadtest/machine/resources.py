"""What a run costs: processor time and memory of this process, and of the broker's where it runs on this machine.

The broker is found by its process id (a private node) or by the port it listens on (a loopback URL); a broker
elsewhere has no figures, and None says so. A node of our own is the same broker when it was killed and started again:
what its processes used adds up, starting included.
"""

from __future__ import annotations

import ipaddress
import resource
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from loadtest.machine.neighbours import Seen, find_busiest
from loadtest.machine.probe import CollectorPauses
from loadtest.machine.selfcheck import find_slowdowns
from loadtest.metrics.record import Cost
from loadtest.metrics.scene import Scene
from loadtest.urls import find_address


def find_broker(urls: Sequence[str]) -> psutil.Process | None:
    """The process that listens where the first URL points, if that is on this machine and we may know."""
    host, port = find_address(urls[0])
    if not _is_loopback(host):
        return None
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            is_listening = connection.status == psutil.CONN_LISTEN and port in tuple(connection.laddr)
            if is_listening and connection.pid:
                return psutil.Process(connection.pid)
    return None


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def _find_cores(client: psutil.Process, broker: psutil.Process | None) -> Cores:
    machine = psutil.cpu_count() or 1
    with suppress(psutil.Error, AttributeError):  # macOS knows no affinity
        ours = set(client.cpu_affinity())
        theirs = set(range(machine)) if broker is None else set(broker.cpu_affinity())
        return Cores(machine, len(theirs), len(ours & theirs) / len(ours))
    return Cores(machine, machine, 1.0)


@dataclass(frozen=True, slots=True)
class Usage:
    """Everything counted up to one moment; two of them give what was used in between."""

    seconds: float
    client_cpu: float
    broker_cpu: float | None
    machine_busy: float
    machine_stolen: float


@dataclass(frozen=True, slots=True)
class Cores:
    """How many processors there are, and who may run where."""

    machine: int
    broker: int
    """How many the broker may run on; all, if it runs elsewhere or that isn't known."""
    shared: float
    """Which part of this process's own processors is the broker's, too."""


class Meter:
    """Reads this process and the broker's."""

    def __init__(self, broker: psutil.Process | None, pid: Callable[[], int] | None = None) -> None:
        """`pid` tells the process id of a broker of our own, which may be started anew: 0 while it does not run."""
        self._client = psutil.Process()
        self._broker = broker
        self._pid = pid
        self._former_cpu = self._latest_cpu = 0.0
        """What the broker's former processes had used, and what the latest one has, as far as it was read."""
        self.broker_rss_peak: int | None = None
        self.cores = _find_cores(self._client, broker)

    def read(self) -> Usage:
        """What was used so far."""
        machine = psutil.cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        return Usage(
            time.monotonic(),
            time.process_time(),
            self._broker_cpu(),
            sum(machine[:8]) - idle,
            getattr(machine, "steal", 0.0),
        )

    def _broker_cpu(self) -> float | None:
        """What the broker has used in all its lives; None if it isn't known. One that is down uses no more."""
        pid = 0 if self._pid is None else self._pid()
        with suppress(psutil.Error):
            if self._broker is not None and pid not in (0, self._broker.pid):
                self._broker = psutil.Process(pid)
                self._former_cpu, self._latest_cpu = self._former_cpu + self._latest_cpu, 0.0
        if self._broker is None:
            return None
        try:
            times = self._broker.cpu_times()
        except psutil.Error:
            return None if self._pid is None else self._former_cpu + self._latest_cpu
        self._latest_cpu = times.user + times.system
        return self._former_cpu + self._latest_cpu

    def sample(self) -> None:
        """Notes what the broker has used, and its memory if it is larger than ever."""
        if self._broker is not None:
            self._broker_cpu()
            with suppress(psutil.Error):
                self.broker_rss_peak = max(self.broker_rss_peak or 0, self._broker.memory_info().rss)

    def cost(
        self,
        before: Usage | None,
        after: Usage | None,
        pauses: CollectorPauses,
        seen: Sequence[Seen] = (),
    ) -> Cost:
        """What the run cost between two readings, if there are any, as the record has it. `seen` are the looks at all
        processes, of which the first and the last count.
        """

        def used(name: str) -> float | None:
            one, other = getattr(before, name, None), getattr(after, name, None)
            return None if one is None or other is None else other - one

        return Cost(
            client_cpu_seconds=used("client_cpu"),
            client_rss_peak_bytes=self.client_rss_peak(),
            broker_cpu_seconds=used("broker_cpu"),
            broker_rss_peak_bytes=self.broker_rss_peak,
            machine_busy_seconds=used("machine_busy"),
            machine_stolen_seconds=used("machine_stolen"),
            machine_cores=self.cores.machine,
            broker_cores=self.cores.broker,
            shared_cores=self.cores.shared,
            collector_longest_ms=pauses.longest / 1e6,
            collector_total_ms=pauses.total / 1e6,
            slowed_by=find_slowdowns(),
            neighbours=find_busiest(seen[0], seen[-1], self._ends()) if len(seen) > 1 else {},
        )

    def _ends(self) -> set[int]:
        """The processes that are known: this one and the broker's."""
        return {self._client.pid, *([self._broker.pid] if self._broker is not None else [])}

    def broker_rss(self) -> int | None:
        """The broker's memory now, in bytes; None if it isn't known."""
        if self._broker is not None:
            with suppress(psutil.Error):
                rss: int = self._broker.memory_info().rss
                return rss
        return None

    def client_rss(self) -> int:
        """This process's memory now, in bytes."""
        rss: int = self._client.memory_info().rss
        return rss

    @staticmethod
    def client_rss_peak() -> int:
        """The most memory this process has had, in bytes."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def note_cost(scene: Scene, what: str, before: Usage, after: Usage) -> None:
    """Enters what this process and the broker used for something that is not measured otherwise."""
    scene.used[f"{what}.client"] = after.client_cpu - before.client_cpu
    if before.broker_cpu is not None and after.broker_cpu is not None:
        scene.times[f"{what}.broker"] = after.broker_cpu - before.broker_cpu  # (all processes see the same broker)
