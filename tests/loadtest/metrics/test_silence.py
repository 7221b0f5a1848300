from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from loadtest.metrics.latencies import Latencies, Measurement
from loadtest.metrics.silence import Silence


def test_between_one_and_the_next() -> None:
    silence = Silence()
    for now in (100, 110, 150, 155):
        silence.note(now)
    assert (silence.longest, silence.measured) == (40, None), "nothing was measured, and before the first is no silence"


def test_in_the_window_from_its_beginning_to_its_end() -> None:
    silence = Silence()
    silence.note(100)
    silence.open(150)
    silence.note(170)
    silence.note(180)
    silence.close(230)
    silence.note(300)
    assert (silence.longest, silence.measured) == (120, 50)


def test_nothing_at_all_was_silent_for_the_whole_window() -> None:
    silence = Silence()
    silence.open(10)
    silence.close(40)
    assert (silence.longest, silence.measured) == (0, 30)


def test_the_measurement_tells_it_of_the_window() -> None:
    silence = Silence()
    measurement = Measurement(Latencies(), [silence])
    measurement.open(100, 200)
    silence.note(130)
    measurement.close(180)
    assert silence.measured == 50


@given(st.lists(st.integers(1, 100), min_size=1), st.integers(1, 100), st.integers(1, 100))
def test_it_is_what_looking_at_all_of_them_gives(steps: list[int], before: int, length: int) -> None:
    times, now = [], 1000
    for step in steps:
        now += step
        times.append(now)
    start, end = 1000 + before, 1000 + before + length
    silence, is_open = Silence(), False
    for moment in (*times, 10**9):
        if not is_open and moment >= start:
            silence.open(start)
            is_open = True
        if silence.measured is not None and moment >= end and silence.least != -1:
            silence.close(end)
        if moment < 10**9:
            silence.note(moment)
    edges = [start, *(each for each in times if start <= each < end), end]
    assert silence.measured == max(later - earlier for earlier, later in pairwise(edges))


def test_it_can_be_sent_and_joined() -> None:
    one, other = Silence(), Silence()
    one.open(0)
    one.close(7)
    other.note(5)
    other.note(9)
    one.merge(other)
    again = Silence.from_plain(one.to_plain())
    assert (again.longest, again.measured) == (4, 7)
