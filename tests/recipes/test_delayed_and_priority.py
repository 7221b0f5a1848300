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


@pytest.mark.parametrize(
    ("recipe", "backend"),
    [
        ("delayed_and_priority.py", "asyncio"),
        ("delayed_and_priority.py", "trio"),
        *((recipe, "asyncio") for recipe in runnable("others/delayed_and_priority_celery.py")),
    ],
)
def test_the_order(recipe: str, backend: str, start: Starter) -> None:
    is_ours = recipe == "delayed_and_priority.py"
    program = start(recipe, backend=backend)
    if not is_ours:
        program.result()
        program = start(recipe, "worker")
    program.wait_for(IN_ORDER[2])
    before_the_last = time.monotonic()
    program.wait_for(IN_ORDER[3])
    shown = [line for line in program.lines if line in IN_ORDER]
    if is_ours:
        assert program.result() == IN_ORDER
        assert time.monotonic() - before_the_last > 1
    else:
        assert shown[:2] == IN_ORDER[:2], "the delayed one may be due before the worker runs"
