"""The private node: it answers, keeps to itself, says what is wrong, and leaves nothing behind, come what may."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import rabbitry
from rabbitry.testing import NodeError, PrivateNode, RabbitMQNotFound
from rabbitry.testing.rabbitmq import install, installation, setup
from rabbitry.testing.rabbitmq import node as node_module
from rabbitry.testing.rabbitmq.node import answers_amqp
from tests.support.helpers import unique, until

pytestmark = pytest.mark.skipif(
    "RABBITMQ_URL" in os.environ and not install.is_installed(), reason="RABBITMQ_URL is set and RabbitMQ not installed"
)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


# 127.0.0.1, the same as a version 6 address, and ::1, as the kernel writes them
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


def processes_of(directory: Path | str) -> list[int]:
    """Every process whose environment or command line names the node's directory: the guardian, epmd, Erlang and all
    its helpers."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(directory).encode() in (process / "environ").read_bytes() + (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def comes_to_answer(host: str, port: int) -> bool:
    """Whether it answers within half a minute: the machine may be busy."""
    deadline = time.monotonic() + 30
    while not answers_amqp(host, port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def wait_gone(directory: Path | str) -> None:
    deadline = time.monotonic() + 30
    while processes_of(directory) or os.path.exists(directory):
        assert time.monotonic() < deadline, (processes_of(directory), os.path.exists(directory))
        time.sleep(0.02)


def listening_addresses(pid: int) -> set[str]:
    """The local addresses on which a process listens, as the kernel writes them."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(descriptor))
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        if os.path.exists(f"/proc/{pid}/net/{table}")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return {row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


# --- a node in use ----------------------------------------------------------------------------------------------------


def test_answers_at_its_url(node: PrivateNode) -> None:
    assert node.is_running
    assert comes_to_answer(node.host, node.port)
    assert node.url == f"amqp://guest:guest@127.0.0.1:{node.port}/%2F"
    assert (node.directory / "rabbitmq.conf").exists()


def test_rabbitmqctl(node: PrivateNode) -> None:
    assert node.rabbitmqctl("list_vhosts", "name").split() == ["name", "/"]
    with pytest.raises(NodeError, match="rabbitmqctl no_such_command failed"):
        node.rabbitmqctl("no_such_command")


@linux_only
def test_reports_what_the_broker_costs(node: PrivateNode) -> None:
    before = node.cpu_seconds()
    assert before > 0.1
    assert 50e6 < node.rss_bytes() < 4e9
    assert node.rss_peak_bytes() > 50e6
    assert node.cpu_seconds() >= before


@linux_only
def test_listens_on_the_loopback_interface_only(node: PrivateNode) -> None:
    for pid in processes_of(node.directory):
        for address in listening_addresses(pid):
            assert address.partition(":")[0] in LOOPBACK
    assert f"0100007F:{node.port:04X}" in listening_addresses(node.pid)


def test_is_started_once_only(node: PrivateNode) -> None:
    with pytest.raises(NodeError, match="already"):
        node.start()
    assert node.is_running


def test_a_forked_child_does_not_end_it(node: PrivateNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    node.close()
    monkeypatch.undo()
    assert node.is_running


async def test_async_start_and_end() -> None:
    async with PrivateNode(connections=2_000, schedulers=1, settings={"channel_max": 16}) as node:
        directory = node.directory
        assert node.is_running
        assert "channel_max = 16" in (directory / "rabbitmq.conf").read_text()
        assert "backlog = 4096" in (directory / "rabbitmq.conf").read_text()
    assert not node.is_running
    assert not directory.exists()
    assert not processes_of(directory)


async def test_cancelled_while_starting() -> None:
    node = PrivateNode()
    with anyio.move_on_after(0.3) as scope:
        async with node:
            pytest.fail("no RabbitMQ starts so fast")
    assert scope.cancelled_caught
    assert not node.directory.exists()
    assert not processes_of(node.directory)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_setting_that_rabbitmq_refuses() -> None:
    node = PrivateNode(settings={"no.such.key": 1})
    with pytest.raises(NodeError, match=r"(?s)ended by itself.*no\.such\.key") as caught:
        node.start()
    assert len(str(caught.value).splitlines()) < 25, "crash reports and all"
    assert not node.directory.exists()


def test_a_node_that_is_not_started_has_no_rabbitmqctl() -> None:
    with pytest.raises(NodeError, match="not started"):
        PrivateNode().rabbitmqctl("status")


@pytest.mark.parametrize("name", ["o'clock", 'so "called"', "back\\slash"])
def test_a_directory_that_the_start_scripts_do_not_bear(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    with pytest.raises(NodeError, match="set TMPDIR"):
        PrivateNode().start()


def test_start_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "answers_amqp", lambda host, port: False)  # however long this process sleeps
    node = PrivateNode(start_timeout=0.2)
    with pytest.raises(NodeError, match=r"no AMQP answer within 0\.2 s"):
        node.start()
    assert not node.directory.exists()
    assert not node.is_running


class StartedAnew(Exception):
    """In the place of a second attempt, which would take as long as any start."""


@pytest.mark.parametrize("taken", [0, 1, 2], ids=["amqp port", "distribution port", "epmd port"])
def test_a_port_taken_meanwhile(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of epmd's, which is missed soonest, it is seen that the second attempt comes to answer."""
    free_ports, launch, attempts = setup.free_ports, PrivateNode._launch, list[PrivateNode]()
    with socket.create_server(("127.0.0.1", 0)) as squatter:

        def free_ports_but_one(count: int) -> list[int]:
            ports = free_ports(count)
            ports[taken] = squatter.getsockname()[1]
            monkeypatch.setattr(setup, "free_ports", free_ports)
            return ports

        def launch_once(node: PrivateNode) -> None:
            attempts.append(node)
            if len(attempts) > 1 and taken != 2:
                raise StartedAnew
            launch(node)

        monkeypatch.setattr(setup, "free_ports", free_ports_but_one)
        monkeypatch.setattr(PrivateNode, "_launch", launch_once)
        node = PrivateNode()
        if taken == 2:
            with node:
                assert comes_to_answer(node.host, node.port)
        else:
            with pytest.raises(StartedAnew):
                node.start()
        assert len(attempts) == 2
        assert not node.directory.exists() and not processes_of(node.directory)


def test_more_connections_than_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1_024, 20_000))
    setup.check_descriptors(17_908)
    with pytest.raises(NodeError, match=r"17909 connections.*\(\(20000 - 100\) \* 0\.9 - 2\) = 17908"):
        PrivateNode(connections=17_909).start()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1_024, resource.RLIM_INFINITY))
    assert setup.descriptor_limit(100) == 65_536
    assert setup.descriptor_limit(100_000) == 300_000


