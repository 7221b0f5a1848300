"""A site that gunicorn loads once and forks publishes from every worker, and from all of its threads."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rabbitry import Queue
from tests.recipes.harness import Onlooker, Site, Starter, Steered, wait_for, without

ORDERS = Queue("recipes.django.orders", type="quorum")


@pytest.fixture(autouse=True)
def clean(onlooker: Onlooker) -> Iterator[None]:
    with without(onlooker, ORDERS):
        yield


@pytest.mark.parametrize("recipe", ["django_gunicorn.py", "others/django_gunicorn_pika.py"])
def test_both_workers_publish(
    recipe: str, start: Starter, onlooker: Onlooker, proxy: Steered, port: str, site: Site
) -> None:
    server = start(recipe, url=proxy.url, PORT=port)
    site.wait_for("/none", 404)
    sent: Counter[int] = Counter()

    def order(number: int) -> None:
        status, answer = site.post("/orders", b"%d" % number)
        assert status == 202, answer
        sent[answer["worker"]] += 1

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            list(pool.map(order, range(8)))
            if len(sent) == 2:
                break
    assert len(sent) == 2, "each worker has published"
    onlooker.wait_for_messages(ORDERS.name, sent.total())

    proxy.call(lambda proxy: proxy.cut())
    wait_for(lambda: site.post("/orders", b"after a loss")[0] == 202)
    assert server.end(signal.SIGTERM) == 0
