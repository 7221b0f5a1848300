"""What the kubelet hears from a worker, whoever else speaks to its port, and how it ends."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest

from rabbitry import Queue
from tests.recipes.harness import Onlooker, Site, Starter, Steered, without

RECIPE, JOBS = "kubernetes_probes.py", Queue("recipes.probed", type="quorum")

pytestmark = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture(autouse=True)
def clean(onlooker: Onlooker) -> Iterator[None]:
    with without(onlooker, JOBS):
        yield


def test_the_broker_comes_and_goes(
    backend: str, start: Starter, onlooker: Onlooker, proxy: Steered, port: str, site: Site
) -> None:
    proxy.call(lambda proxy: proxy.refuse())
    worker = start(RECIPE, url=proxy.url, backend=backend, HOST="127.0.0.1", PORT=port)
    site.wait_for("/live", 200)
    assert site.get("/ready")[0] == 503
    assert site.get("/nothing")[0] == 404

    proxy.call(lambda proxy: proxy.accept())
    site.wait_for("/ready", 200)
    assert site.get("/ready")[1] == {"state": "connected", "blocked": None}
    onlooker.wait_for_consumers(JOBS.name, 1)
    onlooker.client.publish(b"one", routing_key=JOBS.name, mandatory=True)
    worker.wait_for("done one")

    proxy.call(lambda proxy: (proxy.refuse(), proxy.cut()))
    site.wait_for("/ready", 503)
    assert site.get("/live")[0] == 200
    proxy.call(lambda proxy: proxy.accept())
    site.wait_for("/ready", 200)

    onlooker.client.publish(b"two", routing_key=JOBS.name, mandatory=True)
    worker.wait_for("working on two")
    assert worker.end(signal.SIGTERM) == 0
    assert "done two" in worker.lines  # perhaps not the last: the cut may have come before the acknowledgement of "one"
    assert worker.lines[-1] == "ended in order"
    onlooker.wait_for_messages(JOBS.name, 0)


def test_whatever_speaks_to_its_port(backend: str, start: Starter, port: str, site: Site) -> None:
    """The probes are answered meanwhile, and after."""
    start(RECIPE, backend=backend, HOST="127.0.0.1", PORT=port)
    site.wait_for("/ready", 200)
    address = "127.0.0.1", int(port)
    with socket.create_connection(address, timeout=30) as silent:
        assert site.get("/live")[0] == 200
        for said in (b"\r\n\r\n", b"x" * 20_000, b"GET", b"GET /live HTTP/1.1\r\n", b"\x16\x03\x01\r\n\r\n"):
            with socket.create_connection(address, timeout=30) as peer:
                peer.sendall(said)
                peer.shutdown(socket.SHUT_WR)
                try:
                    while peer.recv(4096):
                        pass
                except ConnectionError:
                    pass
            assert site.get("/live")[0] == 200
        assert silent.recv(1) == b"", "who asks nothing is left after five seconds"
    assert site.get("/ready")[0] == 200


def test_what_waiting_does_not_mend_ends_it(backend: str, start: Starter, amqp_url: str, port: str) -> None:
    url = amqp_url.replace("guest:guest@", "guest:secret-of-mine@")
    worker = start(RECIPE, url=url, backend=backend, HOST="127.0.0.1", PORT=port)
    assert worker.process.wait(30) == 1
    assert not any("secret-of-mine" in line for line in worker.lines)
