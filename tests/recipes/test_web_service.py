"""What the probes and callers of a web service hear while its broker is there, away and blocked."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rabbitry import Queue
from rabbitry.testing import PrivateNode
from tests.recipes.harness import Onlooker, Site, Starter, Steered, without

ORDERS = Queue("recipes.orders", type="quorum")
RECIPES = pytest.mark.parametrize("recipe", ["web_service.py", "others/web_service_aio_pika.py"])


@pytest.fixture(autouse=True)
def clean(onlooker: Onlooker) -> Iterator[None]:
    with without(onlooker, ORDERS):
        yield


@RECIPES
def test_it_starts_without_a_broker_and_comes_back(
    recipe: str, start: Starter, onlooker: Onlooker, proxy: Steered, port: str, site: Site
) -> None:
    proxy.call(lambda proxy: proxy.refuse())
    server = start(recipe, url=proxy.url, PORT=port)
    site.wait_for("/live", 200)
    assert site.get("/ready")[0] == 503

    proxy.call(lambda proxy: proxy.accept())
    site.wait_for("/ready", 200)
    assert site.post("/orders", b'{"item": "tea"}', **{"Idempotency-Key": "one"}) == (202, {"id": "one"})
    (order,) = onlooker.take(ORDERS.name, 1)
    assert (order.body, order.message_id) == (b'{"item": "tea"}', "one")

    proxy.call(lambda proxy: (proxy.refuse(), proxy.cut()))
    site.wait_for("/ready", 503)
    assert site.get("/live")[0] == 200
    assert site.post("/orders", b"lost?")[0] == 503

    proxy.call(lambda proxy: proxy.accept())
    site.wait_for("/ready", 200)
    assert site.post("/orders", b"again")[0] == 202
    assert onlooker.take(ORDERS.name, 1)[0].body == b"again", "what was answered by a 503 was not taken, here"
    onlooker.client.delete(ORDERS)
    assert site.post("/orders", b"to nobody")[0] == 503
    assert server.end(signal.SIGTERM) in (0, -signal.SIGTERM)  # uvicorn ends in order, and then by the signal


def test_a_blocked_broker_is_not_ready(start: Starter, node: PrivateNode, amqp_url: str, port: str, site: Site) -> None:
    if node.url != amqp_url:
        pytest.skip("the alarm is one of the private node's")
    start("web_service.py", PORT=port)
    site.wait_for("/ready", 200)
    with ThreadPoolExecutor(1) as pool:
        with node.memory_alarm():
            order = pool.submit(site.post, "/orders", b"tea")  # the broker tells those who publish
            site.wait_for("/ready", 503)
            assert "memory" in site.get("/ready")[1]["blocked"]
            assert site.get("/live")[0] == 200
        site.wait_for("/ready", 200)
        assert order.result()[0] in (202, 503)  # it may take the broker longer than five seconds
    assert site.post("/orders", b"coffee")[0] == 202


@RECIPES
def test_refused_credentials_are_for_the_supervisor(
    recipe: str, start: Starter, amqp_url: str, port: str, site: Site
) -> None:
    server = start(recipe, url=amqp_url.replace("guest:guest@", "guest:secret-of-mine@"), PORT=port)
    site.wait_for("/live", 503)
    assert site.get("/ready")[0] == 503
    server.end(signal.SIGTERM)
    assert not any("secret-of-mine" in line for line in server.lines)
