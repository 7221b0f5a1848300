"""Workers of this machine: processes of the same program, started, heard of when they end, and never left behind.

They get the brokers' URLs and the join token by their environment, which no list of processes shows, and are in a
session of their own: a Ctrl-C at the terminal is the coordinator's to heed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import anyio

PATIENCE = 10.0
"""Seconds that a process has to end by itself, and then once more after it was asked to."""
LOOK_EVERY = 0.02
LAST_WORDS = 300
"""Characters of its standard error that are told of a process which ended by mistake."""

OnExit = Callable[[int, int, str], None]
"""Called with the id of a process that ended, its exit code, and its last words."""


class Processes:
    """The worker processes of one run."""

    def __init__(self, count: int, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self._count = count
        self._command = [sys.executable, "-m", "loadtest", "worker", "--name", "this machine", *words]
        self._environment = {**os.environ, **environment}
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._directory = tempfile.TemporaryDirectory(prefix="loadtest-", ignore_cleanup_errors=True)

    @property
    def directory(self) -> Path:
        """Where they write their parts: it goes with this."""
        return Path(self._directory.name)

    def start(self) -> None:
        """Starts all. OSError if that can't be."""
        for number in range(self._count):
            with (self.directory / f"worker-{number}.err").open("wb") as errors:
                process = subprocess.Popen(
                    self._command,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,
                )
            self._running[number] = process

    async def watch(self, on_exit: OnExit) -> None:
        """Tells of each that ends, until all have or it is cancelled."""
        told = set[int]()
        while len(told) < len(self._running):
            for number, process in self._running.items():
                code = process.poll()
                if code is not None and number not in told:
                    told.add(number)
                    on_exit(process.pid, code, self._last_words(number))
            await anyio.sleep(0.1)

    async def end(self, patience: float = PATIENCE) -> None:
        """Returns when all have ended: by themselves, asked to, or killed."""
        for ask in (None, subprocess.Popen.terminate, subprocess.Popen.kill):
            left = [process for process in self._running.values() if process.poll() is None]
            if not left:
                break
            for process in left:
                if ask is not None:
                    ask(process)
            for _ in range(int(patience / LOOK_EVERY)):
                if all(process.poll() is not None for process in left):
                    break
                await anyio.sleep(LOOK_EVERY)
        self._directory.cleanup()

    def _last_words(self, number: int) -> str:
        text = (self.directory / f"worker-{number}.err").read_text(errors="replace")
        return text.strip()[-LAST_WORDS:]
