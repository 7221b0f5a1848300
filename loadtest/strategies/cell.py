"""One cell in this process: `python -m loadtest.strategies.cell` reads what to do from standard input as JSON, and
writes what it found as JSON.

It ends without closing anything: closing ten thousand connections takes some libraries longer than opening them, and
the queues go with all that is in them. It ends in its time whatever happens: an alarm sees to it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import secrets
import signal
import sys
import threading
from collections.abc import Callable
from time import sleep
from typing import Any, NoReturn

import anyio
import psutil

from loadtest.execution.body import BodyMaker
from loadtest.machine.resources import Meter
from loadtest.strategies.course import Course
from loadtest.strategies.table import STRATEGIES, Way
from loadtest.strategies.tasks import Tasks
from loadtest.strategies.threads import Threads
from loadtest.strategies.work import Book, Cell, Window


def main() -> None:
    """Performs the cell that standard input asks for."""
    cell = Cell(**json.load(sys.stdin))
    signal.setitimer(signal.ITIMER_REAL, cell.bound)
    logging.basicConfig(handlers=[logging.NullHandler()])  # errors are counted and reported, not logged by the thousand
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    perform(cell, _tell_and_end)


def _tell_and_end(result: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)


def perform(cell: Cell, tell: Callable[[dict[str, Any]], None]) -> None:
    """Performs a cell, and tells its result while everything is still open."""
    strategy, window = STRATEGIES[cell.strategy], Window()
    bodies = BodyMaker(secrets.randbits(32), cell.size)
    meter = Meter(None if cell.broker_pid is None else psutil.Process(cell.broker_pid))
    course = Course(cell, window, meter)
    if strategy.way is Way.THREADS:
        tell(_perform_threads(Threads(cell, strategy, window, bodies), course))
    else:
        anyio.run(_perform_tasks, Tasks(cell, strategy, Book(window, bodies)), course, tell)


def _perform_threads(threads: Threads, course: Course) -> dict[str, Any]:
    threads.start()
    try:
        for pause in course.run(threads, threads.begin, threading.active_count):
            if threads.refusal is not None:
                course.give_up("threads", threads.refusal, threading.active_count())
            sleep(pause)
        return course.result(threads)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        _end_without_descriptors(threads.arrived)


def _end_without_descriptors(connected: int) -> NoReturn:
    """The threads took the last of them between two looks: nothing can be read any more, and no thread can end."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    os.write(2, f"all {allowed:,} descriptors allowed were open with {connected:,} clients connected\n".encode())
    os._exit(1)


async def _perform_tasks(tasks: Tasks, course: Course, tell: Callable[[dict[str, Any]], None]) -> None:
    is_told = False

    async def conduct() -> None:
        nonlocal is_told
        for pause in course.run(tasks, tasks.begin, threading.active_count):
            await anyio.sleep(pause)
        is_told = True
        tell(course.result(tasks))

    try:
        await tasks.run(conduct)
    except Exception as error:  # what all clients share could not be opened, or was lost
        if not is_told:
            course.give_up("connect", f"{type(error).__name__}: {error}", 0)
            tell(course.result(tasks))


if __name__ == "__main__":
    main()
