"""The two brokers that are compared. RabbitMQ is the run's own (see tests/conftest.py), of whatever version; the
embedded one is told to be the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from anyio.from_thread import start_blocking_portal

from rabbitry.broker import Broker
from rabbitry.broker.compat import COMPAT
from rabbitry.testing import NodeError, PrivateNode

USERS = {"limited": ("^$", "^$", "^$"), "stranger": None}
"""Users beside guest, with what they may configure, write and read; None: nothing at all."""


@pytest.fixture(scope="session")
def rabbitmq(node: PrivateNode) -> PrivateNode:
    """The run's node, with the users that cases need."""
    for name, permissions in USERS.items():
        with suppress(NodeError):  # it is there
            node.rabbitmqctl("add_user", name, name)
        if permissions is not None:
            node.rabbitmqctl("set_permissions", "-p", "/", name, *permissions)
    return node


@pytest.fixture(scope="session")
def version(broker_version: tuple[int, ...]) -> str:
    version = ".".join(map(str, broker_version[:2]))
    if version not in COMPAT:
        pytest.skip(f"the embedded broker is like RabbitMQ {', '.join(COMPAT)}, and this one is {version}")
    return version


@pytest.fixture(scope="session")
def embedded(version: str) -> Iterator[str]:
    """The embedded broker's URL."""
    with start_blocking_portal() as portal:
        broker = Broker(compat=version)  # type: ignore[arg-type]
        with portal.wrap_async_context_manager(broker):
            for name, permissions in USERS.items():
                broker.add_user(name, name)
                if permissions is not None:
                    configure, write, read = permissions
                    broker.set_permissions(name, configure=configure, write=write, read=read)
            portal.call(broker.listen)
            yield broker.url
