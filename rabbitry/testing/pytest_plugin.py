"""The pytest plugin: brokers as fixtures, for tests of programs that use one.

What must stay true: pytest imports this file in each of its runs, so nothing of AnyIO or of this library is imported
until a fixture is used. The async fixtures live in the event loop of their test, whichever plugin runs that: AnyIO's,
pytest-asyncio or pytest-trio; the others serve sync tests, too.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from rabbitry.broker import Broker, Version
    from rabbitry.testing.hosting import VirtualHosts
    from rabbitry.testing.names import PrivateNode, Proxy

ASYNC_FIXTURES: list[Callable[..., AsyncIterator[object]]] = []


def async_fixture(function: Callable[..., AsyncIterator[object]]) -> Any:
    """A fixture that lives in the event loop of its test."""
    ASYNC_FIXTURES.append(function)
    return pytest.fixture(function)


@pytest.fixture
def broker_compat() -> Version:
    """Which RabbitMQ the embedded broker behaves like: "3.10". Another by
    `@pytest.mark.parametrize("broker_compat", ["4.0"])`, or by a fixture of this name."""
    return "3.10"


@async_fixture
async def embedded_broker(broker_compat: Version) -> AsyncIterator[Broker]:
    """An embedded broker in memory, in the event loop of this test: `embedded_broker.open_client()`, `.connect()`."""
    from rabbitry.broker import Broker
    from rabbitry.testing.hosting import hosted

    async with hosted(Broker(compat=broker_compat)) as broker:
        yield broker


@pytest.fixture
def embedded_broker_url(broker_compat: Version) -> Iterator[str]:
    """The URL of an embedded broker of this test's own, on a port, in a thread: for whoever takes a URL."""
    from rabbitry.testing.hosting import broker_in_a_thread

    with broker_in_a_thread(broker_compat) as url:
        yield url


@pytest.fixture(scope="session")
def rabbitmq_node() -> Iterator[PrivateNode]:
    """A private RabbitMQ node, started once a session. Skips where none is installed, and says how to install it."""
    from rabbitry.testing.names import PrivateNode, RabbitMQNotFound

    node = PrivateNode()
    try:
        node.start()
    except RabbitMQNotFound as missing:
        pytest.skip(str(missing))
    try:
        yield node
    finally:
        node.close()


@pytest.fixture(scope="session")
def rabbitmq_virtual_hosts(rabbitmq_node: PrivateNode) -> VirtualHosts:
    """Where `rabbitmq_url` has its virtual hosts from."""
    from rabbitry.testing.hosting import VirtualHosts

    return VirtualHosts(rabbitmq_node)


@pytest.fixture
def rabbitmq_url(rabbitmq_virtual_hosts: VirtualHosts) -> str:
    """The URL of a virtual host of this test's own, empty, at `rabbitmq_node`."""
    return rabbitmq_virtual_hosts.next_url()


@pytest.fixture
def broker_kind() -> str:
    """What `broker_url` is of: "embedded" or "rabbitmq". For both,
    `@pytest.mark.parametrize("broker_kind", ["embedded", "rabbitmq"])`."""
    return "embedded"


@pytest.fixture
def broker_url(broker_kind: Literal["embedded", "rabbitmq"], request: pytest.FixtureRequest) -> str:
    """The URL of a broker, empty and of this test's own, of the kind that `broker_kind` says."""
    fixtures = {"embedded": "embedded_broker_url", "rabbitmq": "rabbitmq_url"}
    if broker_kind not in fixtures:
        raise ValueError(f"broker_kind is one of {', '.join(fixtures)}, not {broker_kind!r}")
    url: str = request.getfixturevalue(fixtures[broker_kind])
    return url


@async_fixture
async def broker_proxy(broker_url: str) -> AsyncIterator[Proxy]:
    """A proxy before `broker_url` that fails on command: connect to `broker_proxy.url`, then `broker_proxy.cut()`."""
    from rabbitry.testing.hosting import hosted
    from rabbitry.testing.names import open_proxy

    async with hosted(open_proxy(broker_url)) as proxy:
        yield proxy


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Hands the async fixtures to pytest-asyncio where it runs the test: it takes those alone that are marked as its
    own, where AnyIO's plugin and pytest-trio take them as they are."""
    mark = item.get_closest_marker("asyncio")
    pytest_asyncio = sys.modules.get("pytest_asyncio")
    if mark is None or pytest_asyncio is None or "anyio_backend" in getattr(item, "fixturenames", ()):
        return (yield)
    scope = mark.kwargs.get("loop_scope") or item.config.getini("asyncio_default_test_loop_scope")
    for function in ASYNC_FIXTURES:
        pytest_asyncio.fixture(function, loop_scope=scope)
    try:
        return (yield)
    finally:
        for function in ASYNC_FIXTURES:
            vars(function).clear()  # the next test may be another plugin's


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Tells sync tests what they can use: by what the fixture does for them, as pytest has a fixture half set up that
    fails before it begins, for all tests that come after."""
    function = fixturedef.func
    if function not in ASYNC_FIXTURES or _is_async(request.node):
        return (yield)

    def refuse(**_: object) -> None:
        pytest.fail(
            f"{fixturedef.argname} lives in the event loop of an async test; a sync one uses embedded_broker_url, "
            "rabbitmq_url or broker_url",
            pytrace=False,
        )

    fixturedef.func = refuse  # type: ignore[misc]
    try:
        return (yield)
    finally:
        fixturedef.func = function  # type: ignore[misc]


def _is_async(node: object) -> bool:
    test = getattr(node, "obj", None)
    return iscoroutinefunction(getattr(getattr(test, "hypothesis", None), "inner_test", test))
