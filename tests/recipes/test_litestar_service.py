"""What callers and probes hear from the Litestar application: orders, prices, and which kind of failure it was."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from rabbitry import Queue
from tests.recipes.harness import Onlooker, Site, Starter, Steered, without

ORDERS = Queue("recipes.litestar.orders", type="quorum")
PRICES = Queue("recipes.litestar.prices", expires=3600)
RECIPE = "litestar_service.py"


@pytest.fixture(autouse=True)
def clean(onlooker: Onlooker) -> Iterator[None]:
    with without(onlooker, ORDERS, PRICES):
        yield


def test_orders_prices_and_probes_while_the_broker_comes_and_goes(
    start: Starter, onlooker: Onlooker, proxy: Steered, port: str, site: Site
) -> None:
    proxy.call(lambda proxy: proxy.refuse())
    server = start(RECIPE, url=proxy.url, PORT=port)
    site.wait_for("/live", 200)
    assert site.get("/ready")[0] == 503

    proxy.call(lambda proxy: proxy.accept())
    onlooker.wait_for_consumers(PRICES.name, 1)
    status, taken = site.post("/orders", b'{"item": "tea", "quantity": 2}')
    assert status == 202
    (order,) = onlooker.take(ORDERS.name, 1)
    assert (json.loads(order.body), order.message_id) == ({"item": "tea", "quantity": 2}, taken["id"])
    assert site.post("/orders", b'{"quantity": 2}')[0] == 400
    assert site.get("/prices/tea") == (200, {"tea": 3})
    assert site.get("/prices/gold") == (404, {"error": "RemoteError"})
    assert site.get("/ready")[0] == 200

    proxy.call(lambda proxy: (proxy.refuse(), proxy.cut()))
    site.wait_for("/ready", 503)
    assert site.get("/live")[0] == 200
    assert site.post("/orders", b'{"item": "lost?"}') == (504, {"error": "TimeoutError"})

    proxy.call(lambda proxy: proxy.accept())
    site.wait_for("/ready", 200)
    site.wait_for("/prices/cake", 200)
    onlooker.client.delete(ORDERS)
    assert site.post("/orders", b'{"item": "to nobody"}') == (503, {"error": "Unroutable"})
    assert server.end(signal.SIGTERM) in (0, -signal.SIGTERM)  # uvicorn ends in order, and then by the signal


def test_refused_credentials_are_for_the_supervisor(start: Starter, amqp_url: str, port: str, site: Site) -> None:
    server = start(RECIPE, url=amqp_url.replace("guest:guest@", "guest:secret-of-mine@"), PORT=port)
    site.wait_for("/live", 503)
    assert site.get("/ready")[0] == 503
    server.end(signal.SIGTERM)
    assert not any("secret-of-mine" in line for line in server.lines)
