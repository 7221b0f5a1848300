"""What the readings of a broker's management API say together."""

from __future__ import annotations

from typing import Any

from loadtest.execution.remote import ANEW, Watch
from loadtest.machine.management import Reading


def watched(*readings: tuple[int, float | None]) -> dict[str, Any]:
    """What is told of readings with so many messages published, and so many seconds of processor time."""
    watch = Watch("http://broker:15672")
    for number, (published, cpu) in enumerate(readings):
        counters = {"published": published, "confirmed": published}
        reading = Reading(memory_bytes=100 + number, cpu_seconds=cpu, messages=number, counters=counters)
        watch.add(2.0 * number, reading, {"published": 10 * number})
    return watch.describe()


def test_nothing_was_read() -> None:
    assert watched() == {"address": "http://broker:15672", "readings": 0}


def test_what_grew_from_the_first_reading_to_the_last() -> None:
    told = watched((1000, 5.0), (1010, 6.0), (1025, 6.5))
    assert (told["counted"], told["counted_here"]) == ({"published": 25, "confirmed": 25}, {"published": 20})
    assert (told["cpu_seconds"], told["seconds"], told["memory_peak_bytes"], told["note"]) == (1.5, 4.0, 102, None)


def test_a_broker_that_was_restarted_has_not_counted_less_than_nothing() -> None:
    told = watched((1000, 50.0), (1010, 51.0), (3, 0.5), (8, 1.0))
    assert told["counted"] == {"published": 15, "confirmed": 15}
    assert (told["cpu_seconds"], told["note"]) == (1.5, ANEW)


def test_processor_time_that_is_not_told_now_and_then() -> None:
    assert watched((0, 1.0), (1, None), (2, 4.0))["cpu_seconds"] == 3.0
    assert watched((0, 1.0), (1, None))["cpu_seconds"] is None
    assert watched((0, None), (1, 2.0))["cpu_seconds"] is None


def test_counters_that_stand_still() -> None:
    assert "stood still" in watched((7, None), (7, None))["note"]
