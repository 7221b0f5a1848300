"""A fixture for the peers: each is started once, when a test first needs it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.node_packages import NodeMissing
from tests.interop.peers import PEERS, PeerProcess


@pytest.fixture(scope="session", params=PEERS)
def peer(request: pytest.FixtureRequest, amqp_url: str) -> Iterator[PeerProcess]:
    """Each peer in turn."""
    try:
        process = PeerProcess(request.param, amqp_url)
    except NodeMissing as missing:
        pytest.skip(str(missing))
    with process:
        yield process
