from __future__ import annotations

import zlib
from pathlib import Path
from random import Random

import pytest

from loadtest.commands.flags import parse_settings
from loadtest.execution.body import BodyMaker, SmallBodyMaker
from loadtest.execution.filling import FilledBodyMaker, fill, make_bodies
from loadtest.scenarios.settings import Settings


def settings(*words: str) -> Settings:
    return parse_settings(["--producers", "3", "--consumers", "3", "--seed", "5", *words], {})


def filled(*words: str) -> FilledBodyMaker:
    bodies = make_bodies(7, settings(*words))
    assert isinstance(bodies, FilledBodyMaker)
    return bodies


def test_plain_bodies_stay_plain() -> None:
    assert isinstance(make_bodies(7, settings()), BodyMaker)
    assert isinstance(make_bodies(7, settings("--size", "10")), SmallBodyMaker)


@pytest.mark.parametrize("body", ["zeros", "random", "text", "FILE"])
def test_a_body_is_read_and_found_intact(body: str, tmp_path: Path) -> None:
    if body == "FILE":
        (tmp_path / "content").write_bytes(b"content of my own. ")
        body = str(tmp_path / "content")
    bodies, elsewhere = (filled("--size", "1000", "--body", body) for _ in range(2))
    for producer in range(3):
        for number in range(5000):
            made = bodies(producer, number, 99)
            assert len(made) == 1000
            assert bodies.read(made) == (7, producer, number, 99)
            assert elsewhere.is_intact(made)


def test_any_changed_byte_is_found() -> None:
    bodies = filled("--size", "100", "--body", "random")
    made = bodies(1, 2, 3)
    for place in range(24, 100):
        assert not bodies.is_intact(made[:place] + bytes([made[place] ^ 1]) + made[place + 1 :])
    assert not bodies.is_intact(made[:-1])
    assert not bodies.is_intact(made + b"\0")
    other = filled("--size", "100", "--body", "random")(1, 3, 3)
    assert other[24:] != made[24:]  # a body with another's filling would be found, too
    assert not bodies.is_intact(made[:24] + other[24:])


def test_sizes_have_their_shares() -> None:
    bodies = filled("--size", "128,4KiB:25%")
    sizes = [len(bodies(0, number, 0)) for number in range(4096)]
    assert (sizes.count(128), sizes.count(4096)) == (3072, 1024)


def test_what_is_random_is_not_compressible_and_text_is() -> None:
    random, text = (fill(name, 100_000, Random(1)) for name in ("random", "text"))
    assert len(zlib.compress(random)) > 99_000
    assert len(zlib.compress(text)) < 40_000
    assert len(random) == len(text) == len(fill("zeros", 100_000, Random(1))) == 100_000


def test_of_a_file_no_more_is_read_than_is_used(tmp_path: Path) -> None:
    """It may be a device, which has no end."""
    whole = bytes(range(256)) * 100
    (tmp_path / "large").write_bytes(whole)
    assert fill(str(tmp_path / "large"), 1000, Random(1)) == whole[:1000]
    assert fill("/dev/zero", 100, Random(1)) == bytes(100)
    made = filled("--size", "100", "--body", "/dev/zero")(1, 2, 3)
    assert made[24:] == bytes(76)
    with pytest.raises(ValueError, match="is empty"):
        fill("/dev/null", 100, Random(1))


def test_others_bodies_are_nobodys() -> None:
    bodies = filled("--body", "random")
    assert bodies.read(b"short") is None
    assert not bodies.owns(bytes(100))
    assert not bodies.is_intact(bytes(100))
