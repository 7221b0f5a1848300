from __future__ import annotations

import pytest

from tests.measuring import recorder
from tests.measuring.independent import Comparison, exact, run


def test_what_deviates_and_what_does_not() -> None:
    assert Comparison("a", 101.9, 100.0, 0.02).holds and not Comparison("a", 102.1, 100.0, 0.02).holds
    assert Comparison("a", 0, 0, 0.0).holds and not Comparison("a", 5, 0, 0.0).holds
    assert not Comparison("a", None, 5.0, 0.02).holds
    assert str(Comparison("sent", 1234, 1234, 0.0)).split() == ["✓", "sent", "1,234", "1,234", "+0.00%"]


def test_the_exact_percentile() -> None:
    assert exact([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert exact([1.0], 0.99) == 1.0


@pytest.mark.usefixtures("installed_rabbitmq")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_counts_and_latencies_of_a_short_run_are_those_that_others_saw(backend: str) -> None:
    """What comes in ticks needs a longer run than a test's."""
    found = {each.name: each for each in run(backend, 2.0, 20, None)}
    coarse = {"client processor s", "broker processor s", "client peak memory", "broker peak memory"}
    assert not [str(each) for name, each in found.items() if name not in coarse and not each.holds]
    assert all(found[name].deviation is not None for name in coarse)
    assert found["sent (broker's counter)"].seen and found["confirm p50 ms"].seen


def test_the_recorder_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    recorder.main(["--samples", "20000", "--rounds", "2"])
    out = capsys.readouterr().out
    assert "µs a sample" in out and "× of it" in out
