"""Fixtures of the blocking tests: a client and a channel to work with, queues that clean up after themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from rabbitry import blocking
from rabbitry.testing import Proxy, open_proxy
from tests.support.helpers import unique


@pytest.fixture
def client(amqp_url: str) -> Iterator[blocking.Client]:
    with blocking.open_client(amqp_url) as client:
        yield client


@pytest.fixture
def channel(amqp_url: str) -> Iterator[blocking.Channel]:
    with blocking.connect(amqp_url) as connection, connection.channel() as channel:
        yield channel


@pytest.fixture
def queue(amqp_url: str) -> Iterator[str]:
    """A durable queue, so that it outlives connections."""
    name = unique("blocking")
    with blocking.connect(amqp_url) as connection, connection.channel() as channel:
        channel.declare_queue(name)
        yield name
        channel.delete_queue(name)


@pytest.fixture
def in_thread() -> Iterator[Callable[..., threading.Thread]]:
    """Runs a function in a thread, which must end by the end of the test."""
    threads: list[threading.Thread] = []

    def start(function: Callable[..., object], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """The thread of the event loop ends with the last block, and then the one that writes its log lines."""
    yield
    threads = {thread.name: thread for thread in threading.enumerate()}
    assert "rabbitry.blocking" not in threads
    if (log_thread := threads.get("rabbitry.blocking.log")) is not None:
        log_thread.join(5)
        assert not log_thread.is_alive()


class SteeredProxy:
    """A proxy between client and broker, whose faults (`cut`, `stall`, `resume`, ...) are called from this thread."""

    def __init__(self, portal: BlockingPortal, proxy: Proxy) -> None:
        self._portal = portal
        self._proxy = proxy
        self.url = proxy.url

    def __getattr__(self, fault: str) -> Callable[[], None]:
        return partial(self._portal.call, getattr(self._proxy, fault))


@pytest.fixture
def proxy(amqp_url: str) -> Iterator[SteeredProxy]:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(open_proxy(amqp_url)) as proxy:
        yield SteeredProxy(portal, proxy)
