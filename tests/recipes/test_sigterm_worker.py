"""SIGTERM loses no job and begins none; SIGKILL leaves its jobs to others."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from rabbitry import Queue
from tests.recipes.harness import Onlooker, Starter, Steered, without

JOBS = Queue("recipes.jobs", type="quorum")
RESULTS = Queue("recipes.results", type="quorum")

pytestmark = pytest.mark.parametrize(
    ("recipe", "backend"),
    [("sigterm_worker.py", "asyncio"), ("sigterm_worker.py", "trio"), ("others/sigterm_worker_aio_pika.py", "asyncio")],
)


@pytest.fixture(autouse=True)
def clean(onlooker: Onlooker) -> Iterator[None]:
    with without(onlooker, JOBS, RESULTS):
        yield


def test_jobs_at_work_finish_and_the_others_go_back(
    recipe: str, backend: str, start: Starter, onlooker: Onlooker
) -> None:
    onlooker.client.declare(JOBS)
    jobs = [b"job %d" % number for number in range(20)]
    onlooker.client.publish_many(jobs, routing_key=JOBS.name, mandatory=True, timeout=10)
    worker = start(recipe, backend=backend)
    worker.wait_for("begun:", 5)
    assert worker.end(signal.SIGTERM) == 0
    assert worker.lines[-1] == "ended in order"
    done = worker.count("done:")
    assert worker.count("begun:") == done < 20
    onlooker.wait_for_messages(JOBS.name, 20 - done)

    other = start(recipe, backend=backend)
    other.wait_for("begun:", 5)
    assert other.end(signal.SIGKILL) == -signal.SIGKILL  # its jobs go on elsewhere
    last = start(recipe, backend=backend)
    onlooker.wait_for_messages(JOBS.name, 0)
    last.wait_for("done:", 20 - done - other.count("done:"))
    results = {message.body for message in onlooker.take(RESULTS.name, 20)}
    assert results == {job.upper() for job in jobs}


def test_without_a_broker_it_ends_at_once(recipe: str, backend: str, start: Starter, proxy: Steered) -> None:
    proxy.call(lambda proxy: proxy.stall())
    worker = start(recipe, url=proxy.url, backend=backend)
    proxy.wait_for_links(1)
    assert worker.end(signal.SIGTERM) == 0
    assert worker.lines == ["ended in order"]
