"""The measuring program for a worker that is killed, small: what it says must hold does."""

from __future__ import annotations

import pytest

from tests.measuring.lost_worker import page, run


@pytest.mark.usefixtures("installed_rabbitmq")
def test_a_worker_that_is_killed_is_noticed_and_nothing_of_its_part_is_done_by_another() -> None:
    outcome = run(40, 100.0, 6.0, "asyncio")
    assert outcome.failures(noticed=8.0) == [], page(outcome)  # beside other tests all of these programs wait, too
