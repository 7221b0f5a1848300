"""The peers as the tests see them: a process each, one command at a time.

What must stay true: a peer that dies or does not answer fails the test with what it wrote on standard error, and no
other test; no process outlives its block.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio

from tests.interop.node_packages import node_command
from tests.interop.notation import noted, value_of

__all__ = ["NODE_PEERS", "PEERS", "PYTHON_PEERS", "PeerError", "PeerProcess"]

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = Path(__file__).parent / "programs"

PYTHON_PEERS = ("pika", "aio_pika", "aiormq", "amqpstorm", "kombu")
NODE_PEERS = ("amqplib", "rabbitmq_client")
PEERS = (*PYTHON_PEERS, *NODE_PEERS)


class PeerError(Exception):
    """The peer's library raised, its text says what; or the peer did not answer."""

    def __init__(self, text: str, type_name: str | None = None) -> None:
        super().__init__(text)
        self.type_name = type_name


class PeerProcess:
    """A peer at work. `await peer.do(command, ...)` is one of the commands of programs/commands.py."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        if name in NODE_PEERS:
            command, self._environment = node_command()
            self._command = [*command, str(PROGRAMS / f"{name}_peer.js"), url]
        else:
            self._command = [sys.executable, "-m", f"tests.interop.programs.{name}_peer", url]
            self._environment = {}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=os.environ | self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()
        self._errors.close()

    def _end(self) -> str:
        """End the process, and return what it wrote on standard error. The broker closes what it had open."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):  # what was still to be written
            self._process.communicate()
        self._errors.seek(0)
        text = self._errors.read()
        self._errors.truncate(0)
        self._errors.seek(0)
        return text

    async def do(self, command: str, *, patience: float = 20, **arguments: Any) -> Any:
        """What the command gives. Raises `PeerError` with what the library raised, or after `patience` seconds: the
        peers have no time-outs of their own. Then it is started anew. Cancelling waits for the command.
        """
        return await anyio.to_thread.run_sync(partial(self._do, command, arguments, patience))

    def _do(self, command: str, arguments: dict[str, Any], patience: float) -> Any:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps([command, noted(arguments)]) + "\n")
            self._process.stdin.flush()
            readable, _, _ = select.select([self._process.stdout], [], [], patience)
            line = self._process.stdout.readline() if readable else ""
        except BrokenPipeError:
            line = ""
        if not line:
            text = f"{self.name} did not answer {command!r}. Its standard error:\n{self._end()}"
            self._process = self._start()
            raise PeerError(text)
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{answer['error']}: {answer['text']}", answer["error"])
        return value_of(answer["result"])
