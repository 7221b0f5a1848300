"""What callers of the gateway hear: a typed answer, or which kind of failure it was, in time."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from rabbitry import Queue
from tests.recipes.harness import Onlooker, Site, Starter, Steered, without

USERS = Queue("recipes.users", auto_delete=True)
ADA = {"id": 1, "name": "Ada", "tags": ["first"]}


@pytest.fixture(autouse=True)
def clean(onlooker: Onlooker) -> Iterator[None]:
    with without(onlooker, USERS):
        yield


# After a lost connection aio-pika's RPC is not told any more of requests that came back.
@pytest.mark.parametrize(
    ("recipe", "queue", "nobody"),
    [("rpc_gateway.py", USERS.name, 503), ("others/rpc_gateway_aio_pika.py", "recipes.users.get", 504)],
)
def test_each_end_of_a_call(
    recipe: str, queue: str, nobody: int, start: Starter, onlooker: Onlooker, proxy: Steered, port: str, site: Site
) -> None:
    start(recipe, "gateway", url=proxy.url, PORT=port)
    site.wait_for("/none", 404)
    assert site.get("/users/1")[0] == 503, "nobody serves"
    server = start(recipe, "serve")
    onlooker.wait_for_consumers(queue, 1)
    assert site.get("/users/1") == (200, ADA)
    assert site.get("/users/2")[0] == 404

    proxy.call(lambda proxy: proxy.cut())
    site.wait_for("/users/1", 200)

    server.process.send_signal(signal.SIGSTOP)
    assert site.get("/users/1")[0] == 504
    server.process.send_signal(signal.SIGCONT)
    site.wait_for("/users/1", 200)
    assert server.end(signal.SIGTERM) == 0
    assert site.get("/users/1")[0] == nobody
