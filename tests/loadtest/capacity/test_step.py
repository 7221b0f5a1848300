"""Whether a step was held: a backlog that grows is told from one that jumps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loadtest.capacity.step import PUBLISH, QUEUES, RPC, Finding, Look, is_hopeless, is_stalled, judge_step

RATE = 1000.0
RATES = {PUBLISH: RATE, QUEUES: RATE, RPC: 100.0}


def looks(
    publish: Callable[[float], float] = lambda _: 10.0,
    queues: Callable[[float], float] = lambda _: 0.0,
    rpc: Callable[[float], float] = lambda _: 1.0,
    seconds: float = 2.5,
) -> list[Look]:
    times = [number * 0.05 for number in range(1, round(seconds / 0.05) + 1)]
    return [Look(at, {PUBLISH: publish(at), QUEUES: queues(at), RPC: rpc(at)}) for at in times]


def judge(found: list[Look], **options: float) -> Finding:
    return judge_step(RATES, found, options.get("p99"))


def test_what_does_not_grow_is_held() -> None:
    finding = judge(looks())
    assert (finding.is_held, finding.reason, finding.capacity) == (True, "held", 1.0)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (PUBLISH, "due and not confirmed grew by 200 "),
        (QUEUES, "in the queues grew by 200 "),
        (RPC, "calls that were due and not answered grew by 20 "),
    ],
)
def test_what_grows_is_not(kind: str, told: str) -> None:
    found = [Look(look.seconds, {**look.waiting, kind: 0.2 * RATES[kind] * look.seconds}) for look in looks()]
    finding = judge(found)
    assert not finding.is_held and told in finding.reason
    assert finding.capacity == pytest.approx(0.8, abs=0.01)
    assert finding.growth == pytest.approx(0.2, abs=0.01)


def test_a_latency_is_no_growth() -> None:
    """400 of 1,000 messages a second are always on their way: it takes them 0.4 s."""
    assert judge(looks(publish=lambda at: min(at, 0.4) * RATE)).is_held


def test_too_much_that_waits_is_not_held_though_it_grows_no_more() -> None:
    finding = judge(looks(publish=lambda _: 1.2 * RATE))
    assert "1.2 s of work" in finding.reason


def test_a_pause_that_is_caught_up_with_is_held() -> None:
    assert judge(looks(publish=lambda at: 10 + (max(0.0, 400 - 500 * (at - 1.2)) if at > 1.2 else 0))).is_held
    assert judge(looks(publish=lambda at: 10 + (max(0.0, 600 - 300 * (at - 1.2)) if at > 1.2 else 0))).is_held, (
        "it is being caught up with"
    )


def test_a_step_should_go_on_where_all_stands_still_at_its_end() -> None:
    stalled = looks(publish=lambda at: 10 + max(0.0, at - 2.0) * RATE)
    assert is_stalled(RATES, stalled)
    assert not is_stalled(RATES, stalled[:40])
    assert not is_stalled(RATES, [])
    assert judge(stalled).is_doubtful or judge(stalled).is_held
    growing = looks(publish=lambda at: 0.3 * RATE * at)
    assert not is_stalled(RATES, growing)
    assert not judge(growing).is_doubtful


def test_a_few_messages_are_chance() -> None:
    slow = {PUBLISH: 10.0}
    found = [Look(number * 0.05, {PUBLISH: 4.0 if number > 30 else 0.0}) for number in range(1, 51)]
    assert judge_step(slow, found).is_held
    assert not is_stalled(slow, found)


def test_a_response_time_beyond_all_bounds_is_not_held() -> None:
    finding = judge(looks(), p99=2.0)
    assert not finding.is_held and "p99 was 2.0 s (limit 1.0 s)" in finding.reason
    assert judge_step(RATES, looks(), 2.0, longest_response=2.5).is_held


def test_what_is_refused_is_not_kept_up() -> None:
    finding = judge_step(RATES, looks(), refused_share=0.3)
    assert (finding.is_held, finding.capacity) == (False, 0.7)
    assert "30.0% of what was sent was refused" in finding.reason
    assert judge_step(RATES, looks(), refused_share=0.005).is_held


def test_a_verification_allows_less_growth() -> None:
    creeping = looks(publish=lambda at: 0.04 * RATE * at, seconds=5.0)
    assert judge_step(RATES, creeping).is_held
    assert not judge_step(RATES, creeping, is_verifying=True).is_held


def test_what_is_hopeless_need_not_go_on() -> None:
    assert is_hopeless(RATES, Look(1.0, {PUBLISH: 0.0, QUEUES: 1600.0, RPC: 0.0}))
    assert not is_hopeless(RATES, Look(1.0, {PUBLISH: 0.0, QUEUES: 1400.0, RPC: 0.0}))
    assert not is_hopeless({PUBLISH: 2.0}, Look(1.0, {PUBLISH: 8.0})), "a handful is chance"


def test_too_short_a_step_tells_nothing() -> None:
    assert not judge(looks(seconds=0.3)).is_held
    assert not judge_step(RATES, []).is_held
