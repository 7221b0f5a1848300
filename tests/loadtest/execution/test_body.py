from __future__ import annotations

import pytest

from loadtest.execution.body import BodyMaker, SmallBodyMaker, make_body_maker, read_stamp
from loadtest.scenarios.settings import SMALLEST_STAMP_BYTES, STAMP_BYTES


def test_bodies_carry_their_stamp_and_have_their_size() -> None:
    make = BodyMaker(tag=2**32 - 1, size=128)
    body = make(4499, 2**40, 2**62)
    assert len(body) == 128
    assert read_stamp(body) == make.read(body) == (2**32 - 1, 4499, 2**40, 2**62)
    assert len(BodyMaker(1, STAMP_BYTES)(0, 0, 0)) == STAMP_BYTES
    assert read_stamp(b"short") is make.read(b"short") is None
    assert make.owns(body) and not BodyMaker(1, 128).owns(body)
    with pytest.raises(ValueError, match="no room"):
        BodyMaker(1, STAMP_BYTES - 1)


@pytest.mark.parametrize("size", [SMALLEST_STAMP_BYTES, 17, STAMP_BYTES - 1])
def test_small_bodies_have_their_time_kept_for_them(size: int) -> None:
    bodies = make_body_maker(2**32 - 1, size, producers=4500, is_consumed=True)
    assert isinstance(bodies, SmallBodyMaker)
    one, other = bodies(4499, 2**40 - 1, 2**62), bodies(0, 0, 5)
    assert len(one) == len(other) == size
    assert bodies.owns(one) and bodies.owns(other), "which tells no time"
    assert bodies.read(one) == (0xFFFF, 4499, 2**40 - 1, 2**62)
    assert bodies.read(other) == (0xFFFF, 0, 0, 5)
    assert bodies.read(other) == (0xFFFF, 0, 0, 0), "the second time it is not known any more"


def test_strangers_small_bodies_are_theirs() -> None:
    bodies = make_body_maker(7, 12, producers=3, is_consumed=True)
    for stranger in (b"", b"x" * 12, bytes(12), bodies(1, 1, 1) + b"x", make_body_maker(
        7, 12, producers=9, is_consumed=False
    )(3, 0, 0)):  # fmt: skip
        assert bodies.read(stranger) is None
        assert not bodies.owns(stranger)


def test_the_maker_goes_by_the_size() -> None:
    assert isinstance(make_body_maker(1, STAMP_BYTES, producers=1, is_consumed=True), BodyMaker)
    assert isinstance(make_body_maker(1, 0, producers=0, is_consumed=False), BodyMaker), "callers need no stamp"
    with pytest.raises(ValueError, match="no room"):
        make_body_maker(1, SMALLEST_STAMP_BYTES - 1, producers=1, is_consumed=True)