def test_free_ports_are_out_of_the_way_of_outgoing_connections() -> None:
    ports = setup.free_ports(50)
    assert len(set(ports)) == 50
    with contextlib.suppress(OSError):
        assert max(ports) < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


# --- killed, stopped, paused, starved ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mortal() -> Iterator[PrivateNode]:
    """A broker for tests that end it, and leave it running. Its limit of memory is no default."""
    with PrivateNode(schedulers=1, settings={"vm_memory_high_watermark.relative": "0.31"}) as node:
        yield node


def is_refused(node: PrivateNode) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((node.host, node.port)) != 0


@linux_only
async def test_killed_and_restarted_on_its_data(mortal: PrivateNode) -> None:
    queue, url, first = unique("durable"), mortal.url, mortal.pid
    async with rabbitry.connect(mortal.url) as connection, connection.channel(confirm=True) as channel:
        await channel.declare_queue(queue)
        await channel.publish(b"persistent", routing_key=queue)
    await mortal.akill()
    assert not mortal.is_running and mortal.pid == 0 and is_refused(mortal)
    await mortal.akill()  # again is nothing
    await mortal.arestart()
    assert mortal.is_running and mortal.url == url and mortal.pid != first
    async with rabbitry.connect(mortal.url) as connection, connection.channel() as channel:
        delivery = await channel.get(queue, no_ack=True)
        assert delivery is not None and delivery.body == b"persistent"
        await channel.delete_queue(queue)


