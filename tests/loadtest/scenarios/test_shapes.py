from __future__ import annotations

from random import Random

import pytest

from loadtest.scenarios.schedule import NANOSECONDS
from loadtest.scenarios.shapes import Shape, make_shaped_schedules, parse_shape

SHAPES = ["1000", "1000:60,5000:10", "0..5000:30,5000", "1000+-500:60", "1000..0:5,0:2", "10:0.5,20:1.5", "50..10:3"]


def numeric(shape: Shape, seconds: float, steps: int = 20_000) -> float:
    """What is due by then, added up from the rates in small steps."""
    step, total = seconds / steps, 0.0
    for number in range(steps):
        t = (number + 0.5) * step
        if t < shape.lead:
            total += shape.segments[0].rate(0) * step
            continue
        t -= shape.lead
        cycle = sum(segment.seconds for segment in shape.segments)
        t = t % cycle if shape.is_repeated else t
        for segment in shape.segments:
            if t < segment.seconds:
                total += segment.rate(t) * step
                break
            t -= segment.seconds
    return total


@pytest.mark.parametrize("text", SHAPES)
def test_what_is_due_is_the_integral_of_the_rate(text: str) -> None:
    shape = Shape(parse_shape(text).segments, lead=2.0)
    for seconds in (1.0, 2.0, 7.5, 40.0, 100.0):
        assert shape.count(seconds) == pytest.approx(numeric(shape, seconds), rel=2e-3, abs=0.5)


@pytest.mark.parametrize("text", SHAPES)
@pytest.mark.parametrize("lead", [0.0, 2.0])
def test_when_is_count_the_other_way_round(text: str, lead: float) -> None:
    shape = Shape(parse_shape(text).segments, lead=lead)
    before = -1.0
    for count in (0, 0.3, 1, 17, 100.5, 1000, 5000.25, 123_456):
        when = shape.when(count)
        assert shape.count(when) == pytest.approx(count, rel=1e-6, abs=1e-4)
        assert when >= before
        before = when


@pytest.mark.parametrize("text", ["20:1,200:0.5", "0..100:1,100", "50+-50:2"])
def test_the_clients_schedules_make_the_shape_together(text: str) -> None:
    shape = Shape(parse_shape(text).segments, lead=0.5)
    schedules = make_shaped_schedules(7, Shape(shape.times(1 / 7).segments, lead=0.5), Random(1))
    start = 10**12
    for seconds in (0.25, 0.5, 1.0, 1.5, 2.0, 7.3):
        end = start + int(seconds * NANOSECONDS)
        planned = [schedule.planned(start, end) for schedule in schedules]
        assert sum(planned) == pytest.approx(shape.count(seconds), abs=7)
        for schedule, number in zip(schedules, planned, strict=True):
            assert number == 0 or schedule.due(start, number - 1) < end <= schedule.due(start, number)


def test_segments_in_turn() -> None:
    shape = Shape(parse_shape("10:2,20:1").segments, lead=1.0)
    told = [(str(segment), begin, end) for segment, begin, end in shape.occurrences(5.5)]
    assert told == [("10:2", 1.0, 3.0), ("20:1", 3.0, 4.0), ("10:2", 4.0, 5.5)]
    assert list(parse_shape("10").occurrences(0.0)) == []


@pytest.mark.parametrize("text", SHAPES)
def test_a_shape_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_shape(text)) == text
    assert str(parse_shape(str(parse_shape(text).times(3)))) == str(parse_shape(text).times(3))


def test_means() -> None:
    assert parse_shape("1000:30,4000:10").mean == 1750
    assert parse_shape("0..5000:30,5000").mean == 5000
    assert parse_shape("1k+-500:1m").mean == pytest.approx(1000)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no rate"),
        ("0", "above 0"),
        ("0:5", "a rate must be above 0"),
        ("1000:10,0", "the last rate, which lasts, must be above 0"),
        ("fast", "no rate"),
        (":5", "no rate"),
        ("1000..5", "say for how many seconds"),
        ("1000+-5", "say for how many seconds"),
        ("5,6:7", "say for how many seconds"),
        ("1:0", "must last"),
        ("1+-2:3", "below 0"),
        ("1:2,,3:4", "no rate"),
        ("-1", "no rate"),
        ("1:x", "no duration"),
    ],
)
def test_no_shapes(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_shape(text)
