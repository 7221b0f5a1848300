"""What ours_rpc.py and peers_rpc.py share: the server's process, and the loop of calls.

Caller and server are two processes, as RPC's users have them (in reference.c two threads); what both use is counted
together. What must stay true: the server ends with its input, hence with the process that started it, however that one
ends; and a call counts only when its reply is what was sent.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from tests.measuring.bench.measure import BODY, TASKS, WARM_UP, Clocks, Figures, percentiles, print_figures, usage

END_TIMEOUT = 10.0

Call = Callable[[], Awaitable[object]]
"""Sends BODY to QUEUE and gives the reply."""


async def call_one_by_one(call: Call, count: int, server: Server) -> Figures:
    await call_some(call, WARM_UP)
    latencies: list[float] = []
    clocks = Clocks(server)
    for _ in range(count):
        before = time.perf_counter()
        reply = await call()
        latencies.append(time.perf_counter() - before)
        assert reply == BODY
    return clocks.figures(count) | percentiles(latencies)


async def call_some(call: Call, count: int) -> None:
    for _ in range(count):
        assert await call() == BODY


class Server:
    """`with Server("tests.measuring.bench.ours", "serve", url, "trio"):` is a process that runs this job, serving."""

    def __init__(self, module: str, job: str, url: str, backend: str) -> None:
        self._command = [sys.executable, "-m", module, job, url, str(TASKS), "--backend", backend]

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        try:
            self.usage()
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            errors = self._end()
        finally:
            self._process.kill()  # does nothing to one that has ended
        if self._process.returncode and error is None:
            raise RuntimeError(f"the server failed: {errors}")

    def usage(self) -> Figures:
        """What it has used so far; the first time, once it is ready."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            print(file=stdin, flush=True)
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the server ended before its caller: {self._end()}")
        figures: Figures = json.loads(line)
        return figures

    def _end(self) -> str:
        """Ends its input and waits until it has ended, too; the last it had to say of errors."""
        _, errors = self._process.communicate(timeout=END_TIMEOUT)
        lines = [line.strip(" |+-") for line in errors.splitlines()]  # it may be a group's, in a frame
        return next((line for line in reversed(lines) if line), "no reason given")


def answer_for_usage() -> None:
    """On the server's side: a line of figures for each line of input, until that ends. For a thread."""
    for _ in sys.stdin:
        print_figures(usage())
