"""What is said of a queue, and that no more is said than is known."""

from __future__ import annotations

from typing import Any

import pytest

from rabbitry._cli.operator.advice import notes, query

NOW = 1_795_258_854_000
STEP = 5


def details(*samples: int) -> dict[str, Any]:
    """As the management gives it, the newest first."""
    return {"samples": [{"sample": value, "timestamp": NOW - 1000 * STEP * i} for i, value in enumerate(samples)]}


def queue(*, unacked: list[int], ready: list[int], acks: list[int] | None, consumers: int = 1, **more: Any) -> Any:
    return {
        "name": "q",
        "type": "classic",
        "messages_unacknowledged": unacked[0],
        "messages_unacknowledged_details": details(*unacked),
        "messages_ready": ready[0],
        "messages_ready_details": details(*ready),
        "consumers": consumers,
        "message_stats": {} if acks is None else {"ack": acks[0], "ack_details": details(*acks)},
        **more,
    }


def consumer(prefetch: int, *, ack_required: bool = True) -> dict[str, Any]:
    return {"prefetch_count": prefetch, "ack_required": ack_required}


WINDOW = 60.0
STEADY = [3] * 15
NONE = [0] * 15


def test_the_samples_asked_for_cover_the_window() -> None:
    assert query(60) == {"lengths_age": 70, "lengths_incr": 5, "msg_rates_age": 70, "msg_rates_incr": 5}
    assert query(1)["lengths_incr"] == 1


def test_forgotten_acknowledgements() -> None:
    (note,) = notes(queue(unacked=STEADY, ready=NONE, acks=[7] * 15), [consumer(10)], WINDOW)
    assert note.kind == "unacknowledged"
    assert "3 unacknowledged: some all through 60 s in which none was acknowledged" in note.text
    assert "prefetch" not in note.text


def test_a_full_prefetch_is_told() -> None:
    (note,) = notes(queue(unacked=STEADY, ready=[9] * 15, acks=NONE), [consumer(1), consumer(2)], WINDOW)
    assert "The prefetch of 2 consumers is full (3)" in note.text


def test_messages_taken_by_get() -> None:
    (note,) = notes(queue(unacked=STEADY, ready=NONE, acks=NONE, consumers=0), [], WINDOW)
    assert "There is no consumer" in note.text


@pytest.mark.parametrize(
    ("unacked", "acks"),
    [
        pytest.param(STEADY, [8, *[7] * 14], id="something was acknowledged"),
        pytest.param([3] * 6 + [0] + [3] * 8, [7] * 15, id="there was a moment without"),
        pytest.param([3] * 5, [7] * 15, id="too young"),
        pytest.param(STEADY, [7] * 5, id="too young a count of acknowledgements"),
        pytest.param(STEADY, None, id="no count of acknowledgements"),
        pytest.param(NONE, [7] * 15, id="nothing unacknowledged"),
    ],
)
def test_a_busy_consumer_is_not_accused(unacked: list[int], acks: list[int] | None) -> None:
    """Though its prefetch is full."""
    assert notes(queue(unacked=unacked, ready=NONE, acks=acks), [consumer(3)], WINDOW) == []


def test_a_queue_that_grows_without_consumers() -> None:
    ready = list(range(150, 0, -10))
    (note,) = notes(queue(unacked=NONE, ready=ready, acks=None, consumers=0), [], WINDOW)
    assert note.kind == "unconsumed"
    assert note.text == "no consumer, and it grows: 120 more ready than 60 s ago"


@pytest.mark.parametrize(
    ("ready", "consumers"),
    [
        pytest.param(list(range(150, 0, -10)), 1, id="it has a consumer"),
        pytest.param([50] * 15, 0, id="as many as ever"),
        pytest.param([50, 60, 70] + [80] * 12, 0, id="fewer"),
        pytest.param([50] * 5 + [0] * 10, 0, id="young: all of it in the second half"),
        pytest.param(NONE, 0, id="empty"),
        pytest.param([90, 80, 70], 0, id="too short a history"),
    ],
)
def test_other_queues_are_not_said_to_grow(ready: list[int], consumers: int) -> None:
    assert notes(queue(unacked=NONE, ready=ready, acks=None, consumers=consumers), [], WINDOW) == []


def test_streams_are_left_alone() -> None:
    stream = queue(unacked=STEADY, ready=list(range(150, 0, -10)), acks=NONE, consumers=0, type="stream")
    assert notes(stream, [], WINDOW) == []


def test_without_history_only_the_moment_is_told() -> None:
    row = {"name": "q", "type": "classic", "messages_unacknowledged": 3, "messages_ready": 5, "consumers": 1}
    assert notes(row, [consumer(10)], WINDOW) == []
    assert notes(row, [consumer(0)], WINDOW) == []
    assert notes(row, [consumer(3), consumer(5, ack_required=False)], WINDOW)[0].kind == "prefetch-full"
    (note,) = notes({**row, "messages_unacknowledged": 0, "consumers": 0}, [], WINDOW)
    assert (note.kind, note.text) == ("no-consumer", "5 ready, and no consumer")
