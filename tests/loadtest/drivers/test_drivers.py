"""What the drivers promise and whole runs don't show."""

from __future__ import annotations

import sys

import pytest

from loadtest.drivers import BACKENDS, LIBRARIES, DriverMissing, load_driver
from loadtest.drivers.base import Outcome, ProducerOptions
from rabbitry.testing import PrivateNode


@pytest.fixture(params=LIBRARIES)
def driver(request: pytest.FixtureRequest, anyio_backend_name: str) -> str:
    name: str = request.param
    if anyio_backend_name not in LIBRARIES[name].backends:
        pytest.skip(f"{name} doesn't run on {anyio_backend_name}")
    return name


async def test_a_queue_that_is_not_there_is_counted_as_such(driver: str, amqp_url: str) -> None:
    async with (
        load_driver(driver).open() as session,
        session.connect(amqp_url, "test") as connection,
        connection.administrator() as administrator,
    ):
        name = f"test.drivers.{driver}"
        await administrator.delete_queue(name)
        assert await administrator.count_messages(name) is None
        await administrator.declare_queue(name, {"x-expires": 10_000})
        assert await administrator.count_messages(name) == 0
        await administrator.delete_queue(name)
        assert await administrator.count_messages(name) is None


async def test_a_message_that_the_broker_refuses_is_neither_lost_nor_unknown() -> None:
    settled: dict[object, Outcome] = {}
    async with (
        PrivateNode(settings={"max_message_size": 1000}) as node,
        load_driver("rabbitry").open() as session,
        session.connect(node.url, "test") as connection,
    ):
        options = ProducerOptions(window=1, persistent=True, mandatory=False)
        async with connection.producer("nowhere", options, settled.__setitem__) as producer:
            assert await producer.publish(bytes(1000)) is Outcome.CONFIRMED
            assert await producer.publish(bytes(1001)) is Outcome.NACKED
        options = ProducerOptions(window=10, persistent=True, mandatory=False)
        async with connection.producer("nowhere", options, settled.__setitem__) as producer:
            await producer.submit(bytes(1000), 1)
            await producer.flush()
            await producer.submit(bytes(1001), 2)
            await producer.flush()
    assert settled == {1: Outcome.CONFIRMED, 2: Outcome.NACKED}


def test_the_table_says_what_each_can() -> None:
    assert BACKENDS == ("asyncio", "trio")
    assert {name for name, library in LIBRARIES.items() if "trio" in library.backends} == {"rabbitry"}
    assert {name for name, library in LIBRARIES.items() if library.has_tls} == {"rabbitry"}
    for name, library in LIBRARIES.items():
        assert name in library.packages
        assert library.client_bytes > 0


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiormq", None)
    monkeypatch.delitem(sys.modules, "loadtest.drivers.aiormq", raising=False)
    with pytest.raises(DriverMissing, match=r"--driver aiormq needs the package 'aiormq': pip install"):
        load_driver("aiormq")
