"""Virtual time on trio: its `MockClock`, which this library follows for the length of a run.

What must stay true: this thread's clocks are trio's while one of its tasks runs, and nobody else's: a sync test between
two steps of a guest run has the machine's. And time does not leap while a worker thread is at work or a task waits for
a real socket, of which the clock itself knows nothing. Imported only when `trio.testing` is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from math import inf
from random import Random

import trio
import trio.testing
from trio.lowlevel import Task

from rabbitry._concurrency.clock import Clock, exchange

__all__ = ["follow_trio"]

_followed: trio.lowlevel.RunVar[bool] = trio.lowlevel.RunVar("rabbitry follows the clock", False)


def follow_trio() -> None:
    """Follow the clock of the trio that runs here, if it is a `MockClock`, to the end of the run."""
    if not trio.lowlevel.in_trio_task() or _followed.get():
        return
    clock = trio.lowlevel.current_clock()
    if isinstance(clock, trio.testing.MockClock):
        _followed.set(True)
        following = _Following(clock)
        trio.lowlevel.add_instrument(following)
        following.before_task_step(trio.lowlevel.current_task())


class _Following(trio.abc.Instrument):
    """Exchanges the clocks for each step of a task, and holds time up after it where it must not move."""

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self._mock = clock
        offset = time.time() - clock.current_time()
        self._clock = Clock(clock.current_time, lambda: offset + clock.current_time(), Random(0), is_virtual=True)
        self._before: Clock | None = None
        self._threshold = inf  # what it was before it was held

    def before_task_step(self, task: Task) -> None:
        self._before = exchange(self._clock)

    def after_task_step(self, task: Task) -> None:
        exchange(self._before)
        mock = self._mock
        if _is_held():
            if mock.autojump_threshold != inf:
                self._threshold, mock.autojump_threshold = mock.autojump_threshold, inf
        elif self._threshold != inf:
            if mock.autojump_threshold == inf:
                mock.autojump_threshold = self._threshold
            self._threshold = inf


def _is_held() -> bool:
    """Whether something may still happen in real time."""
    statistics = trio.lowlevel.current_statistics().io_statistics
    names = ("tasks_waiting", "tasks_waiting_read", "tasks_waiting_write")  # as the system has it
    if sum(getattr(statistics, name, 0) for name in names) > 1:  # the one is trio's own
        return True
    threads = _threads()
    return threads > 0 and threads > sum(map(_serves_a_thread, _tasks(trio.lowlevel.current_root_task())))


def _threads() -> int:
    """Worker threads at work; before trio 0.28 could say, those of its own limiter alone."""
    if hasattr(trio.testing, "active_thread_count"):
        return trio.testing.active_thread_count()
    return trio.to_thread.current_default_thread_limiter().borrowed_tokens


def _serves_a_thread(task: Task) -> bool:
    """Whether a worker thread waits for this task, by `from_thread.run`. trio doesn't tell; the frames do."""
    return any(frame.f_code.co_name == "unprotected_afn" for frame, _ in task.iter_await_frames())


def _tasks(root: Task | None) -> Iterator[Task]:
    if root is not None:
        yield root
        for nursery in root.child_nurseries:
            for task in nursery.child_tasks:
                yield from _tasks(task)
