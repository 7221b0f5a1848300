"""What the recipes' tests share; each recipe's queues are deleted before and after its tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from rabbitry import blocking
from rabbitry.testing import open_proxy
from tests.recipes.harness import Onlooker, Site, Starter, Steered


@pytest.fixture
def start(amqp_url: str, tmp_path: Path) -> Iterator[Starter]:
    with ExitStack() as stack:
        yield Starter(amqp_url, tmp_path, stack)


@pytest.fixture
def onlooker(amqp_url: str) -> Iterator[Onlooker]:
    with blocking.open_client(amqp_url, name="onlooker") as client:
        yield Onlooker(client)


@pytest.fixture
def proxy(amqp_url: str) -> Iterator[Steered]:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(open_proxy(amqp_url)) as proxy:
        yield Steered(proxy, portal)


@pytest.fixture
def port() -> str:
    """A free one, for a web server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


@pytest.fixture
def site(port: str) -> Site:
    """The web server at that port, as soon as there is one."""
    return Site(port)
