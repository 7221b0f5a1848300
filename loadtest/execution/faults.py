"""Does the faults of a run at their times, and watches what comes of each: the outage, and how long until all is as it
was.

It alone changes the broker or the clients' sockets while they work. A fault's effects are what is counted from its
begin until the next one begins, or until the run is over. Outages are told to `LOOK`, the time between two looks. Of
several workloads at once, each tells what became of itself. The first one does what concerns all, and has all begin to
count at that moment: none misses what happens to it before its own time has come.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from random import Random
from time import monotonic
from typing import Any, Protocol, runtime_checkable

import anyio
import anyio.to_thread
import psutil

from loadtest.execution.state import Run
from loadtest.scenarios.faults import OF_CONSUMERS, Fault
from loadtest.urls import find_address

LOOK = 0.02
"""Seconds between two looks at the counters."""
USUAL = 3.0
"""Seconds before a fault over which the usual rate is taken."""
WINDOW = 1.0
"""Seconds over which the rate must be the usual one again."""
RECOVERED = 0.9
"""Share of the usual rate at which a run counts as recovered."""
WATCHED = {"confirm": "confirmed", "delivery": "received"}
"""Whose gaps are told, and how they are called in the tally."""
EFFECTS = ("unknown", "redelivered", "received", "dropped", "rpc_timeouts", "rpc_errors")


class OwnBroker(Protocol):
    """A broker that was started for the run, as the embedded one is."""

    @property
    def pid(self) -> int: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def memory_alarm(self) -> Any: ...


@runtime_checkable
class Node(OwnBroker, Protocol):
    """One that has everything back after a start, as `rabbitry.testing.PrivateNode` does."""

    async def akill(self) -> None: ...

    async def arestart(self) -> None: ...


class Faults:
    """The timeline of one run."""

    def __init__(
        self,
        run: Run,
        node: OwnBroker | None,
        urls: Sequence[str],
        reconnects: Callable[[], int],
        look_at_broker: Callable[[], object],
    ) -> None:
        """`node` is there if the broker is ours; `look_at_broker` notes what it has used, before it may be killed."""
        self._run = run
        self._node = node
        self._look_at_broker = look_at_broker
        self._ports = frozenset(find_address(url)[1] for url in (*urls, *run.settings.all_urls))
        self._reconnects = reconnects
        self._random = Random(run.settings.seed)
        self._watches = {name: _Watch() for name in _watched(run)}
        self._latest: tuple[dict[str, Any], dict[str, int]] | None = None
        self._is_over = False
        run.timelines.append(self)

    async def run(self) -> None:
        """Does each fault at its time, from when the measurement begins; watches until cancelled."""
        await self._run.measuring.wait()
        began = monotonic()
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._look)
            tg.start_soon(self._end_early, tg.cancel_scope)
            for fault in sorted(self._run.settings.faults, key=lambda each: each.at):
                await anyio.sleep(began + fault.at - monotonic())
                at = monotonic() - began
                if fault.action in OF_CONSUMERS:
                    tg.start_soon(self._do, fault, self._begin(fault, at))
                elif self._run.is_first:
                    for timeline in self._run.timelines:
                        if timeline is not self:
                            timeline.notice(fault, at)
                    tg.start_soon(self._do, fault, self._begin(fault, at))

    async def _end_early(self, scope: anyio.CancelScope) -> None:
        """An interrupt ends what is being done: stock is to be taken of a broker that answers."""
        await self._run.enough.wait()
        scope.cancel()

    def notice(self, fault: Fault, at: float) -> None:
        """See `Timeline`."""
        if not self._is_over:
            self._begin(fault, at)

    def close(self) -> None:
        """Tells what came of the latest fault; the run is over."""
        self._is_over = True
        self._tell()

    # --- what is done -----------------------------------------------------------------------------------------------

    def _begin(self, fault: Fault, at: float) -> dict[str, Any]:
        self._tell()
        entry: dict[str, Any] = {"fault": str(fault), "action": fault.action, "at_seconds": round(at, 3), "error": None}
        if self._run.settings.workload:
            entry["workload"] = self._run.settings.workload
        self._run.record.scene.faults.append(entry)
        self._latest = entry, self._counts()
        for watch in self._watches.values():
            watch.begin()
        return entry

    def _tell(self) -> None:
        if self._latest is None:
            return
        fault, before = self._latest
        self._latest = None
        for name, number in self._counts().items():
            fault[name] = number - before[name]
        for name, watch in self._watches.items():
            fault[f"{name}_outage_seconds"] = round(watch.longest, 3)
            fault[f"{name}_recovery_seconds"] = None if watch.recovered is None else round(watch.recovered, 3)

    async def _do(self, fault: Fault, entry: dict[str, Any]) -> None:
        try:
            if fault.action == "kill-sockets":
                assert fault.share is not None
                entry["killed"] = kill_sockets(fault.share, self._ports, self._random)
            elif fault.action in ("pause-consumers", "slow-consumers"):
                assert self._run.hindrance is not None
                self._run.hindrance.begin(fault)
            else:
                assert self._node is not None
                self._look_at_broker()
                await _do_to_broker(fault, self._node)
        except Exception as error:  # the node's own, and whatever its tools end with: the run goes on, and tells of it
            entry["error"] = str(error).partition("\n")[0]
            self._run.record.errors.note(error, f" ({fault.action})")
        except BaseException:  # cancelled: its effects, if it had any, are not those of a whole one
            if not self._run.record.is_interrupted and self._run.record.aborted is None:
                entry["error"] = "it was not over when the run ended"
            raise

    # --- what comes of it -------------------------------------------------------------------------------------------

    def _counts(self) -> dict[str, int]:
        run = self._run
        counts = {name: getattr(run.record.tally, name) for name in EFFECTS}
        counts["duplicates"] = counts.pop("received") - run.record.ledger.unique
        return {**counts, "reconnected": self._reconnects()}

    async def _look(self) -> None:
        tally = self._run.record.tally
        while not self._run.is_stopping:
            now = monotonic()
            for name, watch in self._watches.items():
                watch.look(now, getattr(tally, WATCHED[name]))
            await anyio.sleep(LOOK)


def _watched(run: Run) -> list[str]:
    settings = run.settings
    return [name for name, is_there in (("confirm", settings.producers), ("delivery", settings.consumers)) if is_there]


class _Watch:
    """One counter: its longest gap since the latest fault, and when its rate was the usual one again."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.recovered: float | None = None
        """Seconds from the fault until the rate was the usual one again; None if it is not, or there was no rate."""
        self._gap_ended = 0.0
        self._seen = 0
        self._changed_at = monotonic()
        self._began = 0.0
        self._usual = 0.0
        self._looks: deque[tuple[float, int]] = deque()

    def begin(self) -> None:
        """A fault begins: a gap counts from now on."""
        now = monotonic()
        before = [look for look in self._looks if look[0] >= now - USUAL]
        spanned = now - before[0][0] if before else 0.0
        self._usual = (self._seen - before[0][1]) / spanned if spanned > 0 else 0.0
        self._began = self._changed_at = self._gap_ended = now
        self.longest, self.recovered = 0.0, None
        self._looks.clear()

    @property
    def _longest_usual(self) -> float:
        """Seconds without any that mean nothing at the usual rate, nor between a few looks."""
        return max(5 * LOOK, 10 / self._usual if self._usual else 0.0)

    def look(self, now: float, count: int) -> None:
        """The counter is that now."""
        self.longest = max(self.longest, now - self._changed_at) if self._began else 0.0
        if count != self._seen:
            if now - self._changed_at > self._longest_usual:
                self._gap_ended = now
            self._seen, self._changed_at = count, now
        self._looks.append((now, count))
        while self._looks[0][0] < now - USUAL:
            self._looks.popleft()
        if self._began and self.recovered is None and self._usual:
            self._look_for_recovery(now, count)

    def _look_for_recovery(self, now: float, count: int) -> None:
        start = next((look for look in self._looks if look[0] >= now - WINDOW), None)
        if start is None or now - self._began < WINDOW or now - self._changed_at >= WINDOW:
            return
        if count - start[1] >= RECOVERED * self._usual * (now - start[0]):
            self.recovered = max(0.0, start[0] - self._began, self._gap_ended - self._began)


