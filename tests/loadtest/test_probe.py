from __future__ import annotations

import gc
import time

import anyio
import pytest

from loadtest.probe import CollectorPauses, LoopProbe


async def test_a_loop_that_stands_still_is_many_late_ticks() -> None:
    probe = LoopProbe(lambda when: True)
    async with anyio.create_task_group() as tg:
        tg.start_soon(probe.run)
        await anyio.sleep(0.2)
        time.sleep(1.0)  # noqa: ASYNC251 - that is what is measured
        await anyio.sleep(0.3)
        tg.cancel_scope.cancel()
    assert probe.lateness.count == pytest.approx(150, abs=20)
    assert probe.lateness.latency()["max"] == pytest.approx(995, abs=100)
    assert (probe.lateness.percentile(0.9) or 0) > 600


async def test_only_ticks_of_the_window_count() -> None:
    start = time.monotonic_ns() + 200_000_000
    probe = LoopProbe(lambda when: start <= when < start + 100_000_000)
    async with anyio.create_task_group() as tg:
        tg.start_soon(probe.run)
        await anyio.sleep(0.1)
        time.sleep(0.3)  # noqa: ASYNC251
        await anyio.sleep(0.1)
        tg.cancel_scope.cancel()
    assert probe.lateness.count == 10


def test_collections_are_timed() -> None:
    pauses = CollectorPauses(lambda when: True)
    with pauses.watched():
        gc.collect()
        gc.collect()
    gc.collect()
    assert 0 < pauses.longest < pauses.total
