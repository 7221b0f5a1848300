from __future__ import annotations

from random import Random
from statistics import fmean, median

import pytest

from loadtest.scenarios.distributions import Sizes, draw_exactly, parse_share, parse_sizes, parse_skew, parse_work


@pytest.mark.parametrize("text", ["5ms", "exp:5ms", "exp(5ms)", "uniform:1ms,9ms", "uniform(1ms,9ms)"])
def test_times_have_the_mean_they_say(text: str) -> None:
    work = parse_work(text)
    draw = work.sampler(Random(1))
    drawn = [draw() for _ in range(20_000)]
    assert work.mean == pytest.approx(0.005)
    assert fmean(drawn) == pytest.approx(0.005, rel=0.05)
    again = work.sampler(Random(1))
    assert [again() for _ in range(5)] == drawn[:5]


def test_a_lognormal_has_its_median_and_its_mean() -> None:
    work = parse_work("lognormal:5ms,0.5")
    draw = work.sampler(Random(1))
    drawn = [draw() for _ in range(20_000)]
    assert median(drawn) == pytest.approx(0.005, rel=0.05)
    assert fmean(drawn) == pytest.approx(work.mean, rel=0.05)


def test_a_uniform_stays_within_its_bounds() -> None:
    draw = parse_work("uniform:1ms,9ms").sampler(Random(1))
    drawn = [draw() for _ in range(10_000)]
    assert 0.001 <= min(drawn) < 0.0012 < 0.0088 < max(drawn) <= 0.009


@pytest.mark.parametrize(
    "text", ["", "soon", "exp", "exp:", "exp:0", "exp:1,2", "uniform:9ms,1ms", "normal:5ms", "5ms,6ms"]
)
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no|above 0|least is more"):
        parse_work(text)


def test_sizes() -> None:
    assert parse_sizes("128") == 128
    assert parse_sizes("128,4KiB:10%") == Sizes(((128, 0.9), (4096, 0.1)))
    assert parse_sizes("100,200,300:50%") == Sizes(((100, 0.25), (200, 0.25), (300, 0.5)))
    several = parse_sizes("128,4KiB:10%")
    assert isinstance(several, Sizes)
    assert several.mean == pytest.approx(0.9 * 128 + 409.6)
    assert several.least == 128
    drawn = several.draw(Random(1), 1000, least=24, most=10_000)
    assert (drawn.count(128), drawn.count(4096)) == (900, 100)
    spread = parse_sizes("exp:1KiB")
    assert isinstance(spread, Sizes)
    drawn = spread.draw(Random(1), 4096, least=24, most=3000)
    assert (min(drawn), max(drawn)) == (24, 3000)


@pytest.mark.parametrize("text", ["", "1:50%", "1:60%,2:60%", "1:100%,2", "a:5%,1", "1:x,2", "uniform:1k"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no|shares must make"):
        parse_sizes(text)


def test_no_size_is_larger_than_any_broker_takes() -> None:
    assert parse_sizes("512MiB") == 2**29
    for text in ("513MiB", "100GB", "128,1GiB:1%"):
        with pytest.raises(ValueError, match="is more than RabbitMQ ever takes as one message, 512 MiB"):
            parse_sizes(text)


def test_shares() -> None:
    assert (parse_share("5%"), parse_share("0.05"), parse_share("0"), parse_share("100%")) == (0.05, 0.05, 0, 1)
    for text in ("", "-1%", "101%", "1.5", "nan", "x"):
        with pytest.raises(ValueError, match="is no share"):
            parse_share(text)


def test_skews() -> None:
    assert parse_skew("80%")(3) == pytest.approx([0.8, 0.1, 0.1])
    assert parse_skew("80%")(1) == [1.0]
    assert parse_skew("zipf:1")(3) == pytest.approx([6 / 11, 3 / 11, 2 / 11])
    assert parse_skew("zipf(2)")(2) == pytest.approx([0.8, 0.2])
    for text in ("zipf", "zipf:0", "zipf:11", "gauss:1", "most"):
        with pytest.raises(ValueError, match=r"is no|at most|above 0"):
            parse_skew(text)


@pytest.mark.parametrize("word", ["0", "-1", "x", "", "nan", "inf", "11"])
def test_a_parameter_that_is_no_number_is_called_by_its_name(word: str) -> None:
    with pytest.raises(ValueError, match="the exponent is a number above 0, and at most 10"):
        parse_skew(f"zipf:{word}")
    with pytest.raises(ValueError, match="the logarithm's standard deviation is a number above 0, and at most 5"):
        parse_work(f"lognormal:5ms,{word}")


def test_what_is_drawn_has_exactly_its_shares() -> None:
    drawn = draw_exactly("abc", [0.5, 0.3, 0.2], Random(3), 1000)
    assert {letter: drawn.count(letter) for letter in "abc"} == {"a": 500, "b": 300, "c": 200}
    assert "".join(drawn[:20]) != "a" * 20
    assert len(draw_exactly(range(7), [1 / 7] * 7, Random(3), 4096)) == 4096
