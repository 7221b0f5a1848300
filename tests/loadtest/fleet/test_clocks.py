"""Another host's clock, as far as round trips tell: the shortest bounds the error."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from loadtest.fleet.clocks import Exchange, Offset, are_one, drift_ppm, estimate, known_as_equal, widen

MS = 1_000_000


def exchange(lead: int, there: int, back: int, *, at: int = 0, spent: int = 0) -> Exchange:
    """A round trip with a clock that is ahead by `lead`, which took so long there and back."""
    received = at + there + lead
    return Exchange(at, received, received + spent, at + there + spent + back)


@given(
    lead=st.integers(-(10**15), 10**15),
    trips=st.lists(
        st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=50
    ),
)
def test_the_true_offset_lies_within_the_bound(lead: int, trips: list[tuple[int, int, int]]) -> None:
    found = estimate(
        exchange(lead, there, back, at=10**6 * k, spent=spent) for k, (there, back, spent) in enumerate(trips)
    )
    assert found is not None
    assert abs(found.offset - lead) <= found.bound + 1
    assert found.bound <= min(there + back for there, back, _ in trips) // 2 + 1


def test_the_shortest_round_trip_counts() -> None:
    random = Random(1)
    trips = [exchange(5 * MS, random.randint(1, 20) * MS, random.randint(1, 20) * MS) for _ in range(20)]
    found = estimate([*trips, exchange(5 * MS, MS // 10, MS // 10)])
    assert found is not None
    assert (found.offset, found.bound) == (5 * MS, MS // 10)
    assert found.there(100) == 100 + 5 * MS


def test_nothing_is_told_by_answers_that_came_before_their_questions() -> None:
    assert estimate([]) is None
    assert estimate([Exchange(100, 0, 50, 120)]) is None


def test_a_worker_on_this_host_has_this_clock() -> None:
    assert known_as_equal(Offset(30_000, 40_000, 7)) == Offset(0, 0, 7)
    other = Offset(5 * MS, 40_000, 7)
    assert known_as_equal(other) == other, "it says that it is on this host, and its clock says otherwise"


def test_two_readings_are_of_one_clock_if_their_errors_allow_it() -> None:
    assert are_one(Offset(MS, 100, 0), Offset(MS + 300, 200, 0))
    assert not are_one(Offset(MS, 100, 0), Offset(MS + 301, 200, 0))
    assert not are_one(Offset(-(10**15), 100, 0), Offset(10**15, 100, 0))


def test_the_bound_grows_by_what_the_clocks_drifted() -> None:
    before, after = Offset(MS, 100, 0), Offset(MS + 5000, 300, 10**9)
    assert widen(before, None) == 100
    assert widen(before, after) == 300 + 5000
    assert drift_ppm(before, after) == 5.0
    assert drift_ppm(before, Offset(MS + 200, 300, 10**9)) is None, "that is within the readings' errors"
    assert drift_ppm(before, None) is None
