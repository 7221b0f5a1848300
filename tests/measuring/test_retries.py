"""The measuring program for retries, small: what it says must hold does, with the broker killed once and without."""

from __future__ import annotations

from rabbitry.testing import PrivateNode
from tests.measuring.retries import attempts_of, page, run


def test_a_third_fails_at_each_attempt() -> None:
    left = list(range(810))
    for attempt in range(1, 5):
        failed = [number for number in left if attempts_of(number, 4) > attempt]
        assert len(failed) * 3 == len(left)
        left = failed
    assert all(attempts_of(number, 4) == 5 for number in left)


async def test_none_is_lost_though_the_broker_is_killed() -> None:
    with PrivateNode() as node:
        exact = await run(node, 300, 0, (0.2, 0.4, 0.3))
        assert not exact.failures() and not exact.twice(), page([exact], {}, [], "")
        assert exact.runs == exact.expected_runs
        killed = await run(node, 300, 1, (0.2, 0.4, 0.3))
        assert not killed.failures() and len(killed.kills) == 1, page([killed], {}, [], "")
