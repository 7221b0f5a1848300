"""The embedded broker as a process: it is there when the block begins, and gone after it, however that ends."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

import rabbitry
from loadtest.machine.embedded import EmbeddedBroker
from loadtest.urls import with_vhost
from rabbitry.testing import NodeError

ROOT = Path(__file__).parents[3]


def is_gone(pid: int) -> bool:
    """Whether there is no such process, or nothing of it but its number."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def ask(url: str) -> str:
    with anyio.fail_after(20):
        async with rabbitry.connect(url) as connection, connection.channel() as channel:
            await channel.declare_queue("q")
            return str(connection.server_properties["platform"])


async def test_it_serves_its_virtual_hosts_and_is_gone_afterwards() -> None:
    async with EmbeddedBroker(connections=2, vhost="a b") as broker:
        pid = broker.pid
        assert pid
        for url in (broker.url, with_vhost(broker.url, "a b")):
            assert (await ask(url)).startswith("rabbitry embedded broker")
    assert broker.pid == 0 and is_gone(pid)
    with pytest.raises(NodeError, match="does not run"):
        broker.pause()


async def test_it_is_stopped_and_goes_on_and_raises_its_alarm() -> None:
    async with EmbeddedBroker(connections=2) as broker, rabbitry.connect(broker.url) as connection:
        async with connection.channel() as channel:
            await channel.declare_queue("q")
            broker.pause()
            with anyio.move_on_after(0.2) as stopped:
                await channel.publish(b"", routing_key="q")
            assert stopped.cancelled_caught
            broker.resume()
            with anyio.fail_after(20):
                await channel.publish(b"", routing_key="q")
                async with broker.memory_alarm():
                    while connection.blocked_reason is None:
                        with anyio.move_on_after(0.1):
                            await channel.publish(b"", routing_key="q")
                while connection.blocked_reason is not None:
                    await anyio.sleep(0.01)
                await channel.publish(b"", routing_key="q")


async def test_what_ends_a_block_with_an_alarm_is_told_though_the_broker_is_gone() -> None:
    async with EmbeddedBroker(connections=2) as broker:
        with pytest.raises(KeyError):
            async with broker.memory_alarm():
                broker.close()
                raise KeyError
        with pytest.raises(NodeError):
            async with broker.memory_alarm():
                pass


def test_it_has_as_many_descriptors_as_it_needs() -> None:
    """Whatever the soft limit of who starts it is; and admits that many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        with EmbeddedBroker(connections=2000) as broker:
            limits = psutil.Process(broker.pid).rlimit(psutil.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert limits[0] >= 2000 and limits[1] == hard


def test_one_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no luck >&2\nexit 3\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(NodeError, match=r"ended by itself \(status 3\): no luck"), EmbeddedBroker(connections=1):
        pytest.fail("it has started")


def test_it_needs_no_file_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError("memfd_create")

    monkeypatch.setattr(os, "memfd_create", forbidden, raising=False)
    with EmbeddedBroker(connections=1) as broker:
        assert broker.pid


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere what it says goes to a file")
def test_it_needs_no_folder_that_can_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: object, **__: object) -> None:
        raise FileNotFoundError("No usable temporary directory found")

    for name in ("TemporaryFile", "NamedTemporaryFile", "mkdtemp", "mkstemp"):
        monkeypatch.setattr(f"tempfile.{name}", nowhere)
    with EmbeddedBroker(connections=1) as broker:
        assert broker.pid


async def test_a_cancelled_start_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    popen = subprocess.Popen

    def note(*arguments: Any, **options: Any) -> Any:
        process: subprocess.Popen[bytes] = popen(*arguments, **options)
        started.append(process.pid)
        return process

    monkeypatch.setattr(subprocess, "Popen", note)
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with EmbeddedBroker(connections=1):
            pytest.fail("it has started")
    assert len(started) == 1 and is_gone(started[0])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a stopped process outlives who started it")
@pytest.mark.parametrize("is_stopped", [False, True])
def test_it_ends_with_who_started_it(is_stopped: bool) -> None:
    script = (
        "import time\n"
        "from loadtest.machine.embedded import EmbeddedBroker\n"
        "with EmbeddedBroker(connections=1) as broker:\n"
        f"    {'broker.pause()' if is_stopped else ''}\n"
        "    print(broker.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while not is_gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
