"""What callers, probes and Prometheus hear from the FastAPI application, and what becomes of orders."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from urllib.request import urlopen

import pytest

from rabbitry import Message, Queue
from tests.recipes.harness import Onlooker, Site, Starter, Steered, without

DEAD = Queue("recipes.fastapi.dead", type="quorum")
ORDERS = Queue("recipes.fastapi.orders", type="quorum")
RECIPE = "fastapi_service.py"


@pytest.fixture(autouse=True)
def clean(onlooker: Onlooker) -> Iterator[None]:
    with without(onlooker, ORDERS, DEAD):
        yield


def order(site: Site, **fields: object) -> int:
    return site.post("/orders", json.dumps(fields).encode(), **{"Content-Type": "application/json"})[0]


def test_orders_and_probes_while_the_broker_comes_and_goes(
    start: Starter, onlooker: Onlooker, proxy: Steered, port: str, site: Site
) -> None:
    proxy.call(lambda proxy: proxy.refuse())
    server = start(RECIPE, url=proxy.url, PORT=port)
    site.wait_for("/live", 200)
    assert site.get("/ready")[0] == 503
    assert order(site, item="tea", quantity=0) == 422

    proxy.call(lambda proxy: proxy.accept())
    onlooker.wait_for_consumers(ORDERS.name, 1)
    assert order(site, item="tea", quantity=2) == 202
    server.wait_for("shipping 2 tea")
    site.wait_for("/ready", 200)

    onlooker.client.publish(Message(b'{"item": 5}', content_type="application/json"), routing_key=ORDERS.name)
    (dead,) = onlooker.take(DEAD.name, 1)
    assert dead.body == b'{"item": 5}'

    proxy.call(lambda proxy: (proxy.refuse(), proxy.cut()))
    site.wait_for("/ready", 503)
    assert site.get("/live")[0] == 200
    assert order(site, item="lost?") == 503
    proxy.call(lambda proxy: proxy.accept())
    site.wait_for("/ready", 200)

    with urlopen(f"http://127.0.0.1:{port}/metrics/", timeout=30) as answer:
        metrics = answer.read().decode()
    (consumed,) = [
        line for line in metrics.splitlines() if line.startswith("messaging_client_consumed_messages_total{")
    ]
    assert 'messaging_destination_name="recipes.fastapi.orders"' in consumed and float(consumed.split()[-1]) >= 2

    assert order(site, item="cake") == 202
    server.wait_for("shipping 1 cake")
    assert server.end(signal.SIGTERM) in (0, -signal.SIGTERM)  # uvicorn ends in order, and then by the signal
    assert server.count("shipped cake") == 1
    onlooker.wait_for_messages(ORDERS.name, 0)


def test_refused_credentials_are_for_the_supervisor(start: Starter, amqp_url: str, port: str, site: Site) -> None:
    server = start(RECIPE, url=amqp_url.replace("guest:guest@", "guest:secret-of-mine@"), PORT=port)
    site.wait_for("/live", 503)
    assert site.get("/ready")[0] == 503
    server.end(signal.SIGTERM)
    assert not any("secret-of-mine" in line for line in server.lines)
