from __future__ import annotations

import pytest

from loadtest import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20", 20), ("20s", 20), ("500ms", 0.5), ("1.5m", 90), ("10m", 600), ("2h", 7200), (" 1 d ", 86400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"), [("128", 128), ("16kB", 16_000), ("1KiB", 1024), ("1.5KiB", 1536), ("2MiB", 2**21), ("7b", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(("text", "number"), [("10000", 10_000), ("10k", 10_000), ("1m", 1_000_000), ("1.5k", 1500)])
def test_counts(text: str, number: int) -> None:
    assert units.parse_count(text) == number


@pytest.mark.parametrize("text", ["", "x", "-1", "10 apples", "1e3", "0x10", "1.2.3", "nan", "inf", "١"])
def test_what_is_no_quantity_is_refused_with_examples(text: str) -> None:
    for parse in (units.parse_duration, units.parse_size, units.parse_count, units.parse_rate):
        with pytest.raises(ValueError, match="write for example"):
            parse(text)


def test_what_is_absurdly_large_is_refused() -> None:
    for parse in (units.parse_duration, units.parse_size, units.parse_count, units.parse_rate):
        for text in ("9" * 13, "9" * 400, "100000000000m"):
            with pytest.raises(ValueError, match="too large"):
                parse(text)


def test_parts_of_a_whole_are_refused() -> None:
    with pytest.raises(ValueError, match="whole"):
        units.parse_size("1.5")
    with pytest.raises(ValueError, match="above 0"):
        units.parse_rate("0")
    assert units.parse_rate("0.5") == 0.5


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (None, "–"),
        (0.0, "0.00 µs"),
        (0.12345, "123 µs"),
        (1, "1.00 ms"),
        (12.34, "12.3 ms"),
        (999, "999 ms"),
        (61_000, "61.0 s"),
        (0.99949, "999 µs"),
        (0.99951, "1.00 ms"),
        (9.996, "10.0 ms"),
        (99.96, "100 ms"),
        (999.4, "999 ms"),
        (999.6, "1.00 s"),
    ],
)
def test_latencies_are_written_with_three_digits(milliseconds: float | None, text: str) -> None:
    assert units.format_milliseconds(milliseconds) == text


def test_other_quantities_are_written_for_people() -> None:
    assert [units.format_bytes(size) for size in (None, 12, 5400, 2**20, 3 * 2**30)] == [
        "–",
        "12 B",
        "5.3 KiB",
        "1.0 MiB",
        "3.0 GiB",
    ]
    assert [units.format_duration(seconds) for seconds in (1.26, 65, 3720)] == ["1.3 s", "1 m 05 s", "1 h 02 m"]
    assert [units.format_count(number) for number in (7, 7.25, 1234.5, 1e6)] == ["7", "7.2", "1,234", "1,000,000"]


def test_what_is_rounded_up_to_the_next_unit_is_written_in_it() -> None:
    durations = (59.94, 59.96, 119.6, 3599.4, 3599.6, 7199)
    assert [units.format_duration(seconds) for seconds in durations] == [
        *("59.9 s", "1 m 00 s", "2 m 00 s", "59 m 59 s", "1 h 00 m", "1 h 59 m")
    ]
    sizes = (1023.4, 1023.6, 1023.94 * 2**10, 1023.96 * 2**10, 1023.96 * 2**20)
    assert [units.format_bytes(size) for size in sizes] == ["1023 B", "1.0 KiB", "1023.9 KiB", "1.0 MiB", "1.0 GiB"]
    assert [units.format_count(number) for number in (99.94, 99.96, 999.6)] == ["99.9", "100", "1,000"]
