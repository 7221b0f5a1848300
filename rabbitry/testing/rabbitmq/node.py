"""A private RabbitMQ node: own name, ports, directory and cookie, on the loopback interface, gone when it is closed.

One implementation serves the tests and the load tester. What must stay true: nothing of the machine's own RabbitMQ is
read or touched, readiness is an AMQP server answering and never a delay, and no process or file of the node outlives
the process that started it, however that one ends (a guardian process sees to it, `guardian.py`). The core is
synchronous; `async with` and the methods in a- run the same steps and wait with the event loop. It knows of AMQP only
the protocol header.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import anyio
import anyio.to_thread

from rabbitry.testing.rabbitmq import setup
from rabbitry.testing.rabbitmq.alarm import MemoryAlarm
from rabbitry.testing.rabbitmq.installation import NodeError, find_epmd, find_scripts
from rabbitry.testing.rabbitmq.plugins import (
    check_plugins,
    listening_abroad,
    listening_plugins,
    plugin_settings,
    ports_of,
)
from rabbitry.testing.rabbitmq.processes import POLL_INTERVAL, Guardian, Steps, arun, run

START_TIMEOUT = 90.0  # seconds; a start takes four on an idle machine, most of it Erlang loading code
STOP_TIMEOUT = 60.0  # seconds; a graceful stop takes one on an idle machine
KILL_TIMEOUT = 15.0  # seconds

# How RabbitMQ's AMQP listener and its check of the distribution port word it.
PORT_TAKEN_WORDS = ("eaddrinuse", "dist_port_already_used")


LOG_FILES = ("output.log", "broker.log")


class PortTaken(NodeError):
    """Somebody else took one of the ports between choosing and using it."""


@dataclass(frozen=True)
class Membership:
    """What a node shares with the others of its cluster."""

    epmd_port: int  # where epmd runs already
    cookie: str


class PrivateNode:
    """`with PrivateNode() as node:` or `async with PrivateNode() as node:` - a broker of one's own at `node.url`.

    connections: how many sockets it must bear; sizes descriptors, the accept backlog and buffers.
    schedulers:  Erlang's scheduler threads; None leaves the choice to Erlang.
    settings:    further lines of rabbitmq.conf, which win over those set here.
    plugins:     names of plugins to enable. Those that listen do so on the loopback interface, too, and on free ports:
                 `ports` has them by the plugin's name. What would listen on other interfaces is refused.
    Starting raises RabbitMQNotFound or NodeError. Entering can be cancelled; leaving is shielded and takes well under
    a second.

    Started, it can be killed, stopped and started again on its data and its ports, and paused. To be used from one
    thread or task at a time, but for `is_running` and `pid`.
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
        self.name: str = f"rabbitry-{secrets.token_hex(4)}@localhost"
        self.host = setup.HOST
        self.port: int = 0
        self.ports: Mapping[str, int] = {}
        self._counts_as_started = False
        self._schedulers = schedulers
        self._settings = dict(settings or {})
        self._plugins = tuple(plugins)
        self._start_timeout = start_timeout
        self._scripts = Path()
        self._environment: dict[str, str] = {}
        self._directory: Path | None = None
        self._guardian: Guardian | None = None
        self._owner = 0
        self._membership: Membership | None = None
        self._logged: dict[str, int] = {}  # bytes of each log file before the latest start

    def __repr__(self) -> str:
        return f"<PrivateNode {self.name} port={self.port} pid={self.pid}>"

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Returns once the broker answers an AMQP handshake. On failure everything is cleaned up."""
        self._check_not_started()
        try:
            run(self._starting())
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
            guardian.end()
        if self._directory is not None:
            # The guardian did; unless somebody killed it.
            shutil.rmtree(self._directory, ignore_errors=True)

    async def aclose(self) -> None:
        """`close` in a thread. Shielded: cancelling it has no effect until the node is gone, 15 s at most."""
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
            await arun(self._starting())
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- faults -------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL to Erlang, as if the machine had lost its power; returns when it is gone. Data and ports are kept.
        Nothing happens if it does not run. Raises NodeError if the node was not started, as do all these methods."""
        run(self._killing())

    async def akill(self) -> None:
        """`kill`, awaited. Cancelling only ends the wait."""
        await arun(self._killing())

    def stop(self) -> None:
        """SIGTERM, upon which RabbitMQ ends in order; returns when it has. Data and ports are kept. Also a paused one
        stops. Nothing happens if it does not run. Raises NodeError if it takes more than a minute."""
        run(self._stopping())

    async def astop(self) -> None:
        """`stop`, awaited. Cancelling only ends the wait: the broker goes on stopping."""
        await arun(self._stopping())

    def restart(self) -> None:
        """Start again on the same data and ports, after a kill, a stop or an end of its own; a broker that runs is
        stopped first. Returns once it answers an AMQP handshake. On failure, a NodeError, the data is still kept."""
        run(self._restarting())

    async def arestart(self) -> None:
        """`restart`, awaited. Cancelling only ends the wait, and the broker stops or starts as far as it was told to;
        another `restart`, `stop` or `kill` takes it from there."""
        await arun(self._restarting())

    def pause(self) -> None:
        """SIGSTOP: the kernel goes on accepting connections and bytes for it, but nothing answers. Returns, within
        milliseconds, when every thread stands still; NodeError if it does not run. `is_running` stays true."""
        self._signal_running(signal.SIGSTOP)
        for _ in range(1_000):
            if _stands_still(self.pid):
                return
            time.sleep(0.001)
        raise NodeError(f"the private RabbitMQ node {self.name} could not be paused")

    def resume(self) -> None:
        """SIGCONT, after a pause. NodeError if the broker does not run."""
        self._signal_running(signal.SIGCONT)

    def memory_alarm(self) -> MemoryAlarm:
        """`with node.memory_alarm():` or `async with` - a block in which the broker thinks it has no memory left, and
        so reads from no connection that publishes. What the limit was before, it is again afterwards."""
        return MemoryAlarm(self)

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
    def pid(self) -> int:
        """The process id of Erlang itself; 0 unless it runs."""
        return self._guardian.pid if self._guardian is not None else 0

    @property
    def is_running(self) -> bool:
        """Whether Erlang runs, be it starting, stopping or paused. False before the start, after a kill or a stop, and
        also if the broker ended by itself. Linux only."""
        pid = self.pid
        return pid != 0 and _stat_fields(pid)[:1] not in ([], ["Z"])

    def rabbitmqctl(self, *arguments: str, timeout: float = 60.0) -> str:
        """Runs `rabbitmqctl --quiet` against this node and returns what it printed; takes about half a second.
        Raises NodeError with what it printed if it fails, and subprocess.TimeoutExpired after `timeout` seconds."""
        if self._guardian is None:
            raise NodeError(f"the node {self.name} is not started: rabbitmqctl {' '.join(arguments)} can't reach it")
        done = self._control(arguments, timeout)
        if not self._counts_as_started:  # it listens a moment before
            if done.returncode and "'rabbit' app to be running" in done.stdout:
                self._control(("await_startup", "--timeout", "30"), timeout)
                done = self._control(arguments, timeout)
            self._counts_as_started = not done.returncode
        if done.returncode:
            raise NodeError(f"rabbitmqctl {' '.join(arguments)} failed ({done.returncode}): {done.stdout.strip()}")
        return done.stdout

    def _control(self, arguments: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
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
        return self._log(lines, {})

    def _log(self, lines: int, skip: Mapping[str, int]) -> str:
        if self._directory is None:
            return ""
        found: list[str] = []
        for name in LOG_FILES:
            with contextlib.suppress(OSError):
                text = (self._directory / name).read_bytes()[skip.get(name, 0) :].decode(errors="replace")
                found += text.splitlines()[-lines:]
        return "\n".join(found[-lines:])

    def _stat(self) -> list[str]:
        if fields := _stat_fields(self.pid):
            return fields
        raise NodeError(f"no process {self.pid} in /proc")

    # --- starting -----------------------------------------------------------------------------------------------------

    def _check_not_started(self) -> None:
        if self._guardian is not None:
            raise NodeError("the node has been started already")

    def _started(self) -> Guardian:
        if self._guardian is None:
            raise NodeError(f"the node {self.name} is not started")
        return self._guardian

    def _starting(self) -> Steps:
        setup.check_descriptors(self.connections)
        check_plugins(self._plugins)
        for attempts_left in (2, 1, 0):
            try:
                self._launch()
                yield from self._booting()
                return
            except PortTaken:
                self.close()
                if not attempts_left:
                    raise

    def _restarting(self) -> Steps:
        yield from self._stopping()
        yield from self._booting()

    def _booting(self) -> Steps:
        deadline = time.monotonic() + self._start_timeout
        self._logged = {
            path.name: path.stat().st_size for path in map(self.directory.joinpath, LOG_FILES) if path.exists()
        }
        self._started().start_server()
        while not self._is_ready():
            if time.monotonic() > deadline:
                raise self._failure(f"gave no AMQP answer within {self._start_timeout:g} s")
            yield POLL_INTERVAL

    def _killing(self) -> Steps:
        yield from self._ending((signal.SIGKILL,), KILL_TIMEOUT)

    def _stopping(self) -> Steps:
        yield from self._ending((signal.SIGTERM, signal.SIGCONT), STOP_TIMEOUT)

    def _ending(self, signals: Sequence[signal.Signals], timeout: float) -> Steps:
        guardian = self._started()
        deadline = time.monotonic() + timeout
        while guardian.is_starting:  # a restart was cancelled a moment ago
            yield POLL_INTERVAL
        if guardian.pid:
            for number in signals:
                guardian.signal_server(number)
        while guardian.pid:
            if time.monotonic() > deadline:
                raise NodeError(f"the private RabbitMQ node {self.name} did not end within {timeout:g} s")
            yield POLL_INTERVAL

    def _signal_running(self, number: signal.Signals) -> None:
        if not self.is_running:
            raise NodeError(f"the node {self.name} does not run")
        self._started().signal_server(number)

    def _launch(self) -> None:
        self._scripts = find_scripts()
        epmd = find_epmd()
        if set(tempfile.gettempdir()) & set("'\"\\"):
            raise NodeError(
                f"the temporary directory {tempfile.gettempdir()} has a quote or a backslash in its name, which "
                "RabbitMQ's start scripts don't bear: set TMPDIR to another"
            )
        listening = listening_plugins(self._plugins)
        self.port, distribution_port, epmd_port, control_port, *others = setup.free_ports(4 + len(listening))
        own = plugin_settings(dict(zip(listening, others, strict=True)), self.host, self._settings)
        descriptors = setup.descriptor_limit(self.connections)
        member = self._membership
        if member is not None:
            epmd_port = member.epmd_port

        self._owner = os.getpid()
        directory = self._directory = Path(tempfile.mkdtemp(prefix="rabbitry-node-"))
        settings = setup.settings(self.port, self.connections) | own | self._settings
        self.ports = ports_of(listening, settings)
        self._counts_as_started = False
        cookie = setup.make_cookie() if member is None else member.cookie
        setup.write_files(directory, settings, self._plugins, cookie)
        self._environment = setup.environment(directory, self.name, distribution_port, epmd_port, control_port)
        self._environment["ERL_MAX_PORTS"] = str(max(65_536, descriptors))
        if self._schedulers is not None:
            self._environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += f" +S {self._schedulers}:{self._schedulers}"

        atexit.register(self.close)
        self._guardian = Guardian(
            directory,
            descriptors,
            self._environment,
            epmd=(epmd_port, epmd) if member is None else None,
            command=self._scripts / "rabbitmq-server",
        )

    def _is_ready(self) -> bool:
        guardian = self._started()
        pid = guardian.pid
        if guardian.epmd_ended:
            raise PortTaken(f"another epmd took the port of the private RabbitMQ node {self.name}")
        if guardian.exit_status is not None:
            raise self._failure(f"ended by itself while starting (status {guardian.exit_status})")
        if guardian.has_ended:
            raise self._failure(f"could not be started (status {guardian.process.wait()})")
        if pid == 0 or not answers_amqp(self.host, self.port):
            return False
        if (self._plugins or self._settings) and (abroad := listening_abroad(pid)):
            guardian.signal_server(signal.SIGKILL)
            raise NodeError(
                f"the private RabbitMQ node {self.name} listened on other interfaces than {self.host}, on port "
                f"{', '.join(map(str, abroad))}: set where each plugin and each listener of `settings` listens"
            )
        return True

    def _failure(self, what: str) -> NodeError:
        log = self._log(200, self._logged)
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


def _gist(lines: list[str]) -> str:
    """What tells of a log: the lines from the first error on, because Erlang's crash reports repeat it over many pages;
    without an error, the last lines.
    """
    first = next((i for i, line in enumerate(lines) if "[error]" in line or line.startswith("ERROR")), len(lines) - 20)
    return "\n".join(lines[max(first, 0) :][:20])


def _stat_fields(pid: int) -> list[str]:
    """/proc/<pid>/stat from field 3 (the state) on; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _stands_still(pid: int) -> bool:
    """Whether each thread of a process is stopped; also true where there is no /proc to tell."""
    try:
        states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # a thread has just ended
        return False
    return all(state == "T" for state in states)
