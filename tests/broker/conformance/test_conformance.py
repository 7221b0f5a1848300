"""Each case with RabbitMQ and with the embedded broker that says it is like it: the transcripts must be equal.

RabbitMQ is the run's own (see tests/conftest.py), of whatever version that is; the broker is told to be the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from anyio.from_thread import start_blocking_portal

from rabbitry.broker import Broker
from rabbitry.broker.compat import COMPAT
from rabbitry.testing import NodeError, PrivateNode
from tests.broker.conformance import (  # noqa: F401 - they fill the catalogue
    cases_consuming,
    cases_deaths,
    cases_entities,
    cases_protocol,
    cases_publishing,
)
from tests.broker.conformance.catalogue import CASES
from tests.broker.conformance.conversation import Conversation
from tests.broker.conformance.differences import DIFFERENCES

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


def transcript(name: str, url: str, *, is_embedded: bool = False) -> list[object]:
    host, port = url.rpartition("@")[2].partition("/")[0].rsplit(":", 1)
    conversation = Conversation(host, int(port), is_embedded=is_embedded)
    try:
        CASES[name](conversation)
    finally:
        conversation.close()
    return conversation.transcript


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, rabbitmq: PrivateNode, embedded: str, version: str) -> None:
    theirs = transcript(name, rabbitmq.url)
    ours = transcript(name, embedded, is_embedded=True)
    assert theirs, "a case says something"
    if (name, version) in DIFFERENCES or (name, "") in DIFFERENCES:
        assert ours != theirs, "a difference that is none any more"
        return
    assert ours == theirs


def test_there_are_many_cases() -> None:
    assert len(CASES) >= 120
    assert {name for name, _ in DIFFERENCES} <= set(CASES)
