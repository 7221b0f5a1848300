"""What the recipes' tests are made of: programs that are started with the broker's address, a client that looks on,
a proxy that fails on command, and a browser.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal

import rabbitry
from rabbitry import blocking
from rabbitry.testing import Proxy
from tests.support.programs import PATIENCE, ROOT, Program

__all__ = ["RECIPES", "ROOT", "Onlooker", "Site", "Starter", "Steered", "runnable", "wait_for", "without"]

RECIPES = ROOT / "docs" / "recipes"

# Runs a file as the main program, with `anyio.run` on the backend that is the first word.
ON_BACKEND = """
import functools, runpy, sys, anyio
_, backend, *sys.argv = sys.argv
anyio.run = functools.partial(anyio.run, backend=backend)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def runnable(*recipes: str) -> list[str]:
    """Those whose library is installed: Celery and FastStream are in `nox -s interop` alone."""
    missing = [f"_{library}.py" for library in ("celery", "faststream") if find_spec(library) is None]
    return [recipe for recipe in recipes if not recipe.endswith(tuple(missing))]


class Starter:
    """Starts recipes, which end with the test, in its folder."""

    def __init__(self, url: str, folder: Path, stack: ExitStack) -> None:
        self.url = url
        self.folder = folder
        self._stack = stack

    def __call__(
        self, recipe: str, *words: str, url: str | None = None, backend: str = "asyncio", **environment: str
    ) -> Program:
        path = str(RECIPES / recipe)
        command = [path, *words] if backend == "asyncio" else ["-c", ON_BACKEND, backend, path, *words]
        environment = {"RABBITMQ_URL": url or self.url, "PYTHONPATH": str(ROOT), **environment}
        program = self._stack.enter_context(Program(command, environment, self.folder))
        self._stack.callback(lambda: print(f"{recipe}:", *program.lines, sep="\n    "))  # shown where the test failed
        return program


class Onlooker:
    """A client of the test's own, on the broker itself."""

    def __init__(self, client: blocking.Client) -> None:
        self.client = client

    def messages(self, queue: str) -> int:
        info = self.client.inspect(queue, timeout=PATIENCE)
        return 0 if info is None else info.message_count

    def wait_for_messages(self, queue: str, count: int) -> None:
        wait_for(lambda: self.messages(queue) == count)

    def wait_for_consumers(self, queue: str, count: int) -> None:
        def is_so() -> bool:
            info = self.client.inspect(queue, timeout=PATIENCE)
            return (0 if info is None else info.consumer_count) == count

        wait_for(is_so)

    def take(self, queue: str, count: int) -> list[rabbitry.Message]:
        """So many messages, acknowledged."""
        taken = []
        with self.client.consume(queue, inactivity_timeout=PATIENCE) as deliveries:
            while len(taken) < count:
                delivery = next(deliveries)
                delivery.ack()
                taken.append(delivery.message)
        return taken


@contextmanager
def without(onlooker: Onlooker, *entities: Any) -> Iterator[None]:
    """Delete these, before and after."""
    onlooker.client.delete(*entities, timeout=PATIENCE)
    try:
        yield
    finally:
        onlooker.client.delete(*entities, timeout=PATIENCE)


class Steered:
    """A proxy before the broker, steered from a test that has no event loop."""

    def __init__(self, proxy: Proxy, portal: BlockingPortal) -> None:
        self.url = proxy.url
        self.proxy = proxy
        self._portal = portal

    def call(self, steer: Callable[[Proxy], object]) -> None:
        self._portal.call(steer, self.proxy)

    def wait_for_links(self, count: int) -> None:
        """Return when so many have connected, since the proxy began."""
        wait_for(lambda: self.proxy.accepted >= count)


class Site:
    """The web server at a port of this machine; answers are JSON."""

    def __init__(self, port: str) -> None:
        self._port = int(port)

    def get(self, path: str) -> tuple[int, Any]:
        """The status and the answer."""
        status, body = self._ask("GET", path)
        return status, json.loads(body)

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
        status, answer = self._ask("POST", path, body, headers)
        return status, json.loads(answer)

    def wait_for(self, path: str, status: int) -> None:
        """Ask until it answers so."""

        def is_so() -> bool:
            try:
                return self._ask("GET", path)[0] == status
            except OSError:
                return False

        wait_for(is_so)

    def _ask(self, *request: Any) -> tuple[int, bytes]:
        with closing(HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)) as connection:
            connection.request(*request)
            response = connection.getresponse()
            return response.status, response.read()


def wait_for(condition: Callable[[], bool]) -> None:
    """Ask again and again, for half a minute: for what nothing tells by itself."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "not within half a minute"
        time.sleep(0.02)
