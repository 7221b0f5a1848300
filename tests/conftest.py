"""Fixtures for all tests: one private broker for the whole run, and both backends for every async test; and the mark
`broker` for each test that faces one."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from types import CodeType

import pytest
from anyio.from_thread import start_blocking_portal

import rabbitry
from rabbitry.testing import PrivateNode, RabbitMQNotFound

BROKER_FIXTURES = {"node", "amqp_url"}
BROKER_CLASSES = {"PrivateNode", "PrivateCluster"}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks what faces a broker, so that nobody has to think of it: a test that has one by a fixture, or one whose code
    or fixtures' code names a class that starts one. A mark of its own needs only what starts one by other means."""
    assert isinstance(item, pytest.Function)
    fixtures = [definition.func for found in item._fixtureinfo.name2fixturedefs.values() for definition in found]
    functions = [inspect.unwrap(function) for function in (item.function, *fixtures)]
    names = {name for function in functions if inspect.isfunction(function) for name in names_in(function.__code__)}
    if BROKER_FIXTURES.intersection(item.fixturenames) or names & BROKER_CLASSES:
        item.add_marker("broker")


def names_in(code: CodeType) -> Iterator[str]:
    """The globals and attributes that a function names, and those that functions within it do."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Overrides AnyIO's: every async test runs natively on both."""
    backend: str = request.param
    return backend


@pytest.fixture(scope="session")
def node() -> Iterator[PrivateNode]:
    """The broker of this run, for tests that also steer it (`node.rabbitmqctl`). Tests share it: use names of your own,
    and put back what you set. A test that stops or starves it starts its own PrivateNode."""
    try:
        with PrivateNode() as node:
            yield node
    except RabbitMQNotFound as missing:
        if "RABBITMQ_URL" not in os.environ:
            raise
        pytest.skip(f"needs a private node. {missing}")


@pytest.fixture(scope="session")
def amqp_url(request: pytest.FixtureRequest) -> str:
    """A broker's URL: RABBITMQ_URL if that is set, else the private node's."""
    url = os.environ.get("RABBITMQ_URL")
    if url:
        return url
    node: PrivateNode = request.getfixturevalue("node")
    return node.url


@pytest.fixture(scope="session")
def broker_version(amqp_url: str) -> tuple[int, ...]:
    """RabbitMQ's version, such as (4, 0, 5): for what one version does differently from another."""

    async def ask() -> str:
        async with rabbitry.connect(amqp_url) as connection:
            return str(connection.server_properties["version"])

    with start_blocking_portal() as portal:
        version = portal.call(ask)
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("-")[0]))
