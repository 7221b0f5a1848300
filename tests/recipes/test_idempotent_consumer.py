"""A payment whose message comes twice is booked once, whatever sends it twice."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from rabbitry import Message, Queue
from tests.recipes.harness import Onlooker, Starter, Steered, runnable, without

PAYMENTS = Queue("recipes.payments", type="quorum")
DEAD = Queue("recipes.payments.dead", type="quorum")
RECIPES = runnable("idempotent_consumer.py", "others/idempotent_consumer_faststream.py")


@pytest.fixture(autouse=True)
def clean(onlooker: Onlooker) -> Iterator[None]:
    with without(onlooker, PAYMENTS, DEAD):
        yield


def balance(folder: Path, account: str) -> int:
    with sqlite3.connect(folder / "bank.db") as database:
        ((amount,),) = database.execute("select balance from accounts where name = ?", [account])
    database.close()
    assert isinstance(amount, int)
    return amount


def pay(onlooker: Onlooker, message_id: str | None, amount: object) -> None:
    payment = Message.json({"account": "ada", "amount": amount}, message_id=message_id)
    onlooker.client.publish(payment, routing_key=PAYMENTS.name, mandatory=True, timeout=10)


@pytest.mark.parametrize(("recipe", "backend"), [*((recipe, "asyncio") for recipe in RECIPES), (RECIPES[0], "trio")])
def test_a_duplicate_and_one_that_came_before_a_crash_are_booked_once(
    recipe: str, backend: str, start: Starter, onlooker: Onlooker, proxy: Steered
) -> None:
    bank = start(recipe, url=proxy.url, backend=backend)
    onlooker.wait_for_consumers(PAYMENTS.name, 1)
    proxy.call(lambda proxy: [link.to_broker.stall() for link in proxy.links])  # no acknowledgement arrives
    pay(onlooker, "a", 1)
    bank.wait_for("booked a")
    assert bank.end(signal.SIGKILL) == -signal.SIGKILL
    proxy.call(lambda proxy: proxy.cut())  # of which a broker hears by the process's end, or by heartbeats

    bank = start(recipe, backend=backend)
    bank.wait_for("known a")
    for message_id, amount in (("b", 10), ("b", 10), ("c", 100)):
        pay(onlooker, message_id, amount)
    bank.wait_for("booked c")
    assert [*bank.matching("booked"), *bank.matching("known")] == ["booked b", "booked c", "known a", "known b"]
    assert balance(start.folder, "ada") == 111
    onlooker.wait_for_messages(PAYMENTS.name, 0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_can_not_be_booked_is_put_aside(recipe: str, start: Starter, onlooker: Onlooker) -> None:
    bank = start(recipe)
    onlooker.wait_for_consumers(PAYMENTS.name, 1)
    pay(onlooker, None, 1)
    pay(onlooker, "d", "much")
    pay(onlooker, "e", 5)
    bank.wait_for("booked e")
    assert {message.message_id for message in onlooker.take(DEAD.name, 2)} == {None, "d"}
    assert balance(start.folder, "ada") == 5
