"""A private RabbitMQ node: own name, ports, directory and cookie, on the loopback interface, gone when it is closed.

One implementation serves the tests and the load tester. What must stay true: nothing of the machine's own RabbitMQ is
read or touched, readiness is an AMQP server answering and never a delay, and no process or file of the node outlives
the process that started it, however that one ends (a guardian process sees to it, `_guardian.py`). The core is
synchronous; `async with` runs the same steps and waits with the event loop. It knows of AMQP only the protocol header.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import anyio
import anyio.to_thread

from rabbitry.testing import _setup
from rabbitry.testing._installation import NodeError, find_epmd, find_scripts

START_TIMEOUT = 90.0  # seconds; a start takes four on an idle machine, most of it Erlang loading code
CLOSE_TIMEOUT = 15.0  # seconds
POLL_INTERVAL = 0.02  # seconds
GUARDIAN = Path(__file__).with_name("_guardian.py")

# How RabbitMQ's AMQP listener and its check of the distribution port word it.
PORT_TAKEN_WORDS = ("eaddrinuse", "dist_port_already_used")


class PortTaken(NodeError):
    """Somebody else took one of the ports between choosing and using it."""


class PrivateNode:
    """`with PrivateNode() as node:` or `async with PrivateNode() as node:` - a broker of one's own at `node.url`.

    connections: how many sockets it must bear; sizes descriptors, the accept backlog and buffers.
    schedulers:  Erlang's scheduler threads; None leaves the choice to Erlang.
    settings:    further lines of rabbitmq.conf, which win over those set here.
    plugins:     names of plugins to enable.
    Starting raises RabbitMQNotFound or NodeError. Entering can be cancelled; leaving is shielded and takes well under
    a second.
    """

    def __init__(
        self,
        *,
        connections: int = 1_000,
        schedulers: int | None = None,
        settings: Mapping[str, str | int] | None = None,
        plugins: Sequence[str] = (),
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        self.connections = connections
        self.name = f"rabbitry-{secrets.token_hex(4)}@localhost"
        self.host = _setup.HOST
        self.port = 0
        self.pid = 0  # of Erlang itself; 0 unless started
        self._schedulers = schedulers
        self._settings = dict(settings or {})
        self._plugins = tuple(plugins)
        self._start_timeout = start_timeout
        self._scripts = Path()
        self._environment: dict[str, str] = {}
        self._directory: Path | None = None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def __repr__(self) -> str:
        return f"<PrivateNode {self.name} port={self.port} pid={self.pid}>"

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Returns once the broker answers an AMQP handshake. On failure everything is cleaned up."""
        self._check_not_started()
        try:
            for pause in self._starting():
                time.sleep(pause)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kills the broker - nothing in it is worth a graceful stop - and removes its files. Idempotent."""
        # A forked child inherits this object, but not the node.
        if self._owner != os.getpid():
            return
        atexit.unregister(self.close)
        guardian, self._guardian = self._guardian, None
        if guardian is not None:
            _end_guardian(guardian)
        self.pid = 0
        if self._directory is not None:
            # The guardian did; unless somebody killed it.
            shutil.rmtree(self._directory, ignore_errors=True)

    async def aclose(self) -> None:
        """`close` in a thread. Shielded: cancelling it has no effect until the node is gone, CLOSE_TIMEOUT at most."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.close)

    def __enter__(self) -> PrivateNode:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> PrivateNode:
        self._check_not_started()
        try:
            for pause in self._starting():
                await anyio.sleep(pause)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- use ----------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """`amqp://` URL of the default user, who may do everything, on the default virtual host."""
        return f"amqp://guest:guest@{self.host}:{self.port}/%2F"

    @property
    def directory(self) -> Path:
        """The node's own directory: rabbitmq.conf, logs, data; it goes with the node. NodeError before the start."""
        if self._directory is None:
            raise NodeError("the node has not been started")
        return self._directory

    @property
    def is_running(self) -> bool:
        """False before the start, after the end, and also if the broker ended by itself. Linux only."""
        return self.pid != 0 and _stat_fields(self.pid)[:1] not in ([], ["Z"])

    def rabbitmqctl(self, *arguments: str, timeout: float = 60.0) -> str:
        """Runs `rabbitmqctl --quiet` against this node and returns what it printed; takes about half a second.
        Raises NodeError with what it printed if it fails, and subprocess.TimeoutExpired after `timeout` seconds."""
        if self._guardian is None:
            raise NodeError(f"the node {self.name} is not started: rabbitmqctl {' '.join(arguments)} can't reach it")
        done = subprocess.run(
            [str(self._scripts / "rabbitmqctl"), "--quiet", "--node", self.name, *arguments],
            env=self._environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            encoding="utf-8",
            errors="replace",
        )
        if done.returncode:
            raise NodeError(f"rabbitmqctl {' '.join(arguments)} failed ({done.returncode}): {done.stdout.strip()}")
        return done.stdout

    def cpu_seconds(self) -> float:
        """Processor time the broker has used so far, user and system. Linux only; NodeError elsewhere or once gone."""
        fields = self._stat()
        # proc(5): utime and stime are fields 14 and 15; the list starts with field 3
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        """The broker's resident memory. Linux only; NodeError elsewhere or once it is gone."""
        return int(self._stat()[21]) * os.sysconf("SC_PAGE_SIZE")

    def rss_peak_bytes(self) -> int:
        """The most resident memory the broker has had. Linux only; NodeError elsewhere or once it is gone."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        raise NodeError(f"no process {self.pid} in /proc")

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of what the broker printed while starting and has logged since."""
        if self._directory is None:
            return ""
        found: list[str] = []
        for name in ("output.log", "broker.log"):
            with contextlib.suppress(OSError):
                found += (self._directory / name).read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(found[-lines:])

    def _stat(self) -> list[str]:
        if fields := _stat_fields(self.pid):
            return fields
        raise NodeError(f"no process {self.pid} in /proc")

    # --- starting -----------------------------------------------------------------------------------------------------

    def _check_not_started(self) -> None:
        if self._guardian is not None:
            raise NodeError("the node has been started already")

    def _starting(self) -> Iterator[float]:
        """The start as steps, each giving the seconds to pause before the next: time.sleep or anyio.sleep does."""
        _setup.check_descriptors(self.connections)
        deadline = time.monotonic() + self._start_timeout
        for attempts_left in (2, 1, 0):
            try:
                self._launch()
                while not self._is_ready():
                    if time.monotonic() > deadline:
                        raise self._failure(f"gave no AMQP answer within {self._start_timeout:g} s")
                    yield POLL_INTERVAL
                return
            except PortTaken:
                self.close()
                if not attempts_left:
                    raise

    def _launch(self) -> None:
        self._scripts = find_scripts()
        epmd = find_epmd()
        if set(tempfile.gettempdir()) & set("'\"\\"):
            raise NodeError(
                f"the temporary directory {tempfile.gettempdir()} has a quote or a backslash in its name, which "
                "RabbitMQ's start scripts don't bear: set TMPDIR to another"
            )
        self.port, distribution_port, epmd_port, control_port = _setup.free_ports(4)
        descriptors = _setup.descriptor_limit(self.connections)

        self._owner = os.getpid()
        directory = self._directory = Path(tempfile.mkdtemp(prefix="rabbitry-node-"))
        settings = _setup.settings(self.port, self.connections) | self._settings
        _setup.write_files(directory, settings, self._plugins)
        self._environment = _setup.environment(directory, self.name, distribution_port, epmd_port, control_port)
        self._environment["ERL_MAX_PORTS"] = str(max(65_536, descriptors))
        if self._schedulers is not None:
            self._environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += f" +S {self._schedulers}:{self._schedulers}"

        atexit.register(self.close)
        arguments = [directory, descriptors, self._owner, epmd_port, epmd, self._scripts / "rabbitmq-server"]
        self._guardian = subprocess.Popen(
            # Isolated and without site: it needs the standard library only, and is there in 20 ms.
            [sys.executable, "-IS", GUARDIAN, *map(str, arguments)],
            env=self._environment,
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def _is_ready(self) -> bool:
        guardian = self._guardian
        assert guardian is not None and guardian.stdout is not None
        for line in _lines_at_hand(guardian.stdout):
            match line.split():
                case ["pid", pid]:
                    self.pid = int(pid)
                case ["exit", "epmd", _]:
                    # As it does, silently, where it finds another one listening.
                    raise PortTaken(f"another epmd took the port of the private RabbitMQ node {self.name}")
                case ["exit", _, status]:
                    raise self._failure(f"ended by itself while starting (status {status})")
        if guardian.poll() is not None:
            raise self._failure(f"could not be started (status {guardian.returncode})")
        return self.pid != 0 and answers_amqp(self.host, self.port)

    def _failure(self, what: str) -> NodeError:
        log = self.log_tail(200)
        kind = PortTaken if any(words in log for words in PORT_TAKEN_WORDS) else NodeError
        return kind(f"the private RabbitMQ node {self.name} {what}. Its log says:\n{_gist(log.splitlines())}")


def answers_amqp(host: str, port: int) -> bool:
    """True if an AMQP 0-9-1 server sends its connection.start; waits half a second for it at most."""
    try:
        with socket.create_connection((host, port), 0.5) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            # a method frame (type 1) on channel 0
            return probe.recv(3) == b"\x01\x00\x00"
    except OSError:
        return False


def _end_guardian(guardian: subprocess.Popen[bytes]) -> None:
    assert guardian.stdin is not None and guardian.stdout is not None
    guardian.stdin.close()
    guardian.stdout.close()
    try:
        guardian.wait(CLOSE_TIMEOUT)
    except subprocess.TimeoutExpired:
        # The kernel then kills the broker (PR_SET_PDEATHSIG).
        guardian.kill()
        guardian.wait()


def _gist(lines: list[str]) -> str:
    """From the first error on, because Erlang's crash reports repeat it over many pages; without an error, the end."""
    first = next((i for i, line in enumerate(lines) if "[error]" in line or line.startswith("ERROR")), len(lines) - 20)
    return "\n".join(lines[max(first, 0) :][:20])


def _lines_at_hand(stream: IO[bytes]) -> Iterator[str]:
    """What can be read without waiting. The guardian writes whole lines, far shorter than a pipe's atomic write."""
    while select.select([stream], [], [], 0)[0]:
        data = os.read(stream.fileno(), 4096)
        if not data:
            return
        yield from data.decode().splitlines()


def _stat_fields(pid: int) -> list[str]:
    """/proc/<pid>/stat from field 3 (the state) on; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
