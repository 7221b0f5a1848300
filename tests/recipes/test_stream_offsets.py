"""Each event of a stream counts once, through killed readers and lost connections."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from rabbitry import Queue
from tests.recipes.harness import Onlooker, Starter, Steered, wait_for, without

CLICKS = Queue("recipes.clicks", type="stream", max_age=7 * 24 * 3600)

pytestmark = pytest.mark.parametrize(
    ("recipe", "backend"),
    [("stream_offsets.py", "asyncio"), ("stream_offsets.py", "trio"), ("others/stream_offsets_pika.py", "asyncio")],
)


@pytest.fixture(autouse=True)
def clean(onlooker: Onlooker) -> Iterator[None]:
    with without(onlooker, CLICKS):
        yield


def counted(folder: Path) -> dict[str, int]:
    with sqlite3.connect(folder / "clicks.db") as database:
        rows = database.execute("select page, clicks from pages").fetchall()
    database.close()
    return dict(rows)


def test_what_was_counted_is_not_counted_again(
    recipe: str, backend: str, start: Starter, onlooker: Onlooker, proxy: Steered
) -> None:
    onlooker.client.declare(CLICKS)

    def click(count: int) -> None:
        onlooker.client.publish_many([b"/a", b"/b", b"/a"] * count, routing_key=CLICKS.name, timeout=20)

    click(1000)
    reader = start(recipe, url=proxy.url, backend=backend)
    reader.wait_for("counted up to", 2)
    reader.end(signal.SIGKILL)
    proxy.call(lambda proxy: proxy.cut())

    reader = start(recipe, url=proxy.url, backend=backend)
    reader.wait_for("counted up to")
    click(1000)
    proxy.call(lambda proxy: proxy.cut())
    click(1000)
    wait_for(lambda: sum(counted(start.folder).values()) >= 9000)
    assert reader.end(signal.SIGTERM) == 0
    assert counted(start.folder) == {"/a": 6000, "/b": 3000}

    click(1)
    start(recipe, backend=backend).wait_for("counted up to 9002")
    assert counted(start.folder) == {"/a": 6002, "/b": 3001}
