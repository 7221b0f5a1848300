from __future__ import annotations

from loadtest.metrics.latencies import Latencies, Measurement


def test_what_touches_the_window_is_measured() -> None:
    measurement = Measurement(Latencies())
    inside, outside = measurement.inside, measurement.outside
    assert measurement.latencies(0, 10**18) is outside, "nothing is measured yet"
    assert not measurement.covers(10**18)
    measurement.open(100, 200)
    assert [
        measurement.latencies(*life) is inside for life in ((0, 99), (0, 100), (150, 160), (199, 300), (200, 300))
    ] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert [measurement.covers(when) for when in (99, 100, 199, 200)] == [False, True, True, False]


def test_a_window_that_is_closed_early_ends_then() -> None:
    measurement = Measurement(Latencies())
    measurement.open(100, 200)
    measurement.close(150)
    assert measurement.end == 150
    measurement.close(300)
    assert measurement.end == 150
    assert measurement.latencies(160, 170) is measurement.outside


def test_kinds_add_up() -> None:
    one, other = Latencies(), Latencies()
    one.confirm.record(1000)
    other.confirm.record(3000)
    other.rpc.record(5000)
    one.merge(other)
    assert (one.confirm.count, one.rpc.count, one.lag.count) == (2, 1, 0)
    assert Latencies.from_plain(one.to_plain()).to_plain() == one.to_plain()
