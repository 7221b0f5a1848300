from __future__ import annotations

import pytest

from loadtest.scenarios.variations import (
    Variation,
    drop_flags,
    make_cells,
    name_cell,
    order_trials,
    parse_variation,
    write_cell,
)


def test_what_is_varied() -> None:
    assert parse_variation("queue-type=classic,quorum") == Variation("queue-type", ("classic", "quorum"))
    assert parse_variation("--rate = 1000:60,5000:10 ; 2000") == Variation("rate", ("1000:60,5000:10", "2000"))


@pytest.mark.parametrize("text", ["", "queue-type", "=a,b", "size=", "size=1", "size=1,", "size=1,1"])
def test_what_is_no_variation(text: str) -> None:
    with pytest.raises(ValueError, match="--vary"):
        parse_variation(text)


def test_cells_are_all_combinations() -> None:
    cells = make_cells([Variation("a", ("1", "2")), Variation("b", ("x", "y"))])
    assert [name_cell(cell) for cell in cells] == ["a 1, b x", "a 1, b y", "a 2, b x", "a 2, b y"]
    assert make_cells([]) == [()] and name_cell(()) == "as asked"
    with pytest.raises(ValueError, match="twice"):
        make_cells([Variation("a", ("1", "2")), Variation("a", ("3", "4"))])


def test_each_round_has_every_cell_once_in_an_order_of_its_own() -> None:
    cells = make_cells([Variation("a", tuple("12345"))])
    trials = order_trials(cells, 20, seed=7)
    assert trials == order_trials(cells, 20, seed=7) != order_trials(cells, 20, seed=8)
    rounds = [[trial.cell for trial in trials if trial.round == number] for number in range(20)]
    assert all(sorted(each) == sorted(cells) for each in rounds)
    assert [trial.round for trial in trials] == sorted(trial.round for trial in trials)
    assert len({tuple(each) for each in rounds}) > 10


def test_a_cell_as_words() -> None:
    cell = (("queue-type", "quorum"), ("transient", "yes"), ("mandatory", "no"))
    assert write_cell(cell, {"transient", "mandatory"}) == ["--queue-type", "quorum", "--transient"]
    both = {"reconnect", "no-reconnect"}
    assert write_cell((("reconnect", "yes"),), both) == ["--reconnect"]
    assert write_cell((("reconnect", "no"),), both) == ["--no-reconnect"]
    with pytest.raises(ValueError, match="transient=yes,no"):
        write_cell((("transient", "1"),), {"transient"})


def test_flags_are_dropped_with_their_values() -> None:
    words = [
        "--repeat",
        "3",
        "--clients=10",
        "--quiet",
        "--vary=a=1,2",
        "--size",
        "1",
        "--vary",
        "b=1,2",
        "--seed",
        "4",
    ]
    assert drop_flags(words, {"repeat", "vary", "quiet", "seed"}, {"quiet"}) == ["--clients=10", "--size", "1"]