async def _do_to_broker(fault: Fault, node: OwnBroker) -> None:
    """Whatever happens, the broker runs again afterwards."""
    if fault.action == "stop":
        node.pause()
        try:
            await anyio.sleep(fault.seconds)
        finally:
            node.resume()
    elif fault.action == "alarm":
        async with node.memory_alarm():
            await anyio.sleep(fault.seconds)
    else:
        assert isinstance(node, Node)  # (refused otherwise)
        try:
            await node.akill()
            await anyio.sleep(fault.seconds)
        finally:
            with anyio.CancelScope(shield=True):
                await node.arestart()


def kill_sockets(share: float, ports: Collection[int | None], random: Random) -> int:
    """Shuts down that share of this process's connections to these ports, at random; returns how many.

    It does so beneath the client library, in both directions: the library and the broker each see the other one go.
    """
    process = psutil.Process()
    listed = getattr(process, "net_connections", None) or process.connections  # (psutil before 6 has the latter)
    descriptors = sorted(
        each.fd
        for each in listed("tcp")
        if each.fd >= 0 and each.raddr and each.raddr.port in ports and each.status == psutil.CONN_ESTABLISHED
    )
    chosen = random.sample(descriptors, max(1, round(share * len(descriptors)))) if descriptors else []
    killed = 0
    for descriptor in chosen:
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as one:
            one.shutdown(socket.SHUT_RDWR)
            killed += 1
    return killed
