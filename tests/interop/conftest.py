"""Fixtures for the peers and their brokers: RabbitMQ, and the embedded broker on a port. Each peer is started once for
each, when a test first needs it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from anyio.from_thread import start_blocking_portal

from rabbitry.broker import Broker
from tests.interop.node_packages import NodeMissing
from tests.interop.peers import PEERS, PeerProcess
from tests.support.helpers import version_of


@pytest.fixture(scope="session")
def embedded_url() -> Iterator[str]:
    """An embedded broker on a port, in a thread of its own."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(Broker()) as broker:
        portal.call(broker.listen)
        yield broker.url


@pytest.fixture(scope="session", params=["rabbitmq", "embedded"])
def amqp_url(request: pytest.FixtureRequest) -> str:
    """Instead of the run's own: both brokers in turn. RABBITMQ_URL stands for RabbitMQ, as everywhere."""
    if request.param == "embedded":
        embedded: str = request.getfixturevalue("embedded_url")
        return embedded
    url = os.environ.get("RABBITMQ_URL")
    return url or request.getfixturevalue("node").url


@pytest.fixture(scope="session")
def broker_version(amqp_url: str) -> tuple[int, ...]:
    """That of the broker whose turn it is; the run's own fixture knows the run's own broker alone."""
    return version_of(amqp_url)


@pytest.fixture(scope="session", params=PEERS)
def peer(request: pytest.FixtureRequest, amqp_url: str) -> Iterator[PeerProcess]:
    """Each peer in turn."""
    try:
        process = PeerProcess(request.param, amqp_url)
    except NodeMissing as missing:
        pytest.skip(str(missing))
    with process:
        yield process
