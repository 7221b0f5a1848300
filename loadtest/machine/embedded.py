"""The embedded broker as a process of its own: started, addressed, measured and stopped as any other broker.

What must stay true: it ends with the block and with this process, however that ends; and whoever measures finds one
process that is the broker and nothing else. Its other end is `serving.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import BinaryIO, Self

import anyio

from rabbitry.testing import NodeError

START_TIMEOUT = 60.0
"""Seconds; it takes half a one on an idle machine, most of it Python loading code."""
POLL_INTERVAL = 0.02
LAST_WORDS = 500
"""Characters of its standard error that are told where it didn't start."""


def _open_unnamed() -> BinaryIO:
    """A file without a name: in memory where the system has such, as there may be no folder that can be written to."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # an old system, or a container that forbids it
            return os.fdopen(os.memfd_create("errors"), "w+b")
    return tempfile.TemporaryFile()


class EmbeddedBroker:
    """`with EmbeddedBroker(connections=1000) as broker:`, or `async with`: it serves at `broker.url`.

    It admits that many connections at least, and has the virtual host `vhost` beside its own. NodeError if it doesn't
    start; cancelled or interrupted meanwhile it leaves nothing behind. On Linux it ends with the thread that entered
    the block, too: that is whom the system calls its parent.
    """

    def __init__(self, *, connections: int, vhost: str | None = None) -> None:
        self._words = [str(connections), *([] if vhost is None else [vhost])]
        self._process: subprocess.Popen[bytes] | None = None
        self._told = b""
        self.url = ""

    def __enter__(self) -> Self:
        try:
            for pause in self._starting():
                time.sleep(pause)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        try:
            for pause in self._starting():
                await anyio.sleep(pause)
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Its process id; 0 if it does not run."""
        return 0 if self._process is None or self._process.poll() is not None else self._process.pid

    def pause(self) -> None:
        """Stops it where it is (SIGSTOP). NodeError if it does not run."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on (SIGCONT). NodeError if it does not run."""
        self._signal(signal.SIGCONT)

    @asynccontextmanager
    async def memory_alarm(self) -> AsyncIterator[None]:
        """Its memory alarm is on in the block, unless it ends before that. NodeError if it does not run."""
        self._tell("alarm")
        try:
            yield
        finally:
            with suppress(NodeError):
                self._tell("clear")

    def close(self) -> None:
        """Ends it at once: all that it has is in memory, and of no use any more."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            process.kill()
            process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()

    # --- the process ------------------------------------------------------------------------------------------------

    def _starting(self) -> Iterator[float]:
        """Starts it, and gives the seconds to pause until it has told its URL."""
        with _open_unnamed() as errors:
            self._process = process = subprocess.Popen(  # in a session of its own: Ctrl-C is for us, who then end it
                [sys.executable, "-m", "loadtest.machine.serving", *self._words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            deadline = time.monotonic() + START_TIMEOUT
            while not self._told.endswith(b"\n"):
                has_ended = process.poll() is not None
                with suppress(BlockingIOError):
                    self._told += os.read(process.stdout.fileno(), 4096)
                if self._told.endswith(b"\n"):
                    break
                if has_ended or time.monotonic() > deadline:
                    errors.seek(0)
                    said = errors.read().decode(errors="replace").strip()[-LAST_WORDS:]
                    what = f"ended by itself (status {process.returncode})" if has_ended else "did not start in time"
                    raise NodeError(f"the embedded broker {what}: {said or 'it said nothing'}")
                yield POLL_INTERVAL
        self.url = self._told.decode().strip()

    def _signal(self, number: signal.Signals) -> None:
        if not self.pid:
            raise NodeError("the embedded broker does not run any more")
        os.kill(self.pid, number)

    def _tell(self, order: str) -> None:
        if self._process is None or self._process.poll() is not None:
            raise NodeError("the embedded broker does not run any more")
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), f"{order}\n".encode())
        except BrokenPipeError:
            raise NodeError("the embedded broker does not run any more") from None
