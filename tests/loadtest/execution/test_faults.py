"""A fault that the end of the run cuts off; what faults do for real is tried in `tests/loadtest/commands`."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from loadtest.commands.flags import parse_settings
from loadtest.execution.faults import Faults
from loadtest.execution.state import start_run


class Node:
    """A broker that notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def pause(self) -> None:
        self.done.append("pause")

    def resume(self) -> None:
        self.done.append("resume")

    async def akill(self) -> None:
        raise NotImplementedError

    async def arestart(self) -> None:
        raise NotImplementedError

    def memory_alarm(self) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("is_interrupted", [False, True])
async def test_a_fault_that_is_cut_off_says_so_unless_that_was_asked_for(is_interrupted: bool) -> None:
    line = ["--producers", "1", "--consumers", "1", "--duration", "20", "--fault", "1s stop 5s"]
    run, node, entry = start_run(parse_settings(line, {})), Node(), dict[str, Any](error=None)
    looked: list[bool] = []
    faults = Faults(run, node, ["amqp://localhost"], lambda: 0, lambda: looked.append(True))
    run.record.is_interrupted = is_interrupted
    with anyio.move_on_after(0.05):
        await faults._do(run.settings.faults[0], entry)
    assert node.done == ["pause", "resume"]
    assert looked == [True], "what the broker has used is noted before it may be killed"
    assert entry["error"] == (None if is_interrupted else "it was not over when the run ended")


async def test_of_several_workloads_the_first_does_what_concerns_all_and_each_counts_from_that_moment() -> None:
    """The clock of the other one is behind: its own time for the fault has not come when it happens."""
    line = ["--producers", "1", "--consumers", "1", "--duration", "20", "--fault", "0.05s stop 0.05s"]
    first, other, node = start_run(parse_settings(line, {})), start_run(parse_settings(line, {})), Node()
    other.is_first, other.timelines = False, first.timelines
    timelines = [Faults(run, node, ["amqp://localhost"], lambda: 0, lambda: None) for run in (first, other)]
    async with anyio.create_task_group() as tg:
        for timeline in timelines:
            tg.start_soon(timeline.run)
        first.measuring.set()
        with anyio.fail_after(5):
            while not node.done:
                await anyio.sleep(0.01)
        other.record.tally.dropped += 3
        other.measuring.set()
        with anyio.fail_after(5):
            while len(node.done) < 2:
                await anyio.sleep(0.01)
        await anyio.sleep(0.1)  # the other one's own time is past
        tg.cancel_scope.cancel()
    for timeline in timelines:
        timeline.close()
    assert node.done == ["pause", "resume"]
    assert [fault["dropped"] for run in (first, other) for fault in run.record.scene.faults] == [0, 3]
