from __future__ import annotations

import gc
import math
import time

import anyio

from loadtest.machine.probe import CollectorPauses, LoopProbe
from loadtest.metrics.histogram import Histogram
from tests.support.helpers import until


async def test_a_loop_that_stands_still_is_many_late_ticks() -> None:
    probe = LoopProbe(lambda when: True, Histogram())
    async with anyio.create_task_group() as tg:
        tg.start_soon(probe.run)
        await until(lambda: probe.lateness.count)
        began = time.monotonic()
        await anyio.sleep(0.2)
        stood = time.monotonic()
        time.sleep(1.0)  # noqa: ASYNC251 - that is what is measured
        stood = time.monotonic() - stood
        await anyio.sleep(0.3)
        took = time.monotonic() - began  # 1.5 s, and what a busy machine takes
        await until(lambda: probe.lateness.count > 100 * took - 20)
        assert probe.lateness.count < 100 * (time.monotonic() - began) + 20
        latency = probe.lateness.latency()
        assert 1000 * stood - 100 < latency["max"] < 1000 * (time.monotonic() - began)
        tg.cancel_scope.cancel()
    assert (probe.lateness.percentile(0.9) or 0) > 600


async def test_only_ticks_of_the_window_count() -> None:
    start, seen = math.inf, 0

    def is_in_the_window(when: int) -> bool:
        nonlocal seen
        seen += 1
        return start <= when < start + 100_000_000

    probe = LoopProbe(is_in_the_window, Histogram())
    async with anyio.create_task_group() as tg:
        tg.start_soon(probe.run)
        await until(lambda: seen)
        start = time.monotonic_ns() + 100_000_000
        time.sleep(0.3)  # noqa: ASYNC251
        await until(lambda: seen > 40)
        tg.cancel_scope.cancel()
    assert probe.lateness.count == 10


def test_collections_are_timed() -> None:
    pauses = CollectorPauses(lambda when: True)
    with pauses.watched():
        gc.collect()
        gc.collect()
    gc.collect()
    assert 0 < pauses.longest < pauses.total
