"""Results and exceptions come back, and a task outlives the worker that had it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from rabbitry import Queue
from tests.recipes.harness import Onlooker, Starter, runnable, without
from tests.support.programs import Program, wait_until

RESULT = ["words: 6", "ZeroDivisionError division by zero"]


def wait_for_counting(worker: Program, count: int) -> None:
    """Threads print into one another's lines."""
    wait_until(lambda: "".join(worker.lines).count("counting") >= count)


@pytest.mark.parametrize("recipe", runnable("task_worker.py", "others/task_worker_celery.py"))
class TestTaskWorker:
    @pytest.fixture
    def queue(self, onlooker: Onlooker, recipe: str) -> Iterator[str]:
        queue = Queue("recipes.celery.tasks" if recipe.endswith("celery.py") else "recipes.tasks", type="quorum")
        with without(onlooker, queue):
            yield queue.name

    def test_results_come_back_whatever_becomes_of_workers(
        self, recipe: str, queue: str, start: Starter, onlooker: Onlooker
    ) -> None:
        worker = start(recipe, "worker")
        onlooker.wait_for_consumers(queue, 1)
        submitter = start(recipe, "submit")
        wait_for_counting(worker, 3)
        assert worker.end(signal.SIGKILL) == -signal.SIGKILL
        other = start(recipe, "worker")
        wait_for_counting(other, 3)
        assert submitter.result() == RESULT

        submitter = start(recipe, "submit")
        wait_for_counting(other, 6)
        assert other.end(signal.SIGTERM) == 0
        start(recipe, "worker")  # for the division, which came after
        assert submitter.result() == RESULT
