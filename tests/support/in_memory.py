"""RabbitMQ's place taken by the embedded broker, in memory and in virtual time, for the tests of a folder or a file.

Such a folder's conftest.py, or such a file, imports these four fixtures; the tests stay as they are. In memory is then
each async test that faces a broker by `amqp_url` alone. What has a node, a proxy or the mark `rabbitmq` faces RabbitMQ
as before; and all of them do with `--rabbitmq`, and where the environment names a RabbitMQ.

What must stay true: such a test has no real socket, and no wait of it takes real time; so it does the same each time,
in whatever order the tests are run.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import cache
from typing import Any, NoReturn

import pytest
import trio.testing

from rabbitry._connection.settings import Settings, connection_settings
from rabbitry.broker import Broker, Version
from rabbitry.testing import VirtualTimeLoop
from tests.support.helpers import version_of

__all__ = [
    "amqp_url",
    "anyio_backend",
    "broker_in_memory",
    "broker_version",
    "has_room_in_memory",
    "wants_rabbitmq",
]

COMPAT: Version = "3.10"

HOST = "embedded"
"""Connections to it are to the test's own broker: nothing else of the URL is looked at but whom it says to be."""

BACKENDS = ("asyncio", "trio")

OF_SOCKETS = frozenset(("open_proxy", "scripted", "socket", "subprocess", "through_proxy"))
"""Names by which a test's code tells that it has real ones."""


def wants_rabbitmq(config: pytest.Config) -> bool:
    """Whether no test of this run is to have the embedded broker instead."""
    names = ("RABBITMQ_URL", "RABBITRY_RABBITMQ_ROOT")
    return bool(config.getoption("--rabbitmq")) or not os.environ.keys().isdisjoint(names)


def has_room_in_memory(item: pytest.Function, names: frozenset[str]) -> bool:
    """Whether a test faces a broker by the fixture `amqp_url` of this file alone, and no real socket: by the names that
    its code has, and its fixtures'."""
    found = item._fixtureinfo.name2fixturedefs.get("amqp_url")
    return (
        bool(found)
        and found[-1].func.__module__ == __name__
        and inspect.iscoroutinefunction(inspect.unwrap(item.function))
        and "node" not in item.fixturenames
        and names.isdisjoint(OF_SOCKETS)
        and item.get_closest_marker("rabbitmq") is None
    )


def is_in_memory(request: pytest.FixtureRequest) -> bool:
    return request.node.get_closest_marker("in_memory") is not None


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    """Both, as for every async test; in virtual time, with a clock of its own, for a test in memory."""
    backend: str = request.param
    if not is_in_memory(request):
        return backend
    if backend == "asyncio":
        return backend, {"loop_factory": VirtualTimeLoop}
    return backend, {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
async def broker_in_memory() -> AsyncIterator[Broker]:
    """In the event loop of its test. The package's own fixture is not there where the package is not installed."""
    async with Broker(compat=COMPAT) as broker:
        yield broker


@pytest.fixture
def amqp_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of the test's own embedded broker, in memory; or that of the run's broker."""
    if not is_in_memory(request):
        yield request.getfixturevalue("amqp_url")
        return
    broker: Broker = request.getfixturevalue("broker_in_memory")

    def settings(*words: Any, **options: Any) -> Settings:
        made = connection_settings(*words, **options)
        is_ours = made.address.host == HOST and made.dial is None
        return replace(made, dial=broker.dial) if is_ours else made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rabbitry._api.connection_settings", settings)
        patch.setattr(time, "sleep", no_real_sleep)
        yield f"amqp://guest:guest@{HOST}:5672/%2F"


def no_real_sleep(seconds: float) -> NoReturn:
    raise AssertionError(f"a test in memory has slept {seconds} real seconds: @pytest.mark.rabbitmq(why) keeps it out")


@pytest.fixture
def broker_version(request: pytest.FixtureRequest, amqp_url: str) -> tuple[int, ...]:
    """Of the embedded broker, the version of RabbitMQ that it behaves like; or the run's broker's."""
    return tuple(map(int, COMPAT.split("."))) if is_in_memory(request) else _version_of(amqp_url)


_version_of = cache(version_of)  # it asks
