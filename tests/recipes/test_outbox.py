"""An order that is committed is published, also where the relay dies at the worst moment."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from rabbitry import Queue
from tests.recipes.harness import Onlooker, Starter, Steered, without

QUEUE = "recipes.outbox.orders"

pytestmark = pytest.mark.parametrize("recipe", ["outbox.py", "others/outbox_pika.py"])


@pytest.fixture(autouse=True)
def clean(onlooker: Onlooker) -> Iterator[None]:
    with without(onlooker, Queue(QUEUE, type="quorum")):
        yield


def waiting(folder: Path) -> list[str]:
    """The ids in the outbox."""
    with sqlite3.connect(folder / "shop.db") as database:
        rows = database.execute("select message_id from outbox order by number").fetchall()
    database.close()
    return [message_id for (message_id,) in rows]


def test_a_relay_that_dies_before_the_confirm_publishes_again(
    recipe: str, start: Starter, onlooker: Onlooker, proxy: Steered
) -> None:
    assert start(recipe, "order", "tea").result() == []
    assert len(waiting(start.folder)) == 1, "committed, and not published: as after a crash just there"
    relay = start(recipe, "relay", url=proxy.url)
    relay.wait_for("published 1")
    assert waiting(start.folder) == []

    proxy.call(lambda proxy: [link.to_client.stall() for link in proxy.links])  # no confirm comes back
    start(recipe, "order", "coffee").result()
    onlooker.wait_for_messages(QUEUE, 2)
    assert relay.count("published") == 1
    relay.end(signal.SIGKILL)
    (unsure,) = waiting(start.folder)

    start(recipe, "relay").wait_for("published 1")
    assert waiting(start.folder) == []
    tea, coffee, again = onlooker.take(QUEUE, 3)
    assert [tea.body, coffee.body, again.body] == [b"tea", b"coffee", b"coffee"]
    assert coffee.message_id == again.message_id == unsure != tea.message_id


def test_a_relay_goes_on_after_a_lost_connection(
    recipe: str, start: Starter, onlooker: Onlooker, proxy: Steered
) -> None:
    relay = start(recipe, "relay", url=proxy.url)
    start(recipe, "order", "one").result()
    relay.wait_for("published 1")
    proxy.call(lambda proxy: proxy.cut())
    start(recipe, "order", "two", "three").result()
    assert [message.body for message in onlooker.take(QUEUE, 3)] == [b"one", b"two", b"three"]
