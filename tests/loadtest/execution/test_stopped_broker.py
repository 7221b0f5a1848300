"""Coordinated omission, in simulated time: a broker that stands still for one second of ten is seen for what it is.

The share of responses above x ms has to be (1,000 - x) / 10,000. Time passes only while everybody waits, so that no
other program on the machine has a part in it; the same with a real broker is in ``commands/test_broker_faults``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hdrh.histogram import HdrHistogram
from trio.testing import MockClock

from loadtest.commands.flags import parse_settings
from loadtest.drivers.base import Outcome
from loadtest.execution import caller, pace, producer, state, timetable
from loadtest.execution.caller import call
from loadtest.execution.producer import produce
from loadtest.execution.state import Run, start_run
from loadtest.metrics.histogram import Histogram
from loadtest.scenarios.plan import Place
from loadtest.scenarios.settings import Role

SECONDS, STOP_AFTER, STOP = 10, 3.0, 1.0
SERVICE = 0.0002
"""Seconds that the broker takes for a message or a call: a client could do a hundred times what it is asked for."""
LINE = "--producers 20 --callers 20 --rate 1000 --seed 3"


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer as soon as there is nothing else to do."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = 1.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def jump(timeout: float | None) -> Any:
            found = select(0)
            if not found:
                assert timeout is not None, "nobody would ever wake"
                self._seconds += timeout
            return found

        selector.select = jump

    def time(self) -> float:
        return self._seconds


class StoppableBroker:
    """Every publish is confirmed and every call answered after a moment, unless it stands still."""

    def __init__(self) -> None:
        self._goes_on = anyio.Event()
        self._goes_on.set()

    async def stand_still(self) -> None:
        await anyio.sleep(STOP_AFTER)
        self._goes_on = anyio.Event()
        await anyio.sleep(STOP)
        self._goes_on.set()

    async def work(self) -> None:
        await self._goes_on.wait()
        await anyio.sleep(SERVICE)
        await self._goes_on.wait()

    @asynccontextmanager
    async def producer(self, *_: object) -> AsyncIterator[StoppableBroker]:
        yield self

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[StoppableBroker]:
        yield self

    async def publish(self, body: bytes) -> Outcome:
        await self.work()
        return Outcome.CONFIRMED

    async def call(self, queue: str, body: bytes) -> bytes:
        await self.work()
        return body

    async def flush(self) -> None: ...


class _Guest:
    def __init__(self, run: Run) -> None:
        self._run = run

    def arrive(self) -> None: ...

    async def leave(self) -> None:
        await self._run.over.wait()


def now() -> int:
    return int(anyio.current_time() * 1e9)


async def perform() -> Run:
    run, broker = start_run(parse_settings(LINE.split(), {})), StoppableBroker()
    connection: Any = broker
    await anyio.sleep(1)
    run.work_begun_at = now()
    run.measurement.open(run.work_begun_at, run.work_begun_at + SECONDS * 10**9)
    run.sending_ends = run.measurement.end
    run.begin.set()
    async with anyio.create_task_group() as staff:
        staff.start_soon(run.timetable.run)
        async with anyio.create_task_group() as clients:
            for index in range(run.settings.producers):
                clients.start_soon(produce, run, Place(Role.PRODUCER, index, "q"), connection, _Guest(run))
                clients.start_soon(call, run, Place(Role.CALLER, index, "rpc"), connection, _Guest(run))
            clients.start_soon(broker.stand_still)
            await anyio.sleep(SECONDS + 1)
            run.stop()
            run.over.set()
        staff.cancel_scope.cancel()
    run.compare_with_plan()
    return run


def share_above(histogram: Histogram, milliseconds: int) -> float:
    found = HdrHistogram.decode(histogram.encode())
    above = sum(
        item.count_added_in_this_iter_step
        for item in found.get_recorded_iterator()
        if item.value_iterated_to > milliseconds * 1000
    )
    count: int = found.get_total_count()
    return above / count


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_second_of_ten(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (caller, pace, producer, state, timetable):
        monkeypatch.setattr(module, "monotonic_ns", now)
    options: dict[str, Any] = (
        {"loop_factory": SimulatedLoop} if backend == "asyncio" else {"clock": MockClock(autojump_threshold=0)}
    )
    run = anyio.run(perform, backend=backend, backend_options=options)
    record = run.record
    assert record.published_as_planned is not None and record.called_as_planned is not None
    assert record.published_as_planned.skipped == record.called_as_planned.skipped == 0
    for histogram in (record.latencies.confirm, record.latencies.rpc):
        assert histogram.count == pytest.approx(1000 * SECONDS, abs=25)
        for beyond in (100, 500, 900):
            assert share_above(histogram, beyond) == pytest.approx((1000 - beyond) / 10_000, rel=0.05)
    for histogram in (record.latencies.service, record.latencies.rpc_service):
        assert share_above(histogram, 500) < 0.005, "once it was sent, only what was in flight has waited"
