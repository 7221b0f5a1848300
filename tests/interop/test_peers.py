"""The processes of the peers: a failure is told, and is over with the next command; and where there is no Node."""

from __future__ import annotations

import pytest

from tests.interop.node_packages import WANTED, NodeMissing, install, node_command
from tests.interop.peers import PeerError, PeerProcess
from tests.interop.queues import meeting


async def test_failures(amqp_url: str) -> None:
    async with meeting(amqp_url) as (_, _, queue):
        with PeerProcess("pika", amqp_url) as peer:
            with pytest.raises(PeerError, match=r"^ChannelClosedByBroker: .*NOT_FOUND") as failed:
                await peer.do("get", queue=f"no {queue}")
            assert failed.value.type_name == "ChannelClosedByBroker"
            assert await peer.do("get", queue=queue) is None

            with pytest.raises(PeerError, match="pika did not answer 'serve'"):
                await peer.do("serve", queue=queue, count=1, patience=0.1)
            assert await peer.do("get", queue=queue) is None

            peer._process.kill()
            peer._process.wait()
            with pytest.raises(PeerError, match="pika did not answer 'get'"):
                await peer.do("get", queue=queue)
            assert await peer.do("get", queue=queue) is None


def test_without_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WANTED, raising=False)
    with pytest.raises(NodeMissing, match="nox -s interop"):
        node_command()
    monkeypatch.setenv(WANTED, "1")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NodeMissing, match=r"needs node: .*apt-get install"):
        node_command()
    with pytest.raises(NodeMissing, match="needs node: "):
        install()
