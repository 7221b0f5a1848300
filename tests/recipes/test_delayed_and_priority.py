"""Urgent ones overtake, and a delayed one comes when it is due."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from rabbitry import Exchange, Queue
from tests.recipes.harness import Onlooker, Starter, runnable, without

IN_ORDER = ["the house is on fire", "feed the cat", "water the plants", "the kettle boils"]


@pytest.fixture(autouse=True)
def clean(onlooker: Onlooker) -> Iterator[None]:
    with without(onlooker, Queue("recipes.reminders", max_priority=5), Exchange("recipes.reminders")):
        yield


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_order(start: Starter, backend: str) -> None:
    program = start("delayed_and_priority.py", backend=backend)
    program.wait_for("water the plants")
    before_the_last = time.monotonic()
    assert program.result() == IN_ORDER
    assert time.monotonic() - before_the_last > 1


@pytest.mark.parametrize("recipe", runnable("others/delayed_and_priority_celery.py"))
def test_celery_does_so_too(start: Starter, recipe: str) -> None:
    start(recipe).result()
    worker = start(recipe, "worker")
    for line in IN_ORDER:
        worker.wait_for(line)
    shown = [line for line in worker.lines if line in IN_ORDER]
    assert shown[:2] == IN_ORDER[:2], "the delayed one may be due before the worker runs"
