"""Readings are stored in few transactions, each once, whatever is lost meanwhile; what can't be stored is put aside."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from rabbitry import Message, Queue
from tests.recipes.harness import Onlooker, Starter, Steered, wait_for, without

READINGS = Queue("recipes.readings", type="quorum")
DEAD = Queue("recipes.readings.dead", type="quorum")
PIKA = "others/batches_into_database_pika.py"

pytestmark = pytest.mark.parametrize(
    ("recipe", "backend"),
    [("batches_into_database.py", "asyncio"), ("batches_into_database.py", "trio"), (PIKA, "asyncio")],
)


@pytest.fixture(autouse=True)
def clean(onlooker: Onlooker) -> Iterator[None]:
    with without(onlooker, READINGS, DEAD):
        yield


def stored(folder: Path) -> int:
    with sqlite3.connect(folder / "weather.db") as database:
        ((count,),) = database.execute("select count(*) from readings")
    database.close()
    assert isinstance(count, int)
    return count


def measure(onlooker: Onlooker, *numbers: int) -> None:
    readings = [Message(b"%d.5" % number, message_id=str(number)) for number in numbers]
    onlooker.client.publish_many(readings, routing_key=READINGS.name, mandatory=True, timeout=20)


def test_each_is_stored_once_whatever_is_lost(
    recipe: str, backend: str, start: Starter, onlooker: Onlooker, proxy: Steered
) -> None:
    weather = start(recipe, url=proxy.url, backend=backend)
    onlooker.wait_for_consumers(READINGS.name, 1)
    proxy.call(lambda proxy: [link.to_broker.stall() for link in proxy.links])  # no acknowledgement arrives
    measure(onlooker, *range(700))
    wait_for(lambda: stored(start.folder) == 700)
    assert weather.count("stored") < 20, "few transactions"
    assert weather.end(signal.SIGKILL) == -signal.SIGKILL
    proxy.call(lambda proxy: proxy.cut())

    weather = start(recipe, url=proxy.url, backend=backend)
    weather.wait_for("stored 0 of")
    onlooker.wait_for_messages(READINGS.name, 0)
    proxy.call(lambda proxy: proxy.cut())
    measure(onlooker, *range(600, 1400))  # a hundred of them once more
    wait_for(lambda: stored(start.folder) == 1400)
    onlooker.wait_for_messages(READINGS.name, 0)
    assert weather.end(signal.SIGTERM) == 0


def test_what_can_not_be_stored_is_put_aside(recipe: str, backend: str, start: Starter, onlooker: Onlooker) -> None:
    start(recipe, backend=backend)
    onlooker.wait_for_consumers(READINGS.name, 1)
    for reading in (Message(b"21.5"), Message(b"warm", message_id="a"), Message(b"20", message_id="b")):
        onlooker.client.publish(reading, routing_key=READINGS.name, mandatory=True, timeout=10)
    assert {message.body for message in onlooker.take(DEAD.name, 2)} == {b"21.5", b"warm"}
    wait_for(lambda: stored(start.folder) == 1)
    onlooker.wait_for_messages(READINGS.name, 0)
