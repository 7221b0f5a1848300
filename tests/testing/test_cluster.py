"""The private cluster: one cluster, whose nodes go and come back, and which leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import anyio
import anyio.to_thread
import pytest

import rabbitry
from rabbitry import Queue
from rabbitry.testing import NodeError, PrivateCluster, PrivateNode
from rabbitry.testing.rabbitmq import install
from tests.support.helpers import open_channel, unique, until
from tests.testing.test_node import comes_to_answer, linux_only, processes_of, wait_gone

pytestmark = [
    pytest.mark.skipif(
        "RABBITMQ_URL" in os.environ and not install.is_installed(),
        reason="RABBITMQ_URL is set and RabbitMQ not installed",
    ),
    # Three brokers start one and a half times in a row, on two processors maybe.
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[PrivateCluster]:
    """For tests that end nodes of it, and leave them running."""
    with PrivateCluster() as cluster:
        yield cluster


def running_nodes(node: PrivateNode) -> set[str]:
    listing = node.rabbitmqctl("eval", "[io:format('~s~n', [N]) || N <- rabbit_nodes:all_running()].", timeout=150)
    return {line for line in listing.split() if "@" in line}


async def publish_until_confirmed(url: str, body: bytes, queue: str) -> None:
    """A quorum queue refuses messages between the end of its leader and the next election. A channel that met this once
    goes on being refused (RabbitMQ 3.10), so each attempt has its own."""
    with anyio.fail_after(30):
        while True:
            try:
                async with open_channel(url, confirm=True) as channel:
                    return await channel.publish(body, routing_key=queue)
            except rabbitry.Nacked:
                await anyio.sleep(0.05)


def test_every_node_is_in_it_and_at_its_url(cluster: PrivateCluster) -> None:
    assert len(set(cluster.urls)) == 3
    for node in cluster.nodes:
        assert node.is_running and comes_to_answer(node.host, node.port)
        assert running_nodes(node) == {other.name for other in cluster.nodes}


def test_is_started_once_only(cluster: PrivateCluster) -> None:
    with pytest.raises(NodeError, match="already"):
        cluster.start()
    assert all(node.is_running for node in cluster.nodes)


async def test_a_quorum_queue_outlives_each_node_in_turn(cluster: PrivateCluster) -> None:
    """The leader of the queue first. Without it two are left; once it is back, the queue can lose another, which shows
    that it has rejoined."""
    queue = Queue(unique("quorum"), type="quorum")
    first, second, third = cluster.nodes
    async with open_channel(first.url, confirm=True) as channel:
        await channel.declare(queue)
        await channel.publish(b"three nodes", routing_key=queue.name)

    for victim, end, other, body in (
        (first, first.akill, second, b"two nodes"),
        (second, second.astop, third, b"another two"),
    ):
        await end()
        assert not victim.is_running
        await publish_until_confirmed(other.url, body, queue.name)
        await victim.arestart()
        assert victim.is_running

    with anyio.fail_after(30):
        async with open_channel(first.url) as channel, channel.consume(queue) as deliveries:
            for body in b"three nodes", b"two nodes", b"another two":
                delivery = await anext(deliveries)
                assert delivery.body == body
                delivery.ack()
            await channel.delete_queue(queue)
    running = await anyio.to_thread.run_sync(running_nodes, third)
    assert running == {node.name for node in cluster.nodes}


async def test_async_start_and_end() -> None:
    async with PrivateCluster(1) as cluster:
        (node,) = cluster.nodes
        assert comes_to_answer(node.host, node.port)
        assert cluster.urls == [node.url]
    assert not node.is_running
    assert not node.directory.exists() and not processes_of(node.directory)


async def test_cancelled_while_starting() -> None:
    cluster = PrivateCluster()

    async def start() -> None:
        async with cluster:
            pytest.fail("no RabbitMQ starts so fast")

    async with anyio.create_task_group() as tg:
        tg.start_soon(start)
        await until(lambda: cluster.nodes and cluster.nodes[0]._guardian is not None)
        tg.cancel_scope.cancel()
    assert cluster._directory is not None
    for directory in cluster._directory, cluster.nodes[0].directory:
        assert not directory.exists() and not processes_of(directory)


def test_a_setting_that_rabbitmq_refuses() -> None:
    cluster = PrivateCluster(settings={"no.such.key": 1})
    with pytest.raises(NodeError, match=r"(?s)ended by itself.*no\.such\.key"):
        cluster.start()
    assert cluster._directory is not None and not cluster._directory.exists()
    assert not cluster.nodes[0].directory.exists()


def test_no_node_at_all() -> None:
    with pytest.raises(ValueError, match="at least one"):
        PrivateCluster(0)


OWNER = """
import time
from rabbitry.testing import PrivateCluster

cluster = PrivateCluster()
for pause in cluster._starting():  # only until every Erlang is there
    if cluster.nodes and all(node.pid for node in cluster.nodes):
        break
    time.sleep(pause)
print(cluster._directory, *(node.directory for node in cluster.nodes), flush=True)
time.sleep(60)
"""


@pytest.mark.broker  # started by the owner
@linux_only
def test_nothing_outlives_an_owner_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        directories = owner.stdout.readline().split()
        assert len(directories) == 4 and all(map(processes_of, directories))
        owner.send_signal(signal.SIGKILL)
    for directory in directories:
        wait_gone(directory)
