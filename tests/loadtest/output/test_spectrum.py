"""The percentile spectrum."""

from __future__ import annotations

import random
from typing import Any

import pytest

from loadtest.metrics.histogram import Histogram
from loadtest.output.spectrum import read_spectrum, spectra


def test_the_spectrum_is_that_of_the_histogram() -> None:
    histogram, source = Histogram(), random.Random(7)
    for _ in range(20_000):
        histogram.record(int(source.lognormvariate(1, 1) * 1e6))
    steps = read_spectrum(histogram.encode())
    assert steps == sorted(steps)
    assert steps[-1].one_in == 20_000
    assert steps[-1].milliseconds == pytest.approx(histogram.largest / 1000, rel=1e-3)
    for step in steps[:-1]:
        if step.one_in < 2_000:
            told = histogram.percentile(1 - 1 / step.one_in)
            assert told is not None and step.milliseconds == pytest.approx(told, rel=5e-3)


@pytest.mark.parametrize("encoded", [None, "", "x", "HISTFAAAA", "AAAA" * 20])
def test_what_is_no_histogram_has_no_spectrum(encoded: str | None) -> None:
    assert read_spectrum(encoded) == []


def test_one_sample_is_a_spectrum() -> None:
    histogram = Histogram()
    histogram.record(5_000_000)
    (step,) = read_spectrum(histogram.encode())
    assert step.one_in == 1 and step.milliseconds == pytest.approx(5.0, rel=1e-3)


def test_service_times_are_told_in_an_open_loop_alone(result: dict[str, Any]) -> None:
    result["histograms"]["confirm_service"] = result["histograms"]["confirm"]
    assert list(spectra(result)) == ["confirm", "confirm, once sent"]
    result["loop"] = "closed"
    assert list(spectra(result)) == ["confirm"]
