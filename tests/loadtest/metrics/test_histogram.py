from __future__ import annotations

import json
from random import Random

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from loadtest.metrics.histogram import (
    LONGEST,
    PERCENTILES,
    Histogram,
    encode_counts,
    largest_of,
    percentile_of,
    percentiles_of,
)


def filled(microseconds: list[int]) -> Histogram:
    histogram = Histogram()
    for value in microseconds:
        histogram.record(value * 1000)
    return histogram


@given(st.lists(st.integers(0, LONGEST), min_size=1, max_size=50))
def test_buckets_are_those_of_hdr_histograms(values: list[int]) -> None:
    oracle = HdrHistogram(1, LONGEST, 3)
    for value in values:
        oracle.record_value(value)
    for index, number in filled(values).counts.items():
        assert oracle.counts[index] == number


def test_the_export_is_read_back_by_the_library() -> None:
    random = Random(3)
    values = [int(random.lognormvariate(8, 2)) for _ in range(20_000)]
    histogram = filled(values)
    text = histogram.encode()
    json.dumps(text)
    decoded = HdrHistogram.decode(text)
    assert decoded.get_total_count() == len(values)
    for percentile in (50, 90, 99, 99.9):
        ours = histogram.percentile(percentile / 100)
        assert ours == pytest.approx(decoded.get_value_at_percentile(percentile) / 1000, rel=2e-3)


@given(st.lists(st.integers(0, 10_000_000), min_size=20, max_size=300))
def test_percentiles_have_three_digits(values: list[int]) -> None:
    true = sorted(values)[-(-len(values) // 2) - 1] / 1000
    assert filled(values).percentile(0.5) == pytest.approx(true, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("fraction", "needed"), [(0.5, 20), (0.9, 100), (0.95, 200), (0.99, 1000), (0.999, 10_000), (0.9999, 100_000)]
)
def test_too_few_samples_tell_no_percentile(fraction: float, needed: int) -> None:
    assert percentile_of({5: needed - 1}, fraction) is None
    assert percentile_of({5: needed}, fraction) == 0.005


def test_the_latency_section() -> None:
    assert Histogram().latency() == dict.fromkeys(("min", "mean", *PERCENTILES, "max")) | {"count": 0}
    told = filled([1000] * 50 + [3000] * 50).latency()
    assert told == {
        "count": 100,
        "min": 1.0,
        "mean": pytest.approx(2.0, rel=1e-3),
        "p50": 1.0,
        "p90": pytest.approx(3.0, rel=1e-3),
        "p95": None,
        "p99": None,
        "p999": None,
        "p9999": None,
        "max": 3.0,
    }


@given(st.lists(st.integers(0, LONGEST)), st.lists(st.integers(0, LONGEST)))
def test_histograms_add_up(values: list[int], others: list[int]) -> None:
    merged, whole = filled(values), filled(values + others)
    merged.merge(filled(others))
    assert merged.to_plain() == whole.to_plain() == Histogram.from_plain(whole.to_plain()).to_plain()
    assert merged.latency() == whole.latency()


def test_nothing_is_dropped_out_of_range() -> None:
    histogram = Histogram()
    histogram.record(-5)
    histogram.record(LONGEST * 1000 * 2)
    assert (histogram.count, histogram.smallest, histogram.largest) == (2, 0, LONGEST)


@given(st.lists(st.integers(0, 10_000_000), min_size=20, max_size=400))
def test_percentiles_are_those_of_the_exported_histogram(values: list[int]) -> None:
    histogram = filled(values)
    exported = HdrHistogram.decode(histogram.encode())
    for percent in (50, 90, 99, 99.9):
        if (told := histogram.percentile(percent / 100)) is not None:
            assert told == min(exported.get_value_at_percentile(percent), max(values)) / 1000


def test_no_percentile_exceeds_the_maximum() -> None:
    histogram = filled([2_000_001] * 20)
    assert histogram.percentile(0.5) == histogram.latency()["max"] == 2000.001


def test_many_of_one_length_count_as_many() -> None:
    one, other = filled([5, 5000, 5000, 5000]), filled([5])
    other.record_many(5_000_000, 3)
    assert one.to_plain() == other.to_plain()


def test_the_largest_of_a_difference() -> None:
    assert largest_of({}) is largest_of({5: 0}) is None
    assert largest_of({5: 1, 7: 2, 9: 0}) == 0.007


@given(st.dictionaries(st.integers(0, 23_551), st.integers(0, 2**53), max_size=30))
def test_the_export_is_the_librarys_own(counts: dict[int, int]) -> None:
    """Bucket for bucket, however many are in one."""
    oracle = HdrHistogram.decode(encode_counts(counts))
    assert (oracle.lowest_trackable_value, oracle.highest_trackable_value) == (1, LONGEST)
    assert {index: number for index, number in enumerate(oracle.counts) if number} == {
        index: number for index, number in counts.items() if number
    }


def test_an_empty_histogram_is_exported_too() -> None:
    assert HdrHistogram.decode(encode_counts({})).get_total_count() == 0


@given(st.dictionaries(st.integers(0, 3000), st.integers(1, 10**6), max_size=30))
def test_several_percentiles_are_what_each_is_alone(counts: dict[int, int]) -> None:
    fractions = list(PERCENTILES.values())
    assert percentiles_of(counts, fractions) == [percentile_of(counts, fraction) for fraction in fractions]


def test_a_million_samples_within_one_unit_of_the_exact_percentiles() -> None:
    """A unit is the width of a bucket: 1 µs up to 2,047, then 2, 4, 8 …"""
    random = Random(11)
    values = [int(random.lognormvariate(8, 1.5) * 1000) for _ in range(1_000_000)]
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    exact = sorted(values)
    for fraction in PERCENTILES.values():
        true = exact[int(fraction * len(exact) + 0.5) - 1] // 1000
        told = histogram.percentile(fraction)
        assert told is not None
        unit = 1 << (true >> 11).bit_length()
        assert abs(round(told * 1000) - true) < unit
