"""Fixtures for all tests: one private broker for the whole run, and both backends for every async test; and the mark
`broker` for each test that faces one, or `in_memory` where that is the embedded broker, in virtual time."""

from __future__ import annotations

import inspect
import os
import select
import selectors
import signal
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path
from random import Random
from types import CodeType

import pytest

from rabbitry.testing import PrivateNode, RabbitMQNotFound, find_rabbitmq
from tests.support.helpers import version_of
from tests.support.in_memory import has_room_in_memory, wants_rabbitmq

# A shell has what it starts in the background ignore Ctrl-C, which tests send to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Without RabbitMQ, tests that need one are skipped; but not where somebody says which one there is, as it is gone then.
NAMED = any(os.environ.get(name) for name in ("RABBITMQ_URL", "RABBITRY_RABBITMQ_ROOT"))
BROKER_FIXTURES = {"node", "amqp_url"}
BROKER_CLASSES = {"PrivateNode", "PrivateCluster"}
BACKENDS = frozenset(("asyncio", "trio"))
LOAD_TESTER = Path(__file__).parent / "loadtest"


# Begun first, so that at the end no worker is alone with one of them: half a minute or more each, most of it waiting
# for brokers that start and end. A file that is long but not here costs time, nothing else.
LONG_FILES = (
    "testing/test_node.py",
    "loadtest/commands/test_run.py",
    "loadtest/strategies/test_tournament.py",
    "loadtest/commands/test_broker_faults.py",
    "testing/test_cluster.py",
    "whole/test_cancellation.py",
    "measuring/soak/test_soak.py",
    "whole/test_ends.py",
    "cli/test_pipes.py",
    "loadtest/execution/test_conductor.py",
    "connection/test_alarms.py",
    "cli/test_management.py",
    "measuring/test_retries.py",
    "client/test_consume.py",
    "client/test_topology.py",
    "whole/test_faults.py",
    "whole/test_hostile_server.py",
    "recipes/test_broker_restarts.py",
    "tutorials/test_tutorials.py",
    "recipes/test_web_service.py",
    "broker/conformance/test_conformance.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "of the tests that run on each backend, only those on this one (a test on threads, or on none, stays)"
    parser.addoption("--only-backend", choices=sorted(BACKENDS), help=text)
    text = "RabbitMQ for the tests, too, that otherwise have the embedded broker in memory"
    parser.addoption("--rabbitmq", action="store_true", help=text)
    text = "as on a system without epoll: connections on streams of the event loop, and asyncio's loop on poll"
    parser.addoption("--without-epoll", action="store_true", help=text)
    parser.addoption(
        "--shuffle", type=int, metavar="SEED", help="the tests in random order, the same for the same seed"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--without-epoll"):
        import trio  # noqa: F401 - which keeps the epoll that it finds now, as no other loop of its runs on Linux

        selectors.DefaultSelector = selectors.PollSelector  # type: ignore[misc]
        del selectors.EpollSelector, select.epoll


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    if backend := config.getoption("--only-backend"):
        config.hook.pytest_deselected(items=[item for item in items if backends_of(item) - {backend}])
        items[:] = [item for item in items if not backends_of(item) - {backend}]
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
    yield
    if (seed := config.getoption("--shuffle")) is not None:
        Random(seed).shuffle(items)


def backends_of(item: pytest.Item) -> set[str]:
    """The backends that a test is run on, as its parameters say."""
    parameters: dict[str, object] = item.callspec.params if hasattr(item, "callspec") else {}
    values = (parameters.get(name) for name in ("anyio_backend", "backend"))
    return {value for value in values if isinstance(value, str) and value in BACKENDS}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks what faces a broker, so that nobody has to think of it: a test that has one by a fixture, or one whose code
    or fixtures' code names a class that starts one. A mark of its own needs only what starts one by other means. The
    load tester sees a broker through its drivers: what is behind them needs no other one. Where the embedded broker
    takes RabbitMQ's place, the mark is `in_memory` instead.
    """
    assert isinstance(item, pytest.Function)
    fixtures = [definition.func for found in item._fixtureinfo.name2fixturedefs.values() for definition in found]
    names = frozenset[str]().union(*map(names_of, (item.function, *fixtures)))
    starts_a_broker = not BROKER_CLASSES.isdisjoint(names)
    if not starts_a_broker and has_room_in_memory(item, names) and not wants_rabbitmq(item.config):
        item.add_marker("in_memory")
        return
    if not (starts_a_broker or item.get_closest_marker("broker") or BROKER_FIXTURES.intersection(item.fixturenames)):
        return
    if not NAMED and (missing := why_no_rabbitmq()):
        item.add_marker(pytest.mark.skip(reason=missing))
    if not item.path.is_relative_to(LOAD_TESTER) or item.path.is_relative_to(LOAD_TESTER / "drivers"):
        item.add_marker("broker")


@pytest.fixture(scope="session")
def installed_rabbitmq() -> None:
    """For what starts one by other means than those that are looked for here, and is no test of facing a broker."""
    if not NAMED and (missing := why_no_rabbitmq()):
        pytest.skip(missing)


@cache
def why_no_rabbitmq() -> str:
    """What to do where none is installed; else nothing."""
    try:
        find_rabbitmq()
    except RabbitMQNotFound:
        return "needs a RabbitMQ: `python -m rabbitry.testing.install` installs one, RABBITMQ_URL names one that runs"
    return ""


@cache
def names_of(function: Callable[..., object]) -> frozenset[str]:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return frozenset() if code is None else frozenset(names_in(code))


def names_in(code: CodeType) -> Iterator[str]:
    """The globals and attributes that a function names, and those that functions within it do."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


@pytest.fixture(scope="module", params=sorted(BACKENDS))
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
    return version_of(amqp_url)


@pytest.fixture
def nobody_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the broker, when it ends a channel over a message, said what fits none."""
    monkeypatch.setattr("rabbitry._endpoint.find_culprit", lambda publishes, end: None)
    monkeypatch.setattr("rabbitry._client.outcomes.is_like_refused", lambda published, end: False)
