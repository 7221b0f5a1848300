"""Each tenant's orders stay its own, and one tenant that is out, or floods, keeps the others from nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from rabbitry import blocking
from rabbitry.testing import PrivateNode
from tests.recipes.harness import Starter

TENANTS = ("recipes-acme", "recipes-globex", "recipes-late")
ACME, GLOBEX, LATE = TENANTS
ORDERS = "recipes.tenant.orders"

pytestmark = pytest.mark.parametrize(
    ("recipe", "backend"),
    [("multi_tenant.py", "asyncio"), ("multi_tenant.py", "trio"), ("others/multi_tenant_aio_pika.py", "asyncio")],
)


@pytest.fixture(autouse=True)
def tenants(node: PrivateNode) -> Iterator[None]:
    """All but the last, who comes later."""
    for tenant in (ACME, GLOBEX):
        add(node, tenant)
    yield
    for tenant in node.rabbitmqctl("list_vhosts", "name").split():
        if tenant in TENANTS:
            node.rabbitmqctl("delete_vhost", tenant)


@pytest.fixture
def url(node: PrivateNode) -> str:
    """The broker's, which names no virtual host."""
    return node.url.rpartition("/")[0]


def add(node: PrivateNode, tenant: str) -> None:
    node.rabbitmqctl("add_vhost", tenant)
    node.rabbitmqctl("set_permissions", "-p", tenant, "guest", ".*", ".*", ".*")


def test_orders_stay_with_their_tenant(recipe: str, backend: str, start: Starter, url: str, node: PrivateNode) -> None:
    worker = start(recipe, "work", *TENANTS, url=url, backend=backend)
    worker.wait_for(f"{ACME} is served")
    worker.wait_for(f"{GLOBEX} is served")
    worker.wait_for(f"{LATE} is out: ")

    with blocking.open_client(url, virtual_host=ACME) as flood:
        flood.publish_many([b"flood"] * 500, routing_key=ORDERS, mandatory=True, timeout=10)
        assert start(recipe, "order", GLOBEX, "tea", url=url, backend=backend).result() == []
        worker.wait_for(f"{GLOBEX} has tea")
        assert worker.count(f"{ACME} has flood") < 500
        assert worker.matching(f"{GLOBEX} has") == [f"{GLOBEX} has tea"]
        flood.purge(ORDERS, timeout=10)

    add(node, LATE)
    worker.wait_for(f"{LATE} is served")  # tried again meanwhile
    assert start(recipe, "order", LATE, "milk", url=url, backend=backend).result() == []
    worker.wait_for(f"{LATE} has milk")
    assert worker.end(signal.SIGTERM) == 0
    assert worker.lines[-1] == "ended in order"
