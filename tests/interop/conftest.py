"""Fixtures for the peers and their brokers: RabbitMQ, and the embedded broker on a port, as the version that a test
asks for. Each peer is started once for each, when a test first needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any

import pytest

from rabbitry.testing.hosting import broker_in_a_thread
from tests.interop.node_packages import NodeMissing
from tests.interop.peers import PEERS, PeerProcess
from tests.support.helpers import version_of


@pytest.fixture(scope="session")
def embedded_urls() -> Iterator[Callable[[Any], str]]:
    """The URL of an embedded broker on a port, by the version of RabbitMQ that it behaves like."""
    with ExitStack() as stack:
        yield cache(lambda compat: stack.enter_context(broker_in_a_thread(compat)))


@pytest.fixture(scope="session", params=["rabbitmq", "embedded"])
def amqp_url(request: pytest.FixtureRequest, embedded_urls: Callable[[Any], str]) -> str:
    """Instead of the run's own: both brokers in turn, or what a test's parameter says: "embedded 4.3". RABBITMQ_URL
    stands for RabbitMQ, as everywhere."""
    kind, _, compat = request.param.partition(" ")
    if kind == "embedded":
        return embedded_urls(compat or "3.10")
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