@linux_only
def test_paused_stopped_and_restarted(mortal: PrivateNode) -> None:
    for _ in range(5):
        mortal.pause()
        assert mortal.is_running
        assert not is_refused(mortal), "the kernel accepts connections for it"
        assert not answers_amqp(mortal.host, mortal.port)
        mortal.resume()
        assert comes_to_answer(mortal.host, mortal.port)
    user = unique("user")
    mortal.rabbitmqctl("add_user", user, "secret")
    mortal.pause()
    mortal.stop()
    assert not mortal.is_running and is_refused(mortal)
    assert "SIGTERM received - shutting down" in mortal.log_tail(200), "in order"
    with pytest.raises(NodeError, match="does not run"):
        mortal.pause()
    with pytest.raises(NodeError, match="rabbitmqctl status failed"):
        mortal.rabbitmqctl("status")
    mortal.restart()
    assert mortal.is_running and comes_to_answer(mortal.host, mortal.port)
    assert user in mortal.rabbitmqctl("list_users")


@linux_only
async def test_a_cancelled_restart_can_be_followed_by_another(
    mortal: PrivateNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds in 0.0, 0.3, 1.5:
        await mortal.akill()
        with monkeypatch.context() as patch, anyio.move_on_after(seconds) as scope:
            patch.setattr(node_module, "answers_amqp", lambda host, port: False)  # however quick the machine is
            await mortal.arestart()
        assert scope.cancelled_caught
    assert mortal.is_running, "it goes on starting"
    await mortal.arestart()
    assert comes_to_answer(mortal.host, mortal.port)


@linux_only
def test_a_restart_that_fails_keeps_the_data(mortal: PrivateNode) -> None:
    first = mortal.pid
    configuration = mortal.directory / "rabbitmq.conf"
    before = configuration.read_text()
    configuration.write_text(before + "no.such.key = 1\n")
    try:
        with pytest.raises(NodeError, match=r"(?s)ended by itself.*no\.such\.key"):
            mortal.restart()
        assert not mortal.is_running and not Path(f"/proc/{first}").exists()
    finally:
        configuration.write_text(before)
    mortal.restart()
    assert comes_to_answer(mortal.host, mortal.port)


async def test_a_memory_alarm_blocks_who_publishes_and_is_put_back(mortal: PrivateNode) -> None:
    async with rabbitry.connect(mortal.url) as connection, connection.channel(confirm=True) as channel:
        queue = (await channel.declare_queue(exclusive=True)).name
        async with mortal.memory_alarm():
            blocked = channel.publish_nowait(b"blocked", routing_key=queue)
            await until(lambda: connection.is_blocked)
            assert blocked is not None and blocked.outcome == "pending", "the broker confirms nothing"
        with anyio.fail_after(30):
            await channel.publish(b"again", routing_key=queue)
        limit = mortal.rabbitmqctl("eval", "vm_memory_monitor:get_vm_memory_high_watermark().")
        assert limit.strip() == "0.31"


@linux_only
def test_a_memory_alarm_that_the_broker_does_not_survive(mortal: PrivateNode) -> None:
    with mortal.memory_alarm():
        assert "memory" in mortal.rabbitmqctl("eval", "rabbit_alarm:get_alarms().")
        os.kill(mortal.pid, signal.SIGKILL)  # by itself, as far as the node knows
        deadline = time.monotonic() + 30
        while mortal.is_running:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    mortal.restart()
    assert mortal.rabbitmqctl("eval", "rabbit_alarm:get_alarms().").strip() == "[]"


def test_a_node_that_is_not_started_can_not_end() -> None:
    node = PrivateNode()
    for method in node.kill, node.stop, node.restart:
        with pytest.raises(NodeError, match="not started"):
            method()
    for method in node.pause, node.resume:
        with pytest.raises(NodeError, match="does not run"):
            method()


# --- not installed ----------------------------------------------------------------------------------------------------


@pytest.fixture
def without_rabbitmq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Only a distribution's wrapper is on the PATH, which changes user and resets the limits."""
    monkeypatch.setattr(installation, "SCRIPT_DIRECTORIES", ())
    monkeypatch.delenv(installation.ROOT_VARIABLE, raising=False)
    (tmp_path / "rabbitmq-server").write_text("#!/bin/sh\n")
    (tmp_path / "rabbitmq-server").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_missing_rabbitmq_says_what_to_do(without_rabbitmq: Path) -> None:
    with pytest.raises(RabbitMQNotFound, match=r"apt-get install -y rabbitmq-server.*--url.*RABBITMQ_URL"):
        PrivateNode().start()


def test_a_generic_unix_installation_is_found_on_the_path(without_rabbitmq: Path) -> None:
    (without_rabbitmq / "rabbitmq-env").touch()
    assert installation.find_scripts() == without_rabbitmq


def test_install_without_apt(without_rabbitmq: Path) -> None:
    with pytest.raises(RabbitMQNotFound, match=r"apt-get install.*there is no apt-get here"):
        install.ensure_installed()


def test_install_without_root(without_rabbitmq: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (without_rabbitmq / "apt-get").write_text("#!/bin/sh\n")
    (without_rabbitmq / "apt-get").chmod(0o755)
    with pytest.raises(RabbitMQNotFound, match=r"apt-get install.*neither root nor passwordless sudo"):
        install.ensure_installed()


# --- the end of the owner ---------------------------------------------------------------------------------------------

OWNER = """
import os, signal, sys, time
from rabbitry.testing import PrivateNode

node = PrivateNode()
for _ in node._starting():  # only until Erlang is there: its processes matter here, not its readiness
    if node.pid:
        break
    time.sleep(0.01)
print(node.directory, node.pid, flush=True)
{end}
"""

BUSY_OWNER = """
import time
from rabbitry.testing import PrivateNode

with PrivateNode() as node:
    print(node.directory, node.port, flush=True)
    time.sleep(60)
"""


@pytest.mark.broker  # started by the owner
@linux_only
@pytest.mark.parametrize(
    "end",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os.kill(os.getpid(), signal.SIGINT)",
        "os.kill(0, signal.SIGINT)  # as Ctrl-C: the whole process group",
        "sys.exit()",
        "os._exit(1)",
        "os.fork() or time.sleep(5)\nos._exit(1)",
        "os.kill(os.getppid(), 0); os.kill(node._guardian.process.pid, signal.SIGTERM)",
        "node.kill(); os._exit(1)",
        "node.pause(); os.kill(os.getpid(), signal.SIGKILL)",
        "next(node._restarting()); os._exit(1)",
        "os.kill(node._guardian.process.pid, signal.SIGKILL); time.sleep(0.5); node.close()",
    ],
)
def test_nothing_outlives_the_owner(end: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(end=end)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        directory, pid = owner.stdout.readline().rsplit(maxsplit=1)
        owner.wait(25)
    assert int(pid) > 0
    wait_gone(directory)


@pytest.mark.broker  # started by the owner
@linux_only
def test_nothing_outlives_an_owner_killed_in_full_use() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY_OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        directory, port = owner.stdout.readline().rsplit(maxsplit=1)
        assert comes_to_answer("127.0.0.1", int(port))
        assert len(processes_of(directory)) >= 3
        owner.send_signal(signal.SIGKILL)
    wait_gone(directory)
    assert not answers_amqp("127.0.0.1", int(port))
