"""`Guardian`: a guardian process as seen by who started it, which tells it what to do and keeps what it reports.

What must stay true: nothing here waits but the end. Whatever takes time is an iterator of pauses, which a thread sleeps
(`run`) and a task awaits (`arun`), so that both do the same. A forked child inherits the object but not the guardian.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import anyio

from rabbitry.testing.rabbitmq.installation import NodeError

CLOSE_TIMEOUT = 15.0  # seconds
POLL_INTERVAL = 0.02  # seconds
SCRIPT = Path(__file__).with_name("guardian.py")

Steps = Iterator[float]
"""Something that takes time, step by step, each giving the seconds to pause before the next."""


def run(steps: Steps) -> None:
    for pause in steps:
        time.sleep(pause)


async def arun(steps: Steps) -> None:
    for pause in steps:
        await anyio.sleep(pause)


class Guardian:
    """Starts a guardian with the epmd it is to run, a port and a path if any; the server waits for `start_server`.

    exit_status:   of the server, since it was last started; None while it runs.
    epmd_ended:    as it does, silently, where it finds another one listening.
    has_ended:     the guardian itself, and with it all that it ran.
    """

    def __init__(
        self,
        directory: Path,
        descriptors: int,
        environment: Mapping[str, str],
        *,
        epmd: tuple[int, str] | None,
        command: Path | str = "",
    ) -> None:
        self.exit_status: int | None = None
        self.epmd_ended: bool = False
        self.has_ended: bool = False
        self._pid = 0
        self._starting = False
        self._owner = os.getpid()
        arguments = [directory, descriptors, self._owner, *(epmd or (0, "")), command]
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            # Isolated and without site: it needs the standard library only, and is there in 20 ms.
            [sys.executable, "-IS", SCRIPT, *map(str, arguments)],
            env=environment,
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    @property
    def pid(self) -> int:
        """The server's process id; 0 if there is none."""
        self.listen()
        return self._pid

    @property
    def is_starting(self) -> bool:
        """Whether the server has been asked for, and is not there yet."""
        self.listen()
        return self._starting

    def start_server(self) -> None:
        self._starting, self.exit_status = True, None
        self._tell("start")

    def signal_server(self, number: signal.Signals) -> None:
        self._tell(f"signal {number:d}")

    def listen(self) -> None:
        """Take in what the guardian has reported."""
        stdout = self.process.stdout
        if stdout is None or os.getpid() != self._owner:
            return
        while True:
            try:
                data = os.read(stdout.fileno(), 4096)
            except (BlockingIOError, ValueError):  # that is all; or it is closed, perhaps by another thread just now
                return
            if not data:
                self._pid, self._starting, self.has_ended = 0, False, True
                return
            # Whole lines, far shorter than a pipe's atomic write.
            for line in data.decode().splitlines():
                match line.split():
                    case ["pid", pid]:
                        self._pid, self._starting = int(pid), False
                    case ["exit", "epmd", _]:
                        self.epmd_ended = True
                    case ["exit", _, status]:
                        self._pid, self.exit_status = 0, int(status)

    def end(self) -> None:
        """Let the guardian end all that it runs, and itself. Takes CLOSE_TIMEOUT seconds at most."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self._pid = 0
        try:
            self.process.wait(CLOSE_TIMEOUT)
        except subprocess.TimeoutExpired:
            # The kernel then kills what it ran (PR_SET_PDEATHSIG).
            self.process.kill()
            self.process.wait()

    def _tell(self, order: str) -> None:
        assert self.process.stdin is not None
        try:
            os.write(self.process.stdin.fileno(), f"{order}\n".encode())
        except BrokenPipeError:
            raise NodeError("the guardian of the private RabbitMQ node is gone, and the node with it") from None
